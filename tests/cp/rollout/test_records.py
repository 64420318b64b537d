"""Rollouts in both databases: one at a time, each change made once, and the journal keeps what they need."""

from __future__ import annotations

import asyncio
import os
import time

import msgspec
import pytest

from fastgw.cp.rollout import records
from fastgw.cp.rollout.record import Mark, Rollout
from fastgw.cp.rollout.states import RolloutState
from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.session import JournalLimits
from fastgw.errors import StorageError
from fastgw.wire.messages import Answered
from tests.cp.rollout.parts import a_rollout
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import make_service

pytestmark = pytest.mark.anyio

BASE = os.urandom(3 * 1024 * 1024 + 17)


async def insert(storage: SqlStorage, rollout: Rollout, base: bytes = b"base") -> None:
    async with storage.write("test") as writer:
        await records.insert(writer.records, rollout, base)


async def replace(storage: SqlStorage, rollout: Rollout) -> bool:
    async with storage.write("test") as writer:
        return await records.replace(writer.records, rollout)


async def test_what_is_kept_comes_back_whole(database: Database) -> None:
    storage = await database.open()
    marks = {"x": Mark(hostname="h", version=8, since=Answered(1, 2), before=None)}
    rollout = a_rollout(marks=marks)
    async with storage.read_records() as connection:
        assert (await records.fetch_standing(connection, storage.dialect))[::2] == (None, False)
    await insert(storage, rollout, BASE)
    async with storage.read_records() as connection:
        assert await records.fetch_running(connection) == rollout
        running, now, is_any = await records.fetch_standing(connection, storage.dialect)
        assert (running, is_any) == (rollout, True)
        assert abs(now - time.time()) < 60
        assert await records.fetch(connection, rollout.id) == rollout
        assert await records.load_base(connection, rollout.id) == BASE
        assert await records.fetch(connection, "none") is None
    assert await storage.version() == 0  # it makes no version


async def test_one_runs_at_a_time(database: Database) -> None:
    storage = await database.open()
    await insert(storage, a_rollout(id="one"))
    with pytest.raises(StorageError):
        await insert(storage, a_rollout(id="two"))
    over = a_rollout(id="one", revision=2, state=RolloutState.PROMOTED)
    assert await replace(storage, over)
    await insert(storage, a_rollout(id="two", started_at=2000.0))
    async with storage.read_records() as connection:
        assert [one.id for one in await records.list_newest(connection, 10)] == ["two", "one"]
        assert await records.load_base(connection, "one") == b""
        assert await records.load_base(connection, "two") == b"base"


async def test_of_two_changes_of_one_revision_one_is_made(database: Database) -> None:
    storage = await database.open()
    await insert(storage, a_rollout())
    changed = a_rollout(revision=2, state=RolloutState.HOLDING)
    done = await asyncio.gather(replace(storage, changed), replace(storage, changed))
    assert sorted(done) == [False, True]
    async with storage.read_records() as connection:
        assert await records.fetch_running(connection) == changed


async def test_the_last_hundred_are_kept(database: Database) -> None:
    storage = await database.open()
    async with storage.write("test") as writer:
        for number in range(records.KEEP_ROLLOUTS + 5):
            rollout = a_rollout(id=f"{number:03}", started_at=float(number))
            await records.insert(writer.records, rollout, b"base")
            over = msgspec.structs.replace(rollout, revision=2, state=RolloutState.ABORTED)
            assert await records.replace(writer.records, over)
        await records.insert(writer.records, a_rollout(id="runs", started_at=1e6), b"base")
    async with storage.read_records() as connection:
        kept = await records.list_newest(connection, 1000)
    assert len(kept) == records.KEEP_ROLLOUTS + 1
    assert (kept[0].id, kept[-1].id) == ("runs", "005")


async def test_the_journal_is_not_trimmed_beyond_the_base(database: Database) -> None:
    storage = await database.open(limits=JournalLimits(keep_versions=1, keep_changes=10_000, trim_every=1))
    rows = [make_service(f"s{number}") for number in range(6)]
    for row in rows[:3]:
        async with storage.write("test") as writer:
            await writer.insert("services", row)
    await insert(storage, a_rollout(base_version=3))
    for row in rows[3:]:
        async with storage.write("test") as writer:
            await writer.insert("services", row)
    async with storage.read_records() as connection:
        changed = await records.changed_since(connection, 3)
    assert {kind: sorted(ids) for kind, ids in changed.items()} == {
        "services": sorted(row["id"] for row in rows[3:])
    }
    assert await replace(storage, a_rollout(base_version=3, revision=2, state=RolloutState.PROMOTED))
    async with storage.write("test") as writer:
        await writer.trim_history()
    async with storage.read_records() as connection:
        changed = await records.changed_since(connection, 3)
    assert changed == {"services": [rows[5]["id"]]}
