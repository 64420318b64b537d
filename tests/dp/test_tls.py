"""TLS at the proxy's door, with real handshakes: what is negotiated, resumed, refused, closed, and kept."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from fastgw.routing.compile import compile_snapshot
from fastgw.routing.layered import LayeredImage
from fastgw.tls.server import CertificateStore, Policy
from tests.dp.rig import DEADLINE_S, Peer, Proxy, Upstream, running
from tests.routing.images import open_image
from tests.routing.snapshots import certificate, snapshot, sni
from tests.tls.authority import Authority
from tests.waiting import wait_until

CA = Authority()
EC_PAIR = CA.issue("gw.example", "127.0.0.1")
RSA_PAIR = CA.issue("gw.example", key=rsa.generate_private_key(65537, 2048))
GET = b"GET / HTTP/1.1\r\nHost: gw.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def tls_proxy(
    policy: Policy | None = None, head_timeout_ms: int = 10_000, keepalive_timeout_ms: int = 60_000
) -> Iterator[tuple[Proxy, Upstream]]:
    store = CertificateStore(policy or Policy(), [EC_PAIR, RSA_PAIR])
    timeouts: dict[str, Any] = {
        "head_timeout_ms": head_timeout_ms,
        "keepalive_timeout_ms": keepalive_timeout_ms,
    }
    with running(certificates=store, **timeouts) as (proxy, upstream):
        yield proxy, upstream


def client_context(**how: object) -> ssl.SSLContext:
    context = CA.trusting_context()
    for name, value in how.items():
        setattr(context, name, value)
    return context


def exchange(client: Peer, upstream: Upstream, server: Peer | None = None) -> Peer:
    client.send(GET)
    server = server or upstream.accept()
    server.read_head()
    server.send(OK)
    assert client.read_answer()[0] == 200
    return server


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_over_both_versions(version: ssl.TLSVersion) -> None:
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(client_context(maximum_version=version), "gw.example")
        client.send(GET)
        server = upstream.accept()
        head = server.read_head()
        assert b"\r\nX-Forwarded-Proto: https\r\n" in head
        assert b"\r\nX-Forwarded-Port: %d\r\n" % proxy.tls_port in head
        server.send(OK)
        assert client.read_answer()[2] == b"ok"
        exchange(client, upstream, server)
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_tls_1_1_is_refused() -> None:
    with tls_proxy() as (proxy, _):
        context = client_context(minimum_version=ssl.TLSVersion.TLSv1_1)
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises(ssl.SSLError, match="(?i)protocol.version"):
            proxy.tls_client(context, "gw.example")


@pytest.mark.parametrize("cipher", ["AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA256", "ECDHE-RSA-AES256-SHA"])
def test_ciphers_outside_the_suite_are_refused(cipher: str) -> None:
    with tls_proxy() as (proxy, _):
        context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(cipher)
        with pytest.raises(ssl.SSLError, match="(?i)handshake.failure"):
            proxy.tls_client(context, "gw.example")


@pytest.mark.parametrize(
    ("ciphers", "kind"), [("ECDHE-RSA-AES128-GCM-SHA256", "rsa"), ("ECDHE-ECDSA-AES128-GCM-SHA256", "ec")]
)
def test_the_clients_abilities_choose_the_certificate(ciphers: str, kind: str) -> None:
    with tls_proxy() as (proxy, _):
        context = client_context(maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(ciphers)
        client = proxy.tls_client(context, "gw.example")
        assert isinstance(client.sock, ssl.SSLSocket)
        assert client.sock.getpeercert(binary_form=True) == {"rsa": RSA_PAIR, "ec": EC_PAIR}[kind].der


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("tickets", [True, False])
def test_sessions_are_resumed_as_the_policy_says(version: ssl.TLSVersion, tickets: bool) -> None:
    with tls_proxy(Policy(gives_tickets=tickets)) as (proxy, upstream):
        context = client_context(maximum_version=version)
        first = proxy.tls_client(context, "gw.example")
        exchange(first, upstream)  # in TLS 1.3 tickets come behind the handshake
        assert isinstance(first.sock, ssl.SSLSocket)
        session = first.sock.session
        if session is None or not session.has_ticket:
            assert not tickets
            return
        second = proxy.tls_client(context, "gw.example", session=session)
        assert isinstance(second.sock, ssl.SSLSocket)
        assert second.sock.session_reused is tickets


def test_alpn_offers_http_1_1_alone() -> None:
    with tls_proxy() as (proxy, _):
        for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], None)):
            context = client_context()
            context.set_alpn_protocols(offered)
            client = proxy.tls_client(context, "gw.example")
            assert isinstance(client.sock, ssl.SSLSocket)
            assert client.sock.selected_alpn_protocol() == chosen


def test_sni_chooses_and_a_replaced_set_serves_the_next_handshake() -> None:
    other = CA.issue("*.example.com", "example.com")
    store = CertificateStore(Policy(), [EC_PAIR])
    with running(certificates=store) as (proxy, upstream):
        old = proxy.tls_client(CA.trusting_context(), "gw.example")
        rows = (certificate(1, other), sni(2, "*.example.com", to=1))
        found = LayeredImage(open_image(compile_snapshot(snapshot(*rows)))).certificates()
        proxy.on_loop(lambda: store.serve(found))
        named = proxy.tls_client(CA.trusting_context(), "a.example.com")
        assert isinstance(named.sock, ssl.SSLSocket)
        assert named.sock.getpeercert(binary_form=True) == other.der
        default = proxy.tls_client(CA.trusting_context(), "gw.example")
        server = exchange(named, upstream)
        exchange(default, upstream, server)
        exchange(old, upstream, server)


def test_plain_http_on_the_tls_port_is_told_so() -> None:
    with tls_proxy() as (proxy, _):
        client = Peer(socket.create_connection(("127.0.0.1", proxy.tls_port)))
        client.send(GET)
        status, _, body = client.read_answer()
        assert status == 400
        assert b"The plain HTTP request was sent to HTTPS port" in body
        assert client.is_closed()
        client.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00" * 100,
        b"\x16\x03\x01\x00\x05hello",
        b"\x16\x03\x01\xff\xff" + b"\x00" * 600,
        b"\x80\x2e\x01\x03\x01",
        b"\x15\x03\x03\x00\x02\x02\x28",
    ],
)
def test_garbage_closes_the_connection(garbage: bytes) -> None:
    with tls_proxy() as (proxy, upstream):
        client = Peer(socket.create_connection(("127.0.0.1", proxy.tls_port)))
        client.send(garbage)
        answer = client.read_to_end()
        assert answer == b"" or answer[0] == 0x15, answer  # nothing, or an alert
        client.close()
        exchange(proxy.tls_client(CA.trusting_context(), "gw.example"), upstream)


def test_a_damaged_record_ends_the_connection_and_is_not_served() -> None:
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(CA.trusting_context(), "gw.example")
        exchange(client, upstream)
        raw = socket.socket(fileno=client.sock.detach())
        raw.settimeout(DEADLINE_S)
        raw.sendall(b"\x17\x03\x03\x00\x40" + b"\x00" * 64)
        assert raw.recv(100)[0] in (0x15, 0x17)  # an alert, encrypted or not
        raw.close()
        wait_until(lambda: proxy.totals()["connections_active"] == 0, DEADLINE_S, "the connection is closed")
        assert proxy.totals()["requests_total"] == 1


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_a_slow_handshake_ends_at_the_deadline(sent: bytes) -> None:
    with tls_proxy(head_timeout_ms=200) as (proxy, _):
        client = Peer(socket.create_connection(("127.0.0.1", proxy.tls_port)))
        client.send(sent)
        assert client.is_closed()
        client.close()


def test_a_slow_head_behind_the_handshake_ends_at_the_deadline() -> None:
    with tls_proxy(head_timeout_ms=300) as (proxy, _):
        client = proxy.tls_client(CA.trusting_context(), "gw.example")
        client.send(b"GET / HTTP/1.1\r\n")
        assert client.read_answer()[0] == 408


def test_handshake_and_request_byte_by_byte() -> None:
    """Whatever the cuts: the BIO-level client sends one byte at a time."""
    with tls_proxy() as (proxy, upstream):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = CA.trusting_context().wrap_bio(incoming, outgoing, server_hostname="gw.example")
        sock = socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=DEADLINE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def trickle() -> None:
            for byte in outgoing.read():
                sock.send(bytes([byte]))

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                trickle()
                incoming.write(sock.recv(65536))
        tls.write(GET)
        trickle()
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        received = b""
        while not received.endswith(b"ok"):
            incoming.write(sock.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                while True:
                    received += tls.read(65536)
        sock.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_large_bodies_both_ways(version: ssl.TLSVersion) -> None:
    size = 3 * 1024 * 1024 + 17
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(client_context(maximum_version=version), "gw.example")
        received: list[bytes] = []

        def play_upstream() -> None:
            server = upstream.accept()
            server.read_head()
            received.append(server.read_exactly(size))
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            server.send(body)

        playing = threading.Thread(target=play_upstream)
        playing.start()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(body)
        status, _, answer = client.read_answer()
        playing.join(DEADLINE_S)
        assert status == 200
        assert received == [body]
        assert answer == body


def test_pipelined_requests_in_one_record_keep_their_order() -> None:
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(CA.trusting_context(), "gw.example")
        client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5)))
        server = upstream.accept()
        for number in range(5):
            assert server.read_head().startswith(b"GET /%d " % number)
            server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)
            assert client.read_answer()[2] == b"%d" % number


def test_our_close_says_close_notify() -> None:
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(CA.trusting_context(), "gw.example", suppress_ragged_eofs=False)
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        assert client.read_answer()[2] == b"ok"
        assert client.sock.recv(1) == b""  # SSLEOFError without a close_notify


def test_an_idle_connection_is_closed_with_close_notify() -> None:
    with tls_proxy(keepalive_timeout_ms=150) as (proxy, upstream):
        client = proxy.tls_client(CA.trusting_context(), "gw.example", suppress_ragged_eofs=False)
        exchange(client, upstream)
        assert client.sock.recv(1) == b""


def test_a_cut_answer_has_no_close_notify() -> None:
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(CA.trusting_context(), "gw.example", suppress_ragged_eofs=False)
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
        client.read_until(b"short")
        server.reset()
        with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            client.sock.recv(1)


def test_the_clients_close_notify_ends_the_connection() -> None:
    with tls_proxy() as (proxy, upstream):
        client = proxy.tls_client(CA.trusting_context(), "gw.example")
        exchange(client, upstream)
        assert isinstance(client.sock, ssl.SSLSocket)
        plain = client.sock.unwrap()  # returns once the proxy's close_notify has come
        plain.close()
        wait_until(lambda: proxy.totals()["connections_active"] == 0, DEADLINE_S, "the connection is closed")


def test_a_half_closed_client_gets_its_answer() -> None:
    """It says close_notify behind its request: the answer still comes."""
    with tls_proxy() as (proxy, upstream):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = CA.trusting_context().wrap_bio(incoming, outgoing, server_hostname="gw.example")
        sock = socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=DEADLINE_S)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))
        tls.write(GET)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        sock.sendall(outgoing.read())
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        received = b""
        while not received.endswith(b"ok"):
            data = sock.recv(65536)
            assert data
            incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                while part := tls.read(65536):
                    received += part
        sock.close()


def test_renegotiation_is_refused() -> None:
    with tls_proxy() as (proxy, _):
        done = subprocess.run(
            [
                "openssl",
                "s_client",
                "-tls1_2",
                "-connect",
                f"127.0.0.1:{proxy.tls_port}",
                "-quiet",
                "-no_ign_eof",
            ],
            input=b"R\n",
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert b"no renegotiation" in done.stderr


def test_openssl_finds_nothing_weak() -> None:
    with tls_proxy() as (proxy, _):
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.tls_port}", "-servername", "gw.example"],
            input=b"",
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        report = done.stdout.decode()
        assert "Compression: NONE" in report
        assert re.search(r"New, TLSv1\.3, Cipher is TLS_", report)


_CLIENTS = r"""
import socket, ssl, sys
port, count, size = map(int, sys.argv[1:4])
context = ssl.create_default_context(cadata=sys.argv[4])
kept = []
for _ in range(count):
    client = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="gw.example")
    client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
    answer = b""
    while not answer.endswith(b"ok"):
        answer += client.recv(4096)
    kept.append(client)
print("idle", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("count", "size"), [(1000, 0), (100, 1024 * 1024)], ids=["idle", "after 1 MiB"])
def test_idle_connections_keep_little_memory(count: int, size: int) -> None:
    """At most 40 KiB each: their other ends, which cost more, are in another process."""
    with tls_proxy() as (proxy, upstream):

        def answer_all() -> None:
            server = upstream.accept()
            with contextlib.suppress(EOFError):
                while True:
                    server.read_head()
                    server.read_exactly(size)
                    server.send(OK)

        answering = threading.Thread(target=answer_all)
        answering.start()
        # The first ones pay for what is made once.
        with idle_clients(proxy.tls_port, 5, size):
            before = private_kib()
            with idle_clients(proxy.tls_port, count, size):
                assert proxy.totals()["connections_active"] == count + 5
                assert (private_kib() - before) / count < 40
        proxy.on_loop(proxy.server._connector.close_idle)
        answering.join(DEADLINE_S)


@contextlib.contextmanager
def idle_clients(port: int, count: int, size: int) -> Iterator[None]:
    """So many clients in a process of their own, each idle after a request with *size* bytes."""
    command = [sys.executable, "-c", _CLIENTS, str(port), str(count), str(size), CA.pem]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"idle\n"
            yield
        finally:
            process.kill()


def private_kib() -> int:
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Private_Dirty"))
