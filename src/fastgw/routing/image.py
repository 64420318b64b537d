"""The image: one file that holds what a data plane serves, read in place by every worker.

An image is whole, or the overlay of a whole one, its base: what changed since the base was compiled. See
`overlay.py` for how the two are read as one.

Layout, little-endian::

    header     magic, u32 format version, u32 sections, u64 length of the file, sha256 over all that follows
    directory  per section: u32 id, u32 zero, u64 offset, u64 length
    sections   each at a multiple of 64 bytes

    META      `ImageMeta` as JSON
    TABLE     the block of `_router.Table`; its route numbers count the records of ROUTES
    ROUTES    u32 count, u32 offsets[count + 1], then that many `RouteRecord` in msgpack, back to back
    SERVICES  the same of `ServiceRecord`
    SNAPSHOT  the packed snapshot that all of it was made from; of an overlay: the packed delta from the
              base's snapshot to its own
    PLUGINS   whole images only: the same of `PluginRecord`, those for everything in front
    PATCH     overlays only: u32 removed, u32 replaced, then u32 for each route of the base that it removes,
              then u32 pairs: a service of the base, and the service of the overlay that replaces it

Numbers go on from the base to its overlay: the first record of the overlay bears the number that follows the
base's last. Contract. `Image.open` believes nothing before it has checked all of it. Header, directory, META
and SNAPSHOT keep their form for ever: whatever the format version, a data plane can compile its last
configuration anew.

The one complication is how long the file stays mapped: as long as the `Image`, or a `Table` that it handed
out, is referred to. Opening takes time in proportion to the size, nearly all of it with the GIL released.
"""

from __future__ import annotations

import mmap
import os
import time
from array import array
from collections.abc import Mapping, Sequence
from enum import IntEnum, IntFlag
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Final, Generic, NamedTuple, TypeVar

import msgspec

from fastgw._router import Table
from fastgw.errors import ImageError, SnapshotError
from fastgw.model.snapshot import Snapshot, unpack_delta
from fastgw.routing.certificates import CertificateSection
from fastgw.routing.plugins import PluginRecord, StepRecord

FORMAT_VERSION: Final = 6

_MAGIC: Final = b"FGWIMAGE"
_HEADER: Final = Struct("<8sIIQ32s")
_DIRECTORY_ENTRY: Final = Struct("<IIQQ")
_ALIGNMENT: Final = 64
_SECTIONS_LIMIT: Final = 64


class Section(IntEnum):
    META = 1
    TABLE = 2
    ROUTES = 3
    SERVICES = 4
    SNAPSHOT = 5
    PATCH = 6
    CERTIFICATES = 7
    PLUGINS = 8


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
    base: str = ""
    """Checksum of the base that it is the overlay of; empty: it is whole."""


class Patch(NamedTuple):
    """What an overlay takes away from its base."""

    removed: Sequence[int]
    """Routes of the base that are gone, or stand in the overlay instead."""
    replaced: Mapping[int, int]
    """Services of the base by number, with the number of the service of the overlay instead."""


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
    is_v1: bool = False
    """Whether paths are joined by `path_handling` v1, which only the `traditional` flavor obeys."""
    missing_plugin: str | None = None
    """A plugin that its requests would have to pass and that is not here: they are answered 503."""
    plugins: tuple[StepRecord, ...] = ()
    """What its requests pass; the numbers are those of the whole image, also in an overlay."""


def packed_tail(missing_plugin: str | None, plugins: tuple[StepRecord, ...]) -> bytes:
    """The last two fields of a packed `RouteRecord`."""
    return _encode(missing_plugin) + _encode(plugins)


_encode = msgspec.msgpack.Encoder().encode


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
    client_certificate: str | None = None
    """Id of the certificate that its upstream is shown."""
    ca_certificates: tuple[str, ...] | None = None
    """Ids of the authorities that its upstream is verified by; None: those of the settings."""


class Records:
    """The bytes of a section of records in the making."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._data = bytearray()
        self._offsets = array("I", [0])

    def add(self, record: RouteRecord | ServiceRecord | PluginRecord) -> int:
        """Append *record*; returns its number."""
        self._encoder.encode_into(record, self._data, -1)
        self._offsets.append(len(self._data))
        return len(self._offsets) - 2

    def extend(self, records: bytes, ends: bytes) -> None:
        """Append records that are encoded already; *ends* are 32-bit integers, counted from their begin."""
        begin = len(self._data)
        self._data += records
        found = array("I", ends)
        self._offsets += array("I", [begin + end for end in found]) if begin else found

    def pack(self) -> bytes:
        offsets = array("I", [len(self._offsets) - 1]) + self._offsets
        return b"".join((offsets.tobytes(), self._data))


def pack_image(
    *,
    version: int,
    digest: str,
    counts: Mapping[str, int],
    table: bytes,
    routes: Records,
    services: Records,
    plugins: Records,
    packed: bytes,
    certificates: bytes | None = None,
) -> bytes:
    """The bytes of an image; *packed* is the snapshot from `Snapshot.pack`."""
    return _assemble(
        {
            Section.META: msgspec.json.encode(ImageMeta(version, digest, dict(counts), time.time())),
            Section.TABLE: table,
            Section.ROUTES: routes.pack(),
            Section.SERVICES: services.pack(),
            Section.SNAPSHOT: packed,
            Section.PLUGINS: plugins.pack(),
            **({} if certificates is None else {Section.CERTIFICATES: certificates}),
        }
    )


def pack_overlay(
    *,
    base: str,
    version: int,
    digest: str,
    counts: Mapping[str, int],
    table: bytes,
    routes: Records,
    services: Records,
    patch: Patch,
    packed_delta: bytes,
    certificates: bytes | None = None,
) -> bytes:
    """The bytes of an overlay of the image with the checksum *base*."""
    meta = ImageMeta(version, digest, dict(counts), time.time(), base)
    pairs = [number for pair in sorted(patch.replaced.items()) for number in pair]
    numbers = (len(patch.removed), len(patch.replaced), *sorted(patch.removed), *pairs)
    return _assemble(
        {
            Section.META: msgspec.json.encode(meta),
            Section.TABLE: table,
            Section.ROUTES: routes.pack(),
            Section.SERVICES: services.pack(),
            Section.SNAPSHOT: packed_delta,
            Section.PATCH: Struct(f"<{len(numbers)}I").pack(*numbers),
            **({} if certificates is None else {Section.CERTIFICATES: certificates}),
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

    def __init__(self, sections: Mapping[int, memoryview], meta: ImageMeta, checksum: str) -> None:
        """Internal: use `open`."""
        self.meta: Final = meta
        self.checksum: Final = checksum
        """64 hex digits over all its bytes: its name for overlays."""
        self.patch: Final = _patch_of(_section(sections, Section.PATCH)) if meta.base else None
        """What it takes away from its base; None: it is whole."""
        found = sections.get(Section.CERTIFICATES)
        self.certificates: Final = None if found is None else CertificateSection(found)
        """None: it holds none, or changes none of its base."""
        try:
            table = Table(_section(sections, Section.TABLE))
        except ValueError as exc:
            raise ImageError(str(exc)) from exc
        routes = _RecordReader(_section(sections, Section.ROUTES), RouteRecord)
        services = _RecordReader(_section(sections, Section.SERVICES), ServiceRecord)
        if table.routes > len(routes):
            raise ImageError(f"its table names {table.routes} routes, it holds {len(routes)}")
        plugins = None if meta.base else _RecordReader(_section(sections, Section.PLUGINS), PluginRecord)
        self._mapped: _Mapped | None = _Mapped(
            table, routes, services, plugins, _section(sections, Section.SNAPSHOT)
        )

    @classmethod
    def open(cls, source: int | str | Path) -> Image:
        """Map and check an image; a descriptor stays the caller's.

        Raises:
            ImageError: not an image of this format, or damaged: says which.
            OSError: *source* cannot be read.
        """
        format_version, checksum, sections = _map(source)
        if format_version != FORMAT_VERSION:
            raise ImageError(f"its format version is {format_version}, not {FORMAT_VERSION}")
        return cls(sections, _meta_of(sections), checksum)

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
        """The record of one route, decoded afresh; of a whole image its service exists."""
        record = self._open.routes[number]
        if record.service < -1 or (record.service >= self.service_count and not self.meta.base):
            raise ImageError(
                f"its route {record.id} names the service {record.service}, which does not exist"
            )
        return record

    def service(self, number: int) -> ServiceRecord:
        """The record of one service, decoded afresh."""
        return self._open.services[number]

    @property
    def plugin_count(self) -> int:
        plugins = self._open.plugins
        return 0 if plugins is None else len(plugins)

    def plugin(self, number: int) -> PluginRecord:
        """The record of one plugin of a whole image, decoded afresh."""
        plugins = self._open.plugins
        if plugins is None:
            raise IndexError("an overlay holds no plugins")
        return plugins[number]

    def snapshot(self, base: Snapshot | None = None) -> Snapshot:
        """The snapshot that the image was made from; of an overlay, *base* is that of its base.

        Raises:
            SnapshotError: it is not what the image says of it.
        """
        return snapshot_of(self.meta, bytes(self._open.snapshot), base)

    def close(self) -> None:
        """Let go of the mapping; it ends when tables that were handed out are gone as well."""
        self._mapped = None

    @property
    def _open(self) -> _Mapped:
        if self._mapped is None:
            raise ValueError("the image is closed")
        return self._mapped


def snapshot_of(meta: ImageMeta, packed: bytes, base: Snapshot | None) -> Snapshot:
    """The snapshot of an image of any format version, from its META and SNAPSHOT.

    Args:
        base: that of its base, if it is an overlay.
    Raises:
        SnapshotError: damaged, or another than META says.
    """
    if not meta.base:
        return Snapshot.unpack(meta.version, packed, meta.digest)
    assert base is not None
    made = base.patch(unpack_delta(packed), version=meta.version)
    if made.digest != meta.digest:
        raise SnapshotError(f"an overlay leads to the digest {made.digest}, not {meta.digest}")
    return made


def read_format_version(path: str | Path) -> int:
    """The format version that the file claims.

    Raises:
        ImageError: not an image.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return _unpack_header(file.read(_HEADER.size))[0]


def snapshot_section_of(path: str | Path) -> tuple[ImageMeta, bytes]:
    """META and SNAPSHOT of an image of any format version, for `snapshot_of`.

    Raises:
        ImageError: not an image, or damaged.
        OSError: the file cannot be read.
    """
    _, _, sections = _map(path)
    return _meta_of(sections), bytes(_section(sections, Section.SNAPSHOT))


_Record = TypeVar("_Record", RouteRecord, ServiceRecord, PluginRecord)


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
    plugins: _RecordReader[PluginRecord] | None
    snapshot: memoryview


def _unpack_header(header: bytes) -> tuple[int, int, int, bytes]:
    """(format version, sections, length, checksum)."""
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        raise ImageError("not an image: it does not begin like one")
    _, format_version, sections, length, checksum = _HEADER.unpack(header)
    return format_version, sections, length, checksum


def _map(source: int | str | Path) -> tuple[int, str, dict[int, memoryview]]:
    """(format version, checksum, sections by id) of a file, checked against its checksum."""
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
    return format_version, checksum.hex(), sections


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


def _patch_of(section: memoryview) -> Patch:
    if len(section) < 8 or len(section) % 4:
        raise ImageError("its PATCH section is cut short")
    numbers = section.cast("I")
    removed, replaced = numbers[0], numbers[1]
    if len(numbers) != 2 + removed + 2 * replaced:
        raise ImageError("its PATCH section has another length than it says")
    pairs = numbers[2 + removed :]
    return Patch(numbers[2 : 2 + removed].tolist(), dict(zip(pairs[::2], pairs[1::2], strict=True)))


def read_checksum(fd: int) -> str:
    """The checksum that the image behind *fd* claims: its name, unchecked.

    Raises:
        ImageError: not an image.
    """
    return _unpack_header(os.pread(fd, _HEADER.size, 0))[3].hex()
