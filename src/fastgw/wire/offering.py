"""A snapshot ready to be sent: compressed and cut into messages once, shared by all links that need it."""

from __future__ import annotations

from functools import cached_property

from fastgw.wire.messages import CHUNK_BYTES, SnapshotBegin, SnapshotChunk, encode


class Offering:
    """One version as it goes on the wire. Immutable; any number of links send from the same one."""

    def __init__(self, version: int, digest: str, compressed: bytes) -> None:
        self.version = version
        self.digest = digest
        self.compressed = compressed

    @cached_property
    def messages(self) -> tuple[bytes, ...]:
        """The encoded messages in the order of sending; made when the first link needs them."""
        begin = SnapshotBegin(version=self.version, digest=self.digest, size=len(self.compressed))
        view = memoryview(self.compressed)
        chunks = [
            SnapshotChunk(data=bytes(view[start : start + CHUNK_BYTES]))
            for start in range(0, len(view), CHUNK_BYTES)
        ]
        return (encode(begin), *map(encode, chunks))
