"""What only SQLite has: a file, its lock, its mode, and what is left of it after a crash."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from fastgw.cp.storage import file_lock, sqlite
from fastgw.cp.storage.file_lock import FileLock
from fastgw.cp.storage.sqlite import SqliteConnection, SqliteStorage
from fastgw.errors import StorageError, StorageUnavailable
from tests.cp.storage.rows import insert, loaded, make_service

pytestmark = pytest.mark.anyio

# Inserts services for ever and prints each version after its commit.
_WRITE_FOR_EVER: Final = """
import asyncio, itertools, sys
from pathlib import Path
from fastgw.cp.storage.sqlite import SqliteConnection, SqliteStorage
from tests.cp.storage.rows import insert, make_service

async def main():
    storage = SqliteStorage(Path(sys.argv[1]))
    await storage.open()
    for n in itertools.count():
        print(await insert(storage, "services", make_service(f"s{n}")), flush=True)

asyncio.run(main())
"""


async def test_it_bootstraps_itself(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "new" / "fastgw.db")
    await storage.open()
    assert await loaded(storage) == (0, {"services": [], "routes": []})
    await storage.close()


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        storage = SqliteStorage(tmp_path / "state" / "fastgw.db")
        await storage.open()
    finally:
        os.umask(before)
    await insert(storage, "services", make_service("a"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state").iterdir()}
    await storage.close()
    names = ("fastgw.db", "fastgw.db-wal", "fastgw.db-shm", "fastgw.db.lock")
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


async def test_the_file_is_as_durable_as_it_says(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "fastgw.db")
    await storage.open()
    for connection in (storage._writer, *storage._readers):
        assert await connection.fetch("PRAGMA journal_mode") == [("wal",)]
        assert await connection.fetch("PRAGMA synchronous") == [(2,)]
        assert await connection.fetch("PRAGMA foreign_keys") == [(1,)]
    await storage.close()


async def test_a_second_control_plane_is_refused(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "fastgw.db")
    await storage.open()
    (tmp_path / "link.db").symlink_to(tmp_path / "fastgw.db")
    for name in ("fastgw.db", "link.db"):
        second = SqliteStorage(tmp_path / name)
        with pytest.raises(StorageUnavailable) as caught:
            await second.open()
        assert str(caught.value) == (
            f"SQLite {tmp_path}/fastgw.db: a control plane (process {os.getpid()}) has it open; "
            "stop that one first, or use PostgreSQL for several"
        )
        with pytest.raises(StorageUnavailable, match="a control plane"):
            await second.migrator().reset()
        # Looking is allowed.
        assert (await second.migrator().state()).is_up_to_date
    assert await insert(storage, "services", make_service("a")) == 1
    await storage.close()
    await second.open()
    await second.close()


async def test_a_migration_is_waited_for(tmp_path: Path) -> None:
    holder = FileLock(tmp_path / "fastgw.db")
    await holder.acquire("migrations", wait_s=0)
    storage = SqliteStorage(tmp_path / "fastgw.db")
    opening = asyncio.create_task(storage.open())
    await asyncio.wait([opening], timeout=2 * file_lock._POLL_S)
    assert not opening.done()
    with pytest.raises(StorageUnavailable, match=r"a migration \(process \d+\) has it locked for 0 s"):
        await FileLock(tmp_path / "fastgw.db").acquire("cp", wait_s=0)
    holder.release()
    await opening
    await storage.close()


@pytest.fixture
def killed_writer(tmp_path: Path) -> tuple[Path, list[int]]:
    """The file of a process that was killed while it wrote, and the versions that it told."""
    path = tmp_path / "fastgw.db"
    command = [sys.executable, "-c", _WRITE_FOR_EVER, str(path)]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        answered = [int(process.stdout.readline()) for _ in range(5)]
        process.send_signal(signal.SIGKILL)
        answered += map(int, process.stdout.read().splitlines())
    return path, answered


async def test_what_was_answered_survives_a_kill(killed_writer: tuple[Path, list[int]]) -> None:
    path, answered = killed_writer
    storage = SqliteStorage(path)
    await storage.open()
    version, rows = await storage.load_all()
    # The last one may have been committed without its line.
    assert version in (answered[-1], answered[-1] + 1)
    assert len(rows["services"]) == version
    assert await insert(storage, "services", make_service("after")) == version + 1
    await storage.close()


async def test_a_file_that_is_none_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "fastgw.db"
    path.write_bytes(b"not a database, " * 100)
    storage = SqliteStorage(path)
    with pytest.raises(StorageUnavailable, match=rf"^SQLite {path}: file is not a database$"):
        await storage.open()
    # It is let go of, and left as it was.
    path.unlink()
    await storage.close()
    again = SqliteStorage(path)
    await again.open()
    await again.close()


async def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageUnavailable, match="cannot open .*: (not a directory|file exists)"):
        await SqliteStorage(tmp_path / "file" / "fastgw.db").open()
    (tmp_path / "directory.db").mkdir()
    with pytest.raises(StorageUnavailable, match=r"directory\.db: unable to open database file"):
        await SqliteStorage(tmp_path / "directory.db").open()


async def test_without_a_write_ahead_log_it_does_not_start() -> None:
    connection = SqliteConnection(Path(":memory:"), "test")
    with pytest.raises(
        StorageUnavailable, match=r"no write-ahead log is possible there \(journal mode memory\)"
    ):
        await connection.open()
    await connection.close()


async def test_a_full_disk_refuses_the_write_and_keeps_the_rest(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "fastgw.db")
    await storage.open()
    await insert(storage, "services", make_service("before"))
    ((pages,),) = await storage._writer.fetch("PRAGMA page_count")
    await storage._writer.fetch(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageUnavailable, match="database or disk is full"):
        await insert(storage, "services", *(make_service(f"s{n}", path="/" + "x" * 900) for n in range(100)))
    await storage._writer.fetch("PRAGMA max_page_count = 1000000")
    version, rows = await storage.load_all()
    assert (version, len(rows["services"])) == (1, 1)
    assert await insert(storage, "services", make_service("after")) == 2
    await storage.close()


async def test_a_transaction_that_sqlite_gave_up_is_not_called_committed(tmp_path: Path) -> None:
    storage = SqliteStorage(tmp_path / "fastgw.db")
    await storage.open()

    async def write() -> None:
        async with storage.write("tests") as writer:
            await writer.insert("services", make_service("a"))
            # What SQLite does by itself on some I/O errors.
            await storage._writer.fetch("ROLLBACK")

    with pytest.raises(StorageUnavailable, match="the transaction was given up"):
        await write()
    assert await loaded(storage) == (0, {"services": [], "routes": []})
    await storage.close()


async def test_readers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_READERS", 1)
    monkeypatch.setattr(sqlite, "_READER_WAIT_S", 0.05)
    storage = SqliteStorage(tmp_path / "fastgw.db")
    await storage.open()
    async with storage.read():
        with pytest.raises(StorageUnavailable, match="all 1 readers are busy"):
            await storage.version()
    assert await storage.version() == 0
    await storage.close()


async def test_a_shell_that_holds_the_file_has_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_BUSY_MS", 50)
    storage = SqliteStorage(tmp_path / "fastgw.db")
    await storage.open()
    shell = sqlite3.connect(tmp_path / "fastgw.db", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageUnavailable, match="database is locked"):
        await insert(storage, "services", make_service("a"))
    shell.close()
    assert await insert(storage, "services", make_service("a")) == 1
    await storage.close()


async def test_what_answers_nothing_travels_with_what_does(tmp_path: Path) -> None:
    connection = SqliteConnection(tmp_path / "db", "test")
    await connection.open()
    await connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)")

    async def add(*numbers: int) -> None:
        connection.begin("BEGIN IMMEDIATE")
        for number in numbers:
            await connection.execute_later("INSERT INTO t (n) VALUES ($1)", number)

    async def kept() -> list[int]:
        return [number for (number,) in await connection.fetch("SELECT n FROM t ORDER BY n")]

    # With the next statement, or with the commit.
    await add(1)
    assert await kept() == [1]
    await connection.commit()
    await add(2)
    await connection.commit()
    # With nothing, if it is given up.
    await add(3)
    connection.abandon()
    assert await kept() == [1, 2]
    connection.begin("BEGIN")
    await connection.commit()
    assert await kept() == [1, 2]
    # A fault is the next one's, and keeps all from being kept.
    await add(4, 2, 5)
    with pytest.raises(StorageError, match="UNIQUE"):
        await connection.commit()
    connection.abandon()
    assert await kept() == [1, 2]
    # More of them than wait.
    await add(*range(10, 210))
    await connection.commit()
    assert len(await kept()) == 202
    await connection.close()
