"""The cluster port on real sockets: who is let in, what is pushed and answered, who is dropped and why."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode

from fastgw.cp.cluster import ADMISSION_BURST, Admission
from fastgw.cp.storage import make_storage
from fastgw.dp.sync import Refused
from fastgw.errors import CompileError, ListenError
from fastgw.tls.cluster import LinkTls
from fastgw.wire import messages as m
from fastgw.wire.pacing import ADMITTED_PER_SECOND
from tests.cp.cluster_nodes import (
    Clock,
    Log,
    Node,
    Stranger,
    cluster_port,
    eventually,
    offering_of,
    run,
    settings_of,
)
from tests.tls.certificates import KINDS, gen_cert_pair, issued_pair, loaded, make_pair, pair_of
from tests.wire.ends import hello, packed_of


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_arrives_and_its_application_is_shown(tmp_path: Path, log: Log, kind: str) -> None:
    pair = pair_of(kind)  # takes long for openssl, and is not what has a deadline here

    async def scenario() -> None:
        async with cluster_port(tmp_path, pair) as port:
            node = Node(tmp_path, port.address, pair, cluster_dp_labels="region:eu")
            async with node.running():
                await log.shows(f"data plane dp-1 ({node.id}, 127.0.0.1) is connected")
                offering = offering_of(4, ["a", "b"])
                port.hub.publish(offering)
                await log.shows("runs version 4: decode 1.0 ms, compile 2.0 ms, store 4.0 ms, commit 3.0 ms")
                await log.shows("runs version 4, and warns: one warning")
                assert node.snapshot is not None
                assert list(node.snapshot.rows("services")) == ["a", "b"]
                shown = await port.shown(node.id)
                assert shown["ttl"] in (999, 1000)
                assert shown == shown | {
                    "id": node.id,
                    "hostname": "dp-1",
                    "ip": "127.0.0.1",
                    "config_hash": offering.digest[:32],
                    "version": "0.1.0",
                    "sync_status": "normal",
                    "labels": {"region": "eu"},
                    "cert_details": {"expiry_timestamp": int(loaded(pair).not_after.timestamp())},
                    "applied_version": 4,
                    "wanted_version": 4,
                    "last_error": None,
                    "connected": True,
                }
            await eventually(lambda: not len(port.hub), "the data plane's leaving")
            assert (await port.shown(node.id))["connected"] is False

    run(scenario())


def test_even_the_empty_configuration_is_pushed_to_a_fresh_data_plane(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            port.hub.publish(offering_of(0, []))
            node = Node(tmp_path, port.address)
            async with node.running():
                await eventually(lambda: node.state.digest == "0" * 64, "the empty configuration")

    run(scenario())


def test_what_runs_already_is_confirmed_and_not_sent(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            port.hub.publish(offering_of(4, ["a"]))
            async with node.running():
                await eventually(lambda: node.state.version == 4, "version 4")
            node.seen.clear()
            port.hub.publish(offering_of(6, ["a"]))
            async with node.running():
                await eventually(lambda: node.sync.status.confirmed_version == 6, "the confirmation")
                assert node.seen == []
                assert (await port.shown(node.id))["applied_version"] == 6

    run(scenario())


def test_large_configurations_arrive_whole(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                large = offering_of(1, [str(number) for number in range(3)], os.urandom(1_000_000))
                assert len(packed_of(large)) > 8 * m.CHUNK_BYTES
                port.hub.publish(large)
                await eventually(lambda: node.state.digest == large.digest, "the large one", 10)

    run(scenario())


def test_a_slow_data_plane_gets_the_newest_and_nothing_between(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            slow, quick = Node(tmp_path, port.address), Node(tmp_path, port.address)
            slow.may_apply.clear()
            async with slow.running(), quick.running():
                await eventually(lambda: len(port.hub) == 2, "two data planes")
                for version in range(1, 21):
                    port.hub.publish(offering_of(version, [str(version)]))
                    await eventually(lambda: quick.state.version == version, "the quick one")  # noqa: B023
                assert slow.seen == [1]
                shown = await port.shown(slow.id)
                assert (shown["applied_version"], shown["wanted_version"]) == (0, 20)
                slow.may_apply.set()
                await eventually(lambda: slow.state.version == 20, "the slow one")
                assert slow.seen == [1, 20]

    run(scenario())


@pytest.mark.parametrize(
    "refusal",
    [
        Refused(2, [{"entity": "services", "id": "a", "field": "host", "reason": "too odd"}]),
        CompileError([{"entity": "services", "id": "a", "field": "host", "reason": "too odd"}]),
    ],
)
def test_a_refusal_is_shown_with_its_reasons_until_the_next_success(
    tmp_path: Path, log: Log, refusal: Refused | CompileError
) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                port.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: node.state.version == 1, "version 1")
                node.refusal = refusal
                port.hub.publish(offering_of(2, ["b"]))
                line = await log.shows("stays with version 1")
                assert "version 2 is refused: services a host: too odd" in line
                shown = await port.shown(node.id)
                assert (shown["applied_version"], shown["wanted_version"]) == (1, 2)
                assert shown["last_error"] == "version 2 is refused: services a host: too odd"
                node.refusal = None
                port.hub.publish(offering_of(3, ["c"]))
                await eventually(lambda: node.state.version == 3, "version 3")
                await log.shows("runs version 3")
                assert (await port.shown(node.id))["last_error"] is None
                assert node.seen == [1, 2, 3]

    run(scenario())


def test_a_crash_while_applying_is_a_refusal(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            node.refusal = ZeroDivisionError("oops")
            async with node.running():
                port.hub.publish(offering_of(1, ["a"]))
                await log.shows("version 1 is refused: a fault of the data plane's own: ZeroDivisionError")
                await log.shows("version 1 could not be applied")

    run(scenario())


def test_more_than_the_data_plane_takes_is_not_sent(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address, cluster_max_payload=str(4 << 20))
            port.hub.publish(offering_of(1, ["1", "2", "3"], os.urandom(1_600_000)))
            async with node.running():
                await log.shows("version 1 is not sent")
                assert "cluster_max_payload" in (await port.shown(node.id))["last_error"]
                assert node.seen == []

    run(scenario())


def test_states_reach_the_storage_in_one_go_per_second(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                for version in (1, 2, 3):
                    port.hub.publish(offering_of(version, [str(version)]))
                await eventually(lambda: node.state.version == 3, "version 3")

                async def stored() -> bool:
                    rows, _ = await port.storage.list_data_planes(10)
                    return [(row.id, row.applied_version) for row in rows] == [(node.id, 3)]

                await eventually(stored, "the row")
                assert await port.storage.version() == 0
        storage = make_storage(settings_of("control_plane", tmp_path, gen_cert_pair()))
        await storage.open()
        (row,), _ = await storage.list_data_planes(10)
        assert (row.applied_version, row.connected) == (3, False)
        await storage.close()

    run(scenario())


def test_who_is_refused_after_its_hello_is_told_why(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, cluster_id="one") as port:
            stranger = await Stranger.connect(port.address)
            await stranger.upgrade()
            stranger.send(hello(cluster_id="two"))
            assert isinstance(m.decode_to_data_plane(await stranger.next_message()), m.Welcome)
            bye = m.decode_to_data_plane(await stranger.next_message())
            assert isinstance(bye, m.Bye)
            assert "belongs to the cluster two, and this control plane is of one" in bye.reason
            rude = await Stranger.connect(port.address)
            await rude.upgrade()
            rude.send(m.Ping(version=0, digest=""))
            bye = m.decode_to_data_plane(await rude.next_message())
            assert isinstance(bye, m.Bye)
            assert bye.is_refusal

    run(scenario())


def test_a_second_link_of_the_same_data_plane_replaces_the_first(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            first = await Stranger.connect(port.address)
            await first.upgrade(greet=True)
            second = await Stranger.connect(port.address)
            await second.upgrade(greet=True)
            bye = m.decode_to_data_plane(await first.next_message())
            assert bye == m.Bye(reason="the same data plane has connected anew")
            await first.ended()
            assert len(port.hub) == 1
            second.send(m.Ping(version=0, digest=""))
            assert m.decode_to_data_plane(await second.next_message()) == m.Pong()

    run(scenario())


# Who is not let in.


def plain_client() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def client_with_another_certificate() -> ssl.SSLContext:
    context = plain_client()
    with loaded(issued_pair()).as_paths() as paths:
        context.load_cert_chain(*paths)
    return context


def client_with_an_expired_certificate() -> ssl.SSLContext:
    context = plain_client()
    pair = make_pair(from_days=-3, until_days=-1)
    return _with_unchecked(context, pair.certificate_pem, pair.key_pem)


def _with_unchecked(context: ssl.SSLContext, certificate: bytes, key: bytes) -> ssl.SSLContext:
    fd = os.memfd_create("pair")
    os.write(fd, certificate + key)
    context.load_cert_chain(f"/proc/self/fd/{fd}")
    os.close(fd)
    return context


def old_client() -> ssl.SSLContext:
    context = LinkTls.shared(loaded(gen_cert_pair())).client_context
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


@pytest.mark.parametrize(
    ("client", "reason"),
    [
        (plain_client, "the peer presented no certificate"),
        (client_with_another_certificate, "the peer's certificate is another one than cluster_cert"),
        (client_with_an_expired_certificate, "the peer's certificate is another one than cluster_cert"),
        (old_client, "the peer speaks no TLS version that is allowed here"),
    ],
)
def test_refusals_say_which_check_failed(tmp_path: Path, log: Log, client: object, reason: str) -> None:
    async def scenario() -> None:
        assert callable(client)
        async with cluster_port(tmp_path) as port:
            try:
                stranger = await Stranger.connect(port.address, client())
            except (ssl.SSLError, ConnectionError):
                pass
            else:
                with pytest.raises((ssl.SSLError, AssertionError)):
                    await stranger.upgrade()
            line = await log.shows("refused 127.0.0.1:")
            assert reason in line
            assert "[warn]" in line
            assert len(port.hub) == 0

    run(scenario())


def test_what_speaks_no_tls_is_refused(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            host, _, number = port.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(number))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert await reader.read() == b"" or reader.at_eof()
            assert "does not speak TLS" in await log.shows("refused 127.0.0.1:")
            writer.close()

    run(scenario())


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (m.LINK_PATH, 101),
        (m.LINK_PATH + "?node=1", 101),
        ("/v1/wrpc", 404),
        ("/v1/outlet", 404),
        ("/v2/outlet", 404),
        ("/", 404),
        (m.LINK_PATH + "/", 404),
    ],
)
def test_paths(tmp_path: Path, log: Log, path: str, status: int) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            stranger = await Stranger.connect(port.address)
            assert (await stranger.upgrade(path)).status_code == status
            if status == 404:
                assert await stranger.ended() == []
                assert f"nothing is served at '{path}'" in await log.shows("refused 127.0.0.1:")

    run(scenario())


def test_kongs_probe_gets_its_404(tmp_path: Path, log: Log) -> None:
    """Kong 3.0's data planes ask with HEAD, and take anything but 404 for an invitation."""

    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            stranger = await Stranger.connect(port.address)
            stranger.write(b"HEAD /v1/wrpc HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await stranger._read()
            assert answer.startswith(b"HTTP/1.1 404 ")

    run(scenario())


@pytest.mark.parametrize("subprotocol", [None, "something-else"])
def test_the_subprotocol_is_required(tmp_path: Path, log: Log, subprotocol: str | None) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            stranger = await Stranger.connect(port.address)
            assert (await stranger.upgrade(subprotocol=subprotocol)).status_code == 400
            assert "subprotocol" in await log.shows("refused 127.0.0.1:")

    run(scenario())


def test_no_extension_is_agreed_on(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            stranger = await Stranger.connect(port.address)
            response = await stranger.upgrade()
            assert response.headers["Sec-WebSocket-Protocol"] == m.SUBPROTOCOL
            assert "Sec-WebSocket-Extensions" not in response.headers

    run(scenario())


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([Frame(Opcode.TEXT, b"hello")], "text or fragments"),
        ([Frame(Opcode.BINARY, b"x", fin=False)], "text or fragments"),
        ([Frame(Opcode.BINARY, b"junk")], "no message of a data plane"),
        ([Frame(Opcode.BINARY, bytes(m.MESSAGE_LIMIT_BYTES + 1))], "exceeds limit of"),
        ([Frame(Opcode.BINARY, m.encode(m.Ping(version=0, digest="")))], "ping in state greeting"),
        ([Frame(Opcode.BINARY, m.encode(hello()))] * 2, "hello in state idle"),
    ],
)
def test_broken_rules_end_the_link(tmp_path: Path, log: Log, frames: list[Frame], reason: str) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            stranger = await Stranger.connect(port.address)
            await stranger.upgrade()
            for frame in frames:
                stranger.websocket.send_frame(frame)
            await stranger.ended()
            await log.shows(reason)
            await eventually(lambda: not port.server.sessions, "the session's end")
            assert len(port.hub) == 0

    run(scenario())


def test_websocket_pings_are_answered_and_are_no_messages(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            stranger = await Stranger.connect(port.address)
            await stranger.upgrade(greet=True)
            stranger.websocket.send_ping(b"12345")
            frame = await stranger.next_event()
            assert (frame.opcode, bytes(frame.data)) == (Opcode.PONG, b"12345")
            assert len(port.hub) == 1

    run(scenario())


# Deadlines, on a clock of the test's own.


def test_a_silent_data_plane_is_dropped_after_45_seconds(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with cluster_port(tmp_path, clock=clock) as port:
            stranger = await Stranger.connect(port.address)
            await stranger.upgrade(greet=True)
            clock.now_s += 44
            port.server.tick()
            stranger.send(m.Ping(version=0, digest=""))
            assert m.decode_to_data_plane(await stranger.next_message()) == m.Pong()
            clock.now_s += 44
            port.server.tick()
            assert len(port.hub) == 1
            clock.now_s += 1
            port.server.tick()
            assert len(port.hub) == 0
            bye = m.decode_to_data_plane(await stranger.next_message())
            assert bye == m.Bye(reason="silent for 45 s", is_refusal=True)
            await stranger.ended()
            await log.shows("is disconnected: silent for 45 s")

    run(scenario())


def test_silence_before_the_upgrade_and_before_the_hello_has_a_deadline(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with cluster_port(tmp_path, clock=clock) as port:
            mute = await Stranger.connect(port.address)
            await eventually(lambda: len(port.server.sessions) == 1, "a session")
            clock.now_s += 5
            port.server.tick()
            assert await mute.ended() == []
            await log.shows("no upgrade to websocket within 5 s")

            shy = await Stranger.connect(port.address)
            await shy.upgrade()
            clock.now_s += 10
            port.server.tick()
            await shy.ended()
            await log.shows("said no Hello within 10 s")

    run(scenario())


def test_a_silent_control_plane_is_left_after_45_seconds(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address, clock=clock)
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link")
                clock.now_s += 45
                connection = node.sync._connection
                assert connection is not None
                connection.tick()
                await log.shows("the control plane is silent for 45 s; next try in")

    run(scenario())


def test_a_real_heartbeat_moves_last_seen(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, heartbeat_s=0.2) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the link")
                first = (await port.shown(node.id))["last_seen"]

                async def moved() -> bool:
                    return bool((await port.shown(node.id))["last_seen"] > first)

                await eventually(moved, "a later last_seen")
                assert len(port.hub) == 1

    run(scenario())


# Admission.


def test_admission_lets_in_a_burst_and_then_so_many_per_second() -> None:
    clock = Clock()
    admission = Admission(ADMITTED_PER_SECOND, ADMISSION_BURST, clock)
    assert sum(admission.admit() for _ in range(1000)) == ADMISSION_BURST
    clock.now_s += 1
    assert sum(admission.admit() for _ in range(1000)) == ADMITTED_PER_SECOND
    clock.now_s += 0.05
    assert sum(admission.admit() for _ in range(1000)) == 1
    clock.now_s += 3600
    assert sum(admission.admit() for _ in range(1000)) == ADMISSION_BURST


def test_beyond_the_rate_connections_are_closed_before_their_handshake(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with cluster_port(tmp_path, clock=clock) as port:
            host, _, number = port.address.rpartition(":")
            for _ in range(ADMISSION_BURST):
                _, writer = await asyncio.open_connection(host, int(number))
                writer.close()
            reader, writer = await asyncio.open_connection(host, int(number))
            assert await reader.read() == b""
            writer.close()
            await log.shows("refused 127.0.0.1:")
            await log.shows("too many at once")
            clock.now_s += 1
            stranger = await Stranger.connect(port.address)
            await stranger.upgrade(greet=True)

    run(scenario())


def test_a_taken_port_is_named(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path / "one") as port:
            with pytest.raises(ListenError, match=f"cluster_listen {port.address}: the port is taken"):
                async with cluster_port(tmp_path / "two", listen=port.address):
                    raise AssertionError("two servers on one port")

    run(scenario())
