"""Storages to test: each test that asks for `storage` or `database` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.postgres import PostgresStorage
from fastgw.cp.storage.postgres_server import PostgresServer
from fastgw.cp.storage.sqlite import SqliteStorage
from tests.postgres import PgDatabase, PgServer


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests on the loop that the control plane runs on."""
    return "asyncio", {"use_uvloop": True}


class Database:
    """A place for storages; closes what it opened."""

    def __init__(self, dialect: str, path: Path | None, postgres: PgDatabase | None) -> None:
        self.dialect = dialect
        self.path = path
        self.postgres = postgres
        self._stack = AsyncExitStack()

    def make(self, **arguments: Any) -> SqlStorage:
        """Make a storage on this database, not opened."""
        if self.postgres is not None:
            return PostgresStorage(make_server(self.postgres), **arguments)
        assert self.path is not None
        return SqliteStorage(self.path, **arguments)

    async def open(self, **arguments: Any) -> SqlStorage:
        """Make a storage and open it; bootstraps if need be."""
        storage = self.make(**arguments)
        await storage.migrator().bootstrap()
        await storage.open()
        self._stack.push_async_callback(storage.close)
        return storage

    async def close(self) -> None:
        await self._stack.aclose()


def make_server(place: PgDatabase, /, **changes: Any) -> PostgresServer:
    server = PostgresServer(place.host, place.port, place.user, place.password, place.name, timeout_s=5.0)
    return server._replace(**changes)


@pytest.fixture(scope="session")
def pg_bootstrapped(pg_server: PgServer) -> Iterator[PgDatabase]:
    """A bootstrapped database to copy; nobody may be connected to it."""
    template = pg_server.create_database()
    storage = PostgresStorage(make_server(template))
    with asyncio.Runner() as runner:
        runner.run(storage.migrator().bootstrap())
    yield template
    pg_server.drop_database(template.name)


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def empty_place(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Database:
    if dialect == "sqlite":
        return Database(dialect, tmp_path / "fastgw.db", None)
    # Asked for only here, so that nothing of PostgreSQL is started for SQLite.
    return Database(dialect, None, request.getfixturevalue("pg_database"))


@pytest.fixture
def place(dialect: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    if dialect == "sqlite":
        yield Database(dialect, tmp_path / "fastgw.db", None)
        return
    template: PgDatabase = request.getfixturevalue("pg_bootstrapped")
    server: PgServer = request.getfixturevalue("pg_server")
    copy = server.create_database(template.name)
    yield Database(dialect, None, copy)
    server.drop_database(copy.name)


@pytest.fixture
async def empty(empty_place: Database) -> AsyncIterator[Database]:
    """A database that nobody has bootstrapped."""
    yield empty_place
    await empty_place.close()


@pytest.fixture
async def database(place: Database) -> AsyncIterator[Database]:
    """A database that is bootstrapped, or does it itself."""
    yield place
    await place.close()


@pytest.fixture
async def storage(database: Database) -> SqlStorage:
    """An open storage."""
    return await database.open()
