"""The SQLite storage: one file, one control plane, nothing to install.

Contract. WAL with synchronous=FULL: what was answered is on disk. The file is 0600 when we make it. A second
control plane on the same file is refused, by a lock on a file beside it. An empty file bootstraps itself.

The one complication: sqlite3 blocks, so each connection lives in a thread of its own, and calls queue up in
front of it: one for the writer, a few for readers. That queue also makes cancellation safe: the rollback of
a caller who went away is put behind its last statement and before anybody else's first. A journey there and
back costs more than most statements, so what answers nothing travels with what does (`execute_later`).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

from fastgw.cp.storage.base import SqlStorage, in_turn
from fastgw.cp.storage.contract import Connection
from fastgw.cp.storage.file_lock import FileLock
from fastgw.cp.storage.migrations import MIGRATIONS, Migration, Migrator
from fastgw.cp.storage.schema import Dialect
from fastgw.cp.storage.session import JournalLimits, SqlWriter
from fastgw.errors import StorageError, StorageUnavailable
from fastgw.model.entities import ENTITIES, Entity

_READERS: Final = 4
_READER_WAIT_S: Final = 10.0
# Somebody else's sqlite3 shell or backup may hold the file for a moment.
_BUSY_MS: Final = 5_000
_MIGRATION_LOCK_WAIT_S: Final = 30.0

_LATER_LIMIT: Final = 64

T = TypeVar("T")


class _Before(NamedTuple):
    """What a journey to the thread takes along, to be done first."""

    begin: str | None
    """The statement that begins a transaction, if none is begun."""
    later: Sequence[tuple[str, Sequence[Any]]]


class SqliteConnection:
    """A connection and the only thread that touches it."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sqlite-{name}")
        self._connection: sqlite3.Connection | None = None
        self._to_begin: str | None = None
        self._later: list[tuple[str, Sequence[Any]]] = []
        # Of the thread, all others are of the loop.
        self._is_begun = False
        self._is_closed = False

    async def open(self, *, foreign_keys: bool = True) -> None:
        await self._run(self._open, foreign_keys)

    def begin(self, sql: str) -> None:
        """Have the next statement begin a transaction first: one journey to the thread less."""
        self._to_begin = sql

    async def fetch(self, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
        return await self._run(self._fetch, self._take(), sql, arguments)

    async def execute(self, sql: str, *arguments: Any) -> None:
        await self._run(self._fetch, self._take(), sql, arguments)

    async def execute_later(self, sql: str, *arguments: Any) -> None:
        self._later.append((sql, arguments))
        if len(self._later) == _LATER_LIMIT:
            await self._run(self._ready, self._take())

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        await self._run(self._execute_many, self._take(), sql, list(rows))

    async def commit(self, then: Callable[[], None] = lambda: None) -> None:
        """Commit; *then* runs in the thread right after, even if the caller has been cancelled."""
        before = self._take()
        if before.begin is None or before.later:
            await self._run(self._commit, before, then)

    def abandon(self) -> None:
        """Roll back what is open, if anything, before the next statement; does not wait."""
        self._take()
        if not self._is_closed:
            self._executor.submit(self._rollback)

    async def close(self) -> None:
        """Close after what is queued; again is nothing."""
        if not self._is_closed:
            if self._connection is not None:
                await self._run(self._connection.close)
            self._is_closed = True
            self._executor.shutdown(wait=False)

    def _take(self) -> _Before:
        before = _Before(self._to_begin, self._later)
        self._to_begin, self._later = None, []
        return before

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        if self._is_closed:
            raise StorageUnavailable(f"SQLite {self._path}: closed")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, function, *arguments)
        except sqlite3.IntegrityError as error:
            raise StorageError(f"SQLite {self._path}: {error}") from error
        except sqlite3.Error as error:
            raise StorageUnavailable(f"SQLite {self._path}: {error}") from error

    def _open(self, foreign_keys: bool) -> None:
        connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000
        )
        self._connection = connection
        ((mode,),) = connection.execute("PRAGMA journal_mode = WAL").fetchall()
        if mode != "wal":
            raise sqlite3.OperationalError(f"no write-ahead log is possible there (journal mode {mode})")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")

    def _fetch(self, before: _Before, sql: str, arguments: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._ready(before).execute(sql, _named(arguments)).fetchall()

    def _execute_many(self, before: _Before, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        self._ready(before).executemany(sql, map(_named, rows))

    def _commit(self, before: _Before, then: Callable[[], None]) -> None:
        self._ready(before).execute("COMMIT")
        self._is_begun = False
        then()

    def _rollback(self) -> None:
        self._is_begun = False
        if self._connection is not None and self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _ready(self, before: _Before) -> sqlite3.Connection:
        """Begin if need be, make sure that a transaction once begun is still there, and do what has waited.

        SQLite ends it by itself on some errors of the disk; what came after would be committed on its own.
        """
        assert self._connection is not None
        if before.begin is not None:
            self._connection.execute(before.begin)
            self._is_begun = True
        elif self._is_begun and not self._connection.in_transaction:
            raise sqlite3.OperationalError("the transaction was given up")
        for sql, arguments in before.later:
            self._connection.execute(sql, _named(arguments))
        return self._connection


def _named(arguments: Sequence[Any]) -> dict[str, Any]:
    """Give arguments the names `$1`, `$2`, ... that SQLite sees in our statements."""
    return {str(n): argument for n, argument in enumerate(arguments, 1)}


class SqliteMaintenance:
    """Migrations on a file; exclusive means: no control plane has it open, and no other migration runs."""

    dialect: Final[Dialect] = "sqlite"

    def __init__(self, path: Path, held: FileLock | None = None) -> None:
        """*held*: the file's lock, where the caller has it already."""
        self._path = path
        self._held = held

    @asynccontextmanager
    async def transaction(self, *, exclusive: bool) -> AsyncIterator[Connection | None]:
        if not exclusive and not _has_content(self._path):
            yield None
            return
        lock = None
        if exclusive and self._held is None:
            lock = FileLock(self._path)
            await lock.acquire("migrations", wait_s=_MIGRATION_LOCK_WAIT_S)
        connection = SqliteConnection(self._path, "migrations")
        try:
            if exclusive:
                _make_file(self._path)
            # Tables are dropped and made in an order that references do not have to allow.
            await connection.open(foreign_keys=False)
            connection.begin("BEGIN IMMEDIATE" if exclusive else "BEGIN")
            yield connection
            await connection.commit()
        finally:
            connection.abandon()
            await connection.close()
            if lock is not None:
                lock.release()

    async def columns(self, connection: Connection, table: str) -> list[str]:
        return [name for (name,) in await connection.fetch("SELECT name FROM pragma_table_info($1)", table)]

    async def drop_all(self, connection: Connection) -> None:
        tables = await connection.fetch(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        )
        for (name,) in tables:
            await connection.execute(f'DROP TABLE "{name}"')


class SqliteStorage(SqlStorage):
    """The storage in the file at *path*."""

    dialect: ClassVar[Dialect] = "sqlite"

    def __init__(
        self,
        path: Path,
        *,
        entities: Mapping[str, Entity] = ENTITIES,
        migrations: Sequence[Migration] = MIGRATIONS,
        limits: JournalLimits | None = None,
    ) -> None:
        super().__init__(entities=entities, migrations=migrations, limits=limits)
        # The lock is on the file itself, whatever link led to it.
        self._path = path.resolve()
        self._lock = FileLock(self._path)
        self._writer = SqliteConnection(self._path, "writer")
        self._turn = asyncio.Lock()
        self._readers: list[SqliteConnection] = []
        self._free: asyncio.Queue[SqliteConnection] = asyncio.Queue()

    @property
    def where(self) -> str:
        return f"SQLite {self._path}"

    def migrator(self) -> Migrator:
        held = self._lock if self._lock.is_held else None
        return Migrator(SqliteMaintenance(self._path, held), self._schema, self._migrations)

    async def open(self) -> None:
        await self._lock.acquire("cp", wait_s=_MIGRATION_LOCK_WAIT_S)
        try:
            migrator = self.migrator()
            state = await migrator.state()
            if state.needs_bootstrap:
                await migrator.bootstrap()
                state = await migrator.state()
            state.check_usable()
            await self._writer.open()
            for number in range(_READERS):
                reader = SqliteConnection(self._path, f"reader-{number}")
                self._readers.append(reader)
                await reader.open()
                self._free.put_nowait(reader)
            self._signal.advance(await self.version())
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        self._signal.close()
        for connection in (*self._readers, self._writer):
            connection.abandon()
            await connection.close()
        self._readers.clear()
        self._lock.release()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Connection]:
        (await self.migrator().state()).check_usable()
        # Without the lock: that keeps a second control plane away, and one transaction disturbs none.
        connection = SqliteConnection(self._path, "beside")
        try:
            await connection.open()
            connection.begin("BEGIN IMMEDIATE")
            yield connection
            await connection.commit()
        finally:
            connection.abandon()
            await connection.close()

    @asynccontextmanager
    async def _view(self) -> AsyncIterator[Connection]:
        try:
            async with asyncio.timeout(_READER_WAIT_S):
                reader = await self._free.get()
        except TimeoutError:
            raise StorageUnavailable(
                f"{self.where}: all {_READERS} readers are busy for {_READER_WAIT_S:.0f} s"
            ) from None
        try:
            reader.begin("BEGIN")
            yield reader
        finally:
            reader.abandon()
            self._free.put_nowait(reader)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[SqliteConnection]:
        """Begin on the writer's connection, in turn; what is not committed at the end is rolled back."""
        async with in_turn(self._turn, self.where):
            try:
                self._writer.begin("BEGIN IMMEDIATE")
                yield self._writer
            finally:
                self._writer.abandon()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._begun() as connection:
            yield connection
            await connection.commit()

    @asynccontextmanager
    async def _versioned(self, actor: str) -> AsyncIterator[SqlWriter]:
        loop = asyncio.get_running_loop()
        async with self._begun() as connection:
            ((version, seq, trimmed),) = await connection.fetch("SELECT version, seq, trimmed FROM cluster")
            writer = SqlWriter(
                self._schema,
                connection,
                actor=actor,
                at=time.time(),
                version=version,
                seq=seq,
                trimmed=trimmed,
                limits=self._limits,
            )
            yield writer
            await writer.finish()
            await connection.commit(lambda: _tell(loop, self._signal.advance, writer.version))


def _tell(loop: asyncio.AbstractEventLoop, advance: Callable[[int], None], version: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(advance, version)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageUnavailable(f"SQLite {path}: {(error.strerror or str(error)).lower()}") from error


def _make_file(path: Path) -> None:
    """Make the file, for the owner's eyes only; SQLite gives its companions (-wal, -shm) the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StorageUnavailable(f"SQLite {path}: {(error.strerror or str(error)).lower()}") from error
