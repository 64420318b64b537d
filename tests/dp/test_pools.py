"""Pools of upstream connections, and how often connections are used: sizes, idle times, counts, their end."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dp.rig import DEADLINE_S, Peer, Proxy, Upstream, image_of, running
from tests.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answer(server: Peer, client: Peer) -> None:
    server.read_head()
    server.send(OK)
    assert client.read_answer()[0] == 200


def at_once(proxy: Proxy, upstream: Upstream, count: int) -> list[Peer]:
    """Have *count* exchanges in progress at the same moment; returns the upstream's ends, by age."""
    clients = [proxy.client() for _ in range(count)]
    servers = []
    for client in clients:
        client.send(GET)
        servers.append(upstream.accept())
    for server, client in zip(servers, clients, strict=True):
        answer(server, client)
    return servers


def test_the_pool_holds_so_many_and_drops_the_oldest() -> None:
    with running(upstream_idle_connections=2) as (proxy, upstream):
        servers = at_once(proxy, upstream, 4)
        assert servers[0].is_closed()
        assert servers[1].is_closed()
        client = proxy.client()
        client.send(GET)
        answer(servers[3], client)
        assert proxy.totals()["upstream_connects_total"] == 4


def test_the_newest_is_used_first_so_that_a_pool_shrinks() -> None:
    with running(upstream_idle_timeout_ms=600) as (proxy, upstream):
        servers = at_once(proxy, upstream, 3)
        client = proxy.client()

        def is_closed(server: Peer) -> bool:
            client.send(GET)
            answer(servers[2], client)
            server.sock.setblocking(False)
            try:
                return server.sock.recv(1) == b""
            except BlockingIOError:
                return False

        # One connection carries the load; the others expire beside it.
        wait_until(lambda: is_closed(servers[0]), DEADLINE_S, "the oldest to expire")
        wait_until(lambda: is_closed(servers[1]), DEADLINE_S, "the other to expire")
        assert proxy.totals()["upstream_connects_total"] == 3


@pytest.mark.parametrize(
    ("options", "connects"), [({"upstream_idle_connections": 0}, 3), ({"upstream_keepalive_requests": 2}, 2)]
)
def test_connections_are_used_so_often(options: dict[str, Any], connects: int) -> None:
    with running(**options) as (proxy, upstream):
        client = proxy.client()
        servers: list[Peer] = []
        for turn in range(3):
            client.send(GET)
            if not servers or turn == 2 or connects == 3:
                servers.append(upstream.accept())
            answer(servers[-1], client)
        assert proxy.totals()["upstream_connects_total"] == connects
        assert servers[0].is_closed()


def test_a_client_may_ask_so_often_on_one_connection() -> None:
    with running(keepalive_requests=2) as (proxy, upstream):
        client = proxy.client()
        client.send(GET * 3)
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        assert client.read_answer()[1]["connection"] == "keep-alive"
        server.read_head()
        server.send(OK)
        assert client.read_answer()[1]["connection"] == "close"
        assert client.is_closed()
        assert proxy.totals()["requests_total"] == 2


def test_the_pool_of_a_service_that_is_gone_closes_what_is_idle() -> None:
    with running(upstream_retire_ms=50) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        answer(server, client)
        proxy.apply(image_of([], []))
        assert server.is_closed()


def test_what_a_generation_decoded_goes_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastgw.dp.server._RELEASED_PER_TURN", 1)
    with running(upstream_retire_ms=50) as (proxy, upstream):
        hosts = ("127.0.0.1", "localhost")
        services = [{"name": host, "host": host, "port": upstream.port} for host in hosts]
        proxy.apply(image_of(services, [{"paths": [f"/{host}"], "service": host} for host in hosts]))
        servers = []
        client = proxy.client()
        for host in hosts:
            client.send(b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % host.encode())
            servers.append(upstream.accept())
            answer(servers[-1], client)
        proxy.apply(image_of([], []))
        assert all(server.is_closed() for server in servers)


def test_a_pool_outlives_generations_that_have_its_service() -> None:
    with running(upstream_retire_ms=300) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        answer(server, client)
        for name in ("svc", "other"):
            services = [{"name": name, "host": "127.0.0.1", "port": upstream.port}]
            proxy.apply(image_of(services, [{"paths": ["/"], "service": name}]))
            client.send(GET)
            answer(server, client)
        # Nobody wants it any more, then somebody does again, in time.
        proxy.apply(image_of([], []))
        proxy.apply(image_of(services, [{"paths": ["/"], "service": name}]))
        client.send(GET)
        answer(server, client)
        assert proxy.totals()["upstream_connects_total"] == 1


def test_many_requests_in_one_read_are_answered_in_their_order() -> None:
    count = 3000
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(count)))
        server = upstream.accept()
        for number in range(count):
            assert server.read_head().startswith(b"GET /%d HTTP/1.1\r\n" % number)
            # One at a time: the next is not sent before the answer.
            assert server.unread == b""
            server.send(OK)
            assert client.read_answer()[2] == b"ok"
