"""The row of a data plane that moves from one control plane to another, on one PostgreSQL."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.cp.hub import DataPlane, Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.storage import Storage, make_storage
from fastgw.settings import load_settings
from fastgw.wire.messages import Hello
from fastgw.wire.offering import Offering
from tests.cp.cluster_nodes import run
from tests.postgres import PgDatabase

NODE_ID = str(uuid.UUID(int=7))


class Linked:
    """A link that takes what it is offered."""

    def offer(self, offering: Offering | None) -> None:
        pass

    def pace(self, ping_s: float) -> None:
        pass  # no rollout runs

    def close(self, reason: str) -> None:
        pass


class ControlPlane:
    """A hub whose rows are written when a test says so."""

    def __init__(self, storage: Storage, hostname: str, ahead_s: int = 0) -> None:
        self.hub = Hub(
            storage,
            identity=ControlPlaneIdentity(str(uuid.uuid4()), hostname, "cluster"),
            purge_delay_s=1000,
            wall_clock=lambda: 1_800_000_000 + ahead_s,
        )

    def connect(self) -> DataPlane:
        hello = Hello(
            node_id=NODE_ID, hostname="dp-1", version="1", applied_version=0, applied_digest="", max_snapshot_bytes=1
        )  # fmt: skip
        data_plane = DataPlane(hello, Linked(), "127.0.0.1", None)
        self.hub.join(data_plane)
        return data_plane

    async def shown(self) -> tuple[str, bool]:
        (row,) = await self.hub.data_planes()
        return row["control_plane"]["hostname"], row["connected"]


@asynccontextmanager
async def opened(directory: Path, database: PgDatabase) -> AsyncIterator[Storage]:
    flags: dict[str, Any] = {"prefix": str(directory), **database.properties}
    storage = make_storage(load_settings("control_plane", environ={}, flags=flags))
    await storage.migrator().bootstrap()
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


@pytest.mark.parametrize("b_writes_first", [True, False])
@pytest.mark.parametrize("ahead_s", [-20, 0, 20])
@pytest.mark.parametrize("is_known_at_a", [True, False])
def test_the_one_that_is_left_does_not_speak_for_the_one_that_is_reached(
    tmp_path: Path, pg_database: PgDatabase, b_writes_first: bool, ahead_s: int, is_known_at_a: bool
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, pg_database) as storage:
            a, b = ControlPlane(storage, "cp-a", ahead_s), ControlPlane(storage, "cp-b")
            at_a = a.connect()
            if is_known_at_a:
                await a.hub.write_rows()
            b.connect()
            if b_writes_first:
                await b.hub.write_rows()
            a.hub.leave(at_a, "the data plane goes to b")
            await a.hub.write_rows()
            await b.hub.write_rows()
            assert await b.shown() == ("cp-b", True)
            assert await a.shown() == ("cp-b", True)
            assert [row.control_plane_hostname for row in await a.hub.rows_elsewhere()] == ["cp-b"]
            # And back, with what is left of a's former links.
            again = a.connect()
            await a.hub.write_rows()
            assert await b.shown() == ("cp-b", True)  # b does not know yet that its link is over
            a.hub.reported(again, 0, "")
            assert await a.shown() == ("cp-a", True)

    run(scenario())


def test_both_write_at_once(tmp_path: Path, pg_database: PgDatabase) -> None:
    async def scenario() -> None:
        async with opened(tmp_path, pg_database) as storage:
            for _ in range(20):
                a, b = ControlPlane(storage, "cp-a"), ControlPlane(storage, "cp-b")
                at_a = a.connect()
                await a.hub.write_rows()
                b.connect()
                a.hub.leave(at_a, "the data plane goes to b")
                await asyncio.gather(a.hub.write_rows(), b.hub.write_rows())
                assert await a.shown() == ("cp-b", True)

    run(scenario())
