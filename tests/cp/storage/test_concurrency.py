"""Many at once: order of versions, isolation, waking up, and callers that go away in the middle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw.cp.storage import base, postgres
from fastgw.cp.storage.base import SqlStorage
from fastgw.errors import StorageUnavailable
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import insert, make_service

pytestmark = pytest.mark.anyio

_DEADLINE_S = 20.0


async def test_concurrent_writes_lose_no_version(storage: SqlStorage) -> None:
    finished: list[int] = []

    async def write(number: int) -> str:
        service = make_service(f"s{number}")
        finished.append(await insert(storage, "services", service))
        return str(service["id"])

    ids = await asyncio.gather(*map(write, range(200)))
    assert sorted(finished) == list(range(1, 201))
    # Who was told first, committed first.
    assert finished == sorted(finished)
    changes = await storage.changes_since(0)
    assert changes is not None
    assert [change.version for change in changes] == list(range(1, 201))
    assert {change.id for change in changes} == set(ids)
    version, rows = await storage.load_all()
    assert (version, len(rows["services"])) == (200, 200)


async def test_read_and_update_in_one_transaction_loses_no_update(storage: SqlStorage) -> None:
    service = make_service("counter", retries=0)
    await insert(storage, "services", service)

    async def increment() -> None:
        async with storage.write("tests") as writer:
            row = await writer.get("services", service["id"])
            assert row is not None
            await writer.update("services", {**row, "retries": row["retries"] + 1})

    await asyncio.gather(*(increment() for _ in range(50)))
    async with storage.read() as reader:
        row = await reader.get("services", service["id"])
    assert row is not None
    assert row["retries"] == 50


async def test_a_reader_keeps_its_view(storage: SqlStorage) -> None:
    await insert(storage, "services", make_service("a"))
    async with storage.read() as reader:
        assert await reader.count("services") == 1
        await insert(storage, "services", make_service("b"))
        assert await reader.count("services") == 1
    async with storage.read() as reader:
        assert await reader.count("services") == 2


async def test_uncommitted_rows_are_nobodys_business(storage: SqlStorage) -> None:
    async with storage.write("tests") as writer:
        await writer.insert("services", make_service("a"))
        async with storage.read() as reader:
            assert await reader.count("services") == 0
        assert await storage.version() == 0
    assert await storage.version() == 1


async def test_many_readers_at_once(storage: SqlStorage) -> None:
    service = make_service("a")
    await insert(storage, "services", service)

    async def read() -> Any:
        async with storage.read() as reader:
            return await reader.get("services", service["id"])

    assert await asyncio.gather(*(read() for _ in range(100))) == [service] * 100


async def test_a_cancelled_writer_leaves_nothing(storage: SqlStorage) -> None:
    is_inside = asyncio.Event()

    async def write() -> None:
        async with storage.write("tests") as writer:
            await writer.insert("services", make_service("a"))
            is_inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await is_inside.wait()
    waiting = asyncio.create_task(insert(storage, "services", make_service("a")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await waiting == 1


async def test_cancelling_at_any_moment_keeps_the_storage_whole(storage: SqlStorage) -> None:
    """Cancel a writer and a reader ever later; rows, journal and version agree in the end."""

    async def read() -> None:
        async with storage.read() as reader:
            await reader.count("services")

    for steps in range(60):
        tasks = [
            asyncio.create_task(insert(storage, "services", make_service(f"s{steps}"))),
            asyncio.create_task(read()),
        ]
        await asyncio.wait(tasks, timeout=steps * 0.0002)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            assert task.cancelled() or task.exception() is None
    # A commit whose caller went away may still be under way; a write of our own comes after it.
    last = await insert(storage, "services", make_service("after"))
    version, rows = await storage.load_all()
    changes = await storage.changes_since(0)
    assert changes is not None
    assert [change.version for change in changes] == list(range(1, version + 1))
    assert {change.id for change in changes} == {row["id"] for row in rows["services"]}
    assert version == last == await storage.wait_version_above(0, _DEADLINE_S)


async def test_a_writer_waits_for_its_turn_only_so_long(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "_TURN_S", 0.05)
    async with storage.write("tests"):
        with pytest.raises(StorageUnavailable, match="other writers are at work"):
            await insert(storage, "services", make_service("a"))
    assert await insert(storage, "services", make_service("a")) == 1


async def test_waiting_wakes_at_once_for_own_commits(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_POLL_S", 3600.0)
    waiting = [asyncio.create_task(storage.wait_version_above(0, _DEADLINE_S)) for _ in range(3)]
    await asyncio.sleep(0)
    await insert(storage, "services", make_service("a"))
    async with asyncio.timeout(_DEADLINE_S / 2):
        assert await asyncio.gather(*waiting) == [1, 1, 1]
    assert await storage.wait_version_above(0, 0) == 1
    # Nothing newer: the timeout ends it.
    assert await storage.wait_version_above(1, 0.01) == 1


async def test_closing_lets_those_go_who_wait(database: Database) -> None:
    storage = await database.open()
    waiting = asyncio.create_task(storage.wait_version_above(0, _DEADLINE_S))
    await asyncio.sleep(0)
    await storage.close()
    async with asyncio.timeout(_DEADLINE_S / 2):
        assert await waiting == 0
    with pytest.raises(StorageUnavailable, match="closed"):
        await storage.version()
    with pytest.raises(StorageUnavailable, match="closed"):
        await insert(storage, "services", make_service("a"))
