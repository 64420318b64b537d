"""Snapshots: one form for one content, a digest that misses nothing, changes that add up."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
import zlib
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import SnapshotError
from fastgw.model.snapshot import EntityChange, Row, Snapshot, pack_delta, unpack_delta

# A busy machine must not turn a property into a stopwatch.
unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

KINDS = ("routes", "services")
IDS = [f"00000000-0000-4000-8000-{number:012d}" for number in range(6)]

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
contents = st.dictionaries(st.sampled_from(["name", "paths", "port", "ü"]), values, max_size=3)
keys = st.tuples(st.sampled_from(KINDS), st.sampled_from(IDS))
stores = st.dictionaries(keys, contents, max_size=8)
steps = st.lists(st.tuples(keys, st.none() | contents), max_size=8)

Store = dict[tuple[str, str], dict[str, Any]]


def row_of(id_: str, content: dict[str, Any]) -> Row:
    return {"id": id_, **content}


def snapshot_of(version: int, store: Store) -> Snapshot:
    rows: dict[str, list[Row]] = {}
    for (kind, id_), content in store.items():
        rows.setdefault(kind, []).append(row_of(id_, content))
    return Snapshot.from_rows(version, rows)


def changes_of(
    first_version: int, taken: list[tuple[tuple[str, str], dict[str, Any] | None]]
) -> list[EntityChange]:
    return [
        EntityChange(first_version + number, kind, id_, None if content is None else row_of(id_, content))
        for number, ((kind, id_), content) in enumerate(taken)
    ]


def canonical(store: Store, key: tuple[str, str]) -> bytes | None:
    return msgspec.json.encode(row_of(key[1], store[key]), order="sorted") if key in store else None


def plain_digest(store: Store) -> str:
    """The digest straight from its definition, with no sharing and no shortcut."""
    if not store:
        return "0" * 64
    shards: list[list[bytes]] = [[] for _ in range(256)]
    for (kind, id_), content in store.items():
        key = kind.encode() + b" " + id_.encode()
        line = key + b" " + msgspec.json.encode(row_of(id_, content), order="sorted") + b"\n"
        shards[zlib.crc32(key) % 256].append(line)
    hashes = [sha256(b"".join(sorted(lines))).digest() if lines else bytes(32) for lines in shards]
    return sha256(b"".join(hashes)).hexdigest()


@unhurried
@given(stores)
def test_digest_follows_its_definition(store: Store) -> None:
    assert snapshot_of(1, store).digest == plain_digest(store)


@unhurried
@given(stores, steps)
def test_applying_changes_gives_what_the_rows_give(store: Store, taken: Any) -> None:
    before = snapshot_of(3, store)
    digest_before = before.digest
    result = dict(store)
    for key, content in taken:
        if content is None:
            result.pop(key, None)
        else:
            result[key] = content
    after = before.apply(changes_of(4, taken))
    expected = snapshot_of(max(3, 3 + len(taken)), result)
    assert after == expected
    assert after.encode() == expected.encode()
    assert after.counts() == expected.counts()
    assert before.digest == digest_before
    assert before.encode() == snapshot_of(3, store).encode()


@unhurried
@given(stores, stores)
def test_the_difference_leads_from_one_to_the_other(one: Store, other: Store) -> None:
    left, right = snapshot_of(1, one), snapshot_of(2, other)
    changes = left.diff(right)
    assert left.apply(changes, version=2) == right
    differing = {key for key in one.keys() | other.keys() if canonical(one, key) != canonical(other, key)}
    assert {(change.entity, change.id) for change in changes} == differing


@unhurried
@given(stores.filter(bool), st.data())
def test_any_changed_field_changes_the_digest(store: Store, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(store)))
    field = data.draw(st.sampled_from(["name", "port", "new"]))
    value = data.draw(values)
    changed = {**store, key: {**store[key], field: value}}
    same = canonical(changed, key) == canonical(store, key)
    assert (snapshot_of(1, changed).digest == snapshot_of(1, store).digest) is same


@unhurried
@given(stores)
def test_documents_survive_the_journey(store: Store) -> None:
    sent = snapshot_of(7, store)
    received = Snapshot.unpack(7, sent.pack(), sent.digest)
    assert received == Snapshot.decode(7, sent.encode(), sent.digest) == sent
    for kind in KINDS:
        assert dict(received.rows(kind)) == dict(sent.rows(kind))
        assert len(received.rows(kind)) == sum(1 for key in store if key[0] == kind)


def test_the_empty_snapshot_alone_is_all_zeros() -> None:
    empty = Snapshot.from_rows(0, {})
    assert empty.digest == "0" * 64
    assert empty.config_hash == "0" * 32
    assert empty.encode() == b""
    assert empty.counts() == {}
    full = Snapshot.from_rows(1, {"services": [{"id": IDS[0]}]})
    assert full.config_hash != "0" * 32
    gone = full.apply([EntityChange(2, "services", IDS[0], None)])
    assert gone == Snapshot.from_rows(2, {})


def test_rows_are_read_by_id_in_order_and_cannot_alter_the_snapshot() -> None:
    snapshot = Snapshot.from_rows(1, {"services": [{"id": id_, "tags": ["a"]} for id_ in reversed(IDS)]})
    services = snapshot.rows("services")
    assert list(services) == IDS
    assert [row["id"] for row in services.values()] == IDS
    assert [id_ for id_, _ in services.items()] == IDS
    services[IDS[0]]["tags"].append("b")
    assert services[IDS[0]] == {"id": IDS[0], "tags": ["a"]}
    assert IDS[0] in services
    assert IDS[0] not in snapshot.rows("routes")
    with pytest.raises(KeyError):
        services["elsewhere"]


def test_one_change_costs_one_shard() -> None:
    rows = [{"id": f"id-{number}", "name": f"service {number}"} for number in range(5000)]
    snapshot = Snapshot.from_rows(1, {"services": rows})
    change = EntityChange(2, "services", "id-17", {"id": "id-17", "name": "another"})
    tracemalloc.start()
    after = snapshot.apply([change])
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 10_000
    assert snapshot.diff(after) == [change]


@pytest.mark.parametrize(("entities", "parts"), [(0, 1), (10, 1), (4_000, 16), (40_000, 256)])
def test_what_did_not_change_is_neither_compressed_nor_inflated_again(entities: int, parts: int) -> None:
    rows = [{"id": f"id-{number}", "name": "x" * 100} for number in range(entities)]
    sent = Snapshot.from_rows(1, {"services": rows})
    received = Snapshot.unpack(1, sent.pack(), sent.digest)
    assert received == sent
    assert int.from_bytes(sent.pack()[:4], "little") == parts
    change = EntityChange(2, "services", "id-3", {"id": "id-3", "name": "another"})
    later = sent.apply([change])
    pack_before, pack_after = sent.pack(), later.pack()
    # The parts that are the same, byte by byte, are the same objects on the other side.
    again = Snapshot.unpack(2, pack_after, later.digest, like=received)
    assert again == later
    shared = sum(
        old is new and bool(old.data) for old, new in zip(received._shards, again._shards, strict=True)
    )
    filled = sum(bool(shard.data) for shard in received._shards)
    assert shared >= filled - 256 // parts
    assert received.diff(again) == [change]
    assert sent.pack() == pack_before
    # And nothing depends on it.
    assert Snapshot.unpack(2, pack_after, later.digest) == later


@unhurried
@given(stores, stores)
def test_a_delta_survives_the_journey(one: Store, other: Store) -> None:
    left, right = snapshot_of(1, one), snapshot_of(2, other)
    delta = unpack_delta(pack_delta(left.delta(right)))
    assert delta == left.delta(right)
    assert left.patch(delta, version=2) == right


#: Of one shard, some with names that begin like others.
TOGETHER = [
    (kind, id_)
    for kind in KINDS
    for id_ in (f"{number}{end}" for number in range(10_000) for end in ("", "-a"))
    if zlib.crc32(f"{kind} {id_}".encode()) % 256 == 7
][:60]


@unhurried
@given(
    st.dictionaries(st.sampled_from(TOGETHER), contents, max_size=40),
    st.dictionaries(st.sampled_from(TOGETHER), st.none() | contents, max_size=40),
)
def test_many_changes_of_one_shard_are_as_many_single_ones(
    before: Store, wanted: dict[tuple[str, str], dict[str, Any] | None]
) -> None:
    start = snapshot_of(1, before)
    changes = changes_of(2, list(wanted.items()))
    after = {key: content for key, content in (before | wanted).items() if content is not None}
    expected = snapshot_of(1 + len(changes), after)
    assert start.apply(changes) == expected
    one_by_one = start
    for change in changes:
        one_by_one = one_by_one.apply([change])
    assert one_by_one == expected
    assert one_by_one.counts() == start.apply(changes).counts() == expected.counts()


def test_a_damaged_delta_is_refused() -> None:
    packed = pack_delta({b"services a": None})
    with pytest.raises(SnapshotError, match="damaged"):
        unpack_delta(packed[:-1])
    with pytest.raises(SnapshotError, match="neither an entity nor a key"):
        unpack_delta(zlib.compress(b"services\n"))
    with pytest.raises(SnapshotError, match="larger than 3 bytes"):
        unpack_delta(packed, 3)


def test_lines_are_found_by_key_and_by_what_they_hold() -> None:
    rows = [{"id": id_, "name": f"n{place}"} for place, id_ in enumerate(IDS)]
    snapshot = Snapshot.from_rows(1, {"services": rows, "routes": rows[:1]})
    line = snapshot.line(b"services " + IDS[2].encode())
    assert line is not None
    assert snapshot.lines_with(b'"n2"') == [line]
    assert snapshot.line(b"services " + IDS[2].encode()[:-1]) is None
    assert [found.split()[0] for found in snapshot.lines()] == [b"routes"] + [b"services"] * 6
    assert snapshot.lines() == sorted(snapshot.lines())


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["a", "ab", "b"]), st.text("09-~", min_size=1, max_size=3)), contents
    )
)
def test_every_line_is_found_by_its_key_and_by_no_other(store: Store) -> None:
    snapshot = snapshot_of(1, store)
    kinds, ids = {kind for kind, _ in store}, {id_ for _, id_ in store}
    for kind, id_ in itertools.product(kinds | {"a", "abc"}, ids | {"0", "~~~~"}):
        entity = canonical(store, (kind, id_))
        key = f"{kind} {id_}".encode()
        assert snapshot.line(key) == (None if entity is None else b"%b %b" % (key, entity))


TWO_LINES = Snapshot.from_rows(1, {"services": [{"id": "a"}, {"id": "b"}]}).encode().split(b"\n")[:2]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b'services a {"id":"a"}', "whole line"),
        (b"services\n", "line 1"),
        (b"services {}\n", "line 1 .* not a kind, an id and an entity"),
        (b"\n".join(reversed(TWO_LINES)) + b"\n", "line 2 .* out of order"),
        (b"services a {}\nservices a []\n", "line 2 .* out of order"),
        (b"services a {}\nservices a {}\n", "line 2 .* out of order"),
        (b"\xff a {}\n", "line 1"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(document: bytes, complaint: str) -> None:
    with pytest.raises(SnapshotError, match=complaint):
        Snapshot.decode(1, document)


def test_another_digest_than_announced_is_refused() -> None:
    document = Snapshot.from_rows(1, {"services": [{"id": "a"}]}).encode()
    with pytest.raises(SnapshotError, match="as announced"):
        Snapshot.decode(1, document, "0" * 64)


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(SnapshotError, match="stands twice"):
        Snapshot.from_rows(1, {"services": [{"id": "a"}, {"id": "a", "name": "b"}]})


def test_inflating_is_bounded_and_strict() -> None:
    packed = snapshot_of(1, {("services", id_): {"name": "x" * 1000} for id_ in IDS}).pack()
    with pytest.raises(SnapshotError, match="larger than 5000 bytes"):
        Snapshot.unpack(1, packed, limit_bytes=5000)
    assert Snapshot.unpack(1, packed, limit_bytes=10_000).counts() == {"services": 6}
    for damaged, complaint in (
        (packed[:-3], "cut short"),
        (packed + b"x", "follows"),
        (packed[:8] + packed[9:] + b"x", "damaged"),
        (packed[:4], "does not begin"),
        (b"\x02" + packed[1:], "does not begin"),
        (b"", "does not begin"),
    ):
        with pytest.raises(SnapshotError, match=complaint):
            Snapshot.unpack(1, damaged)


def test_a_part_that_holds_another_parts_entities_is_refused() -> None:
    rows = [{"id": f"id-{number}", "name": "x" * 100} for number in range(4_000)]
    packed = Snapshot.from_rows(1, {"services": rows}).pack()
    lengths = struct.unpack_from("<17I", packed)[1:]
    first, second = packed[68 : 68 + lengths[0]], packed[68 + lengths[0] : 68 + sum(lengths[:2])]
    swapped = struct.pack("<17I", 16, lengths[1], lengths[0], *lengths[2:]) + second + first
    with pytest.raises(SnapshotError, match="out of order"):
        Snapshot.unpack(1, swapped + packed[68 + sum(lengths[:2]) :])
