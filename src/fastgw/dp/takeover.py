"""One data plane after another on the same listening sockets, without a refused or cut request.

    new                                        old
    TakeOver ──────────────────────────────>   lets go of its link, ends applies in progress
            <──── Sockets … , Handed (+ lock)  or Refusal
    starts workers on those sockets; they accept beside the old ones
    Serving ───────────────────────────────>   from here on there is no way back
            <────────────────────────── Yours  drains: answers say `Connection: close`, what is long goes on
    opens its link and its status port

Contract. Until `Yours` was sent the old one can go on as if nothing had happened, and does so when the new
one is refused, fails or is late; a new one that hears no `Yours` ends. A listening socket is never closed on
the way: both processes hold it, so what waits in its backlog is accepted by either.

The one complication is the lock of the prefix: flock(2) belongs to the open file, which is handed over with
the sockets, so there is no moment at which a third process could take it.

Who may ask: processes of the same user. The socket has mode 0600 in a directory of mode 0700, and the kernel
says whose the peer is.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from fastgw import __version__
from fastgw.dp.control import FDS_LIMIT, Channel, ChannelClosed, ChannelError
from fastgw.errors import FastgwError
from fastgw.obs import logs
from fastgw.settings import Listen

SOCKET_NAME: Final = "takeover.socket"
ANSWER_DEADLINE_S: Final = 30.0
"""For the old one to end what it applies."""
SERVING_DEADLINE_S: Final = 60.0
"""For the new one to have all workers accept."""

_CREDENTIALS: Final = struct.Struct("3i")
_log: Final = logs.get_logger("supervisor")


class TakeOver(msgspec.Struct, frozen=True, tag=True):
    version: str
    pid: int


class Sockets(msgspec.Struct, frozen=True, tag=True):
    """Some listening sockets of one entry of a listen string. Descriptors: them."""

    door: str
    """proxy_listen or status_listen."""
    entry: int
    """Place in the listen string."""
    host: str
    port: int
    """As written; 0 where the system chose."""
    descriptors: int


class Handed(msgspec.Struct, frozen=True, tag=True):
    """All sockets were sent. Descriptor: the lock of the prefix."""

    pid: int
    descriptors: int = 1


class Refusal(msgspec.Struct, frozen=True, tag=True):
    reason: str


class Serving(msgspec.Struct, frozen=True, tag=True):
    grace_s: float
    """What is in progress may go on for so long."""


class Yours(msgspec.Struct, frozen=True, tag=True):
    pass


ToOld = TakeOver | Serving
ToNew = Sockets | Handed | Refusal | Yours


class TakeoverFailed(FastgwError):
    code = "takeover"


class LentListener(NamedTuple):
    """The sockets of one entry of a listen string, one for each worker."""

    door: str
    listen: Listen
    sockets: list[socket.socket]


class _Taken(NamedTuple):
    door: str
    host: str
    port: int
    sockets: list[socket.socket]


class Predecessor:
    """The data plane that runs in a prefix, as the one that takes over sees it."""

    def __init__(self, channel: Channel[ToNew, ToOld]) -> None:
        self.pid = 0
        self.lock_fd = -1
        """Of the prefix; the store's from `take_lock` on."""
        self._channel = channel
        self._taken: dict[tuple[str, int], _Taken] = {}

    @classmethod
    async def find(cls, directory: Path) -> Predecessor | None:
        """Ask the data plane of a prefix for its sockets; None: none runs there.

        Raises:
            TakeoverFailed: it refuses, or does not answer.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            with _short_path(directory) as path:
                sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except OSError as error:
            sock.close()
            raise TakeoverFailed(
                f"{directory / SOCKET_NAME}: cannot connect: {error.strerror}; a data plane is taken over by "
                "the user that it runs as"
            ) from None
        found = cls(Channel(sock, ToNew))
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                await found._ask()
        except BaseException as error:
            found.close()
            if isinstance(error, TimeoutError | ChannelError):
                why = str(error) or f"no answer in {ANSWER_DEADLINE_S:g} s"
                raise TakeoverFailed(
                    f"the data plane of {directory.parent} does not hand over: {why}"
                ) from None
            raise
        return found

    async def _ask(self) -> None:
        await self._channel.send(TakeOver(__version__, os.getpid()))
        while True:
            message, fds = await self._channel.receive()
            match message:
                case Sockets():
                    key = (message.door, message.entry)
                    taken = self._taken.setdefault(key, _Taken(message.door, message.host, message.port, []))
                    taken.sockets.extend(socket.socket(fileno=fd) for fd in fds)
                case Handed():
                    self.pid, self.lock_fd = message.pid, fds[0]
                    return
                case Refusal():
                    raise ChannelError(message.reason)
                case Yours():
                    raise ChannelError("it spoke out of turn")

    def take_lock(self) -> int:
        """The descriptor that holds the lock; the caller's from now on."""
        fd, self.lock_fd = self.lock_fd, -1
        return fd

    def take_sockets(self, door: str, listen: Listen) -> list[socket.socket]:
        """The sockets of an entry of a listen string, the caller's from now on; empty where it is new."""
        for key, taken in self._taken.items():
            if taken[:3] == (door, listen.host, listen.port):
                return self._taken.pop(key).sockets
        return []

    async def finish(self, grace_s: float) -> None:
        """Tell it that all is served here; when this returns, it drains.

        Raises:
            TakeoverFailed: it has given up waiting, or is gone: it may serve on.
        """
        try:
            await self._channel.send(Serving(grace_s))
            message, _ = await self._channel.receive(deadline_s=ANSWER_DEADLINE_S)
            if not isinstance(message, Yours):
                raise ChannelError(f"it answered {type(message).__name__}")
        except (ChannelError, TimeoutError) as error:
            raise TakeoverFailed(f"process {self.pid} did not let go: {error}") from None

    def close(self) -> None:
        """Give up what was not taken. Before `finish`, that leaves all to the old one."""
        self._channel.close()
        for taken in self._taken.values():
            for sock in taken.sockets:
                sock.close()
        self._taken.clear()
        if self.lock_fd >= 0:
            os.close(self.take_lock())


class Lender(Protocol):
    """A data plane, as its door sees it."""

    async def pause(self) -> str | None:
        """Apply nothing more; None, or why it cannot be taken over now."""

    def lent(self) -> Iterable[LentListener]:
        """The listening sockets."""

    @property
    def lock_fd(self) -> int: ...

    def resume(self) -> None:
        """Go on as before `pause`."""

    def leave(self, successor: int, grace_s: float) -> None:
        """Drain and end: process *successor* serves."""


class TakeoverDoor:
    """Where the next data plane of this prefix asks."""

    def __init__(self, directory: Path, lender: Lender) -> None:
        """Open it.

        Raises:
            OSError: the socket cannot be made.
        """
        self._lender = lender
        self._path = directory / SOCKET_NAME
        self._asking: asyncio.Task[None] | None = None
        self._is_left = False
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.setblocking(False)
        with suppress(FileNotFoundError):
            self._path.unlink()  # of a process that was killed, or of the one before us
        with _short_path(directory) as path:
            self._sock.bind(path)
        self._path.chmod(0o600)
        self._sock.listen(4)
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    async def close(self) -> None:
        """Let nobody ask any more; one who is being answered hears no `Yours`."""
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()
            if not self._is_left:  # else the name is our successor's
                self._path.unlink(missing_ok=True)
        if self._asking is not None and self._asking is not asyncio.current_task():
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        sock.setblocking(False)
        channel = Channel[ToOld, ToNew](sock, ToOld)
        _, uid, _ = _CREDENTIALS.unpack(
            sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid not in (os.geteuid(), 0) or (self._asking is not None and not self._asking.done()):
            _log.warning("user id %d asked to take over, and was turned away", uid)
            channel.close()
            return
        self._asking = asyncio.create_task(self._hand_over(channel), name="take-over")

    async def _hand_over(self, channel: Channel[ToOld, ToNew]) -> None:
        try:
            request, _ = await channel.receive(deadline_s=ANSWER_DEADLINE_S)
            if not isinstance(request, TakeOver):
                raise ChannelError("it spoke out of turn")
            _log.notice("process %d (fastgw %s) takes over", request.pid, request.version)
            refusal = await self._lender.pause()
            if refusal is not None:
                await channel.send(Refusal(refusal))
                return
            try:
                await self._lend(channel)
                serving, _ = await channel.receive(deadline_s=SERVING_DEADLINE_S)
                if not isinstance(serving, Serving):
                    raise ChannelError("it spoke out of turn")
                await channel.send(Yours())
            except BaseException:
                self._lender.resume()
                raise
            self._is_left = True
            self._lender.leave(request.pid, serving.grace_s)
        except (ChannelError, TimeoutError) as error:
            why = "it ended" if isinstance(error, ChannelClosed) else str(error) or "it is late"
            _log.error("the take-over failed, and this process goes on: %s", why)
        finally:
            channel.close()

    async def _lend(self, channel: Channel[ToOld, ToNew]) -> None:
        for entry, (door, listen, sockets) in enumerate(self._lender.lent()):
            for start in range(0, len(sockets), FDS_LIMIT):
                fds = [sock.fileno() for sock in sockets[start : start + FDS_LIMIT]]
                await channel.send(Sockets(door, entry, listen.host, listen.port, len(fds)), fds)
        await channel.send(Handed(os.getpid()), [self._lender.lock_fd])


@contextmanager
def _short_path(directory: Path) -> Iterator[str]:
    """A path of the socket that fits into an address of 108 bytes, however long the prefix is."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)
