"""A Kong control plane as a data plane sees it: recorded bytes, and the specification where none were recorded.

Reads what it is sent by itself: nothing of `wire.kong_v1` is used here. It is as strict as Kong's: one frame
that it does not know ends the connection.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import hashlib
import json
import re
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.wire.kong_v1.recorded import CONTROL_PLANE

BINARY, CLOSE, PING, PONG = 2, 8, 9, 10
ANSWER = next(event["head"] for event in CONTROL_PLANE if event["kind"] == "answer")
"""As it was recorded, for the key that the recorder sent."""
NOT_FOUND = "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 9\r\nConnection: keep-alive\r\n\r\nnot found"


def zipped(envelope: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps(envelope).encode())


class Link:
    """One connection of a data plane, after its upgrade and basic_info."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, query: dict[str, str]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.query = query
        self.basic_info: dict[str, Any] = {}
        self.pings: list[str] = []
        """Every hash that was reported, in order."""
        self.complaint = ""
        """What the data plane did wrong."""
        self.is_over = False

    def push(self, payload: bytes | dict[str, Any]) -> None:
        """Push an envelope, or the recorded payload of a frame."""
        self.send(BINARY, zipped(payload) if isinstance(payload, dict) else payload)

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """One frame, not masked."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 127, size)
        self._writer.write(head + payload)

    def close(self) -> None:
        self._writer.close()

    async def frame(self) -> tuple[int, bytes]:
        first, size = struct.unpack("!BB", await self._reader.readexactly(2))
        assert first & 0xF0 == 0x80, "whole frames without extensions"
        assert size & 0x80, "a data plane's frames are masked"
        size &= 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", await self._reader.readexactly(2))
        mask = await self._reader.readexactly(4)
        payload = await self._reader.readexactly(size)
        return first & 0x0F, bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))

    async def run(self) -> None:
        """Do what Kong's read thread does, to the end of the connection."""
        try:
            opcode, payload = await self.frame()
            assert opcode == BINARY, "the first frame is binary"
            self.basic_info = json.loads(payload)
            assert self.basic_info["type"] == "basic_info"
            assert isinstance(self.basic_info["plugins"], list)
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    return
                assert opcode == PING, f"data planes only send pings, not {opcode}"
                assert len(payload) == 32, f"a ping of {len(payload)} bytes"
                self.pings.append(payload.decode())
                self.send(PONG)
        except AssertionError as exc:
            self.complaint = str(exc)
            self.send(CLOSE)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.is_over = True
            self._writer.close()


class KongControlPlane:
    """Listens for data planes; `links` are those that came."""

    def __init__(self) -> None:
        self.address = ""
        self.links: list[Link] = []
        self.requests: list[str] = []
        """Every head that came."""
        self.answer: str | None = None
        """In place of the upgrade; empty: the connection is closed without a word, as Kong does."""
        self.closes_at_once = False
        """After basic_info, as for a version that does not fit."""

    @property
    def link(self) -> Link:
        return self.links[-1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        self.requests.append(head)
        path, _, query = head.split(" ")[1].partition("?")
        answer = self.answer if path == "/v1/outlet" else NOT_FOUND
        if answer is not None:
            writer.write(answer.encode())
            writer.close()
            return
        link = Link(reader, writer, dict(part.split("=") for part in query.split("&")))
        (key,) = re.findall(r"(?i)^sec-websocket-key: *(\S+)\r$", head, re.MULTILINE)
        digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        accept = base64.b64encode(digest).decode()
        writer.write(re.sub(r"(Accept: )\S+", rf"\g<1>{accept}", ANSWER).encode())
        if self.closes_at_once:
            await link.frame()
            link.send(CLOSE)
            link.close()
            return
        self.links.append(link)
        await link.run()

    @asynccontextmanager
    async def listening(self, context: ssl.SSLContext, port: int = 0) -> AsyncIterator[KongControlPlane]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=context)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for link in self.links:
                with contextlib.suppress(ConnectionError):
                    link.close()
