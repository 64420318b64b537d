"""Kong data planes on our cluster port, by their recorded bytes and by each quirk of the specification."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from fastgw.cp.kong_payloads import KongPayloads
from fastgw.model.snapshot import Snapshot
from fastgw.tls.authority import serial_of
from fastgw.tls.cluster import LinkTls
from fastgw.wire.kong_v1.link import GREETING_TIMEOUT_S, PUSH_SPACING_S
from fastgw.wire.kong_v1.messages import SILENCE_S
from fastgw.wire.offering import Offering
from tests.cp.cluster_nodes import Clock, Log, Node, Port, cluster_port, eventually, run
from tests.cp.kong_data_plane import (
    BINARY,
    CLOSE,
    NODE_ID,
    PING,
    PONG,
    TEXT,
    ZERO,
    KongDataPlane,
    check_hashes,
)
from tests.tls.certificates import gen_cert_pair, loaded
from tests.wire.kong_v1.recorded import BASIC_INFO, PINGS, UPGRADE
from tests.wire.kong_v1.rows import CLUSTER_ID, plugin, row_of, some_rows

CONTEXT = LinkTls.shared(loaded(gen_cert_pair())).client_context
OUR_WORDS = ("fastgw", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Server:")
PLUGINS_OF_2_8 = [{"name": "key-auth", "version": "2.4.0"}, {"name": "rate-limiting", "version": "2.4.0"}]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@asynccontextmanager
async def kong_port(directory: Path, **options: Any) -> AsyncIterator[Port]:
    payloads = KongPayloads(CLUSTER_ID)
    async with cluster_port(directory, **{"kong_payloads": payloads, **options}) as port:
        yield port


def offering(version: int, **rows: list[dict[str, Any]]) -> Offering:
    snapshot = Snapshot.from_rows(version, rows)
    return Offering(version, snapshot.digest, snapshot.pack)


def routes(version: int, *paths: str) -> Offering:
    rows = [row_of("routes", 11 + place, paths=[path]) for place, path in enumerate(paths)]
    return offering(version, routes=rows)


async def connected(port: Port, **options: Any) -> KongDataPlane:
    return await KongDataPlane.connect(port.address, CONTEXT, **options)


def test_a_recorded_data_plane_is_served(tmp_path: Path, log: Log) -> None:
    """Its request, its first two frames, a push, its PING with the new hash."""

    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(offering(7, **some_rows()))
            node = await connected(port, config_hash=PINGS[0])
            assert not [words for words in OUR_WORDS if words.lower() in node.head.lower()], node.head
            frames = [await node.frame(), await node.frame()]
            assert sorted(frame.opcode for frame in frames) == [BINARY, PONG]
            node.close()

            node = await connected(port, labels={"region": "eu"})
            push = await node.push()
            check_hashes(push)
            table = push["config_table"]
            assert {kind: len(rows) for kind, rows in table.items() if not kind.startswith("_")} == {
                **{kind: len(rows) for kind, rows in some_rows().items()},
                "parameters": 1,
                "workspaces": 1,
            }
            assert table["parameters"][0]["value"] == CLUSTER_ID
            shown = await port.shown(NODE_ID)
            assert (shown["config_hash"], shown["applied_version"], shown["wanted_version"]) == (ZERO, 0, 7)
            node.ping(push["config_hash"])
            await log.shows(
                "runs version 7 [id: 0d2871c6-540b-47bc-b776-bbe7748e8d4e, host: vm, ip: 127.0.0.1,"
            )
            shown = await port.shown(NODE_ID)
            assert shown == shown | {
                "hostname": "vm",
                "ip": "127.0.0.1",
                "version": "3.9.1",
                "sync_status": "normal",
                "config_hash": push["config_hash"],
                "applied_version": 7,
                "wanted_version": 7,
                "labels": {"region": "eu"},
                "last_error": None,
                "connected": True,
            }
            assert shown["cert_details"]["expiry_timestamp"] > 0
            node.close()
            await log.shows("is disconnected: the data plane closed the connection")

    run(scenario())


def test_our_own_data_planes_are_served_beside(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            ours = Node(tmp_path, port.address)
            theirs = await connected(port)
            async with ours.running():
                version = offering(3, **some_rows())
                port.hub.publish(version)
                theirs.ping((await theirs.push())["config_hash"])
                await eventually(lambda: ours.state.version == 3, "version 3 here")
                await log.shows("runs version 3 [id: 0d28")
                rows = {row["id"]: row for row in await port.hub.data_planes()}
                assert {row["applied_version"] for row in rows.values()} == {3}
                assert rows[ours.id]["config_hash"] == version.digest[:32]
            theirs.close()

    run(scenario())


def test_a_data_plane_that_runs_what_is_wanted_is_sent_nothing(tmp_path: Path, log: Log) -> None:
    """Kong's control plane pushes at every connect; a hash that is wanted spares it."""

    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(routes(1, "/a"))
            node = await connected(port)
            config_hash = (await node.push())["config_hash"]
            node.close()
            await log.shows("is disconnected")
            node = await connected(port, config_hash=config_hash)
            await log.shows("runs version 1 [id")
            assert (await port.shown(NODE_ID))["applied_version"] == 1
            node.send(CLOSE)
            assert set(await node.until_close()) <= {PONG, CLOSE}

    run(scenario())


def test_the_same_configuration_under_a_new_version_is_not_pushed_again(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(routes(1, "/a"))
            node = await connected(port)
            node.ping((await node.push())["config_hash"])
            await log.shows("runs version 1 [id")
            port.hub.publish(routes(2, "/a"))
            assert (await port.shown(NODE_ID))["applied_version"] == 2
            node.send(CLOSE)
            assert BINARY not in await node.until_close()

    run(scenario())


def test_bursts_collapse_into_one_push_in_five_seconds(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kong_port(tmp_path, clock=clock) as port:
            port.hub.publish(routes(1, "/1"))
            node = await connected(port)
            assert (await node.push())["config_table"]["routes"][0]["paths"] == ["/1"]
            for version in range(2, 6):
                port.hub.publish(routes(version, f"/{version}"))
            clock.now_s += PUSH_SPACING_S - 0.1
            port.server.tick()
            node.ping(ZERO)
            while (await node.frame()).opcode != PONG:
                raise AssertionError("a push within five seconds of another")
            clock.now_s += 0.1
            port.server.tick()
            assert (await node.push())["config_table"]["routes"][0]["paths"] == ["/5"]
            # After a rest, one alone goes at once.
            clock.now_s += 8
            port.hub.publish(routes(6, "/6"))
            assert (await node.push())["config_table"]["routes"][0]["paths"] == ["/6"]
            node.close()

    run(scenario())


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3.10.0", "data plane version 3.10.0 is incompatible with older control plane version 3.9.1"),
        ("2.7.0", "data plane version 2.7.0 is incompatible with control plane version 3.9.1"),
        ("4.0.0", "data plane version 4.0.0 is incompatible with control plane version 3.9.1"),
        ("dev", "data plane version is incompatible with control plane version 3.9.1"),
    ],
)
def test_another_version_is_closed_and_shown(tmp_path: Path, log: Log, version: str, reason: str) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(routes(1, "/a"))
            node = await connected(port, version=version)
            assert await node.until_close() == [CLOSE]
            await log.shows(reason)
            shown = await port.shown(NODE_ID)
            assert shown["sync_status"] == "kong_version_incompatible"
            assert shown["last_error"].startswith(reason)
            assert not shown["connected"]

    run(scenario())


@pytest.mark.parametrize(
    ("plugins", "status", "reason"),
    [
        (
            [{"name": "acl", "version": "3.9.1"}],
            "plugin_set_incompatible",
            "configured key-auth plugin 3.9.1 is missing from data plane",
        ),
        (
            [{"name": "key-auth", "version": "2.4.0"}],
            "plugin_version_incompatible",
            "configured data plane key-auth plugin version 2.4.0 is different to control plane plugin version 3.9.1",
        ),
    ],
)
def test_a_plugin_that_does_not_fit_withholds_the_push_and_leaves_the_link(
    tmp_path: Path, log: Log, plugins: list[Any], status: str, reason: str
) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kong_port(tmp_path, clock=clock) as port:
            port.hub.publish(offering(1, plugins=[plugin(61, "key-auth", config={})]))
            node = await connected(port, plugins=plugins)
            await log.shows(f"version 1 is not sent: {reason}")
            assert (await node.frame()).opcode == PONG
            node.ping(ZERO)
            assert (await node.frame()).opcode == PONG
            shown = await port.shown(NODE_ID)
            assert shown["sync_status"] == status
            assert shown["last_error"] == f"version 1 is not sent: {reason}"
            assert shown["connected"]
            # What is not configured does not matter: it is checked anew before each push.
            port.hub.publish(routes(2, "/a"))
            node.ping((await node.push())["config_hash"])
            await log.shows("runs version 2 [id")
            shown = await port.shown(NODE_ID)
            assert (shown["sync_status"], shown["last_error"]) == ("normal", None)
            node.close()

    run(scenario())


@pytest.mark.parametrize(
    ("version", "plugins", "format_version", "has_updated_at", "has_realm"),
    [
        ("2.8.5", PLUGINS_OF_2_8, "2.1", False, False),
        ("3.2.2", None, "3.0", False, False),
        ("3.4.2", None, "3.0", True, False),
        ("3.6.1", None, "3.0", True, False),
        ("3.7.1", None, "3.0", True, True),
        ("3.9.1.0-enterprise-edition", None, "3.0", True, True),
    ],
)
def test_each_release_gets_what_it_knows(
    tmp_path: Path,
    log: Log,
    version: str,
    plugins: list[Any] | None,
    format_version: str,
    has_updated_at: bool,
    has_realm: bool,
) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(offering(1, **some_rows()))
            node = await connected(port, version=version, plugins=plugins or BASIC_INFO["plugins"])
            push = await node.push()
            table = push["config_table"]
            assert table["_format_version"] == format_version
            assert ("updated_at" in table["consumers"][0]) is has_updated_at
            by_name = {row["name"]: row["config"] for row in table["plugins"]}
            assert ("realm" in by_name["key-auth"]) is has_realm
            # Edited or not, the hashes are those of the whole.
            node.ping(push["config_hash"])
            await log.shows("runs version 1 [id")
            if version != "3.9.1.0-enterprise-edition":
                await log.shows(
                    f"data plane minor version {version} is different to control plane minor version"
                )
            node.close()

    run(scenario())


def test_expressions_are_not_pushed_to_another_flavor(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(offering(1, routes=[row_of("routes", 11, expression='http.path == "/a"')]))
            node = await connected(port)
            await log.shows("version 1 is not sent: 1 routes have an expression")
            assert (await port.shown(NODE_ID))["sync_status"] == "normal"
            node.close()

    run(scenario())


def test_what_is_too_large_is_not_sent(tmp_path: Path, log: Log) -> None:
    """At a Kong control plane the data plane would dial, receive it and fail for ever."""

    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(offering(1, **some_rows()))
            node = await connected(port, process_conf={"cluster_max_payload": 500})
            await log.shows("compressed bytes are more than the 500 of its cluster_max_payload")
            assert "is not sent" in (await port.shown(NODE_ID))["last_error"]
            node.close()

    run(scenario())


def test_an_empty_configuration_is_reported_as_zeros(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(offering(4))
            node = await connected(port)
            push = await node.push()
            assert set(push["config_table"]) == {"_format_version", "_transform", "parameters", "workspaces"}
            node.ping(ZERO)
            await log.shows("runs version 4 [id")
            node.close()

    run(scenario())


def test_a_refused_push_shows_by_the_old_hash(tmp_path: Path, log: Log) -> None:
    """Kong's data planes answer a configuration that they refuse by nothing at all."""

    async def scenario() -> None:
        clock = Clock()
        async with kong_port(tmp_path, clock=clock) as port:
            port.hub.publish(routes(1, "/a"))
            node = await connected(port)
            await node.push()
            clock.now_s += 30
            node.ping("f" * 32)
            await log.shows("version 1 is not applied: it reports another hash since; its own log says why")
            shown = await port.shown(NODE_ID)
            assert (shown["config_hash"], shown["applied_version"]) == ("f" * 32, 0)
            assert shown["last_error"].startswith("version 1 is not applied")
            node.close()

    run(scenario())


def test_a_report_of_an_error_is_shown(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(routes(1, "/a"))
            node = await connected(port)
            push = await node.push()
            error = {"name": "declarative configuration parse failure", "config_hash": push["config_hash"]}
            node.send(BINARY, json.dumps({"type": "error", "error": error}).encode())
            await log.shows("version 1 is not applied: declarative configuration parse failure")
            node.close()

    run(scenario())


@pytest.mark.parametrize(
    ("opcode", "payload", "words"),
    [
        (PING, b"hello", "invalid hash: b'hello'"),
        (PING, b"", "invalid hash: b''"),
        (TEXT, b"hello", "invalid websocket frame received from data plane: text"),
        (BINARY, b"hello", "invalid websocket frame received from data plane: binary"),
        (PONG, b"", "invalid websocket frame received from data plane: pong"),
    ],
)
def test_what_no_data_plane_sends_is_answered_by_a_close_frame(
    tmp_path: Path, log: Log, opcode: int, payload: bytes, words: str
) -> None:
    """The first of these is recorded: a close frame without a body, then the end."""

    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            node = await connected(port)
            assert (await node.frame()).opcode == PONG
            node.send(opcode, payload)
            assert await node.until_close() == [CLOSE]
            await log.shows(words)
            assert not (await port.shown(NODE_ID))["connected"]

    run(scenario())


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\x00", "failed to decode websocket basic info data"),
        (b'{"type":"hello"}', "invalid basic info data type: hello"),
        (b'{"type":"basic_info"}', "missing plugins in basic info data"),
    ],
)
def test_a_first_message_that_is_none(tmp_path: Path, log: Log, payload: bytes, words: str) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            node = await KongDataPlane.dial(port.address, CONTEXT)
            await node.upgrade(UPGRADE)
            node.send(BINARY, payload)
            assert await node.until_close() == [CLOSE]
            await log.shows(words)
            assert not len(port.hub)

    run(scenario())


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("node_hostname=vm&node_version=3.9.1", "data plane didn't pass the id"),
        (f"node_id={NODE_ID}&node_hostname=vm", "data plane didn't pass the version"),
        ("node_id=1&node_hostname=vm&node_version=3.9.1", "arguments are wrong"),
    ],
)
def test_wrong_arguments_are_answered_400(tmp_path: Path, log: Log, query: str, words: str) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            node = await KongDataPlane.dial(port.address, CONTEXT)
            await node.upgrade(UPGRADE.replace(UPGRADE.split("?")[1].split(" ")[0], query))
            assert node.head.startswith("HTTP/1.1 400 ")
            await log.shows(words)

    run(scenario())


@pytest.mark.parametrize(
    "request_line", ["HEAD /v1/wrpc HTTP/1.1", "GET /v2/outlet HTTP/1.1", "GET /v1/outlet/ HTTP/1.1"]
)
def test_kongs_other_doors_are_not_there(tmp_path: Path, log: Log, request_line: str) -> None:
    """Data planes of 3.0 ask for /v1/wrpc first, and take 404 for: speak by the outlet."""

    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            node = await KongDataPlane.dial(port.address, CONTEXT)
            await node.upgrade(f"{request_line}\r\nHost: cp:8005\r\n\r\n")
            assert node.head.startswith("HTTP/1.1 404 ")

    run(scenario())


def test_a_port_that_speaks_one_protocol_alone(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = await KongDataPlane.dial(port.address, CONTEXT)
            await node.upgrade(UPGRADE)
            assert node.head.startswith("HTTP/1.1 404 ")
        async with kong_port(tmp_path, takes_own=False) as port:
            async with Node(tmp_path, port.address).running():
                await log.shows("refused 127.0.0.1")
            (await connected(port)).close()

    run(scenario())


def test_silence_ends_the_link(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with kong_port(tmp_path, clock=clock) as port:
            silent = await KongDataPlane.dial(port.address, CONTEXT)
            await silent.upgrade(UPGRADE)
            clock.now_s += GREETING_TIMEOUT_S
            port.server.tick()
            assert await silent.until_close() == [CLOSE]
            await log.shows("failed to receive websocket basic info frame: timeout")

            node = await connected(port)
            assert (await node.frame()).opcode == PONG
            clock.now_s += SILENCE_S
            port.server.tick()
            assert await node.until_close() == [CLOSE]
            await log.shows("did not receive ping frame from data plane within 45 seconds")

    run(scenario())


def test_a_data_plane_that_dials_anew_replaces_itself(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            first = await connected(port)
            await log.shows("is connected")
            second = await connected(port)
            assert CLOSE in await first.until_close()
            await log.shows("the same data plane has connected anew")
            assert len(port.hub) == 1
            second.close()

    run(scenario())


def test_many_data_planes_share_one_push(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            port.hub.publish(offering(1, **some_rows()))

            async def one(number: int) -> dict[str, Any]:
                node = await KongDataPlane.dial(port.address, CONTEXT)
                await node.upgrade(UPGRADE.replace(NODE_ID[-4:], f"{number:04d}"))
                node.send(BINARY, json.dumps(BASIC_INFO).encode())
                node.ping(ZERO)
                push = await node.push()
                node.close()
                return push

            pushes = await asyncio.gather(*map(one, range(20)))
            # Made once: even the time of making is the same.
            assert all(push == pushes[0] for push in pushes)

    run(scenario())


class _Credentials:
    """A key pair, and what is known about it now."""

    def __init__(self) -> None:
        self.tls = LinkTls.shared(loaded(gen_cert_pair()))

    def current(self) -> LinkTls:
        return self.tls


def test_a_data_plane_whose_certificate_is_revoked_is_cut(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        credentials = _Credentials()
        async with kong_port(tmp_path, credentials=credentials) as port:
            node = await connected(port)
            await log.shows("is connected")
            serial = serial_of(x509.load_der_x509_certificate(credentials.tls.pair.der))
            credentials.tls = dataclasses.replace(credentials.tls, revoked=frozenset({serial}))
            port.server.drop_revoked()
            assert CLOSE in await node.until_close()
            await log.shows(f"is disconnected: its certificate {serial} is revoked")

    run(scenario())


def test_nobody_is_served_without_a_certificate(tmp_path: Path, log: Log) -> None:
    """Where nodes may come without one, to join, they still get no configuration."""

    async def scenario() -> None:
        credentials = _Credentials()
        pair = credentials.tls.pair
        authorities = (x509.load_der_x509_certificate(pair.der),)
        credentials.tls = LinkTls("pki", pair, authorities, takes_strangers=True)
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stranger.check_hostname = False
        stranger.verify_mode = ssl.CERT_NONE
        async with kong_port(tmp_path, credentials=credentials) as port:
            port.hub.publish(routes(1, "/a"))
            node = await KongDataPlane.dial(port.address, stranger)
            await node.upgrade(UPGRADE)
            assert node.head.startswith("HTTP/1.1 403 ")
            assert BINARY not in await node.until_close()

    run(scenario())
