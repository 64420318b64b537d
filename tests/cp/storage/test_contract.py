"""What both storages promise, one suite for the two."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.contract import DataPlaneRow, Row, TagFilter
from fastgw.cp.storage.session import JournalLimits
from fastgw.errors import ForeignViolation, ReferencedViolation, UniqueViolation
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import (
    NOW_S,
    NOWHERE,
    WITH_LABELS,
    insert,
    loaded,
    make_label,
    make_route,
    make_service,
)

pytestmark = pytest.mark.anyio


async def get(storage: SqlStorage, entity: str, id_: str) -> Row | None:
    async with storage.read() as reader:
        return await reader.get(entity, id_)


# Rows


async def test_a_row_comes_back_as_it_went_in(storage: SqlStorage) -> None:
    service = make_service("üsers", tags=["a", "b"])
    await insert(storage, "services", service)
    async with storage.read() as reader:
        assert await reader.get("services", service["id"]) == service
        assert await reader.get_by("services", "name", "üsers") == service
        assert await reader.get_by("services", "id", service["id"]) == service
        assert await reader.count("services") == 1
        assert await reader.count("routes") == 0


async def test_what_is_not_there_is_none(storage: SqlStorage) -> None:
    async with storage.read() as reader:
        assert await reader.get("services", NOWHERE) is None
        assert await reader.get("services", "not a uuid") is None
        assert await reader.get_by("services", "name", "nobody") is None
        # PostgreSQL cannot even ask for these.
        assert await reader.get("services", "\0") is None
        assert await reader.get_by("services", "name", "a\0b") is None
        assert await reader.page("services", size=1, after="\0") == ([], None)


async def test_only_unique_fields_find_a_row(storage: SqlStorage) -> None:
    async with storage.read() as reader:
        with pytest.raises(LookupError, match=r"services\.host is not unique"):
            await reader.get_by("services", "host", "example.com")


async def test_names_differ_by_case(storage: SqlStorage) -> None:
    await insert(storage, "services", make_service("Users"), make_service("users"))
    async with storage.read() as reader:
        found = await reader.get_by("services", "name", "Users")
    assert found is not None
    assert found["name"] == "Users"


async def test_update_replaces_the_row(storage: SqlStorage) -> None:
    service = make_service("before", tags=["old"])
    await insert(storage, "services", service)
    changed = {**service, "name": "after", "port": 8080, "tags": ["new"]}
    async with storage.write("tests") as writer:
        assert await writer.update("services", changed)
    async with storage.read() as reader:
        assert await reader.get("services", service["id"]) == changed
        assert await reader.get_by("services", "name", "before") is None
        assert await reader.get_by("services", "name", "after") == changed
        old = await reader.page("services", size=1, tags=TagFilter(("old",), "all"))
        assert old == ([], None)


async def test_update_and_delete_of_nothing_change_nothing(storage: SqlStorage) -> None:
    async with storage.write("tests") as writer:
        assert not await writer.update("services", make_service("nobody"))
        assert not await writer.delete("services", NOWHERE)
        assert not await writer.delete("services", "\0")
    assert not writer.changed
    assert writer.version == await storage.version() == 0
    assert await storage.changes_since(0) == []


async def test_an_equal_row_is_no_change(storage: SqlStorage) -> None:
    service = make_service("same")
    assert await insert(storage, "services", service) == 1
    async with storage.write("tests") as writer:
        assert await writer.update("services", service)
    assert writer.version == await storage.version() == 1


# Violations


async def test_unique_fields_hold_one_row_per_value(storage: SqlStorage) -> None:
    first, second = make_service("a"), make_service("b")
    await insert(storage, "services", first, second)
    async with storage.write("tests") as writer:
        with pytest.raises(UniqueViolation) as caught:
            await writer.insert("services", make_service("a"))
        assert (caught.value.entity, caught.value.fields) == ("services", {"name": "a"})
        with pytest.raises(UniqueViolation) as caught:
            await writer.update("services", {**second, "name": "a"})
        assert caught.value.fields == {"name": "a"}
        with pytest.raises(UniqueViolation) as caught:
            await writer.insert("services", {**make_service("c"), "id": first["id"]})
        assert caught.value.fields == {"id": first["id"]}
        # A row does not stand in its own way, and null in nobody's.
        assert await writer.update("services", {**first, "port": 1})
        await writer.insert("services", make_service(None))
        await writer.insert("services", make_service(None))
    assert writer.version == 2


async def test_references_point_to_rows(storage: SqlStorage) -> None:
    service = make_service("s")
    await insert(storage, "services", service)
    async with storage.write("tests") as writer:
        with pytest.raises(ForeignViolation) as caught:
            await writer.insert("routes", make_route({"id": NOWHERE}))
        fault = caught.value
        assert (fault.entity, fault.field, fault.reference, fault.value) == (
            "routes",
            "service",
            "services",
            NOWHERE,
        )
        route = make_route(service)
        await writer.insert("routes", route)
        await writer.insert("routes", make_route(None))
        with pytest.raises(ForeignViolation):
            await writer.update("routes", {**route, "service": {"id": NOWHERE}})


async def test_a_row_that_is_referred_to_stays(storage: SqlStorage) -> None:
    service = make_service("s")
    route = make_route(service)
    await insert(storage, "services", service)
    await insert(storage, "routes", route)
    async with storage.write("tests") as writer:
        with pytest.raises(ReferencedViolation) as caught:
            await writer.delete("services", service["id"])
        assert (caught.value.entity, caught.value.referenced_by) == ("services", "routes")
        assert await writer.get("services", service["id"]) == service
        assert await writer.delete("routes", route["id"])
        assert await writer.delete("services", service["id"])
    assert await loaded(storage) == (3, {"services": [], "routes": []})


async def test_cascades_go_first_and_into_the_journal(empty: Database) -> None:
    storage = await empty.open(**WITH_LABELS)
    service = make_service("s")
    other = make_service("o")
    route = make_route(other)
    labels = [make_label(service={"id": service["id"]}, tags=["x"]) for _ in range(3)]
    both = make_label(service={"id": service["id"]}, route={"id": route["id"]})
    await insert(storage, "services", service, other)
    await insert(storage, "routes", route)
    await insert(storage, "labels", *labels, both)
    async with storage.write("tests") as writer:
        assert await writer.delete("services", service["id"])
    changes = await storage.changes_since(3)
    assert changes is not None
    assert {(change.entity, change.id) for change in changes[:-1]} == {
        ("labels", label["id"]) for label in (*labels, both)
    }
    assert (changes[-1].entity, changes[-1].id) == ("services", service["id"])
    assert {change.op for change in changes} == {"delete"}
    _, rows = await storage.load_all()
    assert {kind: found for kind, found in rows.items() if found} == {"services": [other], "routes": [route]}
    async with storage.read() as reader:
        assert await reader.page("labels", size=9, tags=TagFilter(("x",), "all")) == ([], None)


async def test_a_refused_cascade_removes_nothing(empty: Database) -> None:
    storage = await empty.open(**WITH_LABELS)
    service = make_service("s")
    parent = make_label(service={"id": service["id"]})
    child = make_label(parent={"id": parent["id"]})
    await insert(storage, "services", service)
    await insert(storage, "labels", parent, child)
    async with storage.write("tests") as writer:
        with pytest.raises(ReferencedViolation) as caught:
            await writer.delete("services", service["id"])
        assert (caught.value.entity, caught.value.referenced_by) == ("labels", "labels")
    assert not writer.changed
    _, rows = await storage.load_all()
    assert rows["services"] == [service]
    assert len(rows["labels"]) == 2


async def test_a_row_may_point_to_itself(empty: Database) -> None:
    storage = await empty.open(**WITH_LABELS)
    label = make_label()
    label["parent"] = {"id": label["id"]}
    await insert(storage, "labels", label)
    async with storage.write("tests") as writer:
        assert await writer.delete("labels", label["id"])
    assert await loaded(storage) == (2, {"services": [], "routes": [], "labels": []})


async def test_references_to_entities_that_do_not_exist_are_only_data(empty: Database) -> None:
    storage = await empty.open(**WITH_LABELS)
    label = make_label(elsewhere={"id": NOWHERE})
    await insert(storage, "labels", label)
    assert await get(storage, "labels", label["id"]) == label


# Pages


async def test_pages_go_by_ascending_id(storage: SqlStorage) -> None:
    services = sorted((make_service(f"s{n}") for n in range(7)), key=lambda row: row["id"])
    await insert(storage, "services", *reversed(services))
    found: list[Row] = []
    after: str | None = None
    async with storage.read() as reader:
        for expected_size in (3, 3, 1):
            rows, after = await reader.page("services", size=3, after=after)
            assert len(rows) == expected_size
            found += rows
        assert after is None
        assert found == services
        # A whole last page says so too, and the row of `after` need not exist.
        assert (await reader.page("services", size=7))[1] is None
        assert (await reader.page("services", size=9, after="0"))[0] == services
        assert await reader.page("services", size=9, after="g") == ([], None)


async def test_pages_of_a_parent(storage: SqlStorage) -> None:
    one, two = make_service("one"), make_service("two")
    await insert(storage, "services", one, two)
    routes = [make_route(one, f"r{n}") for n in range(4)]
    await insert(storage, "routes", *routes, make_route(two), make_route(None))
    async with storage.read() as reader:
        first, after = await reader.page("routes", size=3, parent=("service", one["id"]))
        second, end = await reader.page("routes", size=3, after=after, parent=("service", one["id"]))
        assert end is None
        assert first + second == sorted(routes, key=lambda row: row["id"])
        assert await reader.page("routes", size=3, parent=("service", NOWHERE)) == ([], None)
        with pytest.raises(LookupError):
            await reader.page("routes", size=3, parent=("name", "r1"))
        tags = TagFilter(("a",), "all")
        with pytest.raises(LookupError):
            await reader.page("routes", size=3, parent=("service", one["id"]), tags=tags)


@pytest.mark.parametrize(
    ("tags", "mode", "expected"),
    [
        (("a",), "all", {"s1", "s3"}),
        (("a", "b"), "all", {"s3"}),
        (("a", "b"), "any", {"s1", "s2", "s3"}),
        (("a", "b", "c"), "all", set()),
        (("c", "nowhere"), "any", {"s4"}),
        (("nowhere",), "all", set()),
    ],
)
async def test_tags_filter(storage: SqlStorage, tags: Any, mode: Any, expected: set[str]) -> None:
    tagged = {"s0": None, "s1": ["a"], "s2": ["b"], "s3": ["b", "a", "a"], "s4": ["c", "d"]}
    service = make_service("with-a-route")
    await insert(storage, "services", *(make_service(n, tags=t) for n, t in tagged.items()), service)
    await insert(storage, "routes", make_route(service, tags=["a", "b", "c"]))
    found = set()
    after = None
    async with storage.read() as reader:
        while True:
            rows, after = await reader.page("services", size=1, after=after, tags=TagFilter(tags, mode))
            found |= {row["name"] for row in rows}
            if after is None:
                break
    assert found == expected


# Versions and journal


async def test_a_transaction_is_one_version_with_its_changes(storage: SqlStorage) -> None:
    service = make_service("s")
    started_at = time.time()
    async with storage.write("alice") as writer:
        assert writer.version == 1
        await writer.insert("services", service)
        await writer.update("services", {**service, "port": 81})
        # Its own writes are seen inside.
        assert await writer.get("services", service["id"]) == {**service, "port": 81}
    assert writer.version == 1
    async with storage.write("bob") as writer:
        await writer.delete("services", service["id"])
    changes = await storage.changes_since(0)
    assert changes is not None
    assert [(c.version, c.seq, c.actor, c.entity, c.id, c.op) for c in changes] == [
        (1, 1, "alice", "services", service["id"], "create"),
        (1, 2, "alice", "services", service["id"], "update"),
        (2, 3, "bob", "services", service["id"], "delete"),
    ]
    assert [c.after for c in changes] == [service, {**service, "port": 81}, None]
    # Two clocks, of this process and of the database, on one machine.
    assert all(started_at - 1 < c.at < time.time() + 1 for c in changes)
    assert changes[0].at == changes[1].at


async def test_an_exception_rolls_back(storage: SqlStorage) -> None:
    async def fail() -> None:
        async with storage.write("tests") as writer:
            await writer.insert("services", make_service("s", tags=["a"]))
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        await fail()
    assert await loaded(storage) == (0, {"services": [], "routes": []})
    assert await storage.changes_since(0) == []
    # Nothing of it is in the way of the next.
    assert await insert(storage, "services", make_service("s", tags=["a"])) == 1


async def test_changes_come_in_whole_versions(storage: SqlStorage) -> None:
    for size in (2, 3, 4):
        await insert(storage, "services", *(make_service() for _ in range(size)))

    async def versions(since: int, limit: int) -> list[int] | None:
        changes = await storage.changes_since(since, limit)
        return None if changes is None else [change.version for change in changes]

    assert await versions(0, 9) == [1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert await versions(0, 8) == [1, 1, 2, 2, 2]
    assert await versions(0, 5) == [1, 1, 2, 2, 2]
    assert await versions(0, 4) == [1, 1]
    assert await versions(0, 1) is None
    assert await versions(2, 4) == [3, 3, 3, 3]
    assert await versions(2, 3) is None
    assert await versions(3, 1) == []
    assert await versions(4, 1) is None


async def test_more_changes_than_one_slice(storage: SqlStorage) -> None:
    services = [make_service(f"s{n}") for n in range(1203)]
    await insert(storage, "services", *services)
    changes = await storage.changes_since(0)
    assert changes is not None
    assert [change.seq for change in changes] == list(range(1, 1204))
    version, rows = await storage.load_all()
    assert version == 1
    assert rows["services"] == sorted(services, key=lambda row: row["id"])


async def test_the_journal_keeps_the_newest_versions(database: Database) -> None:
    storage = await database.open(limits=JournalLimits(keep_versions=3, trim_every=2))
    for n in range(7):
        await insert(storage, "services", make_service(f"s{n}"))
    # Trimmed at version 6 for the last time: 4, 5 and 6 stayed.
    assert await storage.changes_since(2) is None
    changes = await storage.changes_since(3)
    assert changes is not None
    assert [change.version for change in changes] == [4, 5, 6, 7]
    assert (await storage.load_all())[0] == 7


async def test_the_journal_keeps_so_many_changes(database: Database) -> None:
    storage = await database.open(limits=JournalLimits(keep_versions=100, keep_changes=5, trim_every=1))
    for _ in range(4):
        await insert(storage, "services", make_service(), make_service())
    # Five back from the eighth change is the middle of the second version, which goes whole.
    assert await storage.changes_since(1) is None
    changes = await storage.changes_since(2)
    assert changes is not None
    assert [change.version for change in changes] == [3, 3, 4, 4]
    # A version larger than the bound is trimmed as soon as it is written.
    await insert(storage, "services", *(make_service() for _ in range(6)))
    assert await storage.changes_since(4) is None
    assert await storage.changes_since(5) == []


async def test_the_journal_keeps_versions_for_a_time_and_the_newest_always(database: Database) -> None:
    storage = await database.open(limits=JournalLimits(keep_s=1e-9))
    for n in range(3):
        await insert(storage, "services", make_service(f"s{n}"))
    assert [one.version for one in await storage.versions(before=None, size=9)] == [3, 2, 1]
    async with storage.write("tidy") as writer:
        await writer.trim_history()
    assert await storage.version() == 3
    assert [one.version for one in await storage.versions(before=None, size=9)] == [3]
    assert await storage.changes_since(1) is None
    assert len(await storage.changes_since(2) or ()) == 1
    async with storage.read() as reader:
        assert await reader.touched_since(1) is None
        assert len((await reader.touched_since(2) or {})["services"]) == 1


async def test_what_was_committed_is_there_after_reopening(database: Database) -> None:
    storage = await database.open()
    service = make_service("s")
    await insert(storage, "services", service)
    cluster_id = await storage.cluster_id()
    await storage.close()
    storage = await database.open()
    assert await loaded(storage) == (1, {"services": [service], "routes": []})
    assert await storage.wait_version_above(0, 0) == 1
    assert await storage.cluster_id() == cluster_id == str(uuid.UUID(cluster_id))
    await storage.ping()


# Data planes


def make_data_plane(number: int, **fields: Any) -> DataPlaneRow:
    known = {"hostname": f"dp-{number}", "ip": "127.0.0.1", "last_seen": NOW_S}
    return DataPlaneRow(id=str(uuid.UUID(int=number)), **{**known, **fields})


async def test_data_planes_are_outside_the_versions(storage: SqlStorage) -> None:
    rows = [make_data_plane(n, labels={"zone": "a"}, applied_version=n) for n in range(5)]
    await storage.put_data_planes(list(reversed(rows)))
    await storage.put_data_planes([])
    assert await storage.version() == 0
    first, after = await storage.list_data_planes(3)
    second, end = await storage.list_data_planes(3, after)
    assert (first + second, end) == (rows, None)


async def test_a_data_plane_row_never_goes_back_in_time(storage: SqlStorage) -> None:
    newer = make_data_plane(1, last_seen=NOW_S + 1, config_hash="1" * 32, control_plane_id="a")
    await storage.put_data_planes([newer])
    await storage.put_data_planes([make_data_plane(1, config_hash="0" * 32, control_plane_id="b")])
    assert await storage.list_data_planes(9) == ([newer], None)
    same_second = make_data_plane(1, last_seen=NOW_S + 1, connected=True, control_plane_id="b")
    await storage.put_data_planes([same_second])
    assert await storage.list_data_planes(9) == ([same_second], None)


@pytest.mark.parametrize("connected", [True, False])
async def test_a_control_plane_whose_clock_is_put_right_goes_on_writing_its_rows(
    storage: SqlStorage, connected: bool
) -> None:
    ahead = make_data_plane(1, last_seen=NOW_S + 3600, connected=True, control_plane_id="a")
    await storage.put_data_planes([ahead], claims={ahead.id})
    right = make_data_plane(1, last_seen=NOW_S, connected=connected, control_plane_id="a")
    await storage.put_data_planes([right])
    assert await storage.list_data_planes(9) == ([right], None)


async def test_a_data_plane_that_moved_stays_connected_whoever_writes_last(storage: SqlStorage) -> None:
    """The control plane a lets go of it, b has it; their words come in either order, and a's clock is ahead."""
    at_a = make_data_plane(1, last_seen=NOW_S + 30, connected=True, control_plane_id="a")
    left_a = make_data_plane(1, last_seen=NOW_S + 30, connected=False, control_plane_id="a")
    at_b = make_data_plane(1, last_seen=NOW_S, connected=True, control_plane_id="b")
    for words in ((at_b, left_a), (left_a, at_b)):
        await storage.put_data_planes([at_a], claims={at_a.id})
        for word in words:
            await storage.put_data_planes([word], claims={at_b.id} if word is at_b else set())
        assert await storage.list_data_planes(9) == ([at_b], None)
    # What b writes of it later counts, that it is gone too; and then anybody may have it.
    left_b = make_data_plane(1, last_seen=NOW_S + 1, connected=False, control_plane_id="b")
    await storage.put_data_planes([left_b])
    assert await storage.list_data_planes(9) == ([left_b], None)
    again = make_data_plane(
        1, last_seen=NOW_S + 2, connected=False, control_plane_id="a", last_error="turned away"
    )
    await storage.put_data_planes([again])
    assert await storage.list_data_planes(9) == ([again], None)


async def test_a_link_that_nobody_knows_is_dead_gives_way_to_the_one_that_is_heard_of(
    storage: SqlStorage,
) -> None:
    """Both believe that it is theirs: who has heard of it last is right, until the other hears of it again."""
    at_b = make_data_plane(1, last_seen=NOW_S + 5, connected=True, control_plane_id="b")
    await storage.put_data_planes([at_b])
    await storage.put_data_planes([make_data_plane(1, last_seen=NOW_S, connected=True, control_plane_id="a")])
    assert await storage.list_data_planes(9) == ([at_b], None)
    at_a = make_data_plane(1, last_seen=NOW_S + 9, connected=True, control_plane_id="a")
    await storage.put_data_planes([at_a])
    assert await storage.list_data_planes(9) == ([at_a], None)


async def test_data_planes_are_forgotten(storage: SqlStorage) -> None:
    rows = [make_data_plane(n, last_seen=NOW_S + n) for n in range(4)]
    await storage.put_data_planes(rows)
    assert await storage.purge_data_planes(NOW_S + 2) == 2
    assert await storage.list_data_planes(9) == (rows[2:], None)
    assert await storage.purge_data_planes(NOW_S) == 0


# Properties

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_storable = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=10,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    name=_storable | st.none(),
    tags=st.lists(_storable, max_size=4) | st.none(),
    extra=st.dictionaries(
        _texts.filter(lambda key: key not in ("id", "name", "tags", "created_at")), _values
    ),
)
async def test_any_row_comes_back(storage: SqlStorage, name: Any, tags: Any, extra: Row) -> None:
    row = {**extra, "id": str(uuid.uuid4()), "name": name, "tags": tags, "created_at": NOW_S}
    async with storage.write("hypothesis") as writer:
        await writer.insert("services", row)
    async with storage.read() as reader:
        found = await reader.get("services", row["id"])
        assert found == row
        # 0 and -0.0 are equal, and 1 and 1.0 and True; the bytes that are signed are not.
        assert repr(found) == repr(row)
        if name is not None:
            assert await reader.get_by("services", "name", name) == row
        if tags:
            page, _ = await reader.page("services", size=9, tags=TagFilter(tuple(tags), "all"))
            assert row in page
    changes = await storage.changes_since(writer.version - 1)
    assert changes is not None
    assert [change.after for change in changes] == [row]
    async with storage.write("hypothesis") as writer:
        assert await writer.delete("services", row["id"])


async def test_floats_keep_every_bit(storage: SqlStorage) -> None:
    numbers = [0.1, -0.0, 1.0, 1e308, 5e-324, math.pi, 1_700_000_000.123]
    row = {**make_service("floats"), "numbers": numbers}
    await insert(storage, "services", row)
    found = await get(storage, "services", row["id"])
    assert found is not None
    assert [n.hex() for n in found["numbers"]] == [n.hex() for n in numbers]
