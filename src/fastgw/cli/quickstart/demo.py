"""The echo upstream of `quickstart --demo`: answers any request with what it saw of it, as JSON.

Small on purpose: HTTP/1.1 with keep-alive, bodies by length or in chunks, every read bounded and with a
deadline. It listens on loopback for the gateway beside it and is no server for anything else.
"""

from __future__ import annotations

import asyncio
import json
from typing import Final

MAX_HEAD_BYTES: Final = 65536
MAX_BODY_BYTES: Final = 1 << 20
EXCHANGE_S: Final = 75.0


class BadRequest(Exception):
    """The request cannot be answered with an echo; the connection is closed."""


class EchoUpstream:
    """The server; `port` is known once `start` has returned."""

    port: int

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen; on a port that the system chooses when it is 0."""
        self._connections: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, host, port, limit=MAX_HEAD_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            stays = True
            while stays:
                # Not wait_for: Python 3.11's loses a cancellation that meets its end.
                async with asyncio.timeout(EXCHANGE_S):
                    stays = await self._answer(reader, writer)
        except (
            OSError,
            TimeoutError,
            EOFError,
            BadRequest,
            asyncio.LimitOverrunError,
            asyncio.CancelledError,
        ):
            pass  # the peer is gone, silent or wrong, or we stop: the connection ends either way
        finally:
            self._connections.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; say whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        request_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, path, version = _split(request_line, " ", 3)
        fields = [_split(line, ":", 2) for line in lines]
        headers = {name.strip().lower(): value.strip() for name, value in fields}
        body = await _read_body(reader, headers)
        echo = {
            "message": "this is the demo upstream; it answers with what it was asked",
            "method": method,
            "path": path,
            "headers": {name.strip(): value.strip() for name, value in fields},
            "body": body.decode("utf-8", "replace"),
        }
        content = json.dumps(echo, indent=2).encode() + b"\n"
        stays = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            + f"Content-Length: {len(content)}\r\n".encode()
            + (b"" if stays else b"Connection: close\r\n")
            + b"\r\n"
            + (b"" if method == "HEAD" else content)
        )
        await writer.drain()
        return stays


def _split(text: str, separator: str, count: int) -> list[str]:
    parts = text.split(separator, count - 1)
    if len(parts) != count:
        raise BadRequest(text)
    return parts


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while size := _size((await reader.readuntil(b"\r\n")).split(b";")[0].strip(), 16, len(body)):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass  # trailer fields
        return body
    return await reader.readexactly(_size(headers.get("content-length", "0").encode(), 10, 0))


def _size(digits: bytes, base: int, already: int) -> int:
    try:
        size = int(digits, base)
    except ValueError:
        raise BadRequest(digits.decode("latin-1")) from None
    if size < 0 or already + size > MAX_BODY_BYTES:
        raise BadRequest("the body is too large for an echo")
    return size
