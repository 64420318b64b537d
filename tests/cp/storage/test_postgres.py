"""What only PostgreSQL has: other control planes, a network, a server that comes and goes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastgw.cp.storage import postgres
from fastgw.cp.storage.postgres import PostgresStorage
from fastgw.cp.storage.postgres_server import PostgresServer
from fastgw.errors import NeedsBootstrap, StorageError, StorageUnavailable
from fastgw.tls.generate import generate_cluster_pair
from tests.cp.storage.conftest import Database, make_server
from tests.cp.storage.rows import insert, make_service
from tests.postgres import PASSWORD, PgDatabase, PgServer

pytestmark = pytest.mark.anyio

_DEADLINE_S = 20.0


@pytest.fixture(params=["postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Only this one, here."""
    name: str = request.param
    return name


def place_of(database: Database) -> PgDatabase:
    assert database.postgres is not None
    return database.postgres


@asynccontextmanager
async def opened(server: PostgresServer) -> AsyncIterator[PostgresStorage]:
    storage = PostgresStorage(server)
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


async def test_two_control_planes_share_one_order(database: Database) -> None:
    one, two = await database.open(), await database.open()

    async def write(storage: Any, prefix: str) -> list[int]:
        return [await insert(storage, "services", make_service(f"{prefix}{n}")) for n in range(40)]

    versions = await asyncio.gather(write(one, "a"), write(two, "b"), write(one, "c"), write(two, "d"))
    assert sorted(itertools.chain(*versions)) == list(range(1, 161))
    assert await one.changes_since(0) == await two.changes_since(0)
    changes = await one.changes_since(0)
    assert changes is not None
    assert [(change.version, change.seq) for change in changes] == [(n, n) for n in range(1, 161)]


async def test_a_commit_elsewhere_wakes_at_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = await database.open(), await database.open()
    # Wait until it listens (its first look at the version is after LISTEN), then leave it to NOTIFY alone.
    await insert(two, "services", make_service("first"))
    assert await one.wait_version_above(0, _DEADLINE_S) == 1
    monkeypatch.setattr(postgres, "_POLL_S", 3600.0)
    await insert(two, "services", make_service("second"))
    assert await one.wait_version_above(1, _DEADLINE_S) == 2
    for version in range(2, 12):
        waiting = asyncio.create_task(one.wait_version_above(version, _DEADLINE_S))
        await insert(two, "services", make_service())
        assert await waiting == version + 1


async def test_a_commit_that_nobody_announced_is_polled(database: Database) -> None:
    storage = await database.open()
    place_of(database).run("UPDATE fastgw.cluster SET version = 7")
    assert await storage.wait_version_above(0, _DEADLINE_S) == 7


async def test_announcements_are_hints_and_not_the_truth(database: Database) -> None:
    storage = await database.open()
    for payload in ("999999", "", "-1", "9" * 5000, "x", "٣"):
        place_of(database).run(f"SELECT pg_notify('fastgw_version', '{payload}')")
    await insert(storage, "services", make_service("a"))
    assert await storage.wait_version_above(0, _DEADLINE_S) == 1
    assert await storage.wait_version_above(1, 0.05) == 1


async def test_a_database_that_was_put_back_wakes_everyone(database: Database) -> None:
    storage = await database.open()
    for _ in range(3):
        await insert(storage, "services", make_service())
    waiting = asyncio.create_task(storage.wait_version_above(3, _DEADLINE_S))
    await asyncio.sleep(0)
    place_of(database).run("UPDATE fastgw.cluster SET version = 1")
    assert await waiting == 1
    assert await storage.changes_since(3) is None


async def test_a_number_that_was_given_again_wakes_who_knew_the_former(database: Database) -> None:
    """Another control plane gave it, after a fail-over that lost the version."""
    storage = await database.open()
    await insert(storage, "services", make_service("lost"))
    version, at, _ = await storage.load_newest()
    assert await storage.changes_since(version, at=at) == []
    waiting = asyncio.create_task(storage.wait_version_above(version, _DEADLINE_S, at=at))
    await asyncio.sleep(0)
    assert not storage.is_replaced(version, at)
    place_of(database).run("UPDATE fastgw.journal SET at = at + 1")
    assert await waiting == version
    assert storage.is_replaced(version, at)
    assert await storage.changes_since(version, at=at) is None


async def test_a_cut_listener_listens_again_and_misses_nothing(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = await database.open()
    await insert(storage, "services", make_service("first"))
    monkeypatch.setattr(postgres, "_POLL_S", 3600.0)
    cut = place_of(database).run(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND application_name = 'fastgw'"
    )
    assert int(cut) >= 1
    # Committed while it may still be deaf: the look after LISTEN finds it.
    place_of(database).run("UPDATE fastgw.cluster SET version = 2")
    assert await storage.wait_version_above(1, _DEADLINE_S) == 2
    # The connections of the pool were cut as well, and nobody notices.
    assert await insert(storage, "services", make_service("second")) == 3


async def test_a_crash_of_the_server(pg_own_server: PgServer) -> None:
    pg_own_server.start()
    server = make_server(pg_own_server.database())
    await PostgresStorage(server).migrator().bootstrap()
    async with opened(server) as one, opened(server) as two:
        await insert(one, "services", make_service("before"))
        assert await two.wait_version_above(0, _DEADLINE_S) == 1
        pg_own_server.stop(signal.SIGKILL)

        for call in (one.version, one.load_all, lambda: insert(one, "services", make_service("during"))):
            with pytest.raises(StorageUnavailable) as caught:
                await call()
            assert "\n" not in str(caught.value)
            assert PASSWORD not in str(caught.value)
        assert await two.wait_version_above(1, 0.05) == 1

        pg_own_server.start()
        assert await insert(one, "services", make_service("after")) == 2
        assert await two.wait_version_above(1, _DEADLINE_S) == 2
        changes = await two.changes_since(0)
        assert changes is not None
        assert [change.after["name"] for change in changes if change.after] == ["before", "after"]


@pytest.mark.parametrize("moment", ["in a statement", "at the commit"])
async def test_a_connection_that_the_server_ends_is_an_outage_and_no_fault(
    database: Database, moment: str
) -> None:
    """Whenever it ends it: what is raised is what whoever uses a storage is prepared for."""
    place = place_of(database)
    storage = await database.open()

    async def end(pid: int) -> None:
        await asyncio.to_thread(place.run, f"SELECT pg_terminate_backend({pid})")

    async def use() -> None:
        async with storage.read_records() as connection:
            ((pid,),) = await connection.fetch("SELECT pg_backend_pid()")
            if moment == "at the commit":
                await end(pid)
                return
            async with asyncio.TaskGroup() as both:
                both.create_task(end(pid))
                with contextlib.suppress(StorageUnavailable):
                    await connection.fetch("SELECT pg_sleep(20)")

    for _ in range(5):
        with pytest.raises(StorageUnavailable):
            await use()
        assert await storage.version() == 0


async def test_a_lock_that_another_holds_has_a_deadline(database: Database) -> None:
    place = place_of(database)
    async with opened(make_server(place)) as holder, opened(make_server(place, timeout_s=1.0)) as storage:
        async with holder.write("holder") as writer:
            await writer.insert("services", make_service("a"))
            with pytest.raises(StorageUnavailable, match=r"no answer within 1000 ms \(pg_timeout\)"):
                await insert(storage, "services", make_service("b"))
        # The one that gave up is well, and so is its connection.
        assert await insert(storage, "services", make_service("b")) == 2


async def test_a_server_that_is_silent_has_a_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        server = PostgresServer("127.0.0.1", port, "kong", PASSWORD, "kong", timeout_s=0.1)
        with pytest.raises(StorageUnavailable, match="no answer within 100 ms"):
            await PostgresStorage(server).open()


async def test_an_empty_database_asks_for_bootstrap(empty: Database) -> None:
    storage = empty.make()
    with pytest.raises(NeedsBootstrap, match="run 'fastgw migrations bootstrap' first"):
        await storage.open()
    await storage.close()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"port": 1}, "connection refused; is it running"),
        ({"password": "wrong"}, "password authentication failed for user .*; check pg_user and pg_password"),
        ({"user": "nobody"}, "password authentication failed for user .*; check pg_user and pg_password"),
        ({"database": "nowhere"}, "the database does not exist; create it: createdb -O kong nowhere"),
        ({"host": "/nowhere"}, "no such file or directory"),
        ({"use_tls": True}, "it does not speak TLS; turn that on there, or set pg_ssl to off"),
    ],
)
async def test_one_clear_line_for_what_is_wrong(
    pg_database: PgDatabase, changes: dict[str, Any], line: str
) -> None:
    server = make_server(pg_database, **changes)
    storage = PostgresStorage(server)
    with pytest.raises(StorageUnavailable, match=line) as caught:
        await storage.open()
    await storage.close()
    text = str(caught.value)
    assert text.startswith(f"PostgreSQL at {server.host}:{server.port} (database {server.database}, user ")
    assert "\n" not in text
    assert PASSWORD not in f"{text} {server!r} {server}"


async def test_a_user_who_may_not_create(pg_database: PgDatabase) -> None:
    role = f"r{pg_database.name}"
    pg_database.run(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    try:
        migrator = PostgresStorage(make_server(pg_database, user=role)).migrator()
        with pytest.raises(StorageError, match=r"permission denied for database .*; the user needs to own"):
            await migrator.bootstrap()
    finally:
        pg_database.run(f"DROP ROLE {role}")


@pytest.mark.parametrize("value", [{"name": "a\0b"}, {"tags": [random.Random(1).randbytes(40_000).hex()]}])
async def test_a_value_that_it_cannot_hold_is_a_mistake_not_an_outage(
    database: Database, value: dict[str, Any]
) -> None:
    storage = await database.open()
    with pytest.raises(StorageError) as caught:
        await insert(storage, "services", make_service("a") | value)
    assert not isinstance(caught.value, StorageUnavailable)
    assert await storage.version() == 0


@pytest.fixture
def pg_tls_server(pg_own_server: PgServer) -> PgServer:
    """A server that takes TLS, with a certificate that nobody knows."""
    pair = generate_cluster_pair(1)
    for option, content in (("ssl_cert_file", pair.certificate_pem), ("ssl_key_file", pair.key_pem)):
        path = pg_own_server.directory / option
        path.write_bytes(content)
        path.chmod(0o600)
        pg_own_server.give_away(path)
        pg_own_server.options[option] = str(path)
    pg_own_server.options["ssl"] = "on"
    pg_own_server.start()
    return pg_own_server


async def test_tls(pg_tls_server: PgServer) -> None:
    server = make_server(pg_tls_server.database(), use_tls=True)
    await PostgresStorage(server).migrator().bootstrap()
    async with opened(server) as storage:
        assert await insert(storage, "services", make_service("a")) == 1
        encrypted = pg_tls_server.database().run(
            "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) "
            "WHERE application_name = 'fastgw'"
        )
        assert encrypted == "t"
    with pytest.raises(StorageUnavailable, match="its certificate is not trusted: self.signed"):
        await PostgresStorage(server._replace(verify_tls=True)).open()
