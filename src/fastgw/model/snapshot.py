"""The configuration as it is published: immutable, in one canonical form of bytes, named by its digest.

Contract. A snapshot is a version and a set of entities. Two snapshots with the same entities have the same
document and the same digest on every machine; any difference in any field of any entity gives another digest.

Canonical forms::

    entity    the row as JSON, keys sorted, no white space
    line      kind SP entity LF
    document  the lines, by kind and then by id
    hash      sha256(line without its LF)
    digest    root of a 16-ary Merkle tree of depth 4; an entity hangs at the leaf that the first four
              hex digits of sha256(kind SP id) name. Leaf: sha256 over its entities' hashes in order of
              kind and id; inner node: sha256 over its 16 children's hashes, 32 zero bytes for an
              empty one. The empty tree is 32 zero bytes.

The one complication: the tree is also where the entities live, and nodes are shared between snapshots. So one
change costs one path from leaf to root whatever the size of the configuration, and `diff` walks only where
hashes differ. Entities are held as lines; a row is decoded afresh at each access, so nobody can alter a
snapshot through a row that it handed out.
"""

from __future__ import annotations

import hmac
import zlib
from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import msgspec

from fastgw.errors import SnapshotError

Row = dict[str, Any]

DIGEST_HEX_LENGTH = 64
CONFIG_HASH_HEX_LENGTH = 32
DOCUMENT_LIMIT_BYTES = 256 * 1024 * 1024
_DEPTH = 4
_FANOUT = 16
_HASH_BYTES = 32
_EMPTY_HASH = bytes(_HASH_BYTES)

_row_decoder = msgspec.json.Decoder(dict[str, Any])
_encode_row = msgspec.json.Encoder(order="sorted").encode


class _Identified(msgspec.Struct):
    """The one field that decoding a document needs to see of a row."""

    id: str


_id_decoder = msgspec.json.Decoder(_Identified)


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


class _Entry(NamedTuple):
    kind: str
    id: str
    line: bytes
    hash: bytes

    def row(self) -> Row:
        return _row_decoder.decode(self.line[len(self.kind) + 1 :])


class _Node(NamedTuple):
    """A leaf holds entries, in order; an inner node holds 16 places for children."""

    hash: bytes
    children: tuple[_Node | None, ...]
    entries: tuple[_Entry, ...]


_NO_CHILDREN: tuple[_Node | None, ...] = (None,) * _FANOUT


class Snapshot:
    """A version and its entities; see the module for what is canonical."""

    __slots__ = ("_counts", "_document", "_root", "digest", "version")

    def __init__(self, version: int, root: _Node | None, counts: Mapping[str, int]) -> None:
        """Internal: use `from_rows`, `decode` or `apply`."""
        self.version = version
        self.digest = (root.hash if root is not None else _EMPTY_HASH).hex()
        """64 hex digits; all zeros if and only if there are no entities."""
        self._root = root
        self._counts = {kind: count for kind, count in sorted(counts.items()) if count}
        self._document: bytes | None = None

    @classmethod
    def from_rows(cls, version: int, rows: Mapping[str, Iterable[Row]]) -> Snapshot:
        """Make the snapshot that holds *rows*, given by kind; a repeated id is an error."""
        return cls._from_entries(
            version, (_make_entry(kind, row["id"], row) for kind, of_kind in rows.items() for row in of_kind)
        )

    @classmethod
    def decode(cls, version: int, document: bytes, digest: str | None = None) -> Snapshot:
        """Read a canonical document; with *digest*, insist that it is the document's.

        Raises:
            SnapshotError: a line is not one, is out of order, or the digest differs.
        """
        snapshot = cls._from_entries(
            version,
            (_Entry(kind, id_, line, sha256(line).digest()) for kind, id_, line in _lines_of(document)),
        )
        if digest is not None:
            _compare(version, snapshot.digest, digest)
        snapshot._document = document
        return snapshot

    @classmethod
    def _from_entries(cls, version: int, entries: Iterable[_Entry]) -> Snapshot:
        buckets: dict[int, list[_Entry]] = {}
        counts: dict[str, int] = {}
        for entry in entries:
            buckets.setdefault(_place(entry.kind, entry.id), []).append(entry)
            counts[entry.kind] = counts.get(entry.kind, 0) + 1
        level: dict[int, _Node] = {}
        for place, found in buckets.items():
            found.sort()
            for before, after in zip(found, found[1:], strict=False):
                if before[:2] == after[:2]:
                    raise SnapshotError(f"snapshot {version}: {after.kind} {after.id} stands twice")
            level[place] = _make_leaf(tuple(found))
        for _ in range(_DEPTH):
            parents: dict[int, list[_Node | None]] = {}
            for place, node in level.items():
                parents.setdefault(place >> 4, [None] * _FANOUT)[place & 15] = node
            level = {place: _make_inner(tuple(children)) for place, children in parents.items()}
        return cls(version, level.get(0), counts)

    @property
    def config_hash(self) -> str:
        """The 32 hex digits that Kong's tools are shown."""
        return self.digest[:CONFIG_HASH_HEX_LENGTH]

    def counts(self) -> dict[str, int]:
        """How many entities there are of each kind that has any."""
        return dict(self._counts)

    def rows(self, kind: str) -> Mapping[str, Row]:
        """A read-only view of the entities of one kind by id, in the order of ids; each access decodes."""
        return _Rows(self._root, kind, self._counts.get(kind, 0))

    def encode(self) -> bytes:
        """The canonical document; made once, then kept."""
        if self._document is None:
            entries = sorted(_walk(self._root))
            self._document = b"".join([part for entry in entries for part in (entry.line, b"\n")])
        return self._document

    def apply(self, changes: Iterable[ChangeLike], *, version: int | None = None) -> Snapshot:
        """The snapshot after *changes*, in their order; the cost is in proportion to them.

        Removing what is not there is no error: a change may sum up a creation and a removal.

        Args:
            version: of the result; the highest of the changes' by default.
        """
        net: dict[tuple[str, str], Row | None] = {}
        reached = self.version
        for change in changes:
            net[change.entity, change.id] = change.after
            reached = max(reached, change.version)
        root = self._root
        counts = dict(self._counts)
        for (kind, id_), row in net.items():
            entry = _make_entry(kind, id_, row) if row is not None else None
            root, grown = _replace(root, kind, id_, entry)
            counts[kind] = counts.get(kind, 0) + grown
        return Snapshot(reached if version is None else version, root, counts)

    def diff(self, other: Snapshot) -> list[EntityChange]:
        """The changes that lead from this snapshot to *other*, by kind and id."""
        changes = [
            EntityChange(other.version, kind, id_, after.row() if after is not None else None)
            for kind, id_, after in _differences(self._root, other._root)
        ]
        changes.sort(key=lambda change: (change.entity, change.id))
        return changes

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Snapshot):
            return NotImplemented
        return self.version == other.version and self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.version, self.digest))

    def __repr__(self) -> str:
        return f"<Snapshot {self.version} {self.config_hash} {self._counts}>"


class _Rows(Mapping[str, Row]):
    __slots__ = ("_count", "_kind", "_root")

    def __init__(self, root: _Node | None, kind: str, count: int) -> None:
        self._root = root
        self._kind = kind
        self._count = count

    def __getitem__(self, id_: str) -> Row:
        node = self._root
        place = _place(self._kind, id_)
        for shift in (12, 8, 4, 0):
            if node is None:
                raise KeyError(id_)
            node = node.children[place >> shift & 15]
        if node is not None:
            for entry in node.entries:
                if entry.id == id_ and entry.kind == self._kind:
                    return entry.row()
        raise KeyError(id_)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(entry.id for entry in _walk(self._root) if entry.kind == self._kind))

    def __len__(self) -> int:
        return self._count

    def entries(self) -> list[_Entry]:
        return sorted(entry for entry in _walk(self._root) if entry.kind == self._kind)

    # The two that Mapping would make of one look-up per id: one walk is several times cheaper.

    def items(self) -> ItemsView[str, Row]:
        return _RowItems(self)

    def values(self) -> ValuesView[Row]:
        return _RowValues(self)


class _RowItems(ItemsView[str, Row]):
    __slots__ = ()
    _mapping: _Rows

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        return ((entry.id, entry.row()) for entry in self._mapping.entries())


class _RowValues(ValuesView[Row]):
    __slots__ = ()
    _mapping: _Rows

    def __iter__(self) -> Iterator[Row]:
        return (entry.row() for entry in self._mapping.entries())


def check_document(version: int, document: bytes, digest: str) -> dict[str, int]:
    """Check all that `Snapshot.decode` checks, at a third of its cost; return the counts by kind.

    Raises:
        SnapshotError: as `Snapshot.decode`.
    """
    counts: dict[str, int] = {}
    joined: dict[int, bytes] = {}
    for kind, id_, line in _lines_of(document):
        place = _place(kind, id_)
        joined[place] = joined.get(place, b"") + sha256(line).digest()
        counts[kind] = counts.get(kind, 0) + 1
    hashes = {place: sha256(entries).digest() for place, entries in joined.items()}
    for _ in range(_DEPTH):
        parents: dict[int, bytearray] = {}
        for place, hash_ in hashes.items():
            children = parents.get(place >> 4)
            if children is None:
                children = parents[place >> 4] = bytearray(_FANOUT * _HASH_BYTES)
            start = (place & 15) * _HASH_BYTES
            children[start : start + _HASH_BYTES] = hash_
        hashes = {place: sha256(children).digest() for place, children in parents.items()}
    _compare(version, hashes.get(0, _EMPTY_HASH).hex(), digest)
    return counts


def compress(document: bytes) -> bytes:
    """The document as it travels and is stored: zlib, level 1, since a change waits for it."""
    return zlib.compress(document, 1)


def decompress(data: bytes, limit_bytes: int = DOCUMENT_LIMIT_BYTES) -> bytes:
    """Undo `compress`, never making more than *limit_bytes*.

    Raises:
        SnapshotError: not zlib, cut short, followed by something else, or above the limit.
    """
    inflater = zlib.decompressobj()
    try:
        document = inflater.decompress(data, limit_bytes + 1)
    except zlib.error as exc:
        raise SnapshotError(f"the compressed document is damaged: {exc}") from exc
    if len(document) > limit_bytes:
        raise SnapshotError(f"the document is larger than {limit_bytes} bytes")
    if not inflater.eof:
        raise SnapshotError("the compressed document is cut short")
    if inflater.unused_data:
        raise SnapshotError("something follows the compressed document")
    return document


def _place(kind: str, id_: str) -> int:
    return int.from_bytes(sha256(f"{kind} {id_}".encode()).digest()[:2])


def _make_entry(kind: str, id_: str, row: Row) -> _Entry:
    if row["id"] != id_:
        raise SnapshotError(f"{kind}: a row with the id {row['id']} was given as {id_}")
    line = b"%b %b" % (kind.encode(), _encode_row(row))
    return _Entry(kind, id_, line, sha256(line).digest())


def _compare(version: int, found: str, announced: str) -> None:
    if not hmac.compare_digest(found.encode(), announced.encode()):
        raise SnapshotError(f"snapshot {version}: its digest is {found}, not {announced} as announced")


def _lines_of(document: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Kind, id and line (without its LF) of each entity, all in order."""
    if document and not document.endswith(b"\n"):
        raise SnapshotError("the document does not end with a whole line")
    last = ("", "")
    for number, line in enumerate(document.split(b"\n")[:-1], 1):
        kind_bytes, space, body = line.partition(b" ")
        if not space or not kind_bytes.isascii():
            raise SnapshotError(f"line {number} of the document is not a kind and an entity")
        try:
            id_ = _id_decoder.decode(body).id
        except msgspec.DecodeError as exc:
            raise SnapshotError(f"line {number} of the document is not an entity: {exc}") from exc
        kind = kind_bytes.decode("ascii")
        if (kind, id_) <= last:
            raise SnapshotError(f"line {number} of the document is out of order: {kind} {id_}")
        last = (kind, id_)
        yield kind, id_, line


def _make_leaf(entries: tuple[_Entry, ...]) -> _Node:
    return _Node(sha256(b"".join([entry.hash for entry in entries])).digest(), (), entries)


def _make_inner(children: tuple[_Node | None, ...]) -> _Node:
    hashes = [child.hash if child is not None else _EMPTY_HASH for child in children]
    return _Node(sha256(b"".join(hashes)).digest(), children, ())


def _replace(root: _Node | None, kind: str, id_: str, entry: _Entry | None) -> tuple[_Node | None, int]:
    """A tree like *root* with *entry* in place of what bears this kind and id, and by how many it grew."""
    place = _place(kind, id_)
    path: list[_Node | None] = [root]
    for shift in (12, 8, 4, 0):
        above = path[-1]
        path.append(above.children[place >> shift & 15] if above is not None else None)

    leaf = path.pop()
    old = leaf.entries if leaf is not None else ()
    kept = [other for other in old if (other.kind, other.id) != (kind, id_)]
    if entry is not None:
        kept.append(entry)
        kept.sort()
    node = _make_leaf(tuple(kept)) if kept else None

    for shift in (0, 4, 8, 12):
        above = path.pop()
        children = list(above.children if above is not None else _NO_CHILDREN)
        children[place >> shift & 15] = node
        node = _make_inner(tuple(children)) if any(child is not None for child in children) else None
    return node, len(kept) - len(old)


def _walk(node: _Node | None) -> Iterator[_Entry]:
    """Every entry below *node*, in the order of places."""
    pending = [node]
    while pending:
        here = pending.pop()
        if here is not None:
            yield from here.entries
            pending.extend(reversed(here.children))


def _differences(old: _Node | None, new: _Node | None) -> Iterator[tuple[str, str, _Entry | None]]:
    pending = [(old, new)]
    while pending:
        left, right = pending.pop()
        if left is right or (left is not None and right is not None and left.hash == right.hash):
            continue
        below_left = left.children if left is not None else ()
        below_right = right.children if right is not None else ()
        if below_left or below_right:
            pending.extend(zip(below_left or _NO_CHILDREN, below_right or _NO_CHILDREN, strict=True))
            continue
        before = {(entry.kind, entry.id): entry for entry in (left.entries if left is not None else ())}
        after = {(entry.kind, entry.id): entry for entry in (right.entries if right is not None else ())}
        for key in before.keys() | after.keys():
            was, becomes = before.get(key), after.get(key)
            if was is None or becomes is None or was.hash != becomes.hash:
                yield (*key, becomes)
