"""TLS towards upstreams, with real handshakes: what is sent, verified, refused and shared."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgw.obs import logs
from fastgw.tls.pair import KeyPair
from tests.dp.rig import DEADLINE_S, Peer, Proxy, Upstream, image_of, running
from tests.routing.snapshots import Row, authority, certificate, make_id
from tests.tls.authority import Authority, server_context

CA = Authority()
GET = b"GET / HTTP/1.1\r\nHost: client.example\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Reconfigure = Callable[..., None]


class TlsUpstream:
    """Accepts and shakes hands in a thread; what came is in `served`, what failed in `failures`."""

    def __init__(self, upstream: Upstream, context: ssl.SSLContext) -> None:
        self.names: list[str | None] = []
        self.failures: list[Exception] = []
        self.heads: list[bytes] = []
        self.presented: list[bytes | None] = []
        self.accepted = 0
        context.sni_callback = lambda _, name, __: self.names.append(name)
        self._listener = upstream.listener
        self._context = context
        self._ends = threading.Event()
        self._listener.settimeout(0.05)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._answering: list[threading.Thread] = []

    def _run(self) -> None:
        while not self._ends.is_set():
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.accepted += 1
            sock.settimeout(DEADLINE_S)
            answering = threading.Thread(target=self._answer, args=(sock,))
            answering.start()
            self._answering.append(answering)

    def _answer(self, sock: socket.socket) -> None:
        try:
            with self._context.wrap_socket(sock, server_side=True) as tls:
                self.presented.append(tls.getpeercert(binary_form=True))
                peer = Peer(tls)
                while True:
                    self.heads.append(peer.read_head())
                    peer.send(OK)
        except EOFError:
            pass
        except OSError as error:
            self.failures.append(error)

    def close(self) -> None:
        self._ends.set()
        self._thread.join(DEADLINE_S)
        for answering in self._answering:
            answering.join(DEADLINE_S)


@contextlib.contextmanager
def secured(
    pair: KeyPair, tmp_path: Path | None = None, *, route: dict[str, Any] | None = None, **service: Any
) -> Iterator[tuple[Proxy, Upstream, TlsUpstream]]:
    """A proxy that trusts CA, and an upstream that presents *pair*."""
    options: dict[str, Any] = {}
    if tmp_path is not None:
        (tmp_path / "ca.pem").write_text(CA.pem)
        options["upstream_trusted"] = str(tmp_path / "ca.pem")
    services = [{"name": "svc", "host": "localhost", "protocol": "https", "retries": 0} | service]
    routes = [{"name": "rt", "paths": ["/"], "service": "svc"} | (route or {})]
    with running(services, routes, **options) as (proxy, upstream):
        played = TlsUpstream(upstream, server_context(pair))
        try:
            yield proxy, upstream, played
            # Connections close with the proxy: the answering threads end by that.
            proxy.on_loop(lambda: proxy.server._connector.close_idle())
        finally:
            played.close()


@contextlib.contextmanager
def demanding(client_authority: Authority, pair: KeyPair) -> Iterator[tuple[Proxy, TlsUpstream, Reconfigure]]:
    """A proxy, and an upstream that presents *pair* and lets in who shows a certificate of an authority."""
    context = server_context(pair)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=client_authority.pem)
    with running() as (proxy, upstream):
        played = TlsUpstream(upstream, context)

        def configure(*others: Row, **fields: Any) -> None:
            body = {"name": "svc", "host": "localhost", "port": upstream.port, "protocol": "https"}
            service = body | {"retries": 0} | fields
            routes = [{"name": "rt", "paths": ["/"], "service": "svc"}]
            proxy.apply(image_of([service], routes, others=others))

        try:
            yield proxy, played, configure
            proxy.on_loop(lambda: proxy.server._connector.close_idle())
        finally:
            played.close()


def test_a_client_certificate_is_shown_to_who_asks_and_a_changed_one_to_new_connections() -> None:
    clients = Authority("clients")
    first, second = clients.issue("gateway"), clients.issue("gateway")
    shown = {"client_certificate": {"id": make_id(1)}}
    with demanding(clients, CA.issue("localhost")) as (proxy, played, configure):
        configure()
        assert ask(proxy) == 502  # TLS 1.3: refused after our side of the handshake
        assert len(played.failures) == 1
        for pair in (first, second, second):
            configure(certificate(1, pair), **shown)
            assert ask(proxy) == 200
        assert played.presented == [first.der, second.der]
        configure(certificate(1, Authority("others").issue("gateway")), **shown)
        assert ask(proxy) == 502


def test_authorities_of_a_service_take_the_place_of_those_of_the_settings() -> None:
    clients = Authority("clients")
    shown = certificate(1, clients.issue("gateway"))
    fields = {"client_certificate": {"id": make_id(1)}, "tls_verify": True}
    with demanding(clients, CA.issue("localhost")) as (proxy, played, configure):
        for trusted, status in (
            (None, 502),
            (Authority("others"), 502),
            (CA, 200),
            (Authority("third"), 502),
        ):
            rows = [] if trusted is None else [authority(11, trusted.pem)]
            named = {} if trusted is None else {"ca_certificates": [make_id(11)]}
            configure(shown, *rows, **fields, **named)
            assert ask(proxy) == status
        configure(shown, authority(11, Authority("fourth").pem), authority(12, CA.pem), **fields,
                  ca_certificates=[make_id(11), make_id(12)])  # fmt: skip
        assert ask(proxy) == 200


def ask(proxy: Proxy, request: bytes = GET) -> int:
    client = proxy.client()
    client.send(request)
    return client.read_answer()[0]


def test_a_service_of_https_is_spoken_to_in_tls() -> None:
    with secured(CA.issue("anything.example")) as (proxy, upstream, played):
        assert [ask(proxy), ask(proxy)] == [200, 200]
        assert played.names == ["localhost"]
        assert played.accepted == 1  # the second request found the first one's connection
        assert b"\r\nHost: localhost:%d\r\n" % upstream.port in played.heads[0]
        assert b"\r\nX-Forwarded-Proto: http\r\n" in played.heads[0]


def test_a_right_certificate_is_taken(tmp_path: Path) -> None:
    with secured(CA.issue("localhost"), tmp_path, tls_verify=True) as (proxy, _, played):
        assert ask(proxy) == 200
        assert played.failures == []


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (CA.issue("elsewhere.example"), "Hostname mismatch"),
        (CA.issue("localhost", days=(-3, -1)), "certificate has expired"),
        (CA.issue("localhost", days=(1, 3)), "certificate is not yet valid"),
        (Authority("another CA").issue("localhost"), "unable to get local issuer certificate"),
    ],
    ids=["name", "expired", "early", "issuer"],
)
def test_a_wrong_certificate_is_502_and_nothing_is_sent(pair: KeyPair, reason: str, tmp_path: Path) -> None:
    logs.setup("notice", str(tmp_path / "log"), process="test")
    try:
        with secured(pair, tmp_path, tls_verify=True) as (proxy, _, played):
            assert ask(proxy) == 502
            assert played.heads == []
    finally:
        logs.setup("notice", None, process="fastgw")
    assert f"its certificate is refused: {reason}" in (tmp_path / "log").read_text()


def test_tls_verify_off_takes_any() -> None:
    with secured(Authority("another CA").issue("x.example", days=(-3, -1)), tls_verify=False) as (
        proxy,
        _,
        _,
    ):
        assert ask(proxy) == 200


def test_the_settings_verify_where_the_service_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(CA.pem)
    services = [{"name": "svc", "host": "localhost", "protocol": "https", "retries": 0}]
    with running(services, upstream_verify=True, upstream_trusted=str(tmp_path / "ca.pem")) as (
        proxy,
        upstream,
    ):
        played = TlsUpstream(upstream, server_context(Authority("another CA").issue("localhost")))
        try:
            assert ask(proxy) == 502
        finally:
            played.close()


@pytest.mark.parametrize(("depth", "status"), [(None, 502), (1, 502), (2, 200)])
def test_verify_depth_counts_intermediates(depth: int | None, status: int, tmp_path: Path) -> None:
    first = CA.under("first intermediate")
    second = first.under("second intermediate")
    pair = second.issue("localhost", chain=(second, first))
    with secured(pair, tmp_path, tls_verify=True, tls_verify_depth=depth) as (proxy, _, played):
        assert ask(proxy) == status
        assert len(played.heads) == (status == 200)


def test_an_address_is_verified_and_not_sent_as_a_name(tmp_path: Path) -> None:
    with secured(CA.issue("127.0.0.1"), tmp_path, host="127.0.0.1", tls_verify=True) as (proxy, _, played):
        assert ask(proxy) == 200
        assert played.names == [None]


def test_preserve_host_names_the_upstream_and_keeps_connections_apart() -> None:
    with secured(CA.issue("x.example"), route={"preserve_host": True}) as (proxy, _, played):
        for host in (b"One.example:8080", b"two.example", b"one.example"):
            assert ask(proxy, b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % host) == 200
        assert played.names == ["one.example", "two.example"]
        assert b"\r\nHost: One.example:8080\r\n" in played.heads[0]


def test_a_loose_connection_never_serves_a_strict_service(tmp_path: Path) -> None:
    with secured(Authority("another CA").issue("localhost"), tmp_path, tls_verify=False) as (
        proxy,
        upstream,
        _,
    ):
        assert ask(proxy) == 200
        service = {
            "name": "svc", "host": "localhost", "port": upstream.port, "protocol": "https", "retries": 0,
            "tls_verify": True,
        }  # fmt: skip
        proxy.apply(image_of([service], [{"name": "rt", "paths": ["/"], "service": "svc"}], version=2))
        assert ask(proxy) == 502


def test_a_missing_file_of_authorities_trusts_nothing(tmp_path: Path) -> None:
    services = [{"name": "svc", "host": "localhost", "protocol": "https", "tls_verify": True}]
    with running(services, upstream_trusted=str(tmp_path / "nowhere.pem")) as (proxy, _):
        assert ask(proxy) == 502


def test_an_upstream_that_does_not_speak_tls_is_502() -> None:
    services = [{"name": "svc", "host": "127.0.0.1", "protocol": "https", "retries": 0}]
    with running(services) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert client.read_answer()[0] == 502


def test_a_stalled_handshake_is_504_by_connect_timeout() -> None:
    services = [
        {"name": "svc", "host": "127.0.0.1", "protocol": "https", "retries": 0, "connect_timeout": 150}
    ]
    with running(services) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        assert client.read_answer()[0] == 504
        assert server.sock.recv(65536)[0] == 0x16  # our hello,
        assert server.is_closed()  # and nothing behind it


def test_a_client_that_leaves_during_the_handshake_leaves_nothing_open() -> None:
    services = [{"name": "svc", "host": "127.0.0.1", "protocol": "https"}]
    with running(services) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        assert server.sock.recv(65536)
        client.reset()
        assert server.is_closed()


@pytest.mark.parametrize("is_clean", [True, False])
def test_an_answer_that_ends_by_close_is_whole_only_with_close_notify(is_clean: bool) -> None:
    services = [{"name": "svc", "host": "127.0.0.1", "protocol": "https"}]
    with running(services) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        sock, _ = upstream.listener.accept()
        tls = server_context(CA.issue("x.example")).wrap_socket(sock, server_side=True)
        server = Peer(tls)
        server.read_head()
        server.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        if is_clean:
            tls.unwrap().close()
        else:
            plain = socket.socket(fileno=tls.detach())
            plain.shutdown(socket.SHUT_RDWR)
            plain.close()
        answer = client.read_to_end() if not is_clean else client.read_answer()[2]
        if is_clean:
            assert answer == b"all of it"
        else:
            assert b"0\r\n\r\n" not in answer


def test_large_bodies_both_ways_over_tls() -> None:
    size = 2 * 1024 * 1024 + 3
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    services = [{"name": "svc", "host": "127.0.0.1", "protocol": "https"}]
    with running(services) as (proxy, upstream):
        received: list[bytes] = []

        def play() -> None:
            sock, _ = upstream.listener.accept()
            with server_context(CA.issue("x.example")).wrap_socket(sock, server_side=True) as tls:
                server = Peer(tls)
                server.read_head()
                received.append(server.read_exactly(size))
                server.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
                server.send(body)
                server.is_closed()

        playing = threading.Thread(target=play)
        playing.start()
        client = proxy.client()
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(body)
        assert client.read_answer()[2] == body
        assert received == [body]
        proxy.on_loop(lambda: proxy.server._connector.close_idle())
        playing.join(DEADLINE_S)
