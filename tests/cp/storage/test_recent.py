"""The last steps, made again from the journal of both storages."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.cp import recent
from fastgw.cp.recent import recent_steps
from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.session import JournalLimits
from fastgw.model.snapshot import Snapshot
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import make_service

pytestmark = pytest.mark.anyio

ROWS = {name: make_service(name) for name in "abc"}
MOVES = st.lists(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 3)), min_size=1, max_size=3),
    min_size=1,
    max_size=6,
)


async def play(storage: SqlStorage, moves: list[tuple[str, int]]) -> Snapshot:
    """One version; a negative number deletes the row, others are its retries."""
    async with storage.write("test") as writer:
        for name, number in moves:
            row = {**ROWS[name], "retries": number}
            if number < 0:
                await writer.delete("services", row["id"])
            elif not await writer.update("services", row):
                await writer.insert("services", row)
    return Snapshot.from_rows(*await storage.load_all())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(versions=MOVES)
async def test_they_lead_from_each_version_to_what_stands(
    storage: SqlStorage, versions: list[list[tuple[str, int]]]
) -> None:
    snapshots = [await play(storage, moves) for moves in versions]
    stands = snapshots[-1]
    steps = await recent_steps(storage, stands)
    # What came after it meanwhile is not there yet.
    await play(storage, [("a", 7), ("c", -1)])
    for known in (steps, await recent_steps(storage, stands)):
        for before in snapshots[:-1]:
            delta = known.between(before.digest, stands.digest) if before != stands else {}
            assert delta is not None
            assert before.patch(delta, version=stands.version).digest == stands.digest


async def test_they_begin_where_the_journal_does(database: Database) -> None:
    storage = await database.open(limits=JournalLimits(keep_versions=5, trim_every=1))
    snapshots = [await play(storage, [("a", number)]) for number in range(1, 10)]
    steps = await recent_steps(storage, snapshots[-1])
    assert steps.between(snapshots[-6].digest, snapshots[-1].digest) is None
    assert steps.between(snapshots[-2].digest, snapshots[-1].digest)


async def test_large_versions_are_not_made_again(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recent, "MOST_CHANGES", 2)
    large = await play(storage, [("a", 1), ("b", 1), ("c", 1)])
    small = await play(storage, [("a", 2)])
    newest = await play(storage, [("a", 3)])
    steps = await recent_steps(storage, newest)
    assert steps.between(small.digest, newest.digest)
    assert steps.between(large.digest, newest.digest)
    assert steps.between("0" * 64, newest.digest) is None


async def test_an_empty_journal_has_none(storage: SqlStorage) -> None:
    nothing = Snapshot.from_rows(*await storage.load_all())
    assert (await recent_steps(storage, nothing)).between(nothing.digest, nothing.digest) is None
