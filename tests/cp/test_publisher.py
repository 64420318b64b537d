"""From the storage to the hub: every change, tried by a real compile process, and nothing that fails it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.cp.hub import DataPlane, Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.publisher import Publisher
from fastgw.cp.storage import Row, Storage, make_storage
from fastgw.errors import CompileError
from fastgw.model.entities import ENTITIES
from fastgw.model.snapshot import Snapshot, unpack_delta
from fastgw.model.validate import make_row
from fastgw.routing.compile_process import CompileProcess, CompileResult
from fastgw.wire.offering import Offering
from fastgw.wire.signature import Signature
from tests.cp.cluster_nodes import Log, eventually, run, settings_of
from tests.tls.certificates import gen_cert_pair
from tests.wire.ends import hello, packed_of


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


class Listener:
    """A link that keeps what it was offered."""

    def __init__(self) -> None:
        self.offered: list[Offering] = []

    def offer(self, offering: Offering | None) -> None:
        assert offering is not None
        self.offered.append(offering)

    def pace(self, ping_s: float) -> None:
        raise AssertionError(ping_s)

    def close(self, reason: str) -> None:
        raise AssertionError(reason)

    def newest(self) -> Snapshot | None:
        if not self.offered:
            return None
        last = self.offered[-1]
        return Snapshot.unpack(last.version, packed_of(last), last.digest)


class Published:
    def __init__(self, storage: Storage, publisher: Publisher, listener: Listener) -> None:
        self.storage = storage
        self.publisher = publisher
        self.listener = listener

    async def insert(self, *rows: Row, entity: str = "services") -> int:
        async with self.storage.write("test") as writer:
            for row in rows:
                await writer.insert(entity, row)
        return writer.version

    async def reaches(self, version: int) -> Snapshot:
        def at() -> Snapshot | None:
            newest = self.listener.newest()
            return newest if newest is not None and newest.version == version else None

        found = await eventually(at, f"version {version}")
        assert isinstance(found, Snapshot)
        return found


@asynccontextmanager
async def publishing(
    directory: Path,
    compile_process_type: type[CompileProcess] = CompileProcess,
    *,
    sign: Callable[[int, str], Sequence[Signature]] = lambda _version, _digest: (),
) -> AsyncIterator[Published]:
    storage = make_storage(settings_of("control_plane", directory, gen_cert_pair()))
    await storage.open()
    compile_process = compile_process_type()
    await compile_process.start()
    hub = Hub(storage, identity=ControlPlaneIdentity.make("cluster"), purge_delay_s=1000)
    listener = Listener()
    hub.join(DataPlane(hello(), listener, "127.0.0.1", None))
    publisher = Publisher(storage, compile_process, hub, sign=sign)
    task = asyncio.create_task(publisher.run())
    try:
        yield Published(storage, publisher, listener)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await compile_process.close()
        await storage.close()


def service(name: str, **fields: Any) -> Row:
    return make_row(
        ENTITIES["services"], {"name": name, "host": "example.com", **fields}, now_s=1_700_000_000
    )


def route(**fields: Any) -> Row:
    return make_row(ENTITIES["routes"], fields, now_s=1_700_000_000)


def test_what_stands_is_published_at_the_start_and_every_change_after(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with publishing(tmp_path) as published:
            assert (await published.reaches(0)).digest == "0" * 64
            for number in range(1, 4):
                version = await published.insert(service(f"s{number}"))
                snapshot = await published.reaches(version)
                assert len(snapshot.rows("services")) == number
                stands, rows = await published.storage.load_all()
                assert snapshot == Snapshot.from_rows(stands, rows)
            assert published.publisher.publication() == {
                "version": 3,
                "config_hash": snapshot.config_hash,
                "published_at": published.publisher.publication()["published_at"],
                "refused": None,
            }
            await log.shows("published version 3")
        async with publishing(tmp_path) as published:
            assert await published.reaches(3) == snapshot

    run(scenario())


def test_data_planes_at_the_versions_before_need_the_changes_only(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with publishing(tmp_path) as published:
            snapshots = [await published.reaches(0)]
            for number in range(1, 4):
                await published.insert(service(f"s{number}"))
                snapshots.append(await published.reaches(number))
            newest = published.listener.offered[-1]
            for before in snapshots[:-1]:
                delta = newest.delta_from(before.digest)
                assert delta is not None
                assert len(delta) < 2048
                changes = unpack_delta(msgspec.msgpack.decode(delta)["data"])
                assert before.patch(changes, version=3) == snapshots[-1]
            await log.shows("bytes of changes")

    run(scenario())


def test_a_restart_knows_the_changes_since_versions_before_it(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        one = service("s0")
        async with publishing(tmp_path) as published:
            snapshots = [await published.reaches(0)]
            await published.insert(one)
            snapshots.append(await published.reaches(1))
            await published.insert(service("s1"), service("s2"))
            snapshots.append(await published.reaches(2))
            async with published.storage.write("test") as writer:
                await writer.update("services", {**one, "host": "example.org"})
                await writer.insert("services", service("s3"))
            snapshots.append(await published.reaches(3))
        storage = make_storage(settings_of("control_plane", tmp_path, gen_cert_pair()))
        await storage.open()
        async with storage.write("test, while nobody publishes") as writer:
            await writer.delete("services", one["id"])
        await storage.close()
        async with publishing(tmp_path) as published:
            newest = await published.reaches(4)
            offering = published.listener.offered[-1]
            for before in snapshots:
                delta = offering.delta_from(before.digest)
                assert delta is not None, before
                changes = unpack_delta(msgspec.msgpack.decode(delta)["data"])
                assert before.patch(changes, version=4) == newest

    run(scenario())


def test_bursts_collapse_to_the_newest(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with publishing(tmp_path) as published:
            await published.reaches(0)
            for number in range(50):
                await published.insert(service(f"s{number}"))
            assert len((await published.reaches(50)).rows("services")) == 50
            versions = [offering.version for offering in published.listener.offered]
            assert versions == sorted(set(versions))

    run(scenario())


class Overloaded(CompileProcess):
    """One that has no time for the second version, once."""

    calls = 0

    async def compile(self, packed: bytes, **more: Any) -> CompileResult:
        Overloaded.calls += 1
        if Overloaded.calls == 2:
            raise CompileError([{"reason": "it was not compiled within 60 s"}], is_passing=True)
        return await super().compile(packed, **more)


def test_a_trial_that_failed_for_the_moment_is_tried_again(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with publishing(tmp_path, Overloaded) as published:
            await published.reaches(0)
            await published.insert(service("one"))
            await log.shows("version 1 does not compile and is not published; version 0 stays; next try in")
            await published.reaches(1)
            assert published.publisher.publication()["refused"] is None

    run(scenario())


def test_what_does_not_compile_is_not_published_and_shown(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with publishing(tmp_path) as published:
            good, odd = service("good"), {**route(paths=["/x"]), "paths": ["~/x(?=y)"]}
            await published.insert(good)
            await published.reaches(1)
            # Past the Admin API, which would refuse it.
            await published.insert(odd, entity="routes")
            await log.shows("version 2 does not compile and is not published; version 1 stays")
            await log.shows(f"version 2: routes {odd['id']} paths")
            publication = published.publisher.publication()
            assert publication["version"] == 1
            assert publication["refused"]["version"] == 2
            assert publication["refused"]["faults"][0]["id"] == odd["id"]
            assert [offering.version for offering in published.listener.offered] == [0, 1]
            # The next version that compiles is published, and the complaint is gone.
            async with published.storage.write("test") as writer:
                await writer.delete("routes", odd["id"])
            assert await published.reaches(3) == Snapshot.from_rows(3, {"services": [good]})
            assert published.publisher.publication()["refused"] is None

    run(scenario())


def test_a_version_with_the_same_content_is_published_without_a_trial(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with publishing(tmp_path) as published:
            row = service("s")
            await published.insert(row)
            before = await published.reaches(1)
            async with published.storage.write("test") as writer:
                await writer.delete("services", row["id"])
                await writer.insert("services", row)
            after = await published.reaches(2)
            assert after.digest == before.digest

    run(scenario())


def test_what_is_published_bears_the_keys_that_sign_by_then(tmp_path: Path) -> None:
    trials = 0

    class Changing(CompileProcess):
        """Other keys sign when a trial is over than when it began."""

        async def compile(self, *args: Any, **kwargs: Any) -> CompileResult:
            nonlocal trials
            trials += 1
            return await super().compile(*args, **kwargs)

    def sign(_version: int, _digest: str) -> Sequence[Signature]:
        return (Signature(f"key {trials}", b"x" * 64),)

    async def scenario() -> None:
        async with publishing(tmp_path, Changing, sign=sign) as published:
            await published.reaches(0)
            await published.reaches(await published.insert(service("a")))
            assert [one.key_id for one in published.listener.offered[-1].signatures] == [f"key {trials}"]

    run(scenario())
