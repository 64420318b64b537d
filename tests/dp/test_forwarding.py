"""Trusted peers: who is one, which address counts, and what of theirs is passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.dp.forwarding import Forwarding
from fastgw.obs.accesslog import AccessLog
from tests.dp.rig import running
from tests.waiting import wait_until

LOCAL: dict[str, Any] = {"trusted_ips": ("127.0.0.0/8",)}
SPOKEN = (
    b"GET /path?q HTTP/1.1\r\nHost: direct.example\r\nX-Real-IP: 203.0.113.9\r\n"
    b"X-Forwarded-For: 198.51.100.1, 198.51.100.2\r\nX-Forwarded-Proto: https\r\n"
    b"X-Forwarded-Host: public.example\r\nx-forwarded-port: 8443\r\nX-Forwarded-Path: /outer\r\n"
    b"X-Forwarded-Prefix: /pre\r\n\r\n"
)


@pytest.mark.parametrize(
    ("trusted", "peer", "is_trusted"),
    [
        ((), "127.0.0.1", False),
        (("127.0.0.1/32",), "127.0.0.1", True),
        (("127.0.0.1/32",), "127.0.0.2", False),
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("fd00::/8",), "fd12::1", True),
        (("fd00::/8",), "10.0.0.1", False),
        (("unix:",), "unix:", True),
        (("10.0.0.0/8",), "unix:", False),
        (("0.0.0.0/0",), "9.9.9.9", True),
        (("0.0.0.0/0",), "::1", False),
        (("0.0.0.0/0",), "unix:", False),
        (("0.0.0.0/0", "::/0"), "unix:", True),
    ],
)
def test_who_is_trusted(trusted: tuple[str, ...], peer: str, is_trusted: bool) -> None:
    assert Forwarding(trusted, "X-Real-IP", is_recursive=False).trusts(peer) is is_trusted


@pytest.mark.parametrize(
    ("named", "last", "recursive"),
    [
        (None, "peer", "peer"),
        (b"", "peer", "peer"),
        (b"1.1.1.1", "1.1.1.1", "1.1.1.1"),
        (b"1.1.1.1, 2.2.2.2", "2.2.2.2", "2.2.2.2"),
        (b"1.1.1.1, 10.0.0.2", "10.0.0.2", "1.1.1.1"),
        (b"1.1.1.1,10.0.0.2 , 10.0.0.3", "10.0.0.3", "1.1.1.1"),
        (b"10.0.0.1, 10.0.0.2", "10.0.0.2", "10.0.0.1"),
        (b"nobody, 10.0.0.2", "10.0.0.2", "10.0.0.2"),
        (b"1.1.1.1, nobody", "peer", "peer"),
        (b"1.1.1.1:80", "1.1.1.1", "1.1.1.1"),
        (b"[2001:db8::1]:80", "2001:db8::1", "2001:db8::1"),
        (b"[2001:db8::1]", "2001:db8::1", "2001:db8::1"),
        (b"2001:DB8::1", "2001:db8::1", "2001:db8::1"),
        (b"\xff\xfe", "peer", "peer"),
        (b"1.1.1.1," * 1000, "peer", "peer"),
    ],
)
def test_which_address_counts(named: bytes | None, last: str, recursive: str) -> None:
    for is_recursive, expected in ((False, last), (True, recursive)):
        forwarding = Forwarding(("10.0.0.0/8",), "X-Forwarded-For", is_recursive=is_recursive)
        assert forwarding.client(named, b"peer") == expected.encode()


@given(st.binary(max_size=200), st.booleans())
def test_whatever_is_named_the_answer_is_an_address_or_the_peer(named: bytes, is_recursive: bool) -> None:
    found = Forwarding(("::/0",), "X-Real-IP", is_recursive=is_recursive).client(named, b"peer")
    assert found == b"peer" or (found.decode().isprintable() and b"," not in found)


def fields_of(head: bytes) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2])


def seen_upstream(request: bytes, **options: Any) -> dict[str, str]:
    routes = [{"paths": ["/path"], "service": "svc"}]
    with running(routes=routes, **options) as (proxy, upstream):
        proxy.client().send(request)
        fields = fields_of(upstream.accept().read_head())
        fields["port"] = str(proxy.port)
        return fields


def test_what_a_trusted_peer_says_is_passed_on() -> None:
    fields = seen_upstream(SPOKEN, **LOCAL)
    assert fields["X-Real-IP"] == "203.0.113.9"
    assert fields["X-Forwarded-For"] == "198.51.100.1, 198.51.100.2, 127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "https"
    assert fields["X-Forwarded-Host"] == "public.example"
    assert fields["X-Forwarded-Port"] == "8443"
    assert fields["X-Forwarded-Path"] == "/outer"
    assert fields["X-Forwarded-Prefix"] == "/pre"


@pytest.mark.parametrize("options", [{}, {"trusted_ips": ("10.0.0.0/8",)}])
def test_what_anybody_else_says_is_replaced(options: dict[str, Any]) -> None:
    fields = seen_upstream(SPOKEN, **options)
    assert fields["X-Real-IP"] == "127.0.0.1"
    assert fields["X-Forwarded-For"] == "198.51.100.1, 198.51.100.2, 127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Forwarded-Host"] == "direct.example"
    assert fields["X-Forwarded-Port"] == fields["port"]
    assert fields["X-Forwarded-Path"] == "/path"
    assert fields["X-Forwarded-Prefix"] == "/path"


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        (b"X-Forwarded-Proto: https\r\n", None),
        (b"X-Forwarded-Proto: HTTPS\r\n", None),
        (
            b"X-Forwarded-Proto: http\r\nX-Forwarded-Host: Public.example:8080\r\n",
            "https://public.example/path?q",
        ),
        (b"X-Forwarded-Host: a b\r\n", "https://direct.example/path?q"),
        (b"", "https://direct.example/path?q"),
    ],
)
def test_a_redirect_to_https_goes_by_what_a_trusted_peer_says(fields: bytes, location: str | None) -> None:
    routes = [
        {"paths": ["/path"], "protocols": ["https"], "https_redirect_status_code": 301, "service": "svc"}
    ]
    request = b"GET /path?q HTTP/1.1\r\nHost: direct.example:1\r\n" + fields + b"\r\n"
    with running(routes=routes, **LOCAL) as (proxy, upstream):
        client = proxy.client()
        client.send(request)
        if location is None:
            assert upstream.accept().read_head().startswith(b"GET /?q ")
        else:
            assert client.read_answer()[1]["location"] == location
    with running(routes=routes) as (proxy, _):
        client = proxy.client()
        client.send(request)
        assert client.read_answer()[1]["location"] == "https://direct.example/path?q"


def test_a_trusted_peer_that_says_nothing() -> None:
    fields = seen_upstream(b"GET /path HTTP/1.1\r\nHost: direct.example\r\n\r\n", **LOCAL)
    assert fields["X-Real-IP"] == "127.0.0.1"
    assert fields["X-Forwarded-For"] == "127.0.0.1"
    assert fields["X-Forwarded-Proto"] == "http"
    assert fields["X-Forwarded-Host"] == "direct.example"
    assert fields["X-Forwarded-Port"] == fields["port"]


def test_without_a_list_the_client_begins_it() -> None:
    fields = seen_upstream(b"GET /path HTTP/1.1\r\nHost: a\r\nX-Real-IP: 203.0.113.9\r\n\r\n", **LOCAL)
    assert fields["X-Forwarded-For"] == "203.0.113.9"


def test_the_header_is_the_one_of_the_settings() -> None:
    request = b"GET /path HTTP/1.1\r\nHost: a\r\nX-Client: 1.1.1.1\r\nX-Real-IP: 2.2.2.2\r\nX-CLIENT: 3.3.3.3\r\n\r\n"
    assert seen_upstream(request, real_ip_header="x-client", **LOCAL)["X-Real-IP"] == "3.3.3.3"


def test_recursion_passes_over_trusted_addresses() -> None:
    request = b"GET /path HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9, 127.0.0.5\r\n\r\n"
    options: dict[str, Any] = {"real_ip_header": "X-Forwarded-For", **LOCAL}
    assert seen_upstream(request, real_ip_recursive=True, **options)["X-Real-IP"] == "9.9.9.9"
    assert seen_upstream(request, real_ip_recursive=False, **options)["X-Real-IP"] == "127.0.0.5"


def test_trust_ends_with_its_request_and_the_log_names_the_client(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "access.log"))
    with running(access_log=log, routes=[], **LOCAL) as (proxy, _):
        client = proxy.client()
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nX-Real-IP: 203.0.113.9\r\n\r\n")
        assert client.read_answer()[0] == 404
        client.send(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer()[0] == 404
    log.close()
    wait_until(lambda: (tmp_path / "access.log").read_text().count("\n") == 2, 5, "both lines")
    first, second = (tmp_path / "access.log").read_text().splitlines()
    assert first.startswith("203.0.113.9 - ")
    assert second.startswith("127.0.0.1 - ")
