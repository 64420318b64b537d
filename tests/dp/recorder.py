"""An upstream that keeps what it really received and answers as told: for attacks in both directions.

It reads requests by the letter of RFC 9112 §6 and §7.1, in code that shares nothing with the proxy, on an
event loop and a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.server import ProxyOptions
from tests.dp.rig import ALL_HEADERS, DEADLINE_S, Peer, Proxy, image_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#: Fields whose value differs from one exchange to the next.
VARYING = frozenset(
    {
        "x-kong-request-id",
        "x-kong-proxy-latency",
        "x-kong-upstream-latency",
        "x-kong-response-latency",
        "date",
    }
)


@dataclass(frozen=True)
class Message:
    """A message as it came: its first line, its fields in order, its body, its trailers."""

    line: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...] = ()
    #: Of a request: the number of the upstream's connection that it came on.
    connection: int = 0

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def steady(self) -> tuple[Any, ...]:
        """All of it that is the same each time the exchange is repeated."""
        fields = tuple(field for field in self.fields if field[0].lower() not in VARYING)
        length = (
            {"content-length"} if "x-kong-response-latency" in {key.lower() for key, _ in self.fields} else ()
        )
        return self.line, tuple(field for field in fields if field[0].lower() not in length), self.trailers


def split_head(head: bytes) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split a head that ends with its empty line; every line must be a field."""
    line, *lines = head[:-4].decode("latin-1").split("\r\n")
    fields = []
    for text in lines:
        name, colon, value = text.partition(":")
        assert colon, head
        fields.append((name, value.strip(" \t")))
    return line, tuple(fields)


class RecordingUpstream:
    """Listens on loopback until `close`; `answer` may be changed between requests."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.incomplete: list[bytes] = []
        self.accepted = 0
        self.open = 0
        #: The pieces of the answer to a request; each is sent by itself. A None in it closes the connection,
        #: an Exception resets it.
        self.answer: Callable[[Message], Sequence[bytes | None]] = lambda _: (OK,)
        self.settle: Callable[[], Any] = lambda: None
        #: Request lines whose answers have gone out whole and been read by the proxy.
        self.answered: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        number = self.accepted
        self.open += 1
        taken = bytearray()
        try:
            while True:
                taken.clear()
                request = replace(await self._read_request(reader, taken), connection=number)
                self.requests.append(request)
                try:
                    for piece in self.answer(request):
                        if piece is None:
                            return
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.wrap_future(self.settle())
                finally:
                    self.answered.put(request.line)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.IncompleteReadError):
                taken += error.partial
            if taken:
                self.incomplete.append(bytes(taken))
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
            self._tasks.discard(task)

    async def _read_request(self, reader: asyncio.StreamReader, taken: bytearray) -> Message:
        head = await reader.readuntil(b"\r\n\r\n")
        taken += head
        line, fields = split_head(head)
        lengths = [value for name, value in fields if name.lower() == "content-length"]
        codings = [value for name, value in fields if name.lower() == "transfer-encoding"]
        assert len(lengths) + len(codings) <= 1, head
        trailers: tuple[tuple[str, str], ...] = ()
        if codings:
            assert codings == ["chunked"], head
            body, trailers = await self._read_chunks(reader, taken)
        else:
            body = await reader.readexactly(int(lengths[0]) if lengths else 0)
        return Message(line, fields, body, trailers)

    async def _read_chunks(
        self, reader: asyncio.StreamReader, taken: bytearray
    ) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        body = b""
        while True:
            line = await reader.readuntil(b"\r\n")
            taken += line
            # What we send is plain: lower-case hex without leading zeros, no extension.
            assert line == b"%x\r\n" % int(line, 16), line
            size = int(line, 16)
            if size == 0:
                break
            body += await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
        trailers = b""
        while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
            trailers += line
        return body, split_head(b"\r\n" + trailers + b"\r\n")[1] if trailers else ()


class Client(Peer):
    """A client that reads whole answers and tells a cut one from a whole one."""

    def read_message(self, method: str = "GET") -> Message:
        """Read one final answer, interim ones skipped; EOFError when it is cut short."""
        while True:
            line, fields = split_head(self.read_head())
            if not line.startswith("HTTP/1.1 1") or line.startswith("HTTP/1.1 101"):
                break
        status = int(line.split(" ")[1])
        names = {name.lower(): value for name, value in fields}
        if method == "HEAD" or status in (101, 204, 304):
            return Message(line, fields, b"")
        if names.get("transfer-encoding") == "chunked":
            assert "content-length" not in names
            body = b""
            while size := int(self.read_until(b"\r\n"), 16):
                body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n"
            trailers = b""
            while (text := self.read_until(b"\r\n")) != b"\r\n":
                trailers += text
            return Message(
                line, fields, body, split_head(b"\r\n" + trailers + b"\r\n")[1] if trailers else ()
            )
        if "content-length" in names:
            return Message(line, fields, self.read_exactly(int(names["content-length"])))
        return Message(line, fields, self.read_rest())

    def read_rest(self) -> bytes:
        """Read a body that ends with the connection; a reset is not such an end."""
        while data := self.sock.recv(65536):
            self.unread += data
        taken, self.unread = self.unread, b""
        return taken


class Recording:
    """The proxy between clients and a `RecordingUpstream`."""

    def __init__(self, proxy: Proxy, upstream: RecordingUpstream) -> None:
        self.proxy = proxy
        self.upstream = upstream

    def client(self) -> Client:
        client = Client(self.proxy.client().sock)
        client.sock.setsockopt(6, 1, 1)  # TCP_NODELAY: each piece is a segment of its own
        return client

    def settle(self) -> None:
        """Return once the proxy has read what was sent to it before."""
        self.proxy.call(_turns())

    def send_pieces(self, client: Client, pieces: Sequence[bytes]) -> None:
        """Send each piece after the proxy has read the one before; a closed connection ends it."""
        with contextlib.suppress(ConnectionError):
            for place, piece in enumerate(pieces):
                if place:
                    self.settle()
                client.send(piece)


async def _turns() -> None:
    # A new connection is accepted in one turn of the loop, made in the next, and read from in a third.
    for _ in range(4):
        await asyncio.sleep(0)


@contextmanager
def recording(
    service: dict[str, Any] | None = None,
    routes: list[dict[str, Any]] | None = None,
    plugin: type[Plugin] | None = None,
    **options: Any,
) -> Iterator[Recording]:
    """A proxy in front of a recording upstream, with one route on `/` unless told otherwise.

    Args:
        plugin: what all requests pass.
    """
    classes = {} if plugin is None else {plugin.name: plugin}
    upstream = RecordingUpstream()
    proxy = Proxy(ProxyOptions(**({"headers": ALL_HEADERS} | options)), plugin_classes=classes)
    upstream.settle = lambda: asyncio.run_coroutine_threadsafe(_turns(), proxy.loop)
    try:
        proxy.apply(
            image_of(
                [{"name": "svc", "host": "127.0.0.1", "port": upstream.port} | (service or {})],
                routes or [{"name": "rt", "paths": ["/"], "service": "svc"}],
                plugins=[{"name": name, "config": {}} for name in classes],
                served_plugins=frozenset(classes),
            )
        )
        yield Recording(proxy, upstream)
    finally:
        proxy.close()
        upstream.close()


def cuts_of(data: bytes) -> list[int]:
    """Every place at which *data* can be cut in two; of long data a choice, its ends among them."""
    if len(data) <= 400:
        return list(range(1, len(data)))
    step = len(data) // 40
    return sorted({*range(1, 60), *range(60, len(data) - 40, step), *range(len(data) - 40, len(data))})
