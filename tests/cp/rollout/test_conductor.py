"""Rollouts on real storages, with real publishers: who is offered what, what is decided once, what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fastgw.cp.hub import DataPlane, Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.publisher import Publisher
from fastgw.cp.rollout import records
from fastgw.cp.rollout.conductor import Conductor, Contents, Order
from fastgw.cp.rollout.record import Limits, Rollout
from fastgw.cp.rollout.states import RolloutInput, RolloutState
from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.session import JournalLimits
from fastgw.errors import RolloutError
from fastgw.model.snapshot import Snapshot
from fastgw.routing.compile_process import CompileProcess
from fastgw.wire.events import Rejected
from fastgw.wire.messages import Ack, Answered, Nack
from fastgw.wire.offering import Offering
from tests.cp.cluster_nodes import Clock, Log, eventually
from tests.cp.rollout.parts import node_id
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import make_route, make_service
from tests.wire.ends import hello

pytestmark = pytest.mark.anyio

IDENTITY = ControlPlaneIdentity.make("cluster")
CANARY = Order({"zone": "canary"}, None, Limits(hold_s=0, timeout_s=30, min_requests=10))
LONG = CANARY._replace(limits=Limits(hold_s=3600, timeout_s=30, min_requests=10))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


class LinkedNode:
    """A data plane at a hub, which applies when the test says so."""

    def __init__(self, hub: Hub, number: int, zone: str) -> None:
        self.hub = hub
        self.offered: list[Offering] = []
        self.paces: list[float] = []
        greeting = hello(labels={"zone": zone})
        self.data_plane = DataPlane(greeting, self, "127.0.0.1", None)
        self.data_plane.id = node_id(number)
        hub.join(self.data_plane)

    def offer(self, offering: Offering | None) -> None:
        assert offering is not None
        self.offered.append(offering)

    def pace(self, ping_s: float) -> None:
        self.paces.append(ping_s)

    def close(self, reason: str) -> None:
        raise AssertionError(reason)

    @property
    def wanted(self) -> int:
        return self.offered[-1].version

    def apply(self) -> None:
        """Run what was offered last."""
        last = self.offered[-1]
        ack = Ack(
            version=last.version, digest=last.digest, decode_ms=1, compile_ms=1, store_ms=1, commit_ms=1
        )
        self.hub.accepted(self.data_plane, ack)

    def refuse(self) -> None:
        nack = Nack(version=self.wanted, faults=[{"reason": "it hurts"}])
        self.hub.rejected(self.data_plane, Rejected(nack, None))

    def answer(self, requests: int, server_errors: int) -> None:
        """Tell what was answered so far."""
        plane = self.data_plane
        self.hub.reported(
            plane, plane.applied_version, plane.applied_digest, Answered(requests, server_errors)
        )


class Side:
    """One control plane, without its ports; it looks at rollouts when the test says so."""

    def __init__(self, storage: SqlStorage, compile_process: CompileProcess) -> None:
        self.storage = storage
        self.clock = Clock()
        self.hub = Hub(storage, identity=IDENTITY, purge_delay_s=1000)
        self.publisher = Publisher(storage, compile_process, self.hub)
        self.conductor = Conductor(storage, self.hub, self.publisher, clock=self.clock)
        self.publisher.may_publish = self.conductor.may_publish

    async def published(self, version: int) -> None:
        def is_published() -> bool:
            return self.publisher.current is not None and self.publisher.current.version >= version

        await eventually(is_published, f"version {version} is published", 20)

    async def write(self, *names: str) -> int:
        """Add services in one version, and wait until it is published here."""
        async with self.storage.write("test") as writer:
            for name in names:
                await writer.insert("services", make_service(name))
        await self.published(writer.version)
        return writer.version

    async def start(self, order: Order, *names: str) -> Rollout:
        """Start a rollout of more services, and wait until its version is published here."""
        contents = Contents({"services": [make_service(name) for name in names]}, replace=False)
        rollout = await self.conductor.start(order, "somebody", contents=contents)
        await self.published(rollout.version)
        return rollout

    async def running(self) -> Rollout:
        found = await self.conductor.find()
        assert found is not None
        return found


@asynccontextmanager
async def control_planes(database: Database, number: int = 1, **arguments: Any) -> AsyncIterator[list[Side]]:
    async with asyncio.timeout(60):
        compile_process = CompileProcess()
        await compile_process.start()
        sides = [Side(await database.open(**arguments), compile_process) for _ in range(number)]
        publishing = [asyncio.create_task(side.publisher.run()) for side in sides]
        try:
            yield sides
        finally:
            for task in publishing:
                task.cancel()
            await asyncio.gather(*publishing, return_exceptions=True)
            for side in sides:
                await side.hub.close()
            await compile_process.close()


async def test_promoted_after_its_hold_and_offered_to_others_only_then(database: Database) -> None:
    async with control_planes(database) as (side,):
        base = await side.write("one")
        canary, other = LinkedNode(side.hub, 1, "canary"), LinkedNode(side.hub, 2, "main")
        canary.apply()
        other.apply()
        rollout = await side.start(CANARY, "two")
        assert (canary.wanted, other.wanted) == (rollout.version, base)
        assert canary.paces == other.paces == [0.5]
        late = LinkedNode(side.hub, 3, "main")
        assert (late.wanted, late.paces) == (base, [0.5])
        assert side.hub.is_held_back(other.data_plane.row(IDENTITY), rollout.version)
        await side.conductor.look()
        assert (await side.running()).state is RolloutState.APPLYING
        canary.apply()
        await side.conductor.look()
        await side.conductor.look()
        ended = await side.running()
        assert ended.state is RolloutState.PROMOTED
        assert (other.wanted, late.wanted, side.hub.pin) == (rollout.version, rollout.version, None)
        assert canary.paces == [0.5, 0.0]
        assert await side.storage.version() == rollout.version


async def test_refused_and_back_as_it_was(database: Database) -> None:
    async with control_planes(database) as (side,):
        base = await side.write("one")
        assert side.publisher.current is not None
        digest = side.publisher.current.digest
        canary, other = LinkedNode(side.hub, 1, "canary"), LinkedNode(side.hub, 2, "main")
        canary.apply()
        other.apply()
        offered = len(other.offered)
        rollout = await side.start(CANARY, "two", "three")
        canary.refuse()
        await side.conductor.look()
        ended = await side.running()
        assert ended.state is RolloutState.REVERTED
        assert ended.reason is not None
        assert "it hurts" in ended.reason
        assert ended.final_version == rollout.version + 1
        await side.published(rollout.version + 1)
        assert side.publisher.current.digest == digest
        assert {one.digest for one in other.offered[offered:]} == {digest}
        assert (canary.wanted, other.wanted, side.hub.pin) == (base + 2, base + 2, None)
        made = await side.storage.versions(before=None, size=2)
        assert [one.actor for one in made] == [f"rollout {rollout.id}", f"somebody (rollout {rollout.id})"]
        assert made[0].deleted == 2


async def test_what_was_written_meanwhile_is_undone_too_whatever_the_journal_has_forgotten(
    database: Database,
) -> None:
    limits = JournalLimits(keep_versions=2, trim_every=1)
    async with control_planes(database, limits=limits) as (side,):
        kept, gone = make_service("kept"), make_service("gone")
        route = make_route(kept, "route")
        async with side.storage.write("test") as writer:
            await writer.insert("services", kept)
            await writer.insert("services", gone)
            await writer.insert("routes", route)
        for name in ("a", "b", "c", "d"):  # and the journal forgets how they came to be
            base = await side.write(name)
        assert side.publisher.current is not None
        digest = side.publisher.current.digest
        canary = LinkedNode(side.hub, 1, "canary")
        canary.apply()
        await side.conductor.start(LONG, "somebody")
        assert (await side.running()).state is RolloutState.OPEN
        async with side.storage.write("test") as writer:
            await writer.update("services", {**kept, "host": "other.example"})
            await writer.delete("services", gone["id"])
        await side.write("new")
        version = await side.write("newer")
        await side.conductor.look()
        assert (await side.running()).version == version
        ended = await side.conductor.end(RolloutInput.ABORT, "somebody")
        assert ended.state is RolloutState.ABORTED
        assert ended.final_version == version + 1
        await side.published(version + 1)
        assert side.publisher.current.digest == digest
        _, rows = await side.storage.load_all()
        assert {row["id"]: list(row) for row in rows["services"]}[kept["id"]] == list(kept)
        assert base < version


async def test_a_restart_holds_back_what_was_held_back(database: Database) -> None:
    async with control_planes(database) as (side,):
        base = await side.write("one")
        canary = LinkedNode(side.hub, 1, "canary")
        canary.apply()
        rollout = await side.start(LONG, "two")
        # One that knows nothing but the database, as after a restart; its data planes are those of the first.
        compile_process = CompileProcess()
        await compile_process.start()
        second = Side(side.storage, compile_process)
        publishing = asyncio.create_task(second.publisher.run())
        try:
            other, again = LinkedNode(second.hub, 2, "main"), LinkedNode(second.hub, 1, "canary")
            await second.published(rollout.version)
            assert {one.version for one in other.offered} == {base}
            assert again.wanted == rollout.version
            assert Snapshot.unpack(base, other.offered[-1].make_whole().compressed, rollout.base_digest)
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await compile_process.close()


@pytest.mark.parametrize("dialect", ["postgres"], indirect=True)  # SQLite is one control plane's
async def test_two_control_planes_decide_once(database: Database) -> None:
    async with control_planes(database, 2) as (first, second):
        base = await first.write("one")
        await second.published(base)
        canary, other = LinkedNode(first.hub, 1, "canary"), LinkedNode(second.hub, 2, "main")
        canary.apply()
        other.apply()
        other.answer(5, 0)
        await second.hub.write_rows()
        rollout = await first.start(LONG, "two")
        await second.published(rollout.version)
        assert (canary.wanted, other.wanted) == (rollout.version, base)
        canary.apply()
        canary.answer(100, 0)
        await first.hub.write_rows()
        await second.conductor.look()  # the other control plane sees it by the rows
        holding = await first.running()
        assert (holding.state, holding.others) == (RolloutState.HOLDING, {node_id(2): Answered(5, 0)})
        canary.answer(200, 60)
        await first.hub.write_rows()
        await asyncio.gather(*(side.conductor.look() for side in (first, second, first, second)))
        ended = await second.running()
        assert (ended.state, ended.others) == (RolloutState.REVERTED, {})
        assert ended.reason is not None
        assert ended.reason.startswith("60.00% of 100 answers of the chosen are 5xx")
        assert await first.storage.version() == rollout.version + 1
        for side in (first, second):
            await side.published(rollout.version + 1)
            await side.conductor.look()
        assert {one.digest for one in other.offered} == {rollout.base_digest}
        assert (canary.wanted, other.wanted) == (rollout.version + 1, rollout.version + 1)


async def test_who_learns_of_the_end_first_offers_nothing_that_was_given_up(database: Database) -> None:
    async with control_planes(database) as (side,):
        base = await side.write("one")
        canary, other = LinkedNode(side.hub, 1, "canary"), LinkedNode(side.hub, 2, "main")
        rollout = await side.start(LONG, "two")
        ended = await side.conductor.end(RolloutInput.ABORT, "somebody", rollout.id)
        # However the looks fall between the commit and the publication, the others see two contents at most.
        for _ in range(5):
            await side.conductor.look()
        await side.published(ended.final_version or 0)
        assert {one.digest for one in other.offered} == {rollout.base_digest}
        assert other.offered[-1].version == canary.wanted == ended.final_version
        assert base < rollout.version


async def test_who_read_what_is_given_up_by_then_reads_again(database: Database) -> None:
    async with control_planes(database) as (side,):
        await side.write("one")
        LinkedNode(side.hub, 1, "canary")
        rollout = await side.start(LONG, "two")
        # A control plane that starts has no pin, and may have read the version a moment ago.
        fresh = Conductor(
            side.storage, Hub(side.storage, identity=IDENTITY, purge_delay_s=1000), side.publisher
        )
        assert await fresh.may_publish(rollout.version)
        ended = await side.conductor.end(RolloutInput.ABORT, "somebody")
        assert ended.final_version is not None
        fresh = Conductor(
            side.storage, Hub(side.storage, identity=IDENTITY, purge_delay_s=1000), side.publisher
        )
        asked = {version: await fresh.may_publish(version) for version in range(ended.final_version + 1)}
        assert [version for version, may in asked.items() if not may] == [rollout.version]
        again = await side.start(LONG, "three")
        promoted = await side.conductor.end(RolloutInput.PROMOTE, "somebody")
        assert await fresh.may_publish(again.version)
        assert promoted.state is RolloutState.PROMOTED


async def test_what_cannot_be(database: Database) -> None:
    async with control_planes(database) as (side,):
        with pytest.raises(RolloutError, match="no data plane is connected"):
            await side.conductor.start(LONG, "somebody")
        LinkedNode(side.hub, 1, "canary")
        with pytest.raises(RolloutError, match="nothing has ever been written"):
            await side.conductor.start(LONG, "somebody")
        await side.write("one")
        with pytest.raises(RolloutError, match="nothing would change"):
            await side.conductor.start(LONG, "somebody", contents=Contents({}, replace=False))
        with pytest.raises(RolloutError, match="no rollout runs"):
            await side.conductor.end(RolloutInput.ABORT, "somebody")
        rollout = await side.conductor.start(LONG, "somebody")
        with pytest.raises(RolloutError, match=f"rollout {rollout.id}, started by somebody, is open"):
            await side.conductor.start(LONG, "another")
        with pytest.raises(RolloutError, match="rollout x does not run"):
            await side.conductor.end(RolloutInput.PROMOTE, "somebody", "x")
        assert (await side.conductor.wait_over(rollout.id, 0)) == rollout
        await side.conductor.end(RolloutInput.PROMOTE, "somebody", rollout.id)
        over = await side.conductor.wait_over(rollout.id, 10)
        assert over is not None
        assert (over.state, over.reason) == (RolloutState.PROMOTED, "by somebody")
        assert await side.storage.version() == 1


async def test_a_damaged_base_holds_everything_and_can_still_be_aborted(database: Database, log: Log) -> None:
    async with control_planes(database) as (side,):
        await side.write("one")
        LinkedNode(side.hub, 1, "canary")
        rollout = await side.start(LONG, "two")
        async with side.storage.write_records() as connection:
            await connection.execute("UPDATE rollout_bases SET data = $1", b"damaged")
        compile_process = CompileProcess()
        await compile_process.start()
        second = Side(side.storage, compile_process)
        publishing = asyncio.create_task(second.publisher.run())
        try:
            node = LinkedNode(second.hub, 2, "main")
            await log.shows(f"the base of rollout {rollout.id} is damaged")
            assert (second.publisher.current, node.offered) == (None, [])
            ended = await second.conductor.end(RolloutInput.ABORT, "somebody")
            await second.published(ended.final_version or 0)
            assert node.offered[-1].digest == rollout.base_digest
        finally:
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            await compile_process.close()


async def test_nothing_is_promoted_by_time_while_a_version_has_not_been_looked_at(
    database: Database,
) -> None:
    async with control_planes(database) as (side,):
        await side.write("one")
        canary = LinkedNode(side.hub, 1, "canary")
        canary.apply()
        rollout = await side.start(CANARY, "two")
        canary.apply()
        await side.conductor.look()
        holding = await side.running()
        assert holding.state is RolloutState.HOLDING
        async with side.storage.write("test") as writer:
            await writer.insert("services", make_service("three"))
        await side.conductor.look()  # published or not: version three has not been applied
        assert not (await side.running()).is_over
        await side.published(rollout.version + 1)
        await side.conductor.look()
        canary.apply()
        await side.conductor.look()
        await side.conductor.look()
        ended = await side.running()
        assert (ended.state, ended.version) == (RolloutState.PROMOTED, rollout.version + 1)


async def test_while_the_database_is_away_nobody_becomes_late(database: Database, log: Log) -> None:
    async with control_planes(database) as (side,):
        await side.write("one")
        LinkedNode(side.hub, 1, "canary")
        second = LinkedNode(side.hub, 2, "canary")
        await side.start(LONG, "two")
        await side.conductor.look()
        async with side.storage.write_records() as connection:
            await connection.execute("ALTER TABLE rollouts RENAME TO away")
        looking = asyncio.create_task(side.conductor.run())
        try:
            await log.shows("nothing is decided about rollouts")
            side.clock.now_s += 100
            second.apply()
            async with side.storage.write_records() as connection:
                await connection.execute("ALTER TABLE away RENAME TO rollouts")

            async def marked() -> Rollout | None:
                rollout = await side.running()
                return rollout if rollout.revision > 1 else None

            looked = await eventually(marked, "it is looked at again", 20)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        assert (looked.state, set(looked.marks)) == (RolloutState.APPLYING, {node_id(2)})


async def test_one_that_expires_undoes_nothing_that_has_not_been_looked_at(database: Database) -> None:
    async with control_planes(database) as (side,):
        base = await side.write("one")
        LinkedNode(side.hub, 1, "canary")
        started = await side.conductor.start(LONG, "somebody")
        async with side.storage.write_records() as connection:
            await records.replace(connection, msgspec.structs.replace(started, since=0.0, revision=2))
        async with side.storage.write("test") as writer:
            await writer.insert("services", make_service("two"))
        await side.conductor.look()  # published or not: version two stays
        assert not (await side.running()).is_over
        await side.published(base + 1)
        await side.conductor.look()
        applying = await side.running()
        assert (applying.state, applying.version) == (RolloutState.APPLYING, base + 1)
