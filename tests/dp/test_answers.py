"""Answers that the gateway makes: form by Accept, fields by the `headers` setting."""

from __future__ import annotations

import json

import pytest

from fastgw.dp.answers import choose_type, render

ALL = frozenset(
    {
        "server",
        "via",
        "x-kong-proxy-latency",
        "x-kong-upstream-latency",
        "x-kong-response-latency",
        "x-kong-request-id",
    }
)


@pytest.mark.parametrize(
    ("accept", "explicit", "page"),
    [
        (None, "application/json", "text/plain"),
        (b"*/*", "application/json", "application/json"),
        (b"text/html", "text/html", "text/html"),
        (b"text/*", "text/plain", "text/plain"),
        (b"application/xml;q=0.5, text/html;q=0.4", "application/xml", "application/xml"),
        (b"text/plain;q=0.1, application/json;q=0.9", "application/json", "application/json"),
        (b"image/png", "application/json", "application/json"),
        (b"text/html;q=abc", "application/json", "application/json"),
    ],
)
def test_media_type(accept: bytes | None, explicit: str, page: str) -> None:
    assert choose_type(accept, is_error_page=False) == explicit
    assert choose_type(accept, is_error_page=True) == page


def answer(**changes: object) -> tuple[bytes, bytes]:
    arguments: dict[str, object] = {
        "is_error_page": False, "is_head": False, "closes": False, "headers": ALL, "response_ms": 3, "proxy_ms": None,
        "upstream_ms": None,
    }  # fmt: skip
    head, _, body = render(404, 'no "Route"', b"a" * 32, None, **(arguments | changes)).partition(b"\r\n\r\n")  # type: ignore[arg-type]
    return head, body


def test_json_in_kongs_layout() -> None:
    head, body = answer()
    assert body == b'{\n  "message":"no \\"Route\\"",\n  "request_id":"' + b"a" * 32 + b'"\n}'
    assert json.loads(body)["message"] == 'no "Route"'
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(body) in head
    assert b"\r\nX-Kong-Response-Latency: 3\r\n" in head
    assert b"Via" not in head


def test_after_an_upstream_was_asked() -> None:
    head, _ = answer(proxy_ms=1, upstream_ms=2)
    assert b"X-Kong-Proxy-Latency: 1" in head
    assert b"X-Kong-Upstream-Latency: 2" in head
    assert b"X-Kong-Response-Latency" not in head
    assert b"Via: 1.1 fastgw/" in head


def test_head_has_no_body() -> None:
    assert answer(is_head=True)[1] == b""


def test_headers_off() -> None:
    head, _ = answer(headers=frozenset())
    assert b"X-Kong" not in head
    assert b"Server" not in head
