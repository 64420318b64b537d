"""The control channel between the supervisor and one worker: messages, and one end of the socket.

A `SOCK_SEQPACKET` socket pair: one packet is one message, in msgpack, with its file descriptors beside it
(SCM_RIGHTS). The supervisor asks, the worker answers each question once and in order, nothing else is said:

    supervisor                     worker
    Configure (+ sockets, memfd)   Ready
    Stage     (+ base)             Staged
    Prepare   (+ base, overlay)    Prepared | Refused
    Abandon                        Abandoned
    Commit                         Committed
    Listen                         Listening
    Reopen                         Reopened
    Certify   (+ certificates)     Certified | Refused
    Adjust                         Adjusted
    Drain                          Drained

The one complication is ownership of descriptors: `send` leaves them with the caller; those that `receive`
returns belong to its caller, and those of a message that is refused here are closed here.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec

MESSAGE_LIMIT_BYTES: Final = 65536
FDS_LIMIT: Final = 128
"""Listening sockets of one worker and two files; the kernel's own limit is 253."""
SEND_DEADLINE_S: Final = 5.0

_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(FDS_LIMIT * array.array("i").itemsize)


class ListenerKind(msgspec.Struct, frozen=True):
    """What is spoken on a listening socket."""

    is_tls: bool = False
    takes_proxy_header: bool = False


class Configure(msgspec.Struct, frozen=True, tag=True):
    """The first message.

    Descriptors: one listening socket per listener, the metrics segment, and a file with what ssl listeners
    need (`ProxyTls` in msgpack; empty when there is none).
    """

    node_id: str
    worker: int
    """Its number, from 0; a replacement keeps it."""
    options: msgspec.Raw
    """`ProxyOptions` in msgpack: the channel does not know the proxy."""
    listeners: tuple[ListenerKind, ...]
    """One for each listening socket, in their order."""
    log_level: str
    error_log: str | None
    access_log: str | None
    """Paths; None is stderr for the error log and off for the access log."""


class Stage(msgspec.Struct, frozen=True, tag=True):
    """Begin to map and check a base for generations to come; nothing waits for it. Descriptor: it."""

    base: str
    """Its checksum."""


class Prepare(msgspec.Struct, frozen=True, tag=True):
    """Map and check a generation beside the live one. Descriptors: its base, then its overlay, if any."""

    generation: int
    version: int
    digest: str
    base: str
    """Checksum of its base: one that is mapped already is not mapped again."""
    has_overlay: bool


class Commit(msgspec.Struct, frozen=True, tag=True):
    """Serve the generation that was prepared."""

    generation: int


class Abandon(msgspec.Struct, frozen=True, tag=True):
    """Forget the generation, if it was prepared."""

    generation: int


class Listen(msgspec.Struct, frozen=True, tag=True):
    """Begin to accept: sent once, after the first Commit when there is a configuration."""


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Accept no more, finish what runs, at the latest after *deadline_s*."""

    deadline_s: float
    idle_s: float = 0.0
    """Idle connections may send one more request for so long, and are told to close by its answer."""


class Reopen(msgspec.Struct, frozen=True, tag=True):
    """Open the log files anew under their names."""


class Certify(msgspec.Struct, frozen=True, tag=True):
    """Present other certificates from the next handshake on. Descriptor: as the last one of Configure."""


class Adjust(msgspec.Struct, frozen=True, tag=True):
    """Go by other settings, as far as they can change while connections are served."""

    options: msgspec.Raw
    log_level: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    pass


class Staged(msgspec.Struct, frozen=True, tag=True):
    pass


class Prepared(msgspec.Struct, frozen=True, tag=True):
    generation: int
    ms: float


class Refused(msgspec.Struct, frozen=True, tag=True):
    generation: int
    """0 where the question was about none."""
    reason: str
    is_passing: bool = False
    """This worker lacks something for the moment, which says nothing of the generation."""


class Abandoned(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Committed(msgspec.Struct, frozen=True, tag=True):
    generation: int


class Listening(msgspec.Struct, frozen=True, tag=True):
    pass


class Drained(msgspec.Struct, frozen=True, tag=True):
    pass


class Reopened(msgspec.Struct, frozen=True, tag=True):
    pass


class Certified(msgspec.Struct, frozen=True, tag=True):
    pass


class Adjusted(msgspec.Struct, frozen=True, tag=True):
    pass


ToWorker = Configure | Stage | Prepare | Commit | Abandon | Listen | Drain | Reopen | Certify | Adjust
ToSupervisor = (
    Ready
    | Staged
    | Prepared
    | Refused
    | Abandoned
    | Committed
    | Listening
    | Drained
    | Reopened
    | Certified
    | Adjusted
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class ChannelError(ConnectionError):
    """The other end broke the protocol; nothing more can be said to it."""


class ChannelClosed(ChannelError):
    """The other end is gone."""


class DescriptorsLost(ChannelError):
    """A message has come, and no room for its descriptors: this process has all that it may open."""

    def __init__(self, message: object) -> None:
        super().__init__(
            f"no room for the descriptors of {type(message).__name__}: as many are open as may be"
        )
        self.message: Final = message


class Received(NamedTuple, Generic[_In]):
    message: _In
    fds: tuple[int, ...]
    """Owned by whoever received them."""


class Channel(Generic[_In, _Out]):
    """One end: sends `_Out`, receives `_In`. One task sends and one receives at a time."""

    def __init__(self, sock: socket.socket, inbound: Any) -> None:
        """Take over *sock*; *inbound* is the union of messages that may arrive."""
        sock.setblocking(False)
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(inbound)
        self._encoder = msgspec.msgpack.Encoder()

    async def send(
        self, message: _Out, fds: Sequence[int] = (), *, deadline_s: float = SEND_DEADLINE_S
    ) -> None:
        """Send *message*; *fds* stay with the caller, the other end gets duplicates.

        Raises:
            ChannelClosed: the other end is gone.
            TimeoutError: the other end reads nothing.
        """
        data = self._encoder.encode(message)
        if len(data) > MESSAGE_LIMIT_BYTES or len(fds) > FDS_LIMIT:
            raise ValueError(
                f"{type(message).__name__}: {len(data)} bytes and {len(fds)} descriptors are too many"
            )
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    self._sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    loop = asyncio.get_running_loop()
                    await self._wait(loop.add_writer, loop.remove_writer)
                except OSError as error:
                    raise ChannelClosed(f"the control channel is closed: {error.strerror}") from None
                else:
                    return

    async def receive(self, *, deadline_s: float | None = None) -> Received[_In]:
        """Wait for the next message.

        Raises:
            ChannelClosed: the other end is gone.
            ChannelError: what came is no message, or too large.
            DescriptorsLost: it is one, and the channel goes on.
            TimeoutError: nothing came within *deadline_s*.
        """
        async with asyncio.timeout(deadline_s):
            while True:
                try:
                    data, fds, flags = self._read()
                except BlockingIOError:
                    loop = asyncio.get_running_loop()
                    await self._wait(loop.add_reader, loop.remove_reader)
                except OSError as error:
                    raise ChannelClosed(f"the control channel is closed: {error.strerror}") from None
                else:
                    return self._parse(data, fds, flags)

    def close(self) -> None:
        """Close this end; the other sees ChannelClosed. May be called again."""
        self._sock.close()

    def _read(self) -> tuple[bytes, list[int], int]:
        data, ancillary, flags, _ = self._sock.recvmsg(
            MESSAGE_LIMIT_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        return data, fds.tolist(), flags

    def _parse(self, data: bytes, fds: list[int], flags: int) -> Received[_In]:
        try:
            if not data:
                raise ChannelClosed("the control channel is closed: the other end is gone")
            if flags & socket.MSG_TRUNC:
                raise _too_large()
            try:
                message: _In = self._decoder.decode(data)
            except msgspec.MsgspecError as error:
                raise ChannelError(f"not a control message: {error}") from None
            if flags & socket.MSG_CTRUNC:
                raise DescriptorsLost(message) if len(fds) < _count_fds(message) else _too_large()
            if len(fds) != _count_fds(message):
                raise ChannelError(f"{type(message).__name__} came with {len(fds)} descriptors")
        except ChannelError:
            for fd in fds:
                os.close(fd)
            raise
        return Received(message, tuple(fds))

    async def _wait(
        self, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object]
    ) -> None:
        fd = self._sock.fileno()
        if fd < 0:
            raise ChannelClosed("the control channel is closed")
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        add(fd, lambda: None if ready.done() else ready.set_result(None))
        try:
            await ready
        finally:
            remove(fd)


def _too_large() -> ChannelError:
    return ChannelError(f"a control message is larger than {MESSAGE_LIMIT_BYTES} bytes")


def _count_fds(message: object) -> int:
    if isinstance(message, Configure):
        return len(message.listeners) + 2
    if isinstance(message, Prepare):
        return 2 if message.has_overlay else 1
    if isinstance(message, Stage | Certify):
        return 1
    return getattr(message, "descriptors", 0)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Make the two sockets of a channel: the supervisor's, the worker's; neither is inherited by accident."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def make_worker_end(sock: socket.socket) -> Channel[ToWorker, ToSupervisor]:
    return Channel(sock, ToWorker)


def make_supervisor_end(sock: socket.socket) -> Channel[ToSupervisor, ToWorker]:
    return Channel(sock, ToSupervisor)
