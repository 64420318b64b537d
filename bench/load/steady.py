"""A steady load that forgives nothing: requests at a rate, a websocket and a slow download beside them.

For measuring what a client notices of a restart or a crash. Nothing is tried again: a connection that is
refused, or cut between the first byte of a request and the last of its answer, is a failure, and so is any
status but 200. A keep-alive connection that the proxy closes while no request is in progress is not; the
proxy says so beforehand (`Connection: close`), or the client finds it closed before it sends.

All of it is one event loop in this process: clients and upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

DEADLINE_S: Final = 10.0
_SMALL: Final = b'{"message": "' + b"x" * 90 + b'"}'
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(_SMALL),
    _SMALL,
)


class Upstream:
    """Answers `GET /…`; trickles `GET /slow?SECONDS`; echoes what follows an upgrade."""

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if head.startswith(b"GET /slow?"):
                    await _trickle(writer, float(head[10:].split()[0]))
                elif b"\r\nUpgrade: " in head:
                    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                 b"Connection: Upgrade\r\n\r\n")  # fmt: skip
                    while data := await reader.read(65536):
                        writer.write(data)
                    return
                else:
                    writer.write(_ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()


async def _trickle(writer: asyncio.StreamWriter, duration_s: float) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    ends_at = time.monotonic() + duration_s
    while time.monotonic() < ends_at:
        writer.write(b"4\r\nslow\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


@dataclass
class Report:
    """What a load has seen; times in seconds."""

    answers: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed_at: list[float] = field(default_factory=list)
    """Monotonic time of each failure."""
    longest_s: float = 0.0
    """The slowest answer."""

    def fail(self, what: str) -> None:
        self.failures[what] += 1
        self.failed_at.append(time.monotonic())

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


class Load:
    """Keep-alive clients that send *rate* requests per second together, until the block ends."""

    def __init__(self, port: int, *, rate: float, clients: int, path: str = "/") -> None:
        self.report = Report()
        self._port = port
        self._period_s = clients / rate
        self._request = f"GET {path} HTTP/1.1\r\nHost: load.example\r\n\r\n".encode()
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []
        self._ends = asyncio.Event()

    async def __aenter__(self) -> Self:
        for number in range(self._clients):
            late_s = number / self._clients * self._period_s
            self._tasks.append(asyncio.create_task(self._client(late_s)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._ends.set()
        await asyncio.gather(*self._tasks)

    async def _client(self, late_s: float) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        begun = time.monotonic() + late_s
        for number in itertools.count():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, begun + number * self._period_s - time.monotonic())):
                    await self._ends.wait()
            if self._ends.is_set():
                break
            streams = await self._exchange(streams)
        if streams is not None:
            streams[1].close()

    async def _exchange(
        self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Send one request and take its answer; return the connection if it may be used again."""
        started = time.monotonic()
        stage = "connecting"
        try:
            async with asyncio.timeout(DEADLINE_S):
                if streams is None or streams[0].at_eof() or streams[1].is_closing():
                    if streams is not None:
                        streams[1].close()
                    streams = await asyncio.open_connection("127.0.0.1", self._port)
                reader, writer = streams
                stage = "waiting for the answer"
                writer.write(self._request)
                head = await reader.readuntil(b"\r\n\r\n")
                stage = "reading the answer"
                length = int(head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, ValueError) as error:
            self.report.fail(f"{type(error).__name__} {stage}")
            if streams is not None:
                streams[1].close()
            return None
        self.report.longest_s = max(self.report.longest_s, time.monotonic() - started)
        status = head.split(b" ", 2)[1].decode()
        if status == "200":
            self.report.answers += 1
        else:
            self.report.fail(f"status {status}")
        if b"\r\nconnection: close\r\n" in head.lower():
            writer.close()
            return None
        return streams


class Websocket:
    """A tunnel that has each message echoed; `echoes` counts them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.echoes = 0

    @classmethod
    async def open(cls, port: int, path: str = "/") -> Self:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        fields = {
            "Host": "load.example",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Version": "13",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head[:16]:
            raise ConnectionError(f"no tunnel: {head[:60]!r}")
        return cls(reader, writer)

    async def echo(self) -> None:
        """Send a message and take it back.

        Raises:
            OSError, IncompleteReadError, TimeoutError: the tunnel is cut.
        """
        message = b"%08d" % self.echoes
        self._writer.write(message)
        async with asyncio.timeout(DEADLINE_S):
            if await self._reader.readexactly(len(message)) != message:
                raise ConnectionError("the echo is not what was sent")
        self.echoes += 1

    async def run(self, pause_s: float = 0.05) -> None:
        """Echo until cancelled."""
        while True:
            await self.echo()
            await asyncio.sleep(pause_s)

    def close(self) -> None:
        self._writer.close()


async def download(port: int, duration_s: float, path: str = "/slow") -> int:
    """Take an answer that trickles for so long; return its bytes.

    Raises:
        OSError, IncompleteReadError: it was cut.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET {path}?{duration_s} HTTP/1.1\r\nHost: load.example\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:16]:
            raise ConnectionError(f"no download: {head[:60]!r}")
        total = 0
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
            total += size
        return total
    finally:
        writer.close()


@contextlib.contextmanager
def cancelled_at_end(*tasks: asyncio.Task[None]) -> Iterator[None]:
    """Cancel *tasks* when the block ends; one that had failed before raises what it failed of."""
    try:
        yield
    finally:
        for task in tasks:
            if task.done():
                task.result()
            task.cancel()
