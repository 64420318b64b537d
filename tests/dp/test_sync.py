"""The data plane's link to a real cluster port: broken, refused, and dialled again."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from fastgw.dp import connecting, connection, enrolment
from fastgw.dp.sync import AppliedState
from fastgw.errors import RemoteLinkError
from fastgw.tls.cluster import FixedCredentials, LinkTls
from fastgw.wire.pacing import HEALTHY_AFTER_S
from tests.cp.cluster_nodes import Clock, Log, Node, cluster_port, eventually, offering_of, run
from tests.tls.certificates import gen_cert_pair, issued_pair, loaded
from tests.waiting import free_port

PROMISE_S = 12.0


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


@asynccontextmanager
async def something_else(answer: bytes | None, *, over_tls: bool = True) -> AsyncIterator[str]:
    """A port on which no control plane listens: it answers anything with the same bytes, or never."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1 << 16)
            if answer is not None:
                writer.write(answer)
                await writer.drain()
            await reader.read()
        except OSError:
            pass
        finally:
            writer.close()

    context = LinkTls.shared(loaded(gen_cert_pair())).server_context if over_tls else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def addressed(*addresses: str) -> list[Any]:
    """What a resolver answers for a name that has these."""
    split = [address.rpartition(":") for address in addresses]
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, int(port))) for host, _, port in split]


def test_the_link_comes_back_soon_after_the_port_accepts(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        address = f"127.0.0.1:{free_port()}"
        node = Node(tmp_path, address, draw=lambda: 0.5)
        async with node.running():
            line = await log.shows("no link to")
            assert re.search(rf"no link to {address}: cannot connect: .*refused; next try in 0\.5 s", line)
            assert node.sync.status.is_connected is False
            assert node.sync.status.last_error is not None
            async with cluster_port(tmp_path, listen=address) as port:
                accepts_at = time.monotonic()
                port.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: node.state.version == 1, "version 1", PROMISE_S)
                assert time.monotonic() - accepts_at < PROMISE_S
                assert node.sync.status.is_connected
                assert node.sync.status.retry_at_s is None
            await log.shows("the control plane ended the link: the control plane is shutting down; next try")
            assert not node.sync.status.is_connected
            async with cluster_port(tmp_path, listen=address) as port:
                port.hub.publish(offering_of(2, ["b"]))
                await eventually(lambda: node.state.version == 2, "version 2", PROMISE_S)

    run(scenario())


def test_delays_grow_until_the_link_has_been_healthy_for_a_minute(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        clock = Clock()
        waits: list[str] = []

        async def breaks(port: Any, how_often: int) -> None:
            for _ in range(how_often):
                await eventually(lambda: len(port.hub) == 1, "the link")
                count = log.text().count("next try in")
                next(iter(port.server.sessions)).close("test")
                await eventually(lambda: log.text().count("next try in") > count, "the break")  # noqa: B023
            waits[:] = re.findall(r"next try in (\S+) s", log.text())

        async with cluster_port(tmp_path) as port:
            # A tenth of the ceiling, so that the test need not wait.
            node = Node(tmp_path, port.address, clock=clock, draw=lambda: 0.1)
            async with node.running():
                await breaks(port, 4)
                assert waits == ["0.1", "0.2", "0.4", "0.6"]
                await eventually(lambda: node.sync.status.is_connected, "the link")
                clock.now_s += HEALTHY_AFTER_S
                await breaks(port, 1)
                assert waits[4:] == ["0.1"]

    run(scenario())


def test_the_name_is_resolved_afresh_at_each_try(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On asyncio's own loop, whose resolver can be led: first nowhere, then to nobody, then to the port."""

    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            answers: list[list[Any]] = [
                [],
                addressed(f"127.0.0.1:{free_port()}"),
                # The first address refuses; the second takes us.
                addressed(f"127.0.0.1:{free_port()}", port.address),
            ]
            asked = []

            def resolve(name: str, *_: Any, **__: Any) -> list[Any]:
                asked.append(name)
                if answer := answers.pop(0):
                    return answer
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

            node = Node(tmp_path, "cp.example:8005", draw=lambda: 0.01)
            monkeypatch.setattr(socket, "getaddrinfo", resolve)
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link")
                assert asked == ["cp.example"] * 3
                await log.shows("the name cp.example does not resolve: Name or service not known; next try")
            monkeypatch.undo()

    run(scenario(), asyncio.new_event_loop)


@pytest.mark.parametrize(
    ("answer", "over_tls", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True, "answered 404: it speaks neither"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, "no websocket was opened: .*200"),
        (b"junk\r\n\r\n", True, "no websocket was opened"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "the peer does not speak TLS"),
        (None, True, "the control plane did not upgrade within 0.3 s"),
        (None, False, "no connection within 0.4 s"),
    ],
)
def test_what_is_no_control_plane_is_left_with_a_reason(
    tmp_path: Path,
    log: Log,
    monkeypatch: pytest.MonkeyPatch,
    answer: bytes | None,
    over_tls: bool,
    reason: str,
) -> None:
    monkeypatch.setattr(connection, "UPGRADE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 0.4)

    async def scenario() -> None:
        async with something_else(answer, over_tls=over_tls) as address:
            node = Node(tmp_path, address)
            async with node.running():
                line = await log.shows("next try in")
                assert re.search(reason, line), line

    run(scenario())


def test_a_control_plane_with_another_pair_is_refused(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path, issued_pair()) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                assert "another one than cluster_cert" in await log.shows("next try in")

    run(scenario())


def test_being_refused_for_our_certificate_is_told_in_words(tmp_path: Path, log: Log) -> None:
    """By a server that says so: with TLS 1.3, after our side of the handshake is over."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=loaded(issued_pair()).der)
    with loaded(gen_cert_pair()).as_paths() as paths:
        context.load_cert_chain(*paths)
    listener = socket.create_server(("127.0.0.1", 0))

    def refuse() -> None:
        connection, _ = listener.accept()
        with connection, pytest.raises(ssl.SSLError):
            context.wrap_socket(connection, server_side=True)

    async def scenario() -> None:
        refusing = asyncio.get_running_loop().run_in_executor(None, refuse)
        node = Node(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}", draw=lambda: 0.9)
        async with node.running():
            assert "the peer refuses our certificate" in await log.shows("next try in")
        await refusing

    with listener:
        run(scenario())


def test_being_refused_is_told_by_an_alert(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            tls = LinkTls.shared(loaded(gen_cert_pair()))
            with loaded(issued_pair()).as_paths() as paths:
                tls.client_context.load_cert_chain(*paths)
            node = Node(tmp_path, port.address, credentials=FixedCredentials(tls))
            async with node.running():
                line = await log.shows("next try in")
                assert "the peer refuses our certificate: its cluster_cert is another one" in line

    run(scenario())


@pytest.mark.parametrize("host", ["cp-1..example.com", ".cp", f"{'a' * 64}.example.com"])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_can_be_no_name_is_a_reason_like_any_other(host: str, loop_factory: Callable[[], Any]) -> None:
    async def scenario() -> None:
        tls = LinkTls.shared(loaded(gen_cert_pair()))
        with pytest.raises(RemoteLinkError, match=f"{host} cannot be asked for: "):
            await connecting.connect(f"{host}:8005", tls, asyncio.Protocol)
        with pytest.raises(RemoteLinkError, match=f"{host} cannot be asked for: "):
            await enrolment.renew(f"{host}:8005", tls)

    run(scenario(), loop_factory)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_address_without_tls_does_not_hide_the_next_one(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch, answer: bytes | None
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_S", 4.0 if answer is None else 20.0)

    async def scenario() -> None:
        async with something_else(answer, over_tls=False) as first, cluster_port(tmp_path) as port:
            node = Node(tmp_path, "cp.example:8005", draw=lambda: 0.01)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addressed(first, port.address))
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link", 15)
                assert node.sync.status.last_error is None
            monkeypatch.undo()

    run(scenario(), asyncio.new_event_loop)


def test_an_address_that_does_not_link_has_others_begin(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with something_else(b"junk\r\n\r\n") as first, cluster_port(tmp_path) as port:
            draws = itertools.cycle((0.01, 0.02, 0.6))  # the first address, a delay, the second address
            node = Node(tmp_path, "cp.example:8005", draw=lambda: next(draws))
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addressed(first, port.address))
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link")
                assert "no websocket was opened" in (node.sync.status.last_error or "")
            monkeypatch.undo()

    run(scenario(), asyncio.new_event_loop)


def test_credentials_that_cannot_be_used_are_a_reason_like_any_other() -> None:
    async def scenario() -> None:
        mixed = LinkTls.shared(replace(loaded(gen_cert_pair()), key_pem=loaded(issued_pair()).key_pem))
        with pytest.raises(RemoteLinkError, match="OpenSSL refuses it"):
            await connecting.connect("127.0.0.1:1", mixed, asyncio.Protocol)

    run(scenario())


def test_a_fault_of_our_own_is_a_try_that_failed(tmp_path: Path, log: Log) -> None:
    class Broken:
        def __init__(self) -> None:
            self.is_broken = True

        def current(self) -> LinkTls:
            if self.is_broken:
                self.is_broken = False
                raise AssertionError("nobody has thought of this")
            return LinkTls.shared(loaded(gen_cert_pair()))

    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address, credentials=Broken(), draw=lambda: 0.01)
            async with node.running():
                await eventually(lambda: node.sync.status.is_connected, "the link")
            await log.shows(
                "a fault of the data plane's own: AssertionError('nobody has thought of this'); next"
            )
            await log.shows("Traceback")

    run(scenario())


def test_an_apply_outlives_its_link_and_the_next_link_is_told(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address, draw=lambda: 0.01)
            node.may_apply.clear()
            async with node.running():
                port.hub.publish(offering_of(1, ["a"]))
                await eventually(lambda: node.seen == [1], "the apply's beginning")
                next(iter(port.server.sessions)).close("test")
                await eventually(lambda: len(port.hub) == 0, "the break")
                await eventually(lambda: len(port.hub) == 1, "the new link")
                assert (await port.shown(node.id))["applied_version"] == 0
                node.may_apply.set()

                async def told() -> bool:
                    return bool((await port.shown(node.id))["applied_version"] == 1)

                await eventually(told, "the report")
                assert node.seen == [1]
                port.hub.publish(offering_of(2, ["b"]))
                await eventually(lambda: node.state.version == 2, "version 2")

    run(scenario())


def test_only_the_newest_waits_while_one_is_applied(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address, draw=lambda: 0.01)
            node.may_apply.clear()
            async with node.running():
                for version in (1, 2, 3):
                    port.hub.publish(offering_of(version, [str(version)]))
                    await eventually(lambda: node.sync.status.received_version == version, "arrival")  # noqa: B023
                    await eventually(lambda: node.seen == [1], "the apply's beginning")
                    next(iter(port.server.sessions)).close("test")
                    await eventually(lambda: len(port.hub) == 0, "the break")
                node.may_apply.set()
                await eventually(lambda: node.state.version == 3, "version 3")
                assert node.seen == [1, 3]

    run(scenario())


def test_a_goodbye_is_said_when_it_ends(tmp_path: Path, log: Log) -> None:
    async def scenario() -> None:
        async with cluster_port(tmp_path) as port:
            node = Node(tmp_path, port.address)
            async with node.running():
                await eventually(lambda: len(port.hub) == 1, "the link")
            await log.shows("is disconnected: the data plane ended the link: the data plane is shutting down")
            assert node.state == AppliedState(0, "")

    run(scenario())
