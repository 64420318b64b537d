"""A data plane's link where several control planes are named: real ports, one after the other and back."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.dp.pledge import Pledge
from fastgw.dp.sync import AppliedState, NodeIdentity
from fastgw.tls.cluster import LinkTls
from fastgw.wire.messages import Hello
from fastgw.wire.pacing import HEALTHY_AFTER_S
from tests.cp.cluster_nodes import (
    Clock,
    Log,
    Node,
    Port,
    cluster_port,
    eventually,
    node_id_that_prefers,
    offering_of,
    run,
    written,
)
from tests.dp.kong_control_plane import KongControlPlane
from tests.tls.certificates import gen_cert_pair, loaded
from tests.waiting import free_port

CONTEXT = LinkTls.shared(loaded(gen_cert_pair())).server_context


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@asynccontextmanager
async def ports(directory: Path, count: int = 2, cluster_id: str = "one") -> AsyncIterator[list[Port]]:
    """Control planes of one cluster, each with a storage of its own."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                cluster_port(
                    directory / f"cp-{number}", listen=f"127.0.0.1:{free_port()}", cluster_id=cluster_id
                )
            )
            for number in range(count)
        ]


def node_at(directory: Path, *addresses: str, **options: object) -> Node:
    """A data plane that prefers *addresses* in their order."""
    return Node(
        directory,
        ", ".join(addresses),
        **{
            "identity": NodeIdentity(node_id_that_prefers(addresses), "dp-1"),
            "draw": lambda: 0.01,
            **options,
        },  # type: ignore[arg-type]
    )


def test_the_next_one_is_tried_at_once(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with ports(tmp_path) as (first, second):
            for port in (first, second):
                port.hub.publish(offering_of(1, ["a"]))
            nobody = f"127.0.0.1:{free_port()}"
            node = node_at(tmp_path, nobody, first.address, second.address)
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link to the second of its order")
                assert len(first.hub) == 1
                await log.shows(
                    rf"no link to {nobody}: cannot connect: Connection refused; next try at {first.address}"
                )
                status = node.sync.status
                assert (status.control_plane, status.control_plane_id) == (
                    first.address,
                    first.hub.identity.id,
                )
                assert status.control_planes == (nobody, first.address, second.address)
                left = first.address
                await first.server.close()
                await eventually(
                    lambda: node.sync.status.control_plane_id == second.hub.identity.id, "the third"
                )
                assert node.sync.status.last_error == (
                    f"{left}: the control plane ended the link: the control plane is shutting down"
                )

    run(scenario())


def test_delays_grow_with_whole_rounds_only(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        node = node_at(tmp_path, *addresses, draw=lambda: 0.1)
        async with node.running():
            await eventually(lambda: log.text().count("next try") >= 7, "two rounds", 10)
        waits = re.findall(r"no link to (\S+): .*; next try at (\S+) in (\S+) s", log.text())[:7]
        a, b, c = addresses
        # 0.1 of half a second between two of a round; of one, then two seconds after a round.
        assert waits == [
            (a, b, "0.1"), (b, c, "0.1"), (c, a, "0.1"), (a, b, "0.1"), (b, c, "0.1"), (c, a, "0.2"), (a, b, "0.1")
        ]  # fmt: skip

    run(scenario())


def test_it_goes_back_to_its_first_without_a_moment_unlinked(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with ports(tmp_path) as (first, second):
            offering = offering_of(1, ["a"])
            second.hub.publish(offering)
            nobody = f"127.0.0.1:{free_port()}"
            node = node_at(tmp_path, nobody, second.address, cluster_return_delay="1s", draw=lambda: 0.1)
            async with node.running():
                await eventually(lambda: node.state.version == 1, "version 1")
                await log.shows(f"stays with {second.address} ")
                assert node.sync.status.is_connected
                async with cluster_port(tmp_path / "late", listen=nobody, cluster_id="one") as late:
                    late.hub.publish(offering)
                    await eventually(lambda: node.sync.status.control_plane == nobody, "the return", 15)
                    assert node.sync.status.is_connected
                    assert len(late.hub) == 1
                    await eventually(lambda: len(second.hub) == 0, "the goodbye")
                    await log.shows(
                        f"is disconnected: the data plane ended the link: the data plane goes to {nobody}"
                    )
                    assert "next try" not in log.text().split("stays with")[1]
                    late.hub.publish(offering_of(2, ["b"]))
                    await eventually(lambda: node.state.version == 2, "version 2")
                # The first is gone again: the second is there at once.
                await eventually(lambda: len(second.hub) == 1, "the second again")
                assert len(first.hub) == 0

    run(scenario())


def test_an_apply_goes_on_while_the_link_moves(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with ports(tmp_path) as (first, second):
            for port in (first, second):
                port.hub.publish(offering_of(1, ["a"]))
            address = f"127.0.0.1:{free_port()}"
            node = node_at(tmp_path, address, second.address, cluster_return_delay="1s", draw=lambda: 0.01)
            async with node.running():
                await eventually(lambda: node.state.version == 1, "version 1")
                node.may_apply.clear()
                second.hub.publish(offering_of(2, ["b"]))
                await eventually(lambda: node.seen == [1, 2], "the apply's beginning")
                async with cluster_port(tmp_path / "late", listen=address, cluster_id="one") as late:
                    late.hub.publish(offering_of(2, ["b"]))
                    await eventually(lambda: len(late.hub) == 1, "the move", 15)
                    assert (await late.shown(node.id))["applied_version"] == 1
                    node.may_apply.set()

                    async def told() -> bool:
                        return bool((await late.shown(node.id))["applied_version"] == 2)

                    await eventually(told, "the report")
                    assert node.seen == [1, 2]

    run(scenario())


def test_what_ends_after_the_move_is_not_taken_back_by_one_that_is_late(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with ports(tmp_path) as (_, second):
            second.hub.publish(offering_of(1, ["a"]))
            address = f"127.0.0.1:{free_port()}"
            node = node_at(
                tmp_path, address, second.address, cluster_return_delay="1s", pledge=Pledge(tmp_path)
            )
            async with node.running():
                await eventually(lambda: node.state.version == 1, "version 1")
                node.may_apply.clear()
                second.hub.publish(offering_of(2, ["b"]))
                await eventually(lambda: node.seen == [1, 2], "the apply's beginning")
                async with cluster_port(tmp_path / "late", listen=address, cluster_id="one") as late:
                    await written(late, 2)
                    late.hub.publish(offering_of(1, ["a"]))
                    await eventually(lambda: node.sync.status.control_plane == address, "the move", 15)
                    node.may_apply.set()

                    async def told() -> bool:
                        return bool((await late.shown(node.id))["applied_version"] == 2)

                    await eventually(told, "the report")
                    late.hub.publish(offering_of(3, ["c"]))
                    await eventually(lambda: node.state.version == 3, "version 3")
                    assert node.seen == [1, 2, 3]

    run(scenario())


def test_two_names_of_one_control_plane_are_no_trouble(tmp_path: Path, log: Log) -> None:
    """As behind a load balancer: the second connection ends the first, before or after it is greeted."""

    async def scenario() -> None:
        number = free_port()
        async with cluster_port(tmp_path / "cp", listen=f"127.0.0.1:{number}") as port:
            port.hub.publish(offering_of(1, ["a"]))
            addresses = (f"127.0.0.1:{free_port()}", f"127.0.0.1:{number}")
            node = node_at(tmp_path, *addresses, cluster_return_delay="1s", draw=lambda: 0.01)
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the link")
                async with cluster_port(tmp_path / "other", listen=addresses[0]) as other:
                    # The same process by another name: its hub is the first one's.
                    other.server.hub = port.hub
                    await eventually(lambda: node.sync.status.control_plane == addresses[0], "the return", 15)
                    assert len(port.hub) == 1
                    port.hub.publish(offering_of(2, ["b"]))
                    await eventually(lambda: node.state.version == 2, "version 2")
                    assert f"no link to {addresses[1]}" not in log.text()

    run(scenario())


def test_a_link_that_does_not_last_is_a_try_that_failed(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with ports(tmp_path) as (first, second):
            node = node_at(tmp_path, first.address, second.address, clock=clock, draw=lambda: 0.1)

            async def breaks(port: Port) -> None:
                await eventually(lambda: len(port.hub) == 1, "the link")
                await eventually(lambda: node.sync.status.is_connected, "the greeting")
                count = log.text().count("next try")
                next(iter(port.server.sessions)).close("test")
                await eventually(lambda: log.text().count("next try") > count, "the break")

            async with node.running():
                await breaks(first)
                await breaks(second)
                await breaks(first)
                await breaks(second)
                await eventually(lambda: len(first.hub) == 1 and node.sync.status.is_connected, "the link")
                clock.now_s += HEALTHY_AFTER_S
                await breaks(first)
                await breaks(second)
            waits = re.findall(r"next try at (\S+) in (\S+) s", log.text())
            there, here = second.address, first.address
            assert waits == [
                (there, "0.1"),
                (here, "0.1"),
                (there, "0.1"),
                (here, "0.2"),
                (there, "0.1"),
                (here, "0.1"),
            ]

    run(scenario())


def test_a_link_that_lasted_counts_when_it_is_left_for_a_better_one(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        options: dict[str, Any] = {"cluster_return_delay": "1s", "draw": lambda: 0.05, "clock": clock}
        node = node_at(tmp_path, *addresses, **options)
        async with node.running():
            await eventually(lambda: log.text().count("next try") >= 4, "two rounds")
            async with cluster_port(tmp_path / "second", listen=addresses[1], cluster_id="one"):
                await eventually(lambda: node.sync.status.is_connected, "the link")
                clock.now_s += HEALTHY_AFTER_S
                async with cluster_port(tmp_path / "first", listen=addresses[0], cluster_id="one"):
                    await eventually(lambda: node.sync.status.control_plane == addresses[0], "the return", 15)
                    count = log.text().count("next try")
            await eventually(lambda: log.text().count("next try") >= count + 2, "a round")
        waits = re.findall(r"next try at \S+ in (\S+) s", log.text())
        # Twice as long after a whole round, but not as after one more than those before the link.
        assert waits[count : count + 2] == ["0.0", "0.1"]

    run(scenario())


def test_a_link_that_is_over_is_not_shown_while_another_one_is_made(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        is_dialled = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            is_dialled.set()
            with contextlib.suppress(OSError):
                await reader.read()
                await reader.read()
            writer.close()

        async with ports(tmp_path, 1) as (second,):
            number = free_port()
            first = f"127.0.0.1:{number}"
            node = node_at(tmp_path, first, second.address, cluster_return_delay="1s", draw=lambda: 0.01)
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link")
                async with await asyncio.start_server(hang, "127.0.0.1", number):
                    await is_dialled.wait()
                    await second.server.close()
                    await eventually(lambda: not node.sync.status.is_connected, "the end", 3)

    run(scenario())


def test_a_kong_control_plane_may_be_one_of_them(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        kong = KongControlPlane()
        async with ports(tmp_path, 1) as (ours,), kong.listening(CONTEXT):
            ours.hub.publish(offering_of(1, ["a"]))
            node = node_at(tmp_path, ours.address, kong.address)
            async with node.running():
                await eventually(lambda: node.state.version == 1, "ours")
                await ours.server.close()
                await eventually(lambda: kong.links and kong.link.pings, "Kong's")
                assert (node.sync.status.wire, node.sync.status.control_plane) == ("kong", kong.address)
                assert node.sync.status.control_plane_id == ""

    run(scenario())


def test_a_control_plane_of_another_cluster_is_left_for_the_next(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with ports(tmp_path, 1, "one") as (own,), ports(tmp_path / "other", 1, "two") as (strange,):
            own.hub.publish(offering_of(1, ["a"]))
            strange.hub.publish(offering_of(0, []))
            pledge = Pledge(tmp_path)
            node = node_at(tmp_path, strange.address, own.address, pledge=pledge)
            pledge.keep("one")
            async with node.running():
                await eventually(lambda: node.state.version == 1, "what its own cluster wants")
                await log.shows(f"no link to {strange.address}: the control plane is of the cluster two")
                await log.shows("belongs to the cluster one, and this control plane is of two")
                assert node.seen == [1]
                assert len(strange.hub) == 0
                assert await strange.shown(node.id) == {}
                assert node.sync.status.cluster_id == "one"

    run(scenario())


def test_a_control_plane_that_does_not_look_at_clusters_is_left_too(tmp_path: Path, log: Log) -> None:
    """One of an earlier release: what a data plane says about its cluster is nothing to it."""

    async def scenario() -> None:
        async with ports(tmp_path, 1, "two") as (strange,):
            strange.hub.publish(offering_of(7, ["z"]))
            pledge = Pledge(tmp_path)
            node = node_at(tmp_path, strange.address, pledge=pledge, draw=lambda: 0.01)
            node.state = AppliedState(3, "ab" * 32)
            say = node.sync.hello

            def hello() -> Hello:
                """It belongs to no cluster yet when it says so; a moment later it does."""
                said = say()
                pledge.keep("one")
                return said

            node.sync.hello = hello  # type: ignore[method-assign]
            async with node.running():
                await log.shows(
                    "is disconnected: the data plane ended the link: the control plane is of the cluster two"
                )
                assert "belongs to one" in (node.sync.status.last_error or "")
                assert node.seen == []
                assert not node.sync.status.is_connected
                # Somebody decides that it is to change over; nothing is restarted.
                pledge.replace("two")
                await eventually(lambda: node.state.version == 7, "the other cluster's", 15)

    run(scenario())


def test_who_belongs_to_no_cluster_takes_the_first_even_if_nothing_is_to_be_applied(
    tmp_path: Path, log: Log
) -> None:
    async def scenario() -> None:
        async with ports(tmp_path, 1, "one") as (port,):
            offering = offering_of(4, ["a"])
            port.hub.publish(offering)
            pledge = Pledge(tmp_path)
            node = node_at(tmp_path, port.address, pledge=pledge)
            node.state = AppliedState(4, offering.digest)
            async with node.running():
                await eventually(lambda: pledge.read() == "one", "the pledge")
                assert node.seen == []
                await eventually(lambda: node.sync.status.cluster_id == "one", "the status")

    run(scenario())
