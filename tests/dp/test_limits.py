"""Limits that are settings or the machine's own: connections, descriptors, fields."""

from __future__ import annotations

import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from fastgw.dp.accepting import SPARE_DESCRIPTORS, connections_for
from fastgw.dp.control import ListenerKind
from tests.dp.rig import Peer, Proxy, Upstream, running
from tests.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def open_files(soft: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def exchange(client: Peer, upstream: Upstream, server: Peer | None = None) -> Peer:
    client.send(GET)
    if server is None:
        server = upstream.accept()
    server.read_head()
    server.send(OK)
    assert client.read_answer()[0] == 200
    return server


def test_idle_connections_make_room_for_new_clients() -> None:
    with running(connections=8) as (proxy, upstream):
        server = None
        idle = []
        for _ in range(30):
            client = proxy.client()
            server = exchange(client, upstream, server)
            idle.append(client)
        totals = proxy.totals()
        assert totals["connections_active"] <= 8
        assert totals["connections_refused_total"] == 0
        assert idle[-1].sock.fileno() >= 0


def test_new_clients_wait_while_all_are_busy() -> None:
    """They wait in the backlog, neither refused nor reset, and are served as soon as there is room."""
    with running(connections=4) as (proxy, upstream):
        busy = [proxy.client() for _ in range(4)]
        servers = []
        for client in busy:
            client.send(GET)
            servers.append(upstream.accept())
        wait_until(lambda: proxy.totals()["connections_busy"] == 4, 5, "four requests")
        waiting = proxy.client()
        waiting.send(GET)
        waiting.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.read_head()
        assert proxy.totals()["connections_active"] == 4
        waiting.sock.settimeout(5)
        servers[0].read_head()
        servers[0].send(OK)
        _, fields, _ = busy[0].read_answer()
        # As long as there is no room, answers give up their connections.
        assert fields["connection"] == "close"
        assert busy[0].is_closed()
        servers[0].read_head()
        servers[0].send(OK)
        assert waiting.read_answer()[0] == 200
        assert proxy.totals()["connections_refused_total"] == 0


def test_a_crowd_comes_and_goes() -> None:
    with running(connections=10) as (proxy, upstream):
        for _ in range(3):
            crowd = [proxy.client() for _ in range(50)]
            for client in crowd:
                client.close()
        wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "the crowd to leave")
        exchange(proxy.client(), upstream)


def test_a_limit_that_is_lowered_and_raised_again_while_connections_are_open() -> None:
    """Idle connections above the new limit are closed, nobody new is refused."""
    with running(connections=20) as (proxy, upstream):
        server = None
        for _ in range(10):
            server = exchange(proxy.client(), upstream, server)
        options = proxy.on_loop(lambda: proxy.server.options)
        proxy.on_loop(lambda: proxy.server.adjust(msgspec.structs.replace(options, connections=4)))
        exchange(proxy.client(), upstream, server)
        assert proxy.totals()["connections_active"] <= 4
        proxy.on_loop(lambda: proxy.server.adjust(msgspec.structs.replace(options, connections=20)))
        for _ in range(10):
            exchange(proxy.client(), upstream, server)
        totals = proxy.totals()
        assert totals["connections_active"] > 10
        assert totals["connections_refused_total"] == 0


def test_accepting_leaves_the_backlog_as_it_was_set() -> None:
    """Also when it was paused for want of room: the event loop has a default of its own."""

    def backlog() -> int:
        # The kernel tells it of a listening socket as `tcpi_sacked`; see tcp_get_info.
        facts = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
        found: int = struct.unpack_from("=28xI", facts)[0]
        return found

    with running(connections=2) as (proxy, _):
        listener = socket.create_server(("127.0.0.1", 0), backlog=77)
        assert backlog() == 77
        proxy.call(proxy.server.listen([(listener, ListenerKind())]))
        assert backlog() == 77
        crowd = [Peer(socket.create_connection(listener.getsockname())) for _ in range(2)]
        wait_until(lambda: proxy.totals()["connections_active"] == 2, 5, "two connections")
        for peer in crowd:
            peer.close()
        wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "their end")
        with Peer(socket.create_connection(listener.getsockname())).sock as sock:
            sock.sendall(b"GET /\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 400"
        assert backlog() == 77


def test_the_limit_of_open_files_is_the_limit_of_connections() -> None:
    with open_files(SPARE_DESCRIPTORS + 100):
        assert connections_for(16_384) == 50
        assert connections_for(20) == 20
    assert connections_for(20) == 20


def test_no_descriptor_left_for_an_upstream_connection() -> None:
    """Idle connections to other upstreams give theirs."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        services = [
            {"name": "svc", "host": "127.0.0.1"},
            {"name": "other", "host": "127.0.0.1", "port": other.getsockname()[1]},
        ]
        routes = [{"paths": ["/"], "service": "svc"}, {"paths": ["/other"], "service": "other"}]
        with running(services=services, routes=routes) as (proxy, upstream):
            first, second = proxy.client(), proxy.client()
            idle = exchange(first, upstream)
            wait_until(lambda: proxy.totals()["connections_active"] == 2, 5, "both clients")
            free = os.dup(0)
            os.close(free)
            with open_files(free):
                second.send(b"GET /other HTTP/1.1\r\nHost: a\r\n\r\n")
                assert idle.is_closed()
                assert accepts(proxy, other)
            sock, _ = other.accept()
            server = Peer(sock)
            server.read_head()
            server.send(OK)
            assert second.read_answer()[0] == 200
            server.close()


def accepts(proxy: Proxy, listener: socket.socket) -> bool:
    listener.settimeout(5)
    wait_until(lambda: proxy.totals()["upstream_connects_total"] >= 2, 5, "a second try")
    return True


@pytest.mark.parametrize("passes", [True, False])
def test_underscores_in_field_names(passes: bool) -> None:
    with running(underscores=passes) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX_One: 1\r\n_: 2\r\nX-Two: a_b\r\n\r\n")
        head = upstream.accept().read_head()
        assert (b"\r\nX_One: 1\r\n_: 2\r\n" in head) == passes
        assert (b"_:" in head) == passes
        assert b"\r\nX-Two: a_b\r\n" in head


@pytest.mark.parametrize("passes", [True, False])
def test_a_field_that_is_dropped_matches_no_route(passes: bool) -> None:
    routes: list[dict[str, Any]] = [
        {"name": "with", "paths": ["/with"], "headers": {"x_one": ["1"]}, "service": "svc"},
        {"name": "without", "paths": ["/"], "service": "svc"},
    ]
    with running(routes=routes, underscores=passes, debug_fields=True) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET /with HTTP/1.1\r\nHost: a\r\nX_One: 1\r\nKong-Debug: 1\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        assert client.read_answer()[1]["kong-route-name"] == ("with" if passes else "without")


def test_fields_that_are_dropped_count_against_the_limit() -> None:
    with running(underscores=False, head_fields=4) as (proxy, _):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X_One: 1\r\n" * 4 + b"\r\n")
        assert client.read_answer()[0] == 431


@pytest.mark.parametrize("sends", [True, False])
def test_the_request_id_towards_the_upstream(sends: bool) -> None:
    with running(upstream_request_id=sends) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX-Kong-Request-Id: mine\r\n\r\n")
        server = upstream.accept()
        head = server.read_head()
        assert (b"\r\nX-Kong-Request-Id: " in head) == sends
        assert b"mine" not in head
        server.send(OK)
        assert len(client.read_answer()[1]["x-kong-request-id"]) == 32


def test_headers_says_what_an_answer_tells() -> None:
    told = {
        "via",
        "x-kong-proxy-latency",
        "x-kong-upstream-latency",
        "x-kong-upstream-status",
        "x-kong-request-id",
    }
    answer = (
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nServer: up\r\nX-Kong-Upstream-Status: 999\r\n"
        b"X-Kong-Proxy-Latency: 999\r\nX-Kong-Request-Id: theirs\r\n\r\n"
    )
    for headers in (
        frozenset(),
        frozenset({"x-kong-upstream-status"}),
        frozenset(told - {"x-kong-request-id"}),
    ):
        with running(headers=headers) as (proxy, upstream):
            client = proxy.client()
            client.send(GET)
            server = upstream.accept()
            server.read_head()
            server.send(answer)
            _, fields, _ = client.read_answer()
            # What an upstream says in these names is never passed on.
            assert {name for name in fields if name in told} == headers
            assert fields["server"] == "up"
            assert fields.get("x-kong-upstream-status", "404") == "404"
            assert fields.get("x-kong-proxy-latency") != "999"


def test_the_longest_field() -> None:
    with running(field_bytes=300) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 295 + b"\r\n\r\n")
        assert b"b" * 295 in upstream.accept().read_head()
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 296 + b"\r\n\r\n")
        assert client.read_answer()[0] == 431


def test_a_line_beyond_the_limit_of_the_head_is_named_however_it_comes() -> None:
    head = b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"
    for first in (len(head), 9000, 8000):
        with running() as (proxy, _):
            client = proxy.client()
            client.send(head[:first])
            if first < len(head) and first < 8192:
                client.send(head[first:])
            assert client.read_answer()[0] == 414
