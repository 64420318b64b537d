"""A Kong data plane as a control plane sees it: recorded bytes, and the specification where none were recorded.

Reads what it is sent by itself: nothing of `wire.kong_v1` is used here, so that both can be wrong in one place
only.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import re
import ssl
import struct
from typing import Any, NamedTuple, Self

from tests.wire.kong_v1.recorded import BASIC_INFO, UPGRADE

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
ZERO = "0" * 32
NODE_ID = "0d2871c6-540b-47bc-b776-bbe7748e8d4e"
SECTIONS = ("routes", "services", "plugins", "upstreams", "targets")


class Frame(NamedTuple):
    opcode: int
    payload: bytes


def plain_hash(value: Any) -> str:
    """Algorithm C of anything below a megabyte, where nothing is folded."""

    def text(value: Any) -> str:
        if value is None:
            return "/null/"
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return f"{value:.14g}"
        if not value:
            return "{}"
        if isinstance(value, list):
            return ";".join(map(text, value)) + (";" if len(value) > 5 else "")
        return "".join(f"{key}:{text(value[key])};" for key in sorted(value))

    return hashlib.md5(text(value).encode()).hexdigest()


def check_envelope(payload: bytes) -> dict[str, Any]:
    """Decode a push and hold it to what Kong's data planes of 2.8.1 and later expect of one."""
    envelope: dict[str, Any] = json.loads(gzip.decompress(payload))
    assert set(envelope) == {"type", "timestamp", "config_table", "config_hash", "hashes"}
    assert envelope["type"] == "reconfigure"
    assert isinstance(envelope["timestamp"], float)
    assert set(envelope["hashes"]) == {"config", *SECTIONS}, "all six or none"
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in envelope["hashes"].values())
    assert envelope["config_hash"] == envelope["hashes"]["config"] != ZERO
    table = envelope["config_table"]
    assert table["_transform"] is False, "passwords must not be hashed again"
    assert [row["name"] for row in table["workspaces"]] == ["default"]
    for kind, rows in table.items():
        if not kind.startswith("_"):
            assert isinstance(rows, list)
            assert rows, "a kind without rows has no key"
    return envelope


def check_hashes(envelope: dict[str, Any]) -> None:
    """Hold the hashes of an unedited table to a second reading of algorithm C."""
    table, hashes = envelope["config_table"], envelope["hashes"]
    for name in SECTIONS:
        assert hashes[name] == (plain_hash(table[name]) if name in table else ZERO), name
    rest = plain_hash({name: rows for name, rows in table.items() if name not in SECTIONS})
    whole = "".join(hashes[name] for name in SECTIONS) + rest
    assert hashes["config"] == hashlib.md5(whole.encode()).hexdigest()


class KongDataPlane:
    """One connection to a cluster port."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.head = ""
        """The answer to the upgrade."""

    @classmethod
    async def dial(cls, address: str, context: ssl.SSLContext) -> Self:
        host, _, port = address.rpartition(":")
        return cls(
            *await asyncio.open_connection(host, int(port), ssl=context, server_hostname="kong_clustering")
        )

    @classmethod
    async def connect(
        cls,
        address: str,
        context: ssl.SSLContext,
        *,
        version: str = "3.9.1",
        config_hash: str = ZERO,
        **info: Any,
    ) -> Self:
        """Dial, upgrade with the recorded request, and greet with the recorded first frames.

        Args:
            info: fields of basic_info in place of the recorded ones.
        """
        node = await cls.dial(address, context)
        await node.upgrade(UPGRADE.replace("node_version=3.9.1", f"node_version={version}"))
        assert node.head.startswith("HTTP/1.1 101 "), node.head
        node.send(BINARY, json.dumps({**BASIC_INFO, **info}).encode())
        node.ping(config_hash)
        return node

    async def upgrade(self, request: str) -> None:
        self._writer.write(request.encode())
        self.head = (await self._reader.readuntil(b"\r\n\r\n")).decode()

    def send(self, opcode: int, payload: bytes = b"") -> None:
        """One masked frame."""
        size = len(payload)
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | min(size, 126)) if size < 126 else b""
        if size >= 126:
            assert size < 1 << 16
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
        self._writer.write(head + mask + masked)

    def ping(self, config_hash: str) -> None:
        self.send(PING, config_hash.encode())

    async def frame(self) -> Frame:
        """The next frame, which must be one that Kong's data planes take; raises EOFError at the end."""
        try:
            first, size = struct.unpack("!BB", await self._reader.readexactly(2))
            assert first & 0xF0 == 0x80, "whole frames without extensions"
            assert not size & 0x80, "a control plane's frames are not masked"
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
            frame = Frame(first & 0x0F, await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError) as exc:
            raise EOFError from exc
        assert frame.opcode in (BINARY, CLOSE, PONG), "a control plane never sends anything else"
        assert frame.payload if frame.opcode == BINARY else not frame.payload, "PONG and CLOSE are empty"
        return frame

    async def push(self) -> dict[str, Any]:
        """The next push, checked; PONGs before it are passed over."""
        while (frame := await self.frame()).opcode == PONG:
            pass
        assert frame.opcode == BINARY
        return check_envelope(frame.payload)

    async def until_close(self) -> list[int]:
        """The opcodes of all frames up to the end of the connection, which comes."""
        opcodes: list[int] = []
        try:
            while True:
                opcodes.append((await self.frame()).opcode)
        except EOFError:
            return opcodes

    def close(self) -> None:
        self._writer.close()

    async def closed(self) -> None:
        """Close the connection, and wait until it is."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
