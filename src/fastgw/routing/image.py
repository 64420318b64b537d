"""The image: one file that holds all a data plane serves, read in place by every worker.

Layout, little-endian::

    header     magic, u32 format version, u32 sections, u64 length of the file, sha256 over all that follows
    directory  per section: u32 id, u32 zero, u64 offset, u64 length
    sections   each at a multiple of 16 bytes

    META      `ImageMeta` as JSON
    TABLE     the block of `_router.Table`; its route numbers count the records of ROUTES
    ROUTES    u32 count, u32 offsets[count + 1], then that many `RouteRecord` in msgpack, back to back
    SERVICES  the same of `ServiceRecord`
    SNAPSHOT  the compressed canonical document that all of it was made from

Contract. `Image.open` believes nothing before it has checked all of it. Header, directory, META and SNAPSHOT
keep their form for ever: whatever the format version, a data plane can compile its last configuration anew.

The one complication is how long the file stays mapped: as long as the `Image`, or a `Table` that it handed
out, is referred to. Opening takes time in proportion to the size, nearly all of it with the GIL released.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from fastgw._router import Table
from fastgw.errors import ImageError
from fastgw.model.snapshot import decompress

FORMAT_VERSION: Final = 1

_MAGIC: Final = b"FGWIMAGE"
_HEADER: Final = Struct("<8sIIQ32s")
_DIRECTORY_ENTRY: Final = Struct("<IIQQ")
_ALIGNMENT: Final = 16
_SECTIONS_LIMIT: Final = 64


class Section(IntEnum):
    META = 1
    TABLE = 2
    ROUTES = 3
    SERVICES = 4
    SNAPSHOT = 5


class Protocols(IntFlag):
    """The protocols of a route, as a mask."""

    HTTP = 1
    HTTPS = 2


class ImageMeta(msgspec.Struct, frozen=True):
    version: int
    digest: str
    counts: dict[str, int]
    """Entities of the snapshot by kind, those that are not served (disabled) included."""
    compiled_at: float
    """Wall time, seconds."""


class RouteRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What the data plane needs to know of a matched route."""

    id: str
    name: str | None
    service: int
    """Number of its service; -1: none."""
    strip_path: bool
    preserve_host: bool
    protocols: int
    """`Protocols`."""
    https_redirect_status_code: int


class ServiceRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    id: str
    name: str | None
    host: str
    port: int
    path: str | None
    protocol: str
    retries: int
    connect_timeout_ms: int
    write_timeout_ms: int
    read_timeout_ms: int
    is_upstream_name: bool
    """Whether *host* is the name of an upstream entity, not of a machine."""
    tls_verify: bool | None = None
    """None: as the data plane's settings say; so is the depth."""
    tls_verify_depth: int | None = None


class Records:
    """The bytes of a ROUTES or SERVICES section in the making."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._data = bytearray()
        self._offsets = [0]

    def add(self, record: RouteRecord | ServiceRecord) -> int:
        """Append *record*; returns its number."""
        self._encoder.encode_into(record, self._data, -1)
        self._offsets.append(len(self._data))
        return len(self._offsets) - 2

    def pack(self) -> bytes:
        count = len(self._offsets)
        return Struct(f"<I{count}I").pack(count - 1, *self._offsets) + self._data


def pack_image(
    *,
    version: int,
    digest: str,
    counts: Mapping[str, int],
    table: bytes,
    routes: Records,
    services: Records,
    compressed: bytes,
) -> bytes:
    """The bytes of an image; *compressed* is the snapshot's document from `compress`."""
    meta = ImageMeta(version, digest, dict(counts), time.time())
    return _assemble(
        {
            Section.META: msgspec.json.encode(meta),
            Section.TABLE: table,
            Section.ROUTES: routes.pack(),
            Section.SERVICES: services.pack(),
            Section.SNAPSHOT: compressed,
        }
    )


def _assemble(sections: Mapping[Section, bytes]) -> bytes:
    parts: list[bytes] = []
    directory = bytearray()
    offset = _HEADER.size + _DIRECTORY_ENTRY.size * len(sections)
    for section, data in sections.items():
        gap = -offset % _ALIGNMENT
        directory += _DIRECTORY_ENTRY.pack(section, 0, offset + gap, len(data))
        parts += (bytes(gap), data)
        offset += gap + len(data)
    checksum = sha256(directory)
    for part in parts:
        checksum.update(part)
    header = _HEADER.pack(_MAGIC, FORMAT_VERSION, len(sections), offset, checksum.digest())
    return b"".join((header, directory, *parts))


class Image:
    """An open image; see the module."""

    def __init__(self, sections: Mapping[int, memoryview], meta: ImageMeta) -> None:
        """Internal: use `open`."""
        self.meta: Final = meta
        try:
            table = Table(_section(sections, Section.TABLE))
        except ValueError as exc:
            raise ImageError(str(exc)) from exc
        routes = _RecordReader(_section(sections, Section.ROUTES), RouteRecord)
        services = _RecordReader(_section(sections, Section.SERVICES), ServiceRecord)
        if table.routes > len(routes):
            raise ImageError(f"its table names {table.routes} routes, it holds {len(routes)}")
        self._mapped: _Mapped | None = _Mapped(table, routes, services, _section(sections, Section.SNAPSHOT))

    @classmethod
    def open(cls, source: int | str | Path) -> Image:
        """Map and check an image; a descriptor stays the caller's.

        Raises:
            ImageError: not an image of this format, or damaged: says which.
            OSError: *source* cannot be read.
        """
        format_version, sections = _map(source)
        if format_version != FORMAT_VERSION:
            raise ImageError(f"its format version is {format_version}, not {FORMAT_VERSION}")
        return cls(sections, _meta_of(sections))

    @property
    def route_count(self) -> int:
        return len(self._open.routes)

    @property
    def service_count(self) -> int:
        return len(self._open.services)

    def table(self) -> Table:
        """The compiled routes; every number it answers with is one for `route`."""
        return self._open.table

    def route(self, number: int) -> RouteRecord:
        """The record of one route, decoded afresh; its service exists."""
        record = self._open.routes[number]
        if not -1 <= record.service < self.service_count:
            raise ImageError(
                f"its route {record.id} names the service {record.service}, which does not exist"
            )
        return record

    def service(self, number: int) -> ServiceRecord:
        """The record of one service, decoded afresh."""
        return self._open.services[number]

    def snapshot_document(self) -> bytes:
        """The canonical document that the image was made from."""
        return decompress(bytes(self._open.snapshot))

    def close(self) -> None:
        """Let go of the mapping; it ends when tables that were handed out are gone as well."""
        self._mapped = None

    @property
    def _open(self) -> _Mapped:
        if self._mapped is None:
            raise ValueError("the image is closed")
        return self._mapped


def read_format_version(path: str | Path) -> int:
    """The format version that the file claims.

    Raises:
        ImageError: not an image.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return _unpack_header(file.read(_HEADER.size))[0]


def snapshot_section_of(path: str | Path) -> tuple[ImageMeta, bytes]:
    """Meta and compressed snapshot of an image of any format version.

    Raises:
        ImageError: not an image, or damaged.
        OSError: the file cannot be read.
    """
    _, sections = _map(path)
    return _meta_of(sections), bytes(_section(sections, Section.SNAPSHOT))


_Record = TypeVar("_Record", RouteRecord, ServiceRecord)


class _RecordReader(Generic[_Record]):
    """The records of one section, decoded one at a time."""

    def __init__(self, section: memoryview, record_type: type[_Record]) -> None:
        name = record_type.__name__
        if len(section) < 8:
            raise ImageError(f"its {name} section is cut short")
        count = int.from_bytes(section[:4], "little")
        start = 4 * (count + 2)
        if start > len(section):
            raise ImageError(f"its {name} section is cut short")
        self._offsets = section[4:start].cast("I")
        self._data = section[start:]
        self._decoder: msgspec.msgpack.Decoder[_Record] = msgspec.msgpack.Decoder(record_type)
        if self._offsets[count] != len(self._data):
            raise ImageError(f"its {name} section has another length than its records")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, number: int) -> _Record:
        if not 0 <= number < len(self):
            raise IndexError(f"there is no record {number}, only {len(self)}")
        try:
            return self._decoder.decode(self._data[self._offsets[number] : self._offsets[number + 1]])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise ImageError(f"its record {number} cannot be read: {exc}") from exc


class _Mapped(NamedTuple):
    """What reads from the mapping."""

    table: Table
    routes: _RecordReader[RouteRecord]
    services: _RecordReader[ServiceRecord]
    snapshot: memoryview


def _unpack_header(header: bytes) -> tuple[int, int, int, bytes]:
    """(format version, sections, length, checksum)."""
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ImageError("not an image: it does not begin like one")
    _, format_version, sections, length, checksum = _HEADER.unpack(header)
    return format_version, sections, length, checksum


def _map(source: int | str | Path) -> tuple[int, dict[int, memoryview]]:
    """(format version, sections by id) of a file, checked against its checksum."""
    fd = source if isinstance(source, int) else os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if size < _HEADER.size:
            raise ImageError(f"not an image: it has {size} bytes")
        # Private: Linux before 6.7 maps no sealed memfd shared. The pages are shared all the same.
        view = memoryview(mmap.mmap(fd, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))
    finally:
        if fd is not source:
            os.close(fd)
    format_version, count, length, checksum = _unpack_header(bytes(view[: _HEADER.size]))
    if length != size:
        raise ImageError(f"it has {size} bytes, but was written with {length}")
    if sha256(view[_HEADER.size :]).digest() != checksum:
        raise ImageError("its checksum is wrong: it was damaged after it was written")
    if count > _SECTIONS_LIMIT or _HEADER.size + count * _DIRECTORY_ENTRY.size > size:
        raise ImageError(f"its directory of {count} sections does not fit")
    sections = {}
    for number in range(count):
        id_, _, offset, section_length = _DIRECTORY_ENTRY.unpack_from(
            view, _HEADER.size + number * _DIRECTORY_ENTRY.size
        )
        if offset % _ALIGNMENT or offset + section_length > size:
            raise ImageError(f"its section {id_} lies outside")
        sections[id_] = view[offset : offset + section_length]
    return format_version, sections


def _section(sections: Mapping[int, memoryview], section: Section) -> memoryview:
    found = sections.get(section)
    if found is None:
        raise ImageError(f"it has no {section.name} section")
    return found


def _meta_of(sections: Mapping[int, memoryview]) -> ImageMeta:
    try:
        return msgspec.json.decode(_section(sections, Section.META), type=ImageMeta)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ImageError(f"its META section cannot be read: {exc}") from exc
