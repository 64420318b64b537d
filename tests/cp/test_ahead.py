"""Data planes that run more than a control plane knows: it is late, its database was put back, or it is new."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fastgw.cp.rollout.pinning import Pin
from fastgw.dp.pledge import Pledge
from fastgw.dp.sync import AppliedState
from fastgw.errors import StorageUnavailable
from fastgw.model.snapshot import Snapshot
from tests.cp.cluster_nodes import Log, Node, Port, cluster_port, eventually, offering_of, run, written
from tests.cp.rollout.parts import a_rollout

CLUSTER = "one"


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def node_of(directory: Path, port: Port, version: int, cluster_id: str = CLUSTER) -> Node:
    """A data plane that runs *version* of its cluster."""
    pledge = Pledge(directory)
    pledge.keep(cluster_id)
    node = Node(directory, port.address, pledge=pledge, draw=lambda: 0.01)
    node.state = AppliedState(version, "ab" * 32)
    return node


def test_one_that_is_late_takes_nobody_back(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, cluster_id=CLUSTER) as port:
            await written(port, 3)
            port.hub.publish(offering_of(2, ["a"]))
            node = node_of(tmp_path, port, 3)
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the link")
                # What it was asked for is answered before anything else is read.
                await port.storage.version()
                assert (await port.shown(node.id))["applied_version"] == 3
                port.hub.publish(offering_of(3, ["b"]))
                await eventually(lambda: node.state.version == 3 and node.seen == [3], "version 3")
                assert "put back" not in log.text()

    run(scenario())


def test_a_database_that_was_put_back_takes_them_back_and_says_so(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, cluster_id=CLUSTER) as port:
            await written(port, 2)
            port.hub.publish(offering_of(2, ["a"]))
            node = node_of(tmp_path, port, 9)
            async with node.running():
                await eventually(lambda: node.state.version == 2, "version 2")
                line = await log.shows("put back")
                assert "runs version 9, and the database stands at version 2" in line
                port.hub.publish(offering_of(3, ["b"]))
                await eventually(lambda: node.state.version == 3, "version 3")

    run(scenario())


def test_a_database_that_does_not_answer_takes_nobody_back(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, cluster_id=CLUSTER) as port:
            await written(port, 2)
            answers = asyncio.Event()
            version = port.storage.version

            async def away() -> int:
                if not answers.is_set():
                    raise StorageUnavailable("it is away")
                return await version()

            monkeypatch.setattr(port.storage, "version", away)
            port.hub.publish(offering_of(2, ["a"]))
            node = node_of(tmp_path, port, 9)
            async with node.running():
                await log.shows(
                    "1 data planes run later versions than is known here, and keep them: it is away"
                )
                port.hub.publish(offering_of(2, ["a"]))
                await eventually(lambda: node.sync.status.is_connected, "the link")
                assert node.seen == []
                answers.set()
                await eventually(lambda: node.state.version == 2, "version 2", 10)

    run(scenario())


@pytest.mark.parametrize("cluster_id", [CLUSTER, ""])
def test_what_was_never_written_to_replaces_nothing(tmp_path: Path, log: Log, cluster_id: str) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, cluster_id=CLUSTER) as port:
            port.hub.publish(offering_of(0, []))
            node = node_of(tmp_path, port, 9, cluster_id)
            new = Node(tmp_path, port.address)
            async with node.running(), new.running():
                await eventually(lambda: new.state.digest == "0" * 64, "a new one, which has nothing to lose")
                await eventually(lambda: len(port.hub) == 2, "the link")
                shown = await port.shown(node.id)
                assert shown["last_error"] == (
                    "version 0 is not sent: nothing has ever been configured here, and it runs something"
                )
                assert node.seen == []
                assert node.sync._connection is not None
                for version in (10, 11, 12):
                    # Each time that it says something it is held back anew, for the same reason.
                    node.sync._connection.report(AppliedState(version, "cd" * 32))

                    async def told() -> bool:
                        return bool((await port.shown(node.id))["applied_version"] == version)  # noqa: B023

                    await eventually(told, "the report")
                assert log.text().count("version 0 is not sent") == 1
                await written(port, 1)
                port.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: node.state.version == 1, "version 1")
                assert node.pledge is not None
                assert node.pledge.read() == CLUSTER

    run(scenario())


def test_the_empty_base_of_a_rollout_replaces_nothing(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, cluster_id=CLUSTER) as port:
            await written(port, 1)
            base = offering_of(0, [])
            port.hub.publish(base)
            rollout = a_rollout(base_version=0, base_digest=base.digest, version=1)
            port.hub.set_pin(Pin(rollout, base, Snapshot.unpack(0, base.make_whole().compressed)))
            port.hub.publish(offering_of(1, ["a"]))
            node = node_of(tmp_path, port, 9)
            async with node.running():
                await log.shows("nothing has ever been configured here")
                assert (node.state.version, node.seen) == (9, [])

    run(scenario())
