"""Where a version stands: with real links, and with data planes of other control planes."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from fastgw.cp.applied import AppliedWatch
from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.dp.sync import Refused
from tests.cp.cluster_nodes import Log, Node, cluster_port, eventually, offering_of, run


@pytest.fixture(autouse=True)
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


class Published:
    """What a publisher says."""

    def __init__(self, version: int | None, refused: dict[str, Any] | None = None) -> None:
        self.shown = {"version": version, "refused": refused}

    def publication(self) -> dict[str, Any]:
        return self.shown


def test_it_is_settled_when_all_run_it_and_late_ones_are_named(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            slow, quick = Node(tmp_path, port.address), Node(tmp_path, port.address)
            slow.may_apply.clear()
            watch = AppliedWatch(port.hub, Published(1))
            assert (await watch.wait(1, 5)).is_applied  # nobody is connected
            async with slow.running(), quick.running():
                await eventually(lambda: len(port.hub) == 2, "two data planes")
                port.hub.publish(offering_of(1, ["a"]))
                late = await watch.wait(1, 0.3)
                assert not late.is_applied
                assert not late.is_settled
                assert (late.applied, [row.id for row in late.behind]) == (1, [slow.id])
                waiting = asyncio.create_task(watch.wait(1, 10))
                slow.may_apply.set()
                done = await waiting
                assert done.is_applied
                assert (done.applied, done.behind) == (2, [])
                shown = await port.shown(slow.id)
                assert shown["apply_ms"] == {"decode": 1.0, "compile": 2.0, "store": 4.0, "commit": 3.0}
                assert abs(shown["applied_at"] - time.time()) < 60

    run(scenario())


def test_nobody_waits_for_who_has_refused_it_for_good(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            node.refusal = Refused(1, [{"reason": "too odd"}])
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the data plane")
                port.hub.publish(offering_of(1, ["a"]))
                standing = await AppliedWatch(port.hub, Published(1)).wait(1, 10)
                assert standing.is_settled
                assert not standing.is_applied
                (row,) = standing.shown()["not_applied"]
                assert "too odd" in row["last_error"]
                node.refusal = None
                port.hub.publish(offering_of(2, ["b"]))
                assert (await AppliedWatch(port.hub, Published(2)).wait(2, 10)).is_applied

    run(scenario())


def test_nobody_waits_for_who_cannot_be_sent_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address, cluster_max_payload=str(4 << 20))
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the data plane")
                port.hub.publish(offering_of(1, ["1", "2", "3"], os.urandom(1_600_000)))
                standing = await AppliedWatch(port.hub, Published(1)).wait(1, 10)
                assert (standing.is_settled, standing.is_applied) == (True, False)
                (row,) = standing.shown()["not_applied"]
                assert "cluster_max_payload" in row["last_error"]

    run(scenario())


def test_an_error_is_over_when_what_runs_is_wanted_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                port.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: node.state.version == 1, "version 1")
                node.refusal = Refused(2, [{"reason": "too odd"}])
                port.hub.publish(offering_of(2, ["b"]))
                assert not (await AppliedWatch(port.hub, Published(2)).wait(2, 10)).is_applied
                assert "too odd" in (await port.shown(node.id))["last_error"]
                port.hub.publish(offering_of(3, ["a"]))
                assert (await AppliedWatch(port.hub, Published(3)).wait(3, 10)).is_applied
                assert (await port.shown(node.id))["last_error"] is None

    run(scenario())


def test_passing_trouble_is_waited_for(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            node.refusal = Refused(1, [{"reason": "disk full"}], is_passing=True)
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the data plane")
                port.hub.publish(offering_of(1, ["a"]))
                watch = AppliedWatch(port.hub, Published(1))
                await eventually(lambda: node.seen, "the first try")
                assert not (await watch.wait(1, 0.05)).is_settled
                node.refusal = None
                assert (await watch.wait(1, 10)).is_applied

    run(scenario())


def test_what_is_not_published_is_waited_for_unless_it_does_not_compile(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            late = await AppliedWatch(port.hub, Published(1)).wait(2, 0.05)
            assert (late.is_published, late.is_settled) == (False, False)
            refused = {"version": 2, "message": "version 2 does not compile and is not published"}
            settled = await AppliedWatch(port.hub, Published(1, refused)).wait(2, 10)
            assert settled.is_settled
            assert not settled.is_applied
            assert settled.shown()["refused"] == refused["message"]

    run(scenario())


def test_data_planes_of_other_control_planes_count_as_their_rows_say(tmp_path: Path) -> None:
    def row(version: int, *, connected: bool = True, seen_ago_s: int = 0) -> DataPlaneRow:
        return DataPlaneRow(
            id=str(uuid.UUID(int=1)),
            hostname="elsewhere",
            ip="127.0.0.2",
            last_seen=int(time.time()) - seen_ago_s,
            applied_version=version,
            connected=connected,
        )

    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            watch = AppliedWatch(port.hub, Published(2))
            for gone in (row(1, connected=False, seen_ago_s=900), row(1, seen_ago_s=800)):
                await port.storage.put_data_planes([gone])
                assert (await watch.wait(2, 5)).is_applied
            await port.storage.put_data_planes([row(1)])
            waiting = asyncio.create_task(watch.wait(2, 10))
            assert [late.hostname for late in (await watch.wait(2, 0.05)).behind] == ["elsewhere"]
            await port.storage.put_data_planes([row(2)])
            assert (await waiting).applied == 1

    run(scenario())
