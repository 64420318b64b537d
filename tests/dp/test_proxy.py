"""The byte path with real sockets: forwarding, framing, reuse, failures. Each test plays both sides."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import pytest

from tests.dp.rig import Peer, image_of, running
from tests.waiting import is_listening, wait_until

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_request_and_answer_in_full() -> None:
    with running(routes=[{"name": "rt", "paths": ["/api"], "service": "svc"}]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET /api/x%20y?q=%7C HTTP/1.1\r\nHost: Ex.com:99\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n")
        server = upstream.accept()
        lines = server.read_head().decode().split("\r\n")
        assert lines[0] == "GET /x%20y?q=%7C HTTP/1.1"
        fields = dict(line.split(": ", 1) for line in lines[1:-2])
        request_id = fields.pop("X-Kong-Request-Id")
        assert len(request_id) == 32
        assert fields == {
            "Host": f"127.0.0.1:{upstream.port}",
            "Connection": "keep-alive",
            "Via": fields["Via"],
            "X-Forwarded-For": "1.1.1.1, 127.0.0.1",
            "X-Real-IP": "127.0.0.1",
            "X-Forwarded-Proto": "http",
            "X-Forwarded-Port": str(proxy.port),
            "X-Forwarded-Host": "ex.com",
            "X-Forwarded-Path": "/api/x%20y",
            "X-Forwarded-Prefix": "/api",
        }
        assert fields["Via"].startswith("1.1 fastgw/")
        server.send(
            b"HTTP/1.1 201 Made\r\nContent-Length: 2\r\nX-Up: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\n\r\nok"
        )
        status, answer, body = client.read_answer()
        assert (status, body) == (201, b"ok")
        assert answer["x-up"] == "1"
        assert "x-hop" not in answer
        assert "server" not in answer  # only answers that the gateway makes bear its name
        assert answer["via"].startswith("1.1 fastgw/")
        assert answer["x-kong-request-id"] == request_id
        assert {"x-kong-proxy-latency", "x-kong-upstream-latency", "date"} <= answer.keys()


def test_encoded_controls_never_reach_a_field() -> None:
    with running(routes=[{"paths": ["/a"], "service": "svc"}]) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET /a%0d%0aX-Evil:%201/b HTTP/1.1\r\nHost: a\r\n\r\n")
        head = upstream.accept().read_head()
        assert b"\r\nX-Evil" not in head
        assert head.startswith(b"GET /%0D%0AX-Evil:%201/b HTTP/1.1\r\n")


def test_an_upstreams_date_stays_and_via_goes_on_behind_the_last() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nVia: 1.1 one\r\nX-A: 1\r\nVia: 1.1 two\r\n\r\n")
        server = upstream.accept()
        head = server.read_head()
        assert head.index(b"Via: 1.1 one\r\n") < head.index(b"Via: 1.1 two, 1.1 fastgw")
        server.send(b"HTTP/1.1 200 OK\r\nDate: then\r\nVia: 1.0 up\r\nContent-Length: 0\r\n\r\n")
        head = client.read_head()
        assert head.count(b"Date: ") == 1
        assert b"Date: then\r\n" in head
        assert b"Via: 1.0 up, 1.1 fastgw" in head


def test_preserve_host() -> None:
    with running(routes=[{"paths": ["/"], "service": "svc", "preserve_host": True}]) as (proxy, upstream):
        proxy.client().send(b"GET / HTTP/1.1\r\nHost: Ex.com:99\r\n\r\n")
        assert b"\r\nHost: Ex.com:99\r\n" in upstream.accept().read_head()


def test_absolute_target_replaces_host() -> None:
    with running(routes=[{"hosts": ["right.com"], "service": "svc", "preserve_host": True}]) as (
        proxy,
        upstream,
    ):
        proxy.client().send(b"GET http://right.com?x HTTP/1.1\r\nHost: wrong.com\r\n\r\n")
        head = upstream.accept().read_head()
        assert head.startswith(b"GET /?x HTTP/1.1\r\nHost: right.com\r\n")


def test_connections_are_kept_on_both_sides() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        for turn in range(5):
            server.read_head()
            server.send(OK)
            assert client.read_answer()[0] == 200
            if turn < 4:
                client.send(GET)
        assert proxy.totals()["upstream_connects_total"] == 1
        assert proxy.totals()["upstream_reused_total"] == 4


def test_pipelined_requests_are_answered_in_order() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(20)))
        server = upstream.accept()
        for number in range(20):
            assert server.read_head().startswith(b"GET /%d " % number)
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n%02d" % number)
            assert client.read_answer()[2] == b"%02d" % number


def test_a_request_byte_by_byte() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = (
            b"\r\nPOST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        )
        for byte in request:
            client.send(bytes((byte,)))
        server = upstream.accept()
        server.read_head()
        body = b""
        while size := int(server.read_until(b"\r\n"), 16):
            body += server.read_exactly(size)
            server.read_exactly(2)
        assert body == b"abc"


def test_an_answer_byte_by_byte() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n":
            server.send(bytes((byte,)))
        assert client.read_answer()[2] == b"abcde"


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies_both_ways(chunked: bool) -> None:
    size = 3_000_000
    payload = bytes(range(256)) * (size // 256)
    with running() as (proxy, upstream):
        client = proxy.client()

        def serve() -> None:
            server = upstream.accept()
            head = server.read_head()
            if chunked:
                body = b""
                while part := int(server.read_until(b"\r\n"), 16):
                    body += server.read_exactly(part)
                    server.read_exactly(2)
                server.read_exactly(2)
                server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for at in range(0, len(body), 50_000):
                    server.send(b"%x\r\n%s\r\n" % (len(body[at : at + 50_000]), body[at : at + 50_000]))
                server.send(b"0\r\n\r\n")
            else:
                assert b"Content-Length: %d\r\n" % len(payload) in head
                body = server.read_exactly(len(payload))
                server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

        thread = threading.Thread(target=serve)
        thread.start()
        if chunked:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(payload), 70_000):
                client.send(b"%x\r\n%s\r\n" % (len(payload[at : at + 70_000]), payload[at : at + 70_000]))
            client.send(b"0\r\n\r\n")
        else:
            client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(payload) + payload)
        status, _, body = client.read_answer()
        thread.join()
        assert status == 200
        assert body == payload


def test_a_slow_reader_slows_the_upstream_down() -> None:
    total = 64 * 1024 * 1024
    with running() as (proxy, upstream):
        client = proxy.client()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.sock.settimeout(0.5)
        server.sock.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < total:
                sent += server.sock.send(b"x" * 65536)
        # Socket buffers and the marks hold a few MiB; the rest stays with the upstream.
        assert sent < total // 2


def test_head_answers_have_no_body() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\n")
        assert b"Content-Length: 40\r\n" in client.read_head()
        client.send(GET)
        server.read_head()
        server.send(OK)
        assert client.read_answer()[2] == b"ok"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_answers_without_a_body(status: bytes) -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        for _ in range(2):
            client.send(GET)
        server = upstream.accept()
        for _ in range(2):
            server.read_head()
            server.send(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")
            assert client.read_head().startswith(b"HTTP/1.1 " + status[:3])


def test_an_answer_that_ends_by_close_is_chunked_for_http_11() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        server.close()
        assert client.read_answer()[2] == b"until the end"


def test_http_10_clients_get_no_chunks() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        server = upstream.accept()
        assert b"Via: 1.0 fastgw" in server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        assert client.read_to_end().endswith(b"Connection: close\r\n\r\nabc")


def test_interim_answers_are_passed_on() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        server = upstream.accept()
        assert b"Expect: 100-continue\r\n" in server.read_head()
        server.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert client.read_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert server.read_exactly(3) == b"abc"
        server.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK)
        assert client.read_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        assert client.read_answer()[2] == b"ok"


def test_an_unasked_100_is_swallowed() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
        assert client.read_answer()[0] == 200


def test_an_early_answer_and_the_rest_of_the_body() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 100)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")
        assert client.read_answer()[0] == 401
        client.send(b"x" * 900 + GET)
        # The first upstream connection is still owed a body: it is never used again.
        second = upstream.accept()
        second.read_head()
        second.send(OK)
        assert client.read_answer()[0] == 200


def test_no_route() -> None:
    with running(routes=[{"paths": ["/only"], "service": "svc"}]) as (proxy, _):
        client = proxy.client()
        for _ in range(2):
            client.send(GET)
            status, fields, body = client.read_answer()
            assert status == 404
            assert b'"message":"no Route matched with those values"' in body
            assert fields["content-type"] == "application/json; charset=utf-8"
            assert "x-kong-response-latency" in fields
            assert fields["server"].startswith("fastgw/")
        assert proxy.totals()["unmatched_total"] == 2


def test_a_route_without_a_service() -> None:
    with running(routes=[{"paths": ["/"]}]) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        status, _, body = client.read_answer()
        assert status == 503
        assert b"no Service found with those values" in body


def test_a_route_whose_plugin_is_not_here_fails_closed() -> None:
    with running(plugins=[{"name": "key-auth"}]) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        status, _, body = client.read_answer()
        assert status == 503
        assert b"plugin 'key-auth' is not available on this data plane" in body


def test_an_upstream_that_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with running(services=[{"name": "svc", "host": "127.0.0.1", "port": port, "retries": 1}]) as (proxy, _):
        client = proxy.client()
        for _ in range(2):
            client.send(GET)
            status, fields, body = client.read_answer()
            assert status == 502
            assert b"An invalid response was received from the upstream server" in body
            assert "x-kong-proxy-latency" in fields
            assert "via" in fields


def test_a_name_that_does_not_resolve() -> None:
    with running(services=[{"name": "svc", "host": "no-such-name.invalid"}]) as (proxy, _):
        client = proxy.client()
        client.send(GET)
        status, _, body = client.read_answer()
        assert status == 503
        assert b"name resolution failed" in body


def test_a_silent_upstream_times_out() -> None:
    service = {"name": "svc", "host": "127.0.0.1", "read_timeout": 200, "write_timeout": 200}
    with running(services=[service]) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        status, _, body = client.read_answer()
        assert status == 504
        assert b"The upstream server is timing out" in body
        assert server.is_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_malformed_answers_are_502(answer: bytes) -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(answer)
        assert client.read_answer()[0] == 502
        assert server.is_closed()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ],
)
def test_a_short_answer_never_looks_complete(answer: bytes) -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(answer)
        client.read_until(b"short")
        server.close()
        assert client.read_to_end() in (b"", b"\r\n")


def test_a_stale_pooled_connection_is_replaced() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        first = upstream.accept()
        first.read_head()
        first.send(OK)
        client.read_answer()
        client.send(GET)
        first.read_head()
        first.reset()
        second = upstream.accept()
        second.read_head()
        second.send(OK)
        assert client.read_answer()[0] == 200


def test_a_post_is_not_sent_twice() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        first = upstream.accept()
        first.read_head()
        first.send(OK)
        client.read_answer()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
        first.read_head()
        first.reset()
        assert client.read_answer()[0] == 502


def test_bytes_nobody_asked_for_close_the_connection() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        first = upstream.accept()
        first.read_head()
        first.send(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        assert client.read_answer()[2] == b"ok"
        assert first.is_closed()
        client.send(GET)
        second = upstream.accept()
        second.read_head()
        second.send(OK)
        assert client.read_answer()[2] == b"ok"


def test_a_client_that_leaves_frees_the_upstream() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        client.reset()
        assert server.is_closed()
        wait_until(lambda: proxy.totals()["connections_active"] == 0, 5, "the connection to be forgotten")
        assert proxy.totals()["connections_busy"] == 0


def test_connection_close_is_obeyed() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        _, fields, _ = client.read_answer()
        assert fields["connection"] == "close"
        assert client.is_closed()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 9000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 33000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n", 413),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n400\r\n"
            + b"x" * 1024
            + b"\r\n1",
            413,
        ),
    ],
)
def test_refused_requests_close_the_connection(request_bytes: bytes, status: int) -> None:
    with running(body_bytes=1000) as (proxy, _):
        client = proxy.client()
        client.send(request_bytes)
        got, fields, _ = client.read_answer()
        assert (got, fields["connection"]) == (status, "close")
        assert client.is_closed()


def test_slow_heads_and_idle_connections_end() -> None:
    with running(head_timeout_ms=200, keepalive_timeout_ms=200) as (proxy, upstream):
        slow = proxy.client()
        slow.send(b"GET / HT")
        assert slow.read_answer()[0] == 408
        idle = proxy.client()
        idle.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        assert idle.read_answer()[0] == 200
        assert idle.is_closed()


def test_slow_bodies_end() -> None:
    with running(body_timeout_ms=200) as (proxy, _):
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        assert client.read_answer()[0] == 408


def test_requests_end_on_the_generation_they_began_with() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        proxy.apply(image_of([], [], version=2))
        assert proxy.on_loop(proxy.server.generations_live) == 2
        server.send(OK)
        assert client.read_answer()[0] == 200
        wait_until(
            lambda: proxy.on_loop(proxy.server.generations_live) == 1, 5, "the old generation to be unmapped"
        )
        client.send(GET)
        assert client.read_answer()[0] == 404


def test_drain_finishes_what_is_in_progress() -> None:
    with running() as (proxy, upstream):
        idle, busy = proxy.client(), proxy.client()
        busy.send(GET)
        server = upstream.accept()
        server.read_head()
        proxy.loop.call_soon_threadsafe(lambda: proxy.loop.create_task(proxy.server.drain(10)))
        assert idle.is_closed()
        server.send(OK)
        _, fields, body = busy.read_answer()
        assert (body, fields["connection"]) == (b"ok", "close")
        assert busy.is_closed()


def test_drain_serves_a_request_that_was_on_its_way() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        proxy.loop.call_soon_threadsafe(lambda: proxy.loop.create_task(proxy.server.drain(10, 5)))
        wait_until(lambda: not is_listening(proxy.port), 5, "the drain to begin")
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        _, fields, body = client.read_answer()
        assert (body, fields["connection"]) == (b"ok", "close")
        assert client.is_closed()


def test_drain_takes_those_whom_the_kernel_has_connected() -> None:
    with running() as (proxy, upstream):

        async def drain_before_the_loop_looks() -> list[Peer]:
            clients = [proxy.client() for _ in range(3)]
            draining.append(asyncio.create_task(proxy.server.drain(10, 5)))
            return clients

        draining: list[asyncio.Task[None]] = []
        clients = proxy.call(drain_before_the_loop_looks())
        for client in clients:
            client.send(GET)
        for client in clients:
            server = upstream.accept()
            server.read_head()
            server.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
            _, fields, body = client.read_answer()
            assert (body, fields["connection"]) == (b"ok", "close")


def test_many_clients_do_not_mix() -> None:
    def serve(peer: Peer) -> None:
        try:
            while True:
                path = peer.read_head().split(b" ")[1]
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))
        except (EOFError, OSError):
            pass

    def ask(client: Peer, number: int, wrong: list[bytes]) -> None:
        for turn in range(20):
            path = b"/%d/%d" % (number, turn)
            client.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            if client.read_answer()[2] != path:
                wrong.append(path)

    with running() as (proxy, upstream):
        upstream.listener.settimeout(None)

        def accept() -> None:
            try:
                while True:
                    threading.Thread(target=serve, args=(upstream.accept(),), daemon=True).start()
            except OSError:
                pass

        threading.Thread(target=accept, daemon=True).start()
        wrong: list[bytes] = []
        threads = [threading.Thread(target=ask, args=(proxy.client(), number, wrong)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        upstream.listener.shutdown(socket.SHUT_RDWR)
