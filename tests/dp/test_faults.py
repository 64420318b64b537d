"""What breaks on either side, with real sockets: the right status or a broken connection, and nothing leaks.

Every test ends with `settled`: no exchange in progress, no descriptor left, no generation held, and the next
request on a new connection is answered right.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.dp.rig import Peer, Proxy, Upstream, image_of, running
from tests.waiting import wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"


def fast(**fields: Any) -> dict[str, Any]:
    """A service whose upstream may be silent for 200 ms."""
    return {"name": "svc", "host": "127.0.0.1", "read_timeout": 200, "write_timeout": 200} | fields


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def settled(**arguments: Any) -> Iterator[tuple[Proxy, Upstream]]:
    """`running`, and afterwards the proof that nothing was left behind."""
    with running(**arguments) as (proxy, upstream):
        gc.collect()
        before = descriptors()
        yield proxy, upstream
        for peer in (*proxy.clients, *upstream.peers):
            peer.close()
        wait_until(lambda: proxy.totals()["connections_busy"] == 0, 5, "exchanges to end")
        wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "connections to end")
        wait_until(lambda: descriptors() <= before, 5, f"{before} descriptors")
        ask_anew(proxy, upstream)
        proxy.apply(image_of([], [], version=2))
        wait_until(
            lambda: proxy.on_loop(proxy.server.generations_live) == 1, 5, "the generation to be let go"
        )


def ask_anew(proxy: Proxy, upstream: Upstream) -> None:
    """A request on a new connection reaches an upstream that works, and is answered."""
    proxy.apply(
        image_of(
            [{"name": "svc", "host": "127.0.0.1", "port": upstream.port}],
            [{"paths": ["/"], "service": "svc"}],
            version=3,
        )
    )
    client = proxy.client()
    client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    while True:
        server = upstream.accept()
        # Connections that were tried and given up may still wait to be accepted.
        with contextlib.suppress(EOFError, ConnectionError):
            if server.read_head().startswith(b"GET /next "):
                break
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
    assert client.read_answer()[2] == b"next"
    client.close()


def is_cut(client: Peer, got: bytes) -> bool:
    """The answer began with *got* and the connection broke before it was whole."""
    client.read_until(got)
    rest = client.read_to_end()
    return rest in (b"", b"\r\n")


# --- upstreams


@pytest.mark.parametrize("request_bytes", [GET, POST])
def test_an_upstream_that_refuses(request_bytes: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with settled(services=[{"name": "svc", "host": "127.0.0.1", "port": port, "retries": 2}]) as (proxy, _):
        client = proxy.client()
        for _ in range(3):
            client.send(request_bytes)
            assert client.read_answer()[0] == 502


def test_a_name_that_no_resolver_takes() -> None:
    host = "a" * 64 + ".invalid"
    # Not `settled`: the resolver keeps its sockets.
    with running(services=[{"name": "svc", "host": host, "retries": 0}]) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        assert client.read_answer()[0] == 503


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
@pytest.mark.parametrize(
    ("method", "tries"), [("GET", 3), ("HEAD", 3), ("DELETE", 3), ("POST", 1), ("PATCH", 1)]
)
def test_an_upstream_that_ends_before_its_answer(how: str, sent: bytes, method: str, tries: int) -> None:
    """A request that may be sent again is, as often as the service allows; any other is not."""
    with settled(services=[{"name": "svc", "host": "127.0.0.1", "retries": 2}]) as (proxy, upstream):
        client = proxy.client()
        client.send(method.encode() + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
        for _ in range(tries):
            server = upstream.accept()
            server.read_head()
            server.send(sent)
            getattr(server, how)()
        assert client.read_head().startswith(b"HTTP/1.1 502 ")
        upstream.listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            upstream.listener.accept()
        upstream.listener.settimeout(5)


def test_a_body_is_never_sent_twice() -> None:
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        server = upstream.accept()
        server.read_head()
        server.reset()
        assert client.read_answer()[0] == 502


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_upstream_that_ends_in_its_answer(how: str, head: bytes, version: bytes) -> None:
    """A short body never looks whole: for HTTP/1.0, where the end ends the body, it is a reset."""
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(head + b"short")
        answer = client.read_until(b"short")
        getattr(server, how)()
        if b"Content-Length" in answer or b"chunked" in answer:
            assert client.read_to_end() in (b"", b"\r\n")
        else:
            with pytest.raises(ConnectionResetError):
                client.read_exactly(1)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_an_upstream_that_resets_a_body_that_its_end_would_end(version: bytes) -> None:
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/" + version + b"\r\nHost: a\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\n\r\nshort")
        client.read_until(b"short")
        server.reset()
        if version == b"1.0":
            with pytest.raises(ConnectionResetError):
                client.read_exactly(1)
        else:
            assert client.read_to_end() in (b"", b"\r\n")


@pytest.mark.parametrize(("request_bytes", "tries"), [(GET, 2), (POST, 1)])
def test_a_silent_upstream(request_bytes: bytes, tries: int) -> None:
    with settled(services=[fast(retries=1)]) as (proxy, upstream):
        client = proxy.client()
        client.send(request_bytes)
        servers = [upstream.accept() for _ in range(tries)]
        assert client.read_answer()[0] == 504
        for server in servers:
            server.read_head()
            server.read_to_end()


def test_an_upstream_that_falls_silent_in_its_answer() -> None:
    with settled(services=[fast()]) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        assert is_cut(client, b"half")


def test_an_upstream_that_takes_no_more_of_the_body() -> None:
    with settled(services=[fast()]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n")
        upstream.accept().read_head()
        client.sock.setblocking(False)
        sent = 0

        def is_answered() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                sent += client.sock.send(b"x" * 65536)
            with contextlib.suppress(BlockingIOError):
                return client.sock.recv(12) == b"HTTP/1.1 504"
            return False

        wait_until(is_answered, 5, "504")
        assert sent < 40_000_000


def test_a_client_that_pauses_is_no_fault_of_the_upstream() -> None:
    """The service's time-out does not run while it is the client's turn (proxying reference §3.2)."""
    with settled(services=[fast()]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
        server = upstream.accept()
        server.read_head()
        server.read_exactly(3)
        server.sock.settimeout(0.5)  # longer than the time-out, and the tick of the wheel
        with pytest.raises(TimeoutError):
            server.read_exactly(1)
        client.send(b"def")
        assert server.read_exactly(3) == b"def"
        server.send(OK)
        assert client.read_answer()[0] == 200


def test_an_upstream_that_never_says_continue() -> None:
    with settled(services=[fast()]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        upstream.accept().read_head()
        assert client.read_answer()[0] == 504


@pytest.mark.parametrize("request_bytes", [GET, POST])
def test_pooled_connections_that_the_upstream_closes(request_bytes: bytes) -> None:
    """Closed while idle: the next request, sent again or not, never meets a dead connection."""
    with settled() as (proxy, upstream):
        client = proxy.client()
        for _ in range(20):
            client.send(request_bytes)
            server = upstream.accept()
            server.read_head()
            server.send(OK)
            assert client.read_answer()[0] == 200
            server.close()


def test_an_answer_before_the_body_and_then_a_close() -> None:
    """The upstream's word counts, not the broken pipe behind it."""
    with settled() as (proxy, upstream):
        for _ in range(5):
            client = proxy.client()
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 100_000)
            server = upstream.accept()
            server.read_head()
            server.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
            server.close()
            client.sock.setblocking(False)

            def keep_sending(client: Peer = client) -> bytes:
                with contextlib.suppress(BlockingIOError, ConnectionError):
                    client.sock.send(b"x" * 65536)
                with contextlib.suppress(BlockingIOError):
                    return client.sock.recv(12, socket.MSG_PEEK)
                return b""

            assert wait_until(keep_sending, 5, "an answer") == b"HTTP/1.1 413"


def test_an_early_answer_to_a_client_that_waits_for_100() -> None:
    """It may send its body or not (RFC 9110 §10.1.1): nothing behind the answer is ever a request."""
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\nExpect: 100-continue\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        status, fields, _ = client.read_answer()
        assert (status, fields["connection"]) == (401, "close")
        client.send(b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.is_closed()
        upstream.listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            upstream.listener.accept()
        upstream.listener.settimeout(5)


def test_continue_is_passed_on_once() -> None:
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        server.read_exactly(3)
        server.send(OK)
        assert client.read_answer()[0] == 200


# --- clients

STAGES = {
    "before the head": b"",
    "in the head": b"GET / HTT",
    "in a body with a length": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
    "in chunks": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "waiting": GET,
    "pipelined": GET * 3,
    "refused": b"GET / HTTP/1.1\r\nX : 1\r\n\r\n",
}


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_client_that_vanishes(stage: str, how: str) -> None:
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(STAGES[stage])
        if stage.startswith(("in a", "in c", "waiting", "pipelined")):
            server = upstream.accept()
            server.read_head()
            getattr(client, how)()
            if stage.startswith("in"):
                rest = server.read_to_end()
                assert rest in (b"", b"abc", b"2\r\nab\r\n")  # and no last chunk
            elif how == "reset" and stage == "waiting":
                assert server.is_closed()
            else:
                # Requests that came whole may be answered until the client's end is noticed.
                server.sock.settimeout(0.3)
                with contextlib.suppress(EOFError, ConnectionError, TimeoutError):
                    for _ in range(3):
                        server.send(OK)
                        server.read_head()
        else:
            wait_until(lambda: proxy.totals()["connections_accepted_total"] == 1, 5, "the connection")
            getattr(client, how)()


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_vanishes_in_the_answer(how: str) -> None:
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        client.read_until(b"hello")
        getattr(client, how)()

        def is_told() -> bool:
            try:
                server.send(b"5\r\nhello\r\n")
            except OSError:
                return True
            return False

        wait_until(is_told, 5, "the upstream connection to be given up")


def test_a_client_that_vanishes_before_there_is_a_connection() -> None:
    """While the connection to the upstream is being made, nothing reads from the client."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        service = {"name": "svc", "host": "127.0.0.1", "port": port, "connect_timeout": 300, "retries": 0}
        with settled(services=[service]) as (proxy, _):
            patient, gone = proxy.client(), proxy.client()
            for client in (patient, gone):
                client.send(GET)
            wait_until(lambda: proxy.totals()["connections_busy"] == 2, 5, "both requests")
            gone.reset()
            assert patient.read_answer()[0] == 504
        for filler in fillers:
            filler.close()


def test_half_closed_clients_get_their_answers() -> None:
    """What was asked for whole is answered, pipelined requests too (RFC 9112 §9.6)."""
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(GET * 3)
        client.sock.shutdown(socket.SHUT_WR)
        server = upstream.accept()
        for _ in range(3):
            server.read_head()
            server.send(OK)
            assert client.read_answer()[2] == b"ok"
        assert client.is_closed()


def test_an_answer_is_not_lost_to_bytes_behind_the_last_request() -> None:
    """A socket closed over unread bytes is reset, and the answer with it."""
    payload = b"y" * 300_000
    with settled() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + GET * 5_000)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
        assert client.read_answer()[2] == payload


def test_a_refused_upload_still_gets_its_answer() -> None:
    with settled(body_bytes=1000) as (proxy, _):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
        assert client.read_answer()[0] == 413


def test_a_client_that_never_reads() -> None:
    """It is let go after the time-out for writing, whether the answer is in progress or whole."""
    for size in (200_000, 20_000_000):
        with settled(send_timeout_ms=200) as (proxy, upstream):
            client = proxy.client()
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            server = upstream.accept()
            server.read_head()
            with contextlib.suppress(ConnectionError, TimeoutError):
                server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "the client to be let go")


def test_bodies_that_trickle_end() -> None:
    """Each pause is short enough; all together they are not (http-security §2.3: slow bodies)."""
    with settled(body_timeout_ms=400, body_rate=1000) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        upstream.accept().read_head()
        client.sock.settimeout(0.05)
        answer = b""
        for _ in range(40):
            client.send(b"x")
            with contextlib.suppress(TimeoutError):
                answer = client.sock.recv(100)
                break
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_bodies_that_keep_their_rate_pass() -> None:
    with settled(body_timeout_ms=300, body_rate=1000) as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        for _ in range(10):
            client.send(b"x" * 1000)
            server.sock.settimeout(0.1)
            with contextlib.suppress(TimeoutError):
                while True:
                    server.unread += server.sock.recv(65536)
        server.sock.settimeout(5)
        server.read_exactly(10000)
        server.send(OK)
        assert client.read_answer()[0] == 200
