"""Upgrade to websocket: a tunnel once the upstream has answered 101, and an ordinary request until then."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
import websockets

from fastgw.obs.accesslog import AccessLog
from tests.dp.rig import Peer, Proxy, Upstream, running
from tests.waiting import wait_until

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
GRANT = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
SHORT = {"name": "svc", "host": "127.0.0.1", "read_timeout": 200, "write_timeout": 200}


def open_tunnel(proxy: Proxy, upstream: Upstream) -> tuple[Peer, Peer]:
    client = proxy.client()
    client.send(UPGRADE)
    server = upstream.accept()
    server.read_head()
    server.send(GRANT)
    client.read_head()
    return client, server


def test_bytes_go_both_ways() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(UPGRADE)
        server = upstream.accept()
        head = server.read_head()
        assert b"\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" in head
        server.send(GRANT + b"first")
        answer = client.read_head()
        assert answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in answer
        assert b"\r\nSec-WebSocket-Accept: x\r\n" in answer
        assert b"Content-Length" not in answer
        assert b"Transfer-Encoding" not in answer
        assert client.read_exactly(5) == b"first"
        for number in range(50):
            client.send(b"from client %d" % number)
            assert server.read_exactly(len(b"from client %d" % number)) == b"from client %d" % number
            server.send(b"from server %d" % number)
            assert client.read_exactly(len(b"from server %d" % number)) == b"from server %d" % number


def test_a_real_client_and_a_real_server() -> None:
    async def echo(connection: Any) -> None:
        async for message in connection:
            await connection.send(message)

    async def talk() -> None:
        async with websockets.serve(echo, "127.0.0.1", 0, max_size=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            with running(services=[{"name": "svc", "host": "127.0.0.1", "port": port}]) as (proxy, _):
                uri = f"ws://127.0.0.1:{proxy.port}/ws"
                async with websockets.connect(uri, max_size=None) as client:
                    for size in (0, 1, 126, 70_000, 3_000_000):
                        await client.send(b"x" * size)
                        assert await client.recv() == b"x" * size
                assert client.close_code == 1000

    asyncio.run(talk())


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.0 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
def test_a_101_that_grants_something_else_is_malformed(answer: bytes) -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(UPGRADE)
        server = upstream.accept()
        server.read_head()
        server.send(answer)
        assert client.read_answer()[0] == 502
        assert server.is_closed()


def test_a_refusal_is_an_ordinary_answer() -> None:
    """Until the 101 what follows is the next request, and never a tunnel (CVE-2026-2833's class)."""
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(UPGRADE + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.sock.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.read_exactly(1)
        server.sock.settimeout(5)
        server.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
        assert client.read_answer()[::2] == (403, b"no")
        assert server.read_head().startswith(b"GET /next HTTP/1.1\r\nHost: 127.0.0.1")
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert client.read_answer()[0] == 200


def test_bytes_that_came_before_the_101_go_through_afterwards() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(UPGRADE + b"early")
        server = upstream.accept()
        assert server.read_head().endswith(b"\r\n\r\n")
        assert server.unread == b""
        server.send(GRANT)
        client.read_head()
        assert server.read_exactly(5) == b"early"
        client.send(b"late")
        assert server.read_exactly(4) == b"late"


@pytest.mark.parametrize("who", ["client", "server"])
@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_either_end_ends_both(who: str, how: str) -> None:
    with running() as (proxy, upstream):
        client, server = open_tunnel(proxy, upstream)
        ending, other = (client, server) if who == "client" else (server, client)
        payload = b"last words" * 50_000
        ending.send(payload)
        if how == "close":
            ending.close()
        else:
            ending.sock.shutdown(socket.SHUT_WR)
        assert other.read_to_end() == payload
        wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "the tunnel's end")
        assert proxy.totals()["connections_busy"] == 0


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_breaks_both(who: str) -> None:
    with running() as (proxy, upstream):
        client, server = open_tunnel(proxy, upstream)
        (client if who == "client" else server).reset()
        assert (server if who == "client" else client).is_closed()
        wait_until(lambda: proxy.totals()["connections_busy"] == 0, 5, "the tunnel's end")


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_slow_reader_slows_the_other_side_down(who: str) -> None:
    total = 64 * 1024 * 1024
    with running() as (proxy, upstream):
        client, server = open_tunnel(proxy, upstream)
        sender = client if who == "client" else server
        sender.sock.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < total:
                sent += sender.sock.send(b"x" * 65536)
        assert sent < total // 2
        # And it goes on where it stopped.
        reader = server if who == "client" else client
        left = sent
        while left:
            left -= len(reader.sock.recv(min(left, 1 << 20)))
        sender.sock.settimeout(5)
        sender.send(b"more")
        assert reader.read_exactly(4) == b"more"


def test_a_tunnel_in_which_nothing_moves_ends() -> None:
    with running(services=[dict(SHORT)]) as (proxy, upstream):
        client, server = open_tunnel(proxy, upstream)
        for _ in range(8):
            # Bytes in one direction are enough to keep it.
            client.send(b"x")
            assert server.read_exactly(1) == b"x"
            server.sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                server.read_exactly(1)
            server.sock.settimeout(5)
        assert client.is_closed()
        assert server.is_closed()


def test_a_tunnel_that_one_side_does_not_read_ends() -> None:
    with running(services=[dict(SHORT)], send_timeout_ms=200) as (proxy, upstream):
        _, server = open_tunnel(proxy, upstream)

        def is_broken() -> bool:
            try:
                server.send(b"x" * 1_000_000)
            except ConnectionError:
                return True
            return False

        wait_until(is_broken, 5, "the tunnel to break")


def test_status_latencies_and_bytes_are_counted_at_the_end(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "access.log"))
    with running(access_log=log) as (proxy, upstream):
        client, server = open_tunnel(proxy, upstream)
        client.send(b"x" * 1000)
        server.read_exactly(1000)
        server.send(b"y" * 5000)
        client.read_exactly(5000)
        assert not any(route["codes"] for route in proxy.routes())
        client.close()
        wait_until(lambda: proxy.totals()["connections_busy"] == 0, 5, "the tunnel's end")
        (route,) = proxy.routes()
        assert route["codes"] == {(101, 0): 1}
        assert route["bytes_in"] == len(UPGRADE) + 1000
        assert route["bytes_out"] > 5000
    log.close()
    assert '"GET /ws HTTP/1.1" 101 ' in (tmp_path / "access.log").read_text()


def test_draining_leaves_tunnels_their_grace() -> None:
    with running() as (proxy, upstream):
        client, server = open_tunnel(proxy, upstream)
        proxy.loop.call_soon_threadsafe(lambda: proxy.loop.create_task(proxy.server.drain(0.5)))
        client.send(b"still")
        assert server.read_exactly(5) == b"still"
        server.send(b"here")
        assert client.read_exactly(4) == b"here"
        assert client.is_closed()
