"""A hop of TCP between two processes that can be cut after any byte, fall silent, and come back.

    data plane ──"up"──> Wire ──> control plane
               <─"down"─

Contract. Bytes pass unchanged and in order until the point that was armed, which is exact: `cut_after(n)` lets n
more bytes pass in that direction and then resets all connections; `stall_after(n)` lets nothing more pass in
either direction and tells neither end, as a network does that has lost a machine, until `resume` or `cut`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Literal, Self

from tests.scenario.process import HOST
from tests.waiting import free_port

Direction = Literal["up", "down"]
_DEADLINE_S: Final = 15.0
_LAST_TURNS: Final = 10


class _End(asyncio.Protocol):
    """One side of one connection through the wire."""

    def __init__(self, wire: Wire, direction: Direction) -> None:
        self._wire = wire
        self._direction = direction
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None
        self.held: list[bytes] = []
        """What has come and may not pass yet."""
        self.is_over = False
        self.gone = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._wire.ends.add(self)

    def data_received(self, data: bytes) -> None:
        self.held.append(data)
        self.pass_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_over = True
        self._wire.ends.discard(self)
        self.gone.set()
        self.pass_on()

    def pass_on(self) -> None:
        """Let pass what may, and then the end of the connection."""
        peer = self.peer
        if peer is None or peer.transport is None:
            if self.is_over and not self._wire.is_silent and peer is not None:
                peer.is_over = True
            return
        while self.held and not self._wire.is_silent:
            data = self.held.pop(0)
            may_pass = self._wire.take(self._direction, len(data))
            peer.transport.write(data[:may_pass])
            if may_pass < len(data):
                self.held.insert(0, data[may_pass:])
            self._wire.act_if_due()
        if self.is_over and not self._wire.is_silent:
            peer.transport.close()


class Wire:
    """Forwards to *target_port*; runs in a thread of its own between `with` and its end."""

    def __init__(self, target_port: int) -> None:
        self.port: Final = free_port()
        self.ends: set[_End] = set()
        self.done = threading.Event()
        """Set when what was armed has happened."""
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._target_port = target_port
        self._armed: tuple[Literal["cut", "stall"], Direction, int] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._waiting: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._await(self._loop.create_server(self._accept, HOST, self.port))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._await(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    def cut(self) -> None:
        """Reset all connections; new ones pass."""
        self._call(self._cut)

    def stall(self) -> None:
        """Let nothing pass any more, and tell nobody."""
        self._call(self._stall)

    def resume(self) -> None:
        """Let pass what has been held, ends of connections included, and all that comes."""
        self._call(self._resume)

    def cut_after(self, count: int, direction: Direction = "down") -> None:
        """Cut when *count* more bytes have passed in this direction: at once for none."""
        self._call(lambda: self._arm("cut", direction, count))

    def stall_after(self, count: int, direction: Direction = "down") -> None:
        """Fall silent when *count* more bytes have passed in this direction: with the next one for none."""
        self._call(lambda: self._arm("stall", direction, count))

    def wait_done(self, deadline_s: float = _DEADLINE_S) -> None:
        assert self.done.wait(deadline_s), f"what was armed did not happen: {self._armed}"

    # In the thread of the loop.

    @property
    def is_silent(self) -> bool:
        return not self._speaks.is_set()

    def take(self, direction: Direction, count: int) -> int:
        """How many of *count* bytes may pass."""
        if self._armed is None or self._armed[1] != direction:
            return count
        what, _, left = self._armed
        may_pass = min(left, count)
        self._armed = (what, direction, left - may_pass)
        return may_pass

    def act_if_due(self) -> None:
        if self._armed is None or self._armed[2] > 0:
            return
        what = self._armed[0]
        self._armed = None
        if what == "cut":
            self._cut()
        else:
            self._stall()
        self.done.set()

    def _arm(self, what: Literal["cut", "stall"], direction: Direction, count: int) -> None:
        self.done.clear()
        self._armed = (what, direction, count)

    def _cut(self) -> None:
        self._speaks.set()
        for end in list(self.ends):
            end.held.clear()
            if end.transport is not None:
                reset(end.transport)

    def _stall(self) -> None:
        self._speaks.clear()

    def _resume(self) -> None:
        self._speaks.set()
        for end in list(self.ends):
            end.pass_on()
            peer = end.peer
            if peer is not None and peer.is_over:
                peer.pass_on()

    def _accept(self) -> asyncio.Protocol:
        end = _End(self, "up")
        end.peer = _End(self, "down")
        end.peer.peer = end
        task = self._loop.create_task(self._connect(end))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return end

    async def _connect(self, end: _End) -> None:
        try:
            # A silent network takes no new connection either; whoever dials meets its own deadline.
            await self._speaks.wait()
            if not end.is_over:
                await self._loop.create_connection(lambda: _peer_of(end), HOST, self._target_port)
                end.pass_on()
        except OSError:
            if end.transport is not None:
                reset(end.transport)

    async def _close(self) -> None:
        assert self._server is not None
        # asyncio loses a connection that it has accepted but not yet made when the server closes.
        for sock in self._server.sockets:
            self._loop.remove_reader(sock.fileno())
        for _ in range(_LAST_TURNS):
            await asyncio.sleep(0)
        self._server.close()
        self._cut()
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)
        # What was accepted or connected in the last turn of the loop ends within the next ones.
        for _ in range(_LAST_TURNS):
            self._cut()
            await asyncio.sleep(0)
        await asyncio.gather(*(end.gone.wait() for end in self.ends))

    def _call(self, work: Callable[[], object]) -> None:
        async def run() -> None:
            work()

        self._await(run())

    def _await(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_DEADLINE_S)


def _peer_of(end: _End) -> _End:
    assert end.peer is not None
    return end.peer


def reset(transport: asyncio.Transport) -> None:
    """Close with a RST: what is on its way is lost, as when a machine goes."""
    connection = transport.get_extra_info("socket")
    if connection is not None:
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    transport.abort()
