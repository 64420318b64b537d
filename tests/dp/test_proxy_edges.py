"""The byte path where one side stops, floods, leaves half-way or is no HTTP server: nothing waits for ever."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.dp.rig import Peer, Proxy, Upstream, running
from tests.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ONE_TRY = {"name": "svc", "host": "127.0.0.1", "retries": 0}


@contextmanager
def played(upstream: Upstream, play: Callable[[Peer], None]) -> Iterator[None]:
    """Play every connection of *upstream* in a thread, one after the other, until the block ends."""

    def run() -> None:
        while True:
            try:
                play(upstream.accept())
            except (OSError, EOFError):
                if upstream.listener.fileno() < 0:
                    return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        for sock in (upstream.listener, *(peer.sock for peer in upstream.peers)):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes the thread; closing would not
        upstream.close()
        thread.join(10)


@pytest.mark.parametrize("banner", [b"", b"220 mail.example ESMTP\r\n"], ids=["closes", "speaks first"])
def test_an_upstream_that_is_no_http_server_is_502_at_once(banner: bytes) -> None:
    def play(peer: Peer) -> None:
        peer.send(banner)
        peer.close()

    with running(services=[ONE_TRY]) as (proxy, upstream), played(upstream, play):
        for _ in range(40):
            client = proxy.client()
            client.send(GET)
            assert client.read_answer()[0] == 502
        client.close()


def test_a_name_that_no_query_can_carry() -> None:
    with running(services=[{"name": "svc", "host": "a" * 64 + ".example"}]) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        assert client.read_answer()[0] == 503


def test_a_slow_upload_is_not_the_upstreams_silence() -> None:
    service = {"name": "svc", "host": "127.0.0.1", "read_timeout": 200, "write_timeout": 200}
    with running(services=[service]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        server = upstream.accept()
        server.read_head()
        server.read_exactly(2)
        server.sock.settimeout(0.7)  # twice the time-out and the wheel's ticks
        with pytest.raises(TimeoutError):
            server.sock.recv(1)
        client.send(b"cd")
        assert server.read_exactly(2) == b"cd"
        server.send(OK)
        assert client.read_answer()[0] == 200


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"], ids=["whole", "waits for 100"])
def test_silence_is_the_upstreams_once_it_is_its_turn(expects: bytes) -> None:
    service = {"name": "svc", "host": "127.0.0.1", "read_timeout": 200, "write_timeout": 200}
    with running(services=[service]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n" + expects + b"\r\n")
        upstream.accept().read_head()
        if not expects:
            client.send(b"ab")
        assert client.read_answer()[0] == 504


def _big_answer(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


def test_a_client_that_only_sends_is_not_read_on() -> None:
    def play(peer: Peer) -> None:
        while True:
            peer.read_head()
            peer.send(_big_answer(65000))

    with running() as (proxy, upstream), played(upstream, play):
        client = proxy.client()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        total = _requests_until_clogged(proxy, client)
        assert total < 500
        client.sock.settimeout(0.5)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += client.sock.send(b"y" * 1_000_000)
        assert sent < 16 << 20  # the kernel's buffers, not ours
        client.reset()


def _requests_until_clogged(proxy: Proxy, client: Peer) -> int:
    """Ask one after the other, read nothing, until a request is not taken any more."""

    def is_taken(total: int) -> bool:
        return proxy.totals()["requests_total"] >= total

    for total in range(1, 500):
        client.send(GET)
        try:
            wait_until(functools.partial(is_taken, total), 0.5, "a request taken")
        except AssertionError:
            return total
    return 500


@pytest.mark.parametrize("closes", [b"", b"Connection: close\r\n"], ids=["drains", "lingers"])
def test_a_client_that_takes_a_large_early_answer_and_stays_is_closed(closes: bytes) -> None:
    # Of several sizes, so that the end of one or the other finds the client's side full.
    sizes = iter(range(8 << 20, (8 << 20) + 4 * 16384, 16384))

    def play(peer: Peer) -> None:
        peer.read_head()
        peer.send(_big_answer(next(sizes)))

    with running(send_timeout_ms=800, body_timeout_ms=800) as (proxy, upstream), played(upstream, play):
        for _ in range(4):
            client = proxy.client()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n" + closes + b"\r\nab")
            left = int(client.read_head().split(b"Content-Length: ")[1].split(b"\r\n")[0])
            left -= len(client.unread)
            while left:
                left -= len(client.sock.recv(1 << 20))
        # They send no more of their requests, and do not close.
        wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "closed by us")


def test_a_pipelined_request_counts_although_its_client_closes_its_side() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET * 3)
        client.sock.shutdown(socket.SHUT_WR)
        server = upstream.accept()
        for _ in range(3):
            server.read_head()
            server.send(OK)
            assert client.read_answer()[0] == 200
        assert client.is_closed()
