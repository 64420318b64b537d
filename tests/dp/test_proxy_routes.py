"""What a route does to its requests, seen from both ends: stripping, https alone, debug fields."""

from __future__ import annotations

from typing import Any

import pytest

from tests.dp.rig import running

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_routes_by_regex_and_header_strip_what_the_regex_took() -> None:
    routes: list[dict[str, Any]] = [
        {"paths": [r"~/users/\d+/profile"], "headers": {"X-Team": ["~*^blue"]}, "service": "svc"},
        {"paths": [r"~/(?<kind>[a-z]+)s/"], "strip_path": False, "service": "svc"},
    ]
    with running(routes=routes) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET /users/123/profile/hello HTTP/1.1\r\nHost: a\r\nx-team: Bluebird\r\n\r\n")
        server = upstream.accept()
        head = server.read_head()
        assert head.startswith(b"GET /hello HTTP/1.1\r\n")
        assert b"\r\nX-Forwarded-Prefix: /users/123/profile\r\n" in head
        server.send(OK)
        assert client.read_answer()[0] == 200
        client.send(b"GET /users/123/profile/hello HTTP/1.1\r\nHost: a\r\n\r\n")
        assert server.read_head().startswith(b"GET /users/123/profile/hello HTTP/1.1\r\n")
        server.send(OK)
        assert client.read_answer()[0] == 200
        client.send(b"GET /123/ HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_answer()[0] == 404


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_route_for_https_alone_redirects_http(status: int) -> None:
    routes: list[dict[str, Any]] = [
        {"paths": ["/"], "protocols": ["https"], "https_redirect_status_code": status, "service": "svc"}
    ]
    with running(routes=routes) as (proxy, _upstream):
        client = proxy.client()
        client.send(b"GET /a%20b?q=1 HTTP/1.1\r\nHost: Ex.com:8000\r\n\r\n")
        found, fields, body = client.read_answer()
        assert (found, body) == (status, b"")
        assert fields["location"] == "https://ex.com/a%20b?q=1"
        assert fields["connection"] == "keep-alive"


def test_a_route_for_https_alone_asks_for_an_upgrade() -> None:
    routes = [{"paths": ["/"], "protocols": ["https"], "service": "svc"}]
    with running(routes=routes) as (proxy, _upstream):
        client = proxy.client()
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            status, fields, body = client.read_answer()
            assert status == 426
            assert b'"message":"Please use HTTPS protocol"' in body
            assert fields["upgrade"] == "TLS/1.2, HTTP/1.1"
            assert fields["connection"] == "Upgrade"


def test_debug_fields_name_route_and_service_where_allowed() -> None:
    routes: list[dict[str, Any]] = [
        {"name": "rté", "paths": ["/"], "service": "svc"},
        {"name": "bare", "paths": ["/bare"]},
    ]
    with running(routes=routes, debug_fields=True) as (proxy, upstream):
        client = proxy.client()
        client.send(GET)
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        assert not any(name.startswith("kong-") for name in client.read_answer()[1])
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nkong-debug: 1\r\n\r\n")
        server.read_head()
        server.send(OK)
        fields = client.read_answer()[1]
        assert fields["kong-route-name"] == "rt%C3%A9"
        assert fields["kong-service-name"] == "svc"
        assert len(fields["kong-route-id"]) == len(fields["kong-service-id"]) == 36
        client.send(b"GET /bare HTTP/1.1\r\nHost: a\r\nKong-Debug: 1\r\n\r\n")
        status, fields, _ = client.read_answer()
        assert (status, fields["kong-route-name"]) == (503, "bare")
        assert "kong-service-id" not in fields


def test_debug_fields_are_off_unless_allowed() -> None:
    with running() as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nKong-Debug: 1\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        assert "kong-route-id" not in client.read_answer()[1]
