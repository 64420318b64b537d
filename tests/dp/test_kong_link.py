"""A data plane on a Kong control plane: recorded pushes, and each quirk of the specification."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fastgw.dp import kong_link
from fastgw.dp.sync import Refused
from fastgw.errors import SettingsError
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.tls.cluster import LinkTls
from fastgw.wire.kong_v1.messages import PING_INTERVAL_S, SILENCE_S
from tests.cp.cluster_nodes import Clock, Log, Node, cluster_port, eventually, run
from tests.cp.test_kong_peers import kong_port, offering
from tests.dp.kong_control_plane import KongControlPlane, Link
from tests.tls.certificates import gen_cert_pair, loaded
from tests.wire.kong_v1.recorded import GIVEN, PUSHED_FRAMES, PUSHES
from tests.wire.kong_v1.rows import some_rows

CONTEXT = LinkTls.shared(loaded(gen_cert_pair())).server_context
ZERO = "0" * 32
GOOD, SAME, CHANGED, INVALID, UNKNOWN, EMPTY, UNNAMED = GIVEN
A, B, E = GOOD["config_hash"], CHANGED["config_hash"], EMPTY["config_hash"]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dial again at once: a data plane of Kong waits for 5 to 10 s."""
    monkeypatch.setattr("fastgw.dp.sync.next_kong_delay", lambda draw: 0.01)


@asynccontextmanager
async def linked(directory: Path, **flags: Any) -> AsyncIterator[tuple[KongControlPlane, Node]]:
    """A data plane that has a link to a Kong control plane."""
    control_plane = KongControlPlane()
    async with control_plane.listening(CONTEXT):
        node = Node(directory, control_plane.address, **flags)
        async with node.running():
            await eventually(lambda: control_plane.links and control_plane.link.pings, "a link with a ping")
            yield control_plane, node


async def pinged(link: Link, *hashes: str) -> None:
    await eventually(lambda: link.pings[-len(hashes) :] == list(hashes), f"pings with {hashes}")
    assert not link.complaint


def test_a_new_data_plane_introduces_itself(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path, cluster_dp_labels="region:eu") as (control_plane, node):
            ours, head = control_plane.requests
            assert ours.startswith("GET /fastgw/v1/link ")
            assert re.match(
                rf"GET /v1/outlet\?node_id={node.id}&node_hostname=dp-1&node_version=3\.9\.1 HTTP/1\.1\r\n",
                head,
            )
            assert "sec-websocket-protocol" not in head.lower()
            assert "sec-websocket-extensions" not in head.lower()
            assert "fastgw" not in head.lower()
            link = control_plane.link
            assert link.pings == [ZERO]
            info = link.basic_info
            assert set(info) == {"type", "plugins", "process_conf", "filters", "labels"}
            assert info["labels"] == {"region": "eu"}
            assert info["plugins"] == [{"name": name, "version": "3.9.1"} for name in sorted(PLUGIN_SCHEMAS)]
            assert info["process_conf"]["cluster_max_payload"] == 16 * 1024 * 1024
            assert not [name for name in info["process_conf"] if "key" in name or "cert" in name]
            await log.shows(f"{control_plane.address} does not speak fastgw's protocol: trying Kong's")
            assert node.sync.status.is_connected
            assert node.sync.status.wire == "kong"

    run(scenario())


def test_recorded_pushes_are_applied(tmp_path: Path, log: Log) -> None:
    """The frames of a Kong control plane, byte by byte: the first, the same again, two changes."""

    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, node):
            link = control_plane.link
            told = [ZERO]
            for frame, envelope in zip(PUSHED_FRAMES, PUSHES, strict=True):
                link.push(frame)
                told.append(envelope["config_hash"])
                await pinged(link, *told)
            assert node.snapshot is not None
            assert node.snapshot.counts() == {
                "consumers": 1,
                "keyauth_credentials": 1,
                "plugins": 2,
                "routes": 3,
                "services": 2,
                "targets": 1,
                "upstreams": 1,
            }
            # The second one bore the hash that runs, so nothing was done about it.
            assert len(node.seen) == 3
            assert node.sync.status.received_version == node.sync.status.confirmed_version == 3

    run(scenario())


def test_what_was_recorded_of_a_data_plane_is_what_we_do(tmp_path: Path, log: Log) -> None:
    """Good, same, changed, invalid, unknown field, empty, without a hash: the same PINGs, and silence for faults."""

    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, node):
            link = control_plane.link
            link.push(GOOD)
            await pinged(link, ZERO, A)
            link.push(SAME)
            await pinged(link, ZERO, A, A)
            link.push(CHANGED)
            await pinged(link, ZERO, A, A, B)
            version = node.state.version
            link.push(INVALID)
            await log.shows(
                "refused the control plane's configuration, and stays with what runs: routes[0].paths"
            )
            link.push(UNKNOWN)
            await log.shows("unknown field")
            assert node.state.version == version
            assert len(link.pings) == 4
            link.push(EMPTY)
            await pinged(link, ZERO, A, A, B, ZERO)
            assert node.snapshot is not None
            assert node.snapshot.counts() == {}
            link.push(UNNAMED)
            await pinged(link, ZERO, A, A, B, ZERO, "c9383bbefd680b3bc3d3ec7177e68980")
            assert node.sync.status.is_connected

    run(scenario())


def test_a_configuration_that_workers_refuse_is_answered_by_nothing(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, node):
            node.refusal = Refused(1, [{"entity": "routes", "reason": "no room"}])
            control_plane.link.push(GOOD)
            await log.shows("stays with what runs: no room")
            node.refusal = None
            control_plane.link.push(CHANGED)
            await pinged(control_plane.link, ZERO, B)

    run(scenario())


def test_while_one_is_applied_later_ones_overwrite_each_other(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, node):
            link = control_plane.link
            node.may_apply.clear()
            link.push(GOOD)
            await eventually(lambda: node.seen, "the first")
            for push in (CHANGED, EMPTY, CHANGED):
                link.push(push)
            link.send(1, b"a mark")
            await log.shows("the control plane sent a text frame")
            node.may_apply.set()
            await pinged(link, ZERO, A, B)
            assert len(node.seen) == 2

    run(scenario())


def test_what_runs_is_told_to_the_next_link(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, _):
            control_plane.link.push(GOOD)
            await pinged(control_plane.link, ZERO, A)
            control_plane.link.close()
            await eventually(
                lambda: len(control_plane.links) == 2 and control_plane.link.pings, "the next link"
            )
            assert control_plane.link.pings == [A]
            assert "no link to" in await log.shows("the control plane closed the link; next try")

    run(scenario())


def test_an_apply_goes_on_when_its_link_breaks(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, node):
            node.may_apply.clear()
            control_plane.link.push(GOOD)
            await eventually(lambda: node.seen, "the apply")
            control_plane.link.close()
            await eventually(
                lambda: len(control_plane.links) == 2 and control_plane.link.pings, "the next link"
            )
            node.may_apply.set()
            await pinged(control_plane.link, ZERO, A)

    run(scenario())


def test_pings_go_on_and_silence_ends_the_link(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        control_plane = KongControlPlane()
        async with control_plane.listening(CONTEXT):
            node = Node(tmp_path, control_plane.address, clock=clock)
            async with node.running():
                await eventually(lambda: control_plane.links and control_plane.link.pings, "a ping")
                connection: Any = node.sync._connection
                clock.now_s += PING_INTERVAL_S
                connection.tick()
                await pinged(control_plane.link, ZERO, ZERO)
                clock.now_s += SILENCE_S
                connection.tick()
                await log.shows("the control plane is silent for 45 s; next try")

    run(scenario())


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"no gzip", "the control plane sent what is no gzip"),
        (gzip.compress(b'{"type":"reconfigure"}', mtime=0), "a push without a config_table"),
        (gzip.compress(b"\xff", mtime=0), "no push"),
    ],
)
def test_a_damaged_push_ends_the_link(tmp_path: Path, log: Log, payload: bytes, words: str) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, _):
            control_plane.link.push(payload)
            await log.shows(words)
            await eventually(lambda: len(control_plane.links) == 2, "the next link")

    run(scenario())


def test_other_types_are_ignored(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, _):
            control_plane.link.push({"type": "something new"})
            control_plane.link.push(GOOD)
            await pinged(control_plane.link, ZERO, A)

    run(scenario())


def test_a_push_above_the_limit_ends_the_link(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path, cluster_max_payload="4194304") as (control_plane, _):
            control_plane.link.send(2, bytes(4194305))
            await log.shows("exceeding max payload len")

    run(scenario())


def test_what_is_newer_is_told_and_left_out(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, _):
            table = {**GOOD["config_table"], "jwt_signers": [{"id": "x"}]}
            control_plane.link.push({**GOOD, "config_table": table})
            await pinged(control_plane.link, ZERO, A)
            assert log.text().count("1 rows of jwt_signers are left out: fastgw does not know them") == 1

    run(scenario())


def test_a_version_that_does_not_fit_is_told(tmp_path: Path, log: Log) -> None:
    """Kong closes after basic_info: the data plane's major version differs, or its minor one is higher."""

    async def scenario() -> None:
        control_plane = KongControlPlane()
        control_plane.closes_at_once = True
        async with control_plane.listening(CONTEXT):
            async with Node(tmp_path, control_plane.address).running():
                await log.shows(
                    "it takes no data plane of version 3.9.1; set cluster_kong_version to its own version"
                )
            assert ZERO not in log.text()

    run(scenario())


@pytest.mark.parametrize(
    ("version", "acl", "count"), [("3.4.2", "3.4.2", len(PLUGIN_SCHEMAS)), ("2.8.5", "3.0.1", 35)]
)
def test_another_version_may_be_told(tmp_path: Path, log: Log, version: str, acl: str, count: int) -> None:
    async def scenario() -> None:
        async with linked(tmp_path, cluster_kong_version=version) as (control_plane, _):
            link = control_plane.link
            assert link.query["node_version"] == version
            plugins = {plugin["name"]: plugin.get("version") for plugin in link.basic_info["plugins"]}
            assert plugins["acl"] == acl
            assert len(plugins) == count
            # Without a hash of the control plane's, that of the version that was told is reported.
            link.push(UNNAMED)
            await eventually(lambda: len(link.pings) == 2, "the hash")
            is_new = version.startswith("3")
            assert (link.pings[1] == "c9383bbefd680b3bc3d3ec7177e68980") is is_new

    run(scenario())


@pytest.mark.parametrize("version", ["2.7.0", "4.0.0", "3.9", "kong"])
def test_a_version_that_cannot_be_told(tmp_path: Path, version: str) -> None:
    with pytest.raises(SettingsError, match="cluster_kong_version"):
        Node(tmp_path, "127.0.0.1:1", cluster_kong_version=version)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("", "it refuses our certificate"),
        ("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "answered 400: our certificate, or what"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "neither fastgw's protocol nor Kong's"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered 502 to the upgrade"),
        ("HTTP/1.0 101 Yes\r\n\r\n", "did not answer the upgrade in HTTP/1.1"),
        ("HTTP/1.1 101 Yes\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "no websocket was opened"),
        (f"HTTP/1.1 101 Yes\r\nX: {'x' * 17000}", "has no end"),
    ],
)
def test_no_upgrade(tmp_path: Path, log: Log, answer: str, words: str) -> None:
    async def scenario() -> None:
        control_plane = KongControlPlane()
        control_plane.answer = answer
        async with control_plane.listening(CONTEXT), Node(tmp_path, control_plane.address).running():
            await log.shows(words)

    run(scenario())


def test_each_wire_alone(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path, cluster_wire="kong") as (control_plane, _):
            assert [request.split("?")[0] for request in control_plane.requests] == ["GET /v1/outlet"]
        control_plane = KongControlPlane()
        async with control_plane.listening(CONTEXT):
            async with Node(tmp_path, control_plane.address, cluster_wire="fastgw").running():
                await log.shows("no websocket was opened")
            assert not control_plane.links

    run(scenario())


def test_a_control_plane_that_is_replaced_by_ours_is_found_out(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with linked(tmp_path) as (control_plane, node):
            control_plane.link.push(GOOD)
            await pinged(control_plane.link, ZERO, A)
            address = control_plane.address
        async with kong_port(tmp_path, listen=address) as port:
            again = Node(tmp_path, address)
            again.state, again.snapshot = node.state, node.snapshot
            async with again.running():
                port.hub.publish(offering(9, **some_rows()))
                await eventually(lambda: again.state.version == 9, "version 9")
                assert again.sync.status.wire == "fastgw"

    run(scenario())


def test_both_of_our_ends_speak_kongs_protocol_with_each_other(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            node = Node(tmp_path, port.address, cluster_wire="kong")
            async with node.running():
                port.hub.publish(offering(3, **some_rows()))
                shown = await eventually(lambda: _applied(port, node), "version 3 is applied")
                assert shown["version"] == "3.9.1"
                assert node.snapshot is not None
                assert node.snapshot.digest == offering(3, **some_rows()).digest

    async def _applied(port: Any, node: Node) -> Any:
        shown = await port.shown(node.id)
        return shown if shown.get("applied_version") == 3 else None

    run(scenario())


def test_a_link_of_ours_is_not_given_up_for_another_answer(tmp_path: Path, log: Log) -> None:
    """Only 404 says that our protocol is not known there."""

    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link")
                next(iter(port.server.sessions)).close("test")
                await log.shows("next try")
                await eventually(lambda: node.sync.status.is_connected, "the link again")
                assert "trying Kong's" not in log.text()

    run(scenario())


def test_the_delay_is_that_of_kongs_data_planes() -> None:
    assert kong_link.next_kong_delay(lambda: 0.0) == 5.0
    assert kong_link.next_kong_delay(lambda: 0.999) < 10.0
