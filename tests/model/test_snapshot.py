"""Snapshots: one form for one content, a digest that misses nothing, changes that add up."""

from __future__ import annotations

import tracemalloc
import zlib
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import SnapshotError
from fastgw.model.snapshot import EntityChange, Row, Snapshot, check_document, compress, decompress

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
    leaves: dict[str, list[tuple[str, str, bytes]]] = {}
    for (kind, id_), content in store.items():
        line = kind.encode() + b" " + msgspec.json.encode(row_of(id_, content), order="sorted")
        place = sha256(kind.encode() + b" " + id_.encode()).hexdigest()[:4]
        leaves.setdefault(place, []).append((kind, id_, sha256(line).digest()))

    def node(prefix: str) -> bytes:
        if not any(place.startswith(prefix) for place in leaves):
            return bytes(32)
        if len(prefix) == 4:
            return sha256(b"".join(entry[2] for entry in sorted(leaves[prefix]))).digest()
        return sha256(b"".join(node(prefix + digit) for digit in "0123456789abcdef")).digest()

    return node("").hex()


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
    assert check_document(7, sent.encode(), sent.digest) == sent.counts()
    received = Snapshot.decode(7, decompress(compress(sent.encode())), sent.digest)
    assert received == sent
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


def test_one_change_costs_one_path() -> None:
    rows = [{"id": f"id-{number}", "name": f"service {number}"} for number in range(5000)]
    snapshot = Snapshot.from_rows(1, {"services": rows})
    change = EntityChange(2, "services", "id-17", {"id": "id-17", "name": "another"})
    tracemalloc.start()
    after = snapshot.apply([change])
    current, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 10_000
    assert snapshot.diff(after) == [change]


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b'services {"id":"a"}', "whole line"),
        (b"services\n", "line 1"),
        (b"services {}\n", "line 1 .* not an entity"),
        (b'services {"id":7}\n', "line 1 .* not an entity"),
        (b'services {"id":"a"}\nservices ["a"]\n', "line 2"),
        (b'services {"id":"b"}\nservices {"id":"a"}\n', "line 2 .* out of order"),
        (b'services {"id":"a"}\nservices {"id":"a"}\n', "line 2 .* out of order"),
        (b'\xff {"id":"a"}\n', "line 1"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(document: bytes, complaint: str) -> None:
    with pytest.raises(SnapshotError, match=complaint):
        Snapshot.decode(1, document)
    with pytest.raises(SnapshotError, match=complaint):
        check_document(1, document, "0" * 64)


def test_another_digest_than_announced_is_refused() -> None:
    document = Snapshot.from_rows(1, {"services": [{"id": "a"}]}).encode()
    with pytest.raises(SnapshotError, match="as announced"):
        Snapshot.decode(1, document, "0" * 64)
    with pytest.raises(SnapshotError, match="as announced"):
        check_document(1, document, "0" * 64)


def test_a_repeated_id_is_refused() -> None:
    with pytest.raises(SnapshotError, match="stands twice"):
        Snapshot.from_rows(1, {"services": [{"id": "a"}, {"id": "a", "name": "b"}]})


def test_inflating_is_bounded_and_strict() -> None:
    bomb = compress(bytes(5_000_000))
    with pytest.raises(SnapshotError, match="larger than 1000000 bytes"):
        decompress(bomb, 1_000_000)
    assert decompress(bomb, 5_000_000) == bytes(5_000_000)
    with pytest.raises(SnapshotError, match="cut short"):
        decompress(compress(b"abc")[:-3])
    with pytest.raises(SnapshotError, match="follows"):
        decompress(compress(b"abc") + b"x")
    with pytest.raises(SnapshotError, match="damaged"):
        decompress(zlib.compress(b"abc")[2:])
