"""The PostgreSQL storage: for production, and for several control planes on one database.

Contract. A writer locks the one row that holds the version, and keeps it until it commits: commits follow
each other in the order of versions, and no number is used twice. Every commit announces its number by NOTIFY;
who hears it reads the row, as a number from anybody is a hint and not the truth.

The one complication: an announcement may be lost with the connection that listens. So the listener reads the
version after every LISTEN, and once a second besides. It reconnects for ever, with a bounded delay and
jitter; all other calls fail at once, with a clear line, while the database is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar, Final

import asyncpg

from fastgw.cp.storage.base import SqlStorage, in_turn
from fastgw.cp.storage.contract import Connection
from fastgw.cp.storage.migrations import MIGRATIONS, Migration, Migrator
from fastgw.cp.storage.postgres_server import (
    CONNECTION_LOST,
    FAILURES,
    SCHEMA,
    PostgresConnection,
    PostgresServer,
)
from fastgw.cp.storage.schema import Dialect
from fastgw.cp.storage.session import JournalLimits, SqlWriter
from fastgw.errors import StorageError, StorageUnavailable
from fastgw.model.entities import ENTITIES, Entity
from fastgw.obs.logs import get_logger

_CHANNEL: Final = "fastgw_version"
_POOL_SIZE: Final = 8
_CLOSE_S: Final = 5.0
_POLL_S: Final = 1.0
_RETRY_FIRST_S: Final = 0.1
_RETRY_MOST_S: Final = 5.0
# Two migrations at once: the second waits for the first. Any number does that no other program uses.
_MIGRATION_LOCK: Final = 0x66617374_67770001
_MIGRATION_STATEMENT_S: Final = 600.0
_VERSION: Final = (
    "SELECT version, (SELECT at FROM journal WHERE journal.version = cluster.version ORDER BY seq LIMIT 1) "
    "FROM cluster"
)
_LOCK_VERSION: Final = (
    "SELECT version, seq, trimmed, extract(epoch FROM clock_timestamp())::float8 FROM cluster FOR UPDATE"
)

_log = get_logger(__name__)


class PostgresMaintenance:
    """Migrations on a server; exclusive is an advisory lock that ends with the transaction."""

    dialect: Final[Dialect] = "postgres"

    def __init__(self, server: PostgresServer) -> None:
        self._server = server

    @asynccontextmanager
    async def transaction(self, *, exclusive: bool) -> AsyncIterator[Connection | None]:
        statement_timeout_s = _MIGRATION_STATEMENT_S if exclusive else None
        raw = await self._server.connect(statement_timeout_s=statement_timeout_s)
        connection = PostgresConnection(raw, self._server)
        try:
            await connection.execute("BEGIN" if exclusive else "BEGIN READ ONLY")
            if exclusive:
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
                if not await connection.fetch("SELECT 1 FROM pg_namespace WHERE nspname = $1", SCHEMA):
                    await connection.execute(f"CREATE SCHEMA {SCHEMA}")
            yield connection
            await connection.execute("COMMIT")
        finally:
            # Ends the transaction too, where it was not committed.
            await _close(raw)

    async def columns(self, connection: Connection, table: str) -> list[str]:
        found = await connection.fetch(
            "SELECT column_name::text FROM information_schema.columns "
            "WHERE table_schema = $1 AND table_name = $2",
            SCHEMA,
            table,
        )
        return [name for (name,) in found]

    async def drop_all(self, connection: Connection) -> None:
        await connection.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


class PostgresStorage(SqlStorage):
    """The storage in the database of *server*."""

    dialect: ClassVar[Dialect] = "postgres"

    def __init__(
        self,
        server: PostgresServer,
        *,
        entities: Mapping[str, Entity] = ENTITIES,
        migrations: Sequence[Migration] = MIGRATIONS,
        limits: JournalLimits | None = None,
    ) -> None:
        super().__init__(entities=entities, migrations=migrations, limits=limits)
        self._server = server
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._listener: asyncio.Task[None] | None = None
        # Writers of this process queue up here, so that they do not hold connections while they wait.
        self._turn = asyncio.Lock()

    @property
    def where(self) -> str:
        return str(self._server)

    def migrator(self) -> Migrator:
        return Migrator(PostgresMaintenance(self._server), self._schema, self._migrations)

    async def open(self) -> None:
        (await self.migrator().state()).check_usable()
        try:
            self._pool = await asyncpg.create_pool(
                **self._server.arguments(), min_size=0, max_size=_POOL_SIZE, reset=_leave_as_it_is
            )
            self._signal.advance(await self.version())
        except BaseException:
            await self.close()
            raise
        self._listener = asyncio.create_task(self._listen(), name="storage-listener")

    async def close(self) -> None:
        self._signal.close()
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.cancel()
            await asyncio.wait([listener])
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Connection]:
        (await self.migrator().state()).check_usable()
        raw = await self._server.connect()
        connection = PostgresConnection(raw, self._server)
        try:
            await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            yield connection
            await connection.execute("COMMIT")
        finally:
            # Ends the transaction too, where it was not committed.
            await _close(raw)

    @asynccontextmanager
    async def _view(self) -> AsyncIterator[Connection]:
        async with self._lent("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as connection:
            yield connection

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        async with self._lent("BEGIN ISOLATION LEVEL READ COMMITTED") as connection:
            yield connection

    @asynccontextmanager
    async def _versioned(self, actor: str) -> AsyncIterator[SqlWriter]:
        async with in_turn(self._turn, self.where), self._transaction() as connection:
            ((version, seq, trimmed, at),) = await connection.fetch(_LOCK_VERSION)
            writer = SqlWriter(
                self._schema,
                connection,
                actor=actor,
                at=at,
                version=version,
                seq=seq,
                trimmed=trimmed,
                limits=self._limits,
            )
            yield writer
            await writer.finish()
            if writer.changed:
                await connection.execute("SELECT pg_notify($1, $2)", _CHANNEL, str(writer.version))
        self._signal.advance(writer.version, writer.at if writer.changed else None)

    @asynccontextmanager
    async def _lent(self, begin: str) -> AsyncIterator[PostgresConnection]:
        """Lend a connection on which *begin* was executed; commit, or roll back when an exception leaves."""
        pool = self._pool
        if pool is None:
            raise StorageUnavailable(f"{self.where}: the storage is closed")
        with self._server.clear_errors():
            raw = await self._begin(pool, begin)
        connection = PostgresConnection(raw, self._server)
        try:
            yield connection
            await connection.execute("COMMIT")
        finally:
            await _give_back(pool, raw)

    async def _begin(self, pool: asyncpg.Pool[asyncpg.Record], begin: str) -> Any:
        """Take a connection and begin; if it turns out to have died unseen, once more on a new one."""
        for is_last in (False, True):
            raw = await pool.acquire(timeout=self._server.timeout_s)
            try:
                await raw.execute(begin)
                return raw
            except BaseException as error:
                await _give_back(pool, raw)
                if is_last or not isinstance(error, CONNECTION_LOST):
                    raise
                await pool.expire_connections()
        raise AssertionError("the last round returns or raises")

    async def _listen(self) -> None:
        """Keep `_signal` at the database's version, until cancelled."""
        loop = asyncio.get_running_loop()
        failures = 0
        lost_at_monotonic = 0.0
        while True:
            heard = asyncio.Event()
            try:
                async with self._listening(heard) as connection:
                    if failures:
                        away_s = loop.time() - lost_at_monotonic
                        _log.notice("%s: listening again after %.1f s", self.where, away_s)
                        failures = 0
                    await self._follow(connection, heard)
            except StorageError as error:
                if failures == 0:
                    lost_at_monotonic = loop.time()
                    _log.error("%s; trying again, at most %.0f s apart", error, _RETRY_MOST_S)
                most_s = min(_RETRY_FIRST_S * 2 ** min(failures, 10), _RETRY_MOST_S)
                failures += 1
                await asyncio.sleep(most_s * random.uniform(0.5, 1.0))

    @asynccontextmanager
    async def _listening(self, heard: asyncio.Event) -> AsyncIterator[PostgresConnection]:
        """Open a connection that sets *heard* at announcements, and when it ends."""
        raw = await self._server.connect()
        try:
            raw.add_termination_listener(lambda _: heard.set())

            def on_notify(_connection: object, _pid: int, _channel: str, payload: object) -> None:
                if not _is_known(payload, self._signal.version):
                    heard.set()

            with self._server.clear_errors():
                await raw.add_listener(_CHANNEL, on_notify)
            yield PostgresConnection(raw, self._server)
        finally:
            await _close(raw)

    async def _follow(self, connection: PostgresConnection, heard: asyncio.Event) -> None:
        """Read the version now, whenever *heard* is set, and once a second; ends with an error only."""
        while True:
            heard.clear()
            known = self._signal.known
            ((version, at),) = await connection.fetch(_VERSION)
            if self._signal.observe(version, at, known_before=known):
                _log.warning("%s: went back from version %d to %d", self.where, known[0], version)
            try:
                async with asyncio.timeout(_POLL_S):
                    await heard.wait()
            except TimeoutError:
                pass


def _is_known(payload: object, version: int) -> bool:
    """Tell whether an announcement says nothing new; anybody may have sent it, so it may say anything."""
    return isinstance(payload, str) and len(payload) < 20 and payload.isdecimal() and int(payload) <= version


async def _give_back(pool: asyncpg.Pool[asyncpg.Record], raw: Any) -> None:
    """Return a connection to the pool, rolled back if need be; one that cannot be is closed.

    One that the server has ended is back already, by itself, and then refuses every call.
    """
    try:
        if not raw.is_closed() and raw.is_in_transaction():
            await raw.execute("ROLLBACK")
    except FAILURES:
        with contextlib.suppress(asyncpg.InterfaceError):
            raw.terminate()
    finally:
        with contextlib.suppress(*FAILURES):
            await pool.release(raw)


async def _leave_as_it_is(_connection: object) -> None:
    """Reset nothing when a connection returns: our transactions leave nothing behind but themselves."""


async def _close(raw: asyncpg.Connection[asyncpg.Record]) -> None:
    try:
        await raw.close(timeout=_CLOSE_S)
    except FAILURES:
        raw.terminate()
