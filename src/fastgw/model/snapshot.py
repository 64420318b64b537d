"""The configuration as it is published: immutable, in one canonical form of bytes, named by its digest.

Contract. A snapshot is a version and a set of entities. Two snapshots with the same entities have the same
document and the same digest on every machine; any difference in any field of any entity gives another digest.

Canonical forms::

    entity    the row as JSON, keys sorted, no white space
    line      kind SP id SP entity LF
    shard     number: the low 8 bits of crc32(kind SP id); its lines, sorted as bytes, which is by kind and id
    document  the 256 shards in order
    digest    sha256 over the 256 hashes of the shards: sha256 of its lines, 32 zero bytes for an empty one;
              without any entity the digest itself is 32 zero bytes
    packed    the document as it travels and is stored: u32 parts (1, 16 or 256: more for a larger document),
              u32 length of each, then the parts: zlib of as many shards in a row, nothing for empty ones

The one complication: one change in a large configuration must not cost a walk over all of it, on either side
of the link. So snapshots share the shards and packed parts that are equal, and `unpack` inflates only parts
that differ from those of the snapshot before. Which shard an entity is in is no secret and no proof: whoever
chooses ids so that they gather in one shard slows down changes there, and the sha256 over the lines stays.
Entities are held as lines; a row is decoded afresh at each access, so nobody can alter a snapshot through it.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from bisect import bisect_left
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from fastgw.errors import SnapshotError

Row = dict[str, Any]
Delta = Mapping[bytes, bytes | None]
"""Line by key (`kind SP id`); None: the entity is gone. Lines are without their LF."""

DIGEST_HEX_LENGTH: Final = 64
CONFIG_HASH_HEX_LENGTH: Final = 32
DOCUMENT_LIMIT_BYTES: Final = 256 * 1024 * 1024
SHARDS: Final = 256
_EMPTY_HASH: Final = bytes(32)
_FEW: Final = 8
"""Changes of one shard that are made one by one."""
_PARTS: Final = ((256 * 1024, 1), (4 * 1024 * 1024, 16), (DOCUMENT_LIMIT_BYTES, SHARDS))
"""(largest document in bytes, packed parts): few for a small one, whose lines compress better together."""

_row_decoder = msgspec.json.Decoder(dict[str, Any])
_encode_row = msgspec.json.Encoder(order="sorted").encode


class ChangeLike(Protocol):
    """What `Snapshot.apply` needs to know of one change; the storage's journal rows have it."""

    @property
    def version(self) -> int: ...
    @property
    def entity(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def after(self) -> Row | None: ...


class EntityChange(NamedTuple):
    """One entity's step from one snapshot to another; `after` is None when it is gone."""

    version: int
    entity: str
    id: str
    after: Row | None


class _Shard(NamedTuple):
    data: bytes
    hash: bytes
    counts: Mapping[str, int]
    """Of its entities, by kind."""


_EMPTY: Final = _Shard(b"", _EMPTY_HASH, {})
_NO_SHARDS: Final = (_EMPTY,) * SHARDS


class Snapshot:
    """A version and its entities; see the module for what is canonical."""

    __slots__ = ("_counts", "_parts", "_shards", "digest", "version")

    def __init__(
        self,
        version: int,
        shards: Sequence[_Shard],
        parts: Sequence[bytes | None] = (),
        counts: Mapping[str, int] | None = None,
    ) -> None:
        """Internal: use `from_rows`, `decode`, `unpack`, `apply` or `patch`.

        Args:
            parts: those of the packed form that are known.
            counts: of the entities, by kind; None: they are to be counted.
        """
        self.version = version
        self._shards = tuple(shards)
        self._parts: Sequence[bytes | None] = parts
        if counts is None:
            counts = _sum([shard.counts for shard in self._shards])
        self._counts = {kind: count for kind, count in sorted(counts.items()) if count}
        self.digest = (
            sha256(b"".join([shard.hash for shard in self._shards])).hexdigest()
            if self._counts
            else _EMPTY_HASH.hex()
        )
        """64 hex digits; all zeros if and only if there are no entities."""

    @classmethod
    def from_rows(cls, version: int, rows: Mapping[str, Iterable[Row]]) -> Snapshot:
        """Make the snapshot that holds *rows*, given by kind; a repeated id is an error."""
        lines: list[list[bytes]] = [[] for _ in range(SHARDS)]
        for kind, of_kind in rows.items():
            for row in of_kind:
                key = _make_key(kind, row["id"])
                lines[_shard_of(key)].append(_make_line(key, row))
        shards = [_EMPTY] * SHARDS
        for number, found in enumerate(lines):
            if found:
                found.sort()
                shards[number] = _make_shard(found, version)
        return cls(version, shards)

    @classmethod
    def decode(cls, version: int, document: bytes, digest: str | None = None) -> Snapshot:
        """Read a canonical document; with *digest*, insist that it is the document's.

        Raises:
            SnapshotError: a line is not one, is out of order, or the digest differs.
        """
        return cls(version, _cut(document, range(SHARDS), version))._checked(digest)

    @classmethod
    def unpack(
        cls,
        version: int,
        packed: bytes,
        digest: str | None = None,
        *,
        like: Snapshot | None = None,
        limit_bytes: int = DOCUMENT_LIMIT_BYTES,
    ) -> Snapshot:
        """Read what `pack` made, never inflating more than *limit_bytes*.

        Args:
            digest: insist that it is this one.
            like: the snapshot before: parts that are equal byte by byte are taken from it.
        Raises:
            SnapshotError: damaged, above the limit, not canonical, or the digest differs.
        """
        parts = _split_parts(packed)
        known = like._parts if like is not None and len(like._parts) == len(parts) else (None,) * len(parts)
        width = SHARDS // len(parts)
        shards: list[_Shard] = []
        room = limit_bytes
        for number, part in enumerate(parts):
            if like is not None and part == known[number]:
                shards += like._shards[number * width : (number + 1) * width]
            elif part:
                data = _inflate(part, room, limit_bytes)
                room -= len(data)
                shards += _cut(data, range(number * width, (number + 1) * width), version)
            else:
                shards += _NO_SHARDS[:width]
        return cls(version, shards, parts)._checked(digest)

    @property
    def config_hash(self) -> str:
        """The 32 hex digits that Kong's tools are shown."""
        return self.digest[:CONFIG_HASH_HEX_LENGTH]

    def counts(self) -> dict[str, int]:
        """How many entities there are of each kind that has any."""
        return dict(self._counts)

    def rows(self, kind: str) -> Mapping[str, Row]:
        """A read-only view of the entities of one kind by id, in the order of ids; each access decodes."""
        return _Rows(self, kind, self._counts.get(kind, 0))

    def line(self, key: bytes) -> bytes | None:
        """The line of the entity with this key (`kind SP id`), without its LF."""
        return _find_line(self._shards[_shard_of(key)].data, key)

    def lines(self) -> list[bytes]:
        """All lines by kind and id, without their LF."""
        return sorted([line for shard in self._shards for line in _lines_of(shard.data)])

    def lines_with(self, text: bytes) -> list[bytes]:
        """The lines that contain *text* anywhere."""
        return [
            line
            for shard in self._shards
            if text in shard.data
            for line in _lines_of(shard.data)
            if text in line
        ]

    def encode(self) -> bytes:
        """The canonical document."""
        return b"".join([shard.data for shard in self._shards])

    def pack(self) -> bytes:
        """The document as it travels; what was compressed for the snapshot before is not compressed again."""
        size = sum([len(shard.data) for shard in self._shards])
        count = next((count for limit, count in _PARTS if size <= limit), SHARDS)
        parts: list[bytes | None] = list(self._parts) if len(self._parts) == count else [None] * count
        width = SHARDS // count
        for number, part in enumerate(parts):
            if part is None:
                data = b"".join([shard.data for shard in self._shards[number * width : (number + 1) * width]])
                # Level 1, since a change waits for it.
                parts[number] = zlib.compress(data, 1) if data else b""
        self._parts = parts
        return _join_parts([part for part in parts if part is not None])

    def apply(self, changes: Iterable[ChangeLike], *, version: int | None = None) -> Snapshot:
        """The snapshot after *changes*, in their order; the cost is in proportion to them.

        Removing what is not there is no error: a change may sum up a creation and a removal.

        Args:
            version: of the result; the highest of the changes' by default.
        """
        changes = list(changes)
        reached = max([self.version, *(change.version for change in changes)])
        return self.patch(make_delta(changes), version=reached if version is None else version)

    def patch(self, delta: Delta, *, version: int) -> Snapshot:
        """The same from lines."""
        touched: dict[int, list[bytes]] = {}
        for key in delta:
            touched.setdefault(_shard_of(key), []).append(key)
        shards = list(self._shards)
        parts = list(self._parts)
        total = dict(self._counts)
        for number, keys in touched.items():
            replace = _replace_few if len(keys) <= _FEW else _replace_many
            data, gained = replace(shards[number].data, delta, keys)
            held = {kind: count for kind, count in _sum([shards[number].counts, gained]).items() if count}
            shards[number] = _Shard(data, sha256(data).digest(), held) if held else _EMPTY
            total = _sum([total, gained])
            if parts:
                parts[number * len(parts) // SHARDS] = None
        return Snapshot(version, shards, parts, total)

    def delta(self, other: Snapshot) -> dict[bytes, bytes | None]:
        """What leads from this snapshot to *other*; looks only into shards that differ."""
        found: dict[bytes, bytes | None] = {}
        for old, new in zip(self._shards, other._shards, strict=True):
            if old is new or old.hash == new.hash:
                continue
            before, after = set(_lines_of(old.data)), set(_lines_of(new.data))
            found.update((key_of(line), None) for line in before - after)
            found.update((key_of(line), line) for line in after - before)
        return found

    def diff(self, other: Snapshot) -> list[EntityChange]:
        """The changes that lead from this snapshot to *other*, by kind and id."""
        changes = []
        for key, line in sorted(self.delta(other).items()):
            kind, _, id_ = key.decode().partition(" ")
            changes.append(EntityChange(other.version, kind, id_, None if line is None else _row_of(line)))
        return changes

    def _checked(self, digest: str | None) -> Snapshot:
        if digest is not None and not hmac.compare_digest(self.digest.encode(), digest.encode()):
            raise SnapshotError(
                f"snapshot {self.version}: its digest is {self.digest}, not {digest} as announced"
            )
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return self.version == other.version and self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.version, self.digest))

    def __repr__(self) -> str:
        return f"<Snapshot {self.version} {self.config_hash} {self._counts}>"


class _Rows(Mapping[str, Row]):
    __slots__ = ("_count", "_kind", "_snapshot")

    def __init__(self, snapshot: Snapshot, kind: str, count: int) -> None:
        self._snapshot = snapshot
        self._kind = kind
        self._count = count

    def __getitem__(self, id_: str) -> Row:
        line = self._snapshot.line(f"{self._kind} {id_}".encode())
        if line is None:
            raise KeyError(id_)
        return _row_of(line)

    def __iter__(self) -> Iterator[str]:
        return (key_of(line).decode().partition(" ")[2] for line in self.lines())

    def __len__(self) -> int:
        return self._count

    def lines(self) -> list[bytes]:
        found: list[bytes] = []
        start = self._kind.encode() + b" "
        for shard in self._snapshot._shards:
            if count := shard.counts.get(self._kind, 0):
                # Those of one kind stand together.
                begins = 0 if shard.data.startswith(start) else shard.data.index(b"\n" + start) + 1
                found += shard.data[begins:].split(b"\n", count)[:count]
        return sorted(found)

    # The two that Mapping would make of one look-up per id: one walk is several times cheaper.

    def items(self) -> ItemsView[str, Row]:
        return _RowItems(self)

    def values(self) -> ValuesView[Row]:
        return _RowValues(self)


class _RowItems(ItemsView[str, Row]):
    __slots__ = ()
    _mapping: _Rows

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        return ((row["id"], row) for row in map(_row_of, self._mapping.lines()))


class _RowValues(ValuesView[Row]):
    __slots__ = ()
    _mapping: _Rows

    def __iter__(self) -> Iterator[Row]:
        return map(_row_of, self._mapping.lines())


def key_of(line: bytes) -> bytes:
    """The key (`kind SP id`) of a line."""
    return line[: line.index(b" ", line.index(b" ") + 1)]


def make_delta(changes: Iterable[ChangeLike]) -> dict[bytes, bytes | None]:
    """The net of *changes*, which come in their order."""
    delta: dict[bytes, bytes | None] = {}
    for change in changes:
        key = _make_key(change.entity, change.id)
        delta[key] = None if change.after is None else _make_line(key, change.after)
    return delta


def pack_delta(delta: Delta) -> bytes:
    """*delta* as it is stored: zlib of its lines by key; a key alone is an entity that is gone."""
    parts = [part for key in sorted(delta) for part in (delta[key] or key, b"\n")]
    return zlib.compress(b"".join(parts), 1)


def unpack_delta(packed: bytes, limit_bytes: int = DOCUMENT_LIMIT_BYTES) -> dict[bytes, bytes | None]:
    """Undo `pack_delta`, never inflating more than *limit_bytes*.

    Raises:
        SnapshotError: damaged, or above the limit.
    """
    delta: dict[bytes, bytes | None] = {}
    for line in _lines_of(_inflate(packed, limit_bytes, limit_bytes)):
        fields = line.split(b" ", 2)
        if len(fields) < 2:
            raise SnapshotError("a line of the changes is neither an entity nor a key")
        delta[b" ".join(fields[:2])] = line if len(fields) == 3 else None
    return delta


def _split_parts(packed: bytes) -> list[bytes]:
    count = int.from_bytes(packed[:4], "little")
    at = 4 * (count + 1)
    if count not in (1, 16, SHARDS) or len(packed) < at:
        raise SnapshotError("the packed document is damaged: it does not begin like one")
    parts = []
    for length in struct.unpack_from(f"<{count}I", packed, 4):
        parts.append(packed[at : at + length])
        at += length
    if at > len(packed):
        raise SnapshotError("the packed document is cut short")
    if at < len(packed):
        raise SnapshotError("something follows the packed document")
    return parts


def _join_parts(parts: list[bytes]) -> bytes:
    return b"".join([struct.pack(f"<{len(parts) + 1}I", len(parts), *map(len, parts)), *parts])


def _inflate(data: bytes, room: int, limit_bytes: int) -> bytes:
    """Undo zlib's compression, never making more than *room* bytes."""
    inflater = zlib.decompressobj()
    try:
        document = inflater.decompress(data, room + 1)
    except zlib.error as exc:
        raise SnapshotError(f"the packed document is damaged: {exc}") from exc
    if len(document) > room:
        raise SnapshotError(f"the document is larger than {limit_bytes} bytes")
    if not inflater.eof or inflater.unused_data:
        raise SnapshotError("the packed document is damaged: a part has another length")
    return document


def _lines_of(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    lines.pop()  # what follows the last LF: nothing
    return lines


def _shard_of(key: bytes) -> int:
    return zlib.crc32(key) & (SHARDS - 1)


def _make_key(kind: str, id_: str) -> bytes:
    key = f"{kind} {id_}".encode()
    if len(key.split()) != 2:
        raise SnapshotError(f"{kind}: {id_!r} is no id")
    return key


def _make_line(key: bytes, row: Row) -> bytes:
    if key.partition(b" ")[2] != row["id"].encode():
        raise SnapshotError(f"a row with the id {row['id']} was given as {key.decode()}")
    return b"%b %b" % (key, _encode_row(row))


def _row_of(line: bytes) -> Row:
    return _row_decoder.decode(line.split(b" ", 2)[2])


def _find_line(data: bytes, key: bytes) -> bytes | None:
    """The line of *key* in a shard."""
    begin, end = _place_of(data, key)
    return data[begin : end - 1] if begin < end else None


def _place_of(data: bytes, key: bytes) -> tuple[int, int]:
    """Where the line of *key* begins, and where the next one does; the same twice where it would stand.

    Halves what is left, for a shard of a large table has 400 lines.
    """
    key += b" "
    low, high = 0, len(data)  # where lines begin, or the end
    while low < high:
        start = data.rfind(b"\n", low, (low + high) // 2) + 1 or low
        end = data.index(b"\n", start) + 1
        found = data[start : start + len(key)]
        if found == key:
            return start, end
        if found < key:
            low = end
        else:
            high = start
    return low, low


def _replace_few(data: bytes, delta: Delta, keys: Iterable[bytes]) -> tuple[bytes, dict[str, int]]:
    """A shard's lines with those of *keys* as *delta* has them, and how many entities that gains, by kind.

    Each key costs a copy of the whole, which is still cheaper than taking it apart.
    """
    gained: dict[str, int] = {}
    for key in keys:
        line = delta[key]
        begin, end = _place_of(data, key)
        put = b"" if line is None else line + b"\n"
        whole = memoryview(data)
        data = b"".join((whole[:begin], put, whole[end:]))
        kind = key[: key.index(b" ")].decode()
        gained[kind] = gained.get(kind, 0) + (line is not None) - (begin < end)
    return data, gained


def _replace_many(data: bytes, delta: Delta, keys: Iterable[bytes]) -> tuple[bytes, dict[str, int]]:
    """The same for many keys: the lines are taken apart once."""
    gained: dict[str, int] = {}
    lines = _lines_of(data)
    for key in keys:
        line, place = delta[key], bisect_left(lines, key + b" ")
        was_there = place < len(lines) and lines[place].startswith(key + b" ")
        lines[place : place + was_there] = [] if line is None else [line]
        kind = key[: key.index(b" ")].decode()
        gained[kind] = gained.get(kind, 0) + (line is not None) - was_there
    return b"\n".join([*lines, b""]), gained


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for some in counts:
        for kind, count in some.items():
            total[kind] = total.get(kind, 0) + count
    return total


def _make_shard(lines: list[bytes], version: int) -> _Shard:
    """The shard of sorted lines."""
    counts: dict[str, int] = {}
    last = b""
    for line in lines:
        kind, id_, _ = line.split(b" ", 2)
        name = kind.decode()
        counts[name] = counts.get(name, 0) + 1
        if line.startswith(last) and last:
            raise SnapshotError(f"snapshot {version}: {name} {id_.decode()} stands twice")
        last = b"%b %b " % (kind, id_)
    data = b"\n".join([*lines, b""])
    return _Shard(data, sha256(data).digest(), counts)


class _Seeds(dict[bytes, int]):
    """crc32 of a kind and its space, from which that of the id goes on."""

    def __missing__(self, kind: bytes) -> int:
        if not kind or not kind.isascii():
            raise ValueError("not a kind")
        self[kind] = seed = zlib.crc32(kind + b" ")
        return seed


def _cut(data: bytes, numbers: range, version: int) -> list[_Shard]:
    """The shards with these *numbers* that *data* holds, in canonical order."""
    if data and not data.endswith(b"\n"):
        raise SnapshotError("the document does not end with a whole line")
    shards = [_EMPTY] * len(numbers)
    seeds = _Seeds()
    lines = _lines_of(data)
    last, begins, at = numbers.start, 0, 0
    last_key = (b"", b"")
    counts: dict[bytes, int] = {}

    def close() -> None:
        if at > begins:
            named = {kind.decode(): count for kind, count in counts.items()}
            held = data[begins:at]
            shards[last - numbers.start] = _Shard(held, sha256(held).digest(), named)

    for place, line in enumerate(lines, 1):
        try:
            kind, id_, _ = line.split(b" ", 2)
            number = zlib.crc32(id_, seeds[kind]) & (SHARDS - 1)
        except ValueError:
            raise SnapshotError(
                f"snapshot {version}: line {place} of its document is not a kind, an id and an entity"
            ) from None
        if number != last:
            close()
            begins, counts, last_key = at, {}, (b"", b"")
        key = (kind, id_)
        if number < last or key <= last_key or number >= numbers.stop:
            raise SnapshotError(
                f"snapshot {version}: line {place} of its document is out of order: "
                f"{kind.decode()} {id_.decode(errors='replace')}"
            )
        last, last_key = number, key
        counts[kind] = counts.get(kind, 0) + 1
        at += len(line) + 1
    close()
    return shards
