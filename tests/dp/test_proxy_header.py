"""PROXY headers: every form of both versions, whole and cut at every byte, and what a listener does with them."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.dp.proxy_header import LONGEST_V1, LONGEST_V2, SIGNATURE, ProxyHeader, read_header
from fastgw.tls.server import CertificateStore, Policy
from tests.dp.rig import Peer, running
from tests.tls.authority import Authority

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def v2(command: int, family: int, addresses: bytes, more: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses) + len(more)) + addresses + more


def tcp4(client: str, port: int) -> bytes:
    return ipaddress.IPv4Address(client).packed + bytes([127, 0, 0, 1]) + struct.pack("!HH", port, 80)


def tcp6(client: str, port: int) -> bytes:
    return ipaddress.IPv6Address(client).packed + bytes(16) + struct.pack("!HH", port, 80)


GOOD: list[tuple[bytes, str | None, int]] = [
    (b"PROXY TCP4 203.0.113.7 127.0.0.1 56324 443\r\n", "203.0.113.7", 56324),
    (b"PROXY TCP6 2001:DB8::7 ::1 1 65535\r\n", "2001:db8::7", 1),
    (b"PROXY UNKNOWN\r\n", None, 0),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None, 0),
    (v2(0x21, 0x11, tcp4("203.0.113.7", 9)), "203.0.113.7", 9),
    (v2(0x21, 0x21, tcp6("2001:db8::7", 65535)), "2001:db8::7", 65535),
    (v2(0x21, 0x11, tcp4("203.0.113.7", 9), b"\x03\x00\x04abcd"), "203.0.113.7", 9),
    (v2(0x20, 0x00, b""), None, 0),
    (v2(0x20, 0x11, b""), None, 0),
    (v2(0x21, 0x00, b"whatever"), None, 0),
    (v2(0x21, 0x31, bytes(216)), None, 0),
    (v2(0x21, 0x11, tcp4("203.0.113.7", 9), bytes(LONGEST_V2 - 12)), "203.0.113.7", 9),
]

BAD: list[tuple[bytes, str]] = [
    (GET, "no PROXY header"),
    (b"PUT / HTTP/1.1\r\n", "no PROXY header"),
    (b"\x16\x03\x01\x02\x00", "no PROXY header"),
    (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "malformed"),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "malformed"),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "malformed"),
    (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "malformed"),
    (b"PROXY UNKNOWNX\r\n", "malformed"),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\r\n", "malformed"),
    (b"PROXY TCP4 1.2.3.400 1.2.3.4 1 2\r\n", "no IPv4 address"),
    (b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "no IPv4 address"),
    (b"PROXY TCP4 ::1 ::1 1 2\r\n", "no IPv4 address"),
    (b"PROXY TCP6 1.2.3.4 ::1 1 2\r\n", "no IPv6 address"),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "out of range"),
    (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 080\r\n", "out of range"),
    (b"PROXY UNKNOWN " + b"x" * LONGEST_V1, "too long"),
    (SIGNATURE[:-1] + b"\r", "no PROXY header"),
    (v2(0x11, 0x11, tcp4("1.2.3.4", 1)), "version and command are 0x11"),
    (v2(0x22, 0x11, tcp4("1.2.3.4", 1)), "version and command are 0x22"),
    (v2(0x21, 0x12, tcp4("1.2.3.4", 1)), "the family is 0x12"),
    (v2(0x21, 0x11, b"short"), "12 are needed"),
    (v2(0x21, 0x21, tcp4("1.2.3.4", 1)), "36 are needed"),
    (v2(0x21, 0x11, bytes(LONGEST_V2 + 1)), "4096 is the limit"),
]


@pytest.mark.parametrize(("header", "client", "port"), GOOD)
def test_good_headers_whole_and_cut_at_every_byte(header: bytes, client: str | None, port: int) -> None:
    for end in range(len(header)):
        assert read_header(header[:end]) is None
    assert read_header(header) == ProxyHeader(len(header), client, port)
    assert read_header(header + GET) == ProxyHeader(len(header), client, port)


@pytest.mark.parametrize(("header", "reason"), BAD)
def test_bad_headers_are_refused_and_never_before_taken(header: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_header(header)
    for end in range(len(header)):
        try:
            assert read_header(header[:end]) is None
        except ValueError:
            break


@given(st.binary(max_size=600) | st.binary(max_size=60).map(lambda tail: SIGNATURE + tail))
def test_any_bytes_are_decided_without_another_error(data: bytes) -> None:
    try:
        header = read_header(data)
    except ValueError:
        header = None
    assert header is None or header.size <= len(data)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_client_is_read_back(client: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    line = f"PROXY TCP{client.version} {client} {client} {port} {port}\r\n".encode()
    packed = client.packed * 2 + struct.pack("!HH", port, port)
    for header in (line, v2(0x21, 0x11 if client.version == 4 else 0x21, packed)):
        assert read_header(header) == ProxyHeader(len(header), str(client), port)


# --- at the listener


BELIEVED: dict[str, Any] = {"trusted_ips": ("127.0.0.1/32",), "real_ip_header": "proxy_protocol"}


@pytest.mark.parametrize("is_cut", [False, True])
@pytest.mark.parametrize("header", [GOOD[0][0], GOOD[4][0]], ids=["v1", "v2"])
def test_the_header_names_the_client(header: bytes, is_cut: bool) -> None:
    with running(takes_proxy_header=True, **BELIEVED) as (proxy, upstream):
        client = proxy.client()
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if is_cut:
            for byte in header + GET:
                client.send(bytes([byte]))
        else:
            client.send(header + GET)
        server = upstream.accept()
        head = server.read_head()
        assert b"\r\nX-Real-IP: 203.0.113.7\r\n" in head
        assert b"\r\nX-Forwarded-For: 203.0.113.7\r\n" in head
        server.send(OK)
        assert client.read_answer()[2] == b"ok"


@pytest.mark.parametrize(
    "options", [{}, {"trusted_ips": ("10.0.0.0/8",), "real_ip_header": "proxy_protocol"}]
)
def test_without_trust_the_peer_stays_the_client(options: dict[str, Any]) -> None:
    with running(takes_proxy_header=True, **options) as (proxy, upstream):
        proxy.client().send(GOOD[0][0] + GET)
        assert b"\r\nX-Real-IP: 127.0.0.1\r\n" in upstream.accept().read_head()


def test_who_says_unknown_speaks_for_itself() -> None:
    with running(takes_proxy_header=True, **BELIEVED) as (proxy, upstream):
        proxy.client().send(b"PROXY UNKNOWN\r\n" + GET)
        assert b"\r\nX-Real-IP: 127.0.0.1\r\n" in upstream.accept().read_head()


@pytest.mark.parametrize("sent", [GET, b"PROXY TCP4 x\r\n", SIGNATURE + b"\x99" * 4])
def test_a_connection_without_a_header_is_cut_without_a_word(sent: bytes) -> None:
    with running(takes_proxy_header=True) as (proxy, _):
        client = proxy.client()
        client.send(sent)
        assert client.is_closed()
        assert proxy.totals()["requests_total"] == 0


def test_a_slow_header_ends_at_the_deadline() -> None:
    with running(takes_proxy_header=True, head_timeout_ms=200) as (proxy, _):
        client = proxy.client()
        client.send(b"PROXY TCP4 ")
        assert client.is_closed()


def test_tls_begins_behind_the_header() -> None:
    authority = Authority()
    store = CertificateStore(Policy(), [authority.issue("gw.example")])
    with running(certificates=store, takes_proxy_header=True, **BELIEVED) as (proxy, upstream):
        sock = socket.create_connection(("127.0.0.1", proxy.tls_port))
        sock.sendall(GOOD[5][0])
        with authority.trusting_context().wrap_socket(sock, server_hostname="gw.example") as tls:
            client = Peer(tls)
            client.send(GET)
            head = upstream.accept().read_head()
            assert b"\r\nX-Real-IP: 2001:db8::7\r\n" in head
            assert b"\r\nX-Forwarded-Proto: https\r\n" in head
