"""The answers that the gateway makes itself: status, fields and a body that the client can read.

Two makers, as in Kong (proxying reference §2.4): explicit answers (routing, plugins) choose the body's form
by Accept alone and fall back to JSON; error pages fall back to plain text.
"""

from __future__ import annotations

import html
import json
import time
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from fastgw import __version__

#: The texts of error pages that are sent before there is an exchange.
REFUSALS: Final = {
    400: "Bad request",
    405: "Method not allowed",
    408: "Request timeout",
    413: "Payload too large",
    414: "URI too long",
    417: "Expectation failed",
    431: "Request header or cookie too large",
    501: "Not implemented",
    505: "HTTP version not supported",
}

_SERVER: Final = f"fastgw/{__version__}"
_KNOWN: Final = {
    "application/json": "application/json",
    "application/xml": "application/xml",
    "text/html": "text/html",
    "text/plain": "text/plain",
    "text/*": "text/plain",
}


def choose_type(accept: bytes | None, *, is_error_page: bool) -> str:
    """Return the media type for an answer: the first of the highest q, JSON for what is not known.

    Source: Kong 3.9.1 `kong/tools/http.lua` as told in the proxying reference §2.4.
    """
    if not accept:
        return "text/plain" if is_error_page else "application/json"
    best, best_q = "application/json", 0.0
    for item in accept.decode("latin-1").split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        q = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    q = float(parameter[2:])
                except ValueError:
                    q = 0.0
        if q > best_q:
            best, best_q = _KNOWN.get(name, "application/json"), q
    return best


def make_body(media_type: str, message: str, request_id: str) -> str:
    """Return the body in Kong's shape for *media_type*."""
    if media_type == "application/json":
        return f'{{\n  "message":{json.dumps(message)},\n  "request_id":"{request_id}"\n}}'
    if media_type == "text/plain":
        return f"{message}\nrequest_id: {request_id}\n"
    text = html.escape(message, quote=False)
    if media_type == "application/xml":
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n<error>\n'
            f"  <message>{text}</message>\n  <requestid>{request_id}</requestid>\n</error>\n"
        )
    return (
        '<!doctype html>\n<html>\n  <head>\n    <meta charset="utf-8">\n    <title>Error</title>\n  </head>\n'
        f"  <body>\n    <h1>Error</h1>\n    <p>{text}.</p>\n"
        f"    <p>request_id: {request_id}</p>\n  </body>\n</html>\n"
    )


LENGTHLESS: Final = frozenset({204, 304})
"""Statuses that end with their head, whatever it says. Source: RFC 9112 §6.3; RFC 9110 §8.6."""
BODILESS: Final = LENGTHLESS | {205}
"""Statuses whose answers have no content. Source: RFC 9110 §15.3.5, §15.3.6, §15.4.5."""


def render(
    status: int,
    message: str,
    request_id: bytes,
    accept: bytes | None,
    *,
    is_error_page: bool,
    is_head: bool,
    closes: bool,
    headers: frozenset[str],
    response_ms: int,
    proxy_ms: int | None,
    upstream_ms: int | None,
    fields: bytes = b"",
    content: bytes | None = None,
) -> bytes:
    """Return a whole answer, head and body, as bytes.

    Args:
        message: empty for an answer without a body.
        content: a body in place of one made of *message*; its type is in *fields*.
        fields: more header fields, each with its CRLF; Upgrade among them is named in Connection.
        headers: lower-case names of the fields that the `headers` setting lets through.
        proxy_ms: set when the request got as far as an upstream: the proxy's latencies then replace
            X-Kong-Response-Latency, and Via is shown.
    """
    media_type = choose_type(accept, is_error_page=is_error_page)
    identity = request_id.decode("ascii")
    if status in BODILESS:
        message, content = "", None
    body = make_body(media_type, message, identity).encode() if message else content or b""
    lines = [f"HTTP/1.1 {status} {_phrase(status)}", f"Date: {formatdate(time.time(), usegmt=True)}"]
    if status not in LENGTHLESS:
        lines.append(f"Content-Length: {len(body)}")
    if message:
        lines.append(f"Content-Type: {media_type}; charset=utf-8")
    if "server" in headers:
        lines.append(f"Server: {_SERVER}")
    if proxy_ms is not None and "via" in headers:
        lines.append(f"Via: 1.1 {_SERVER}")
    if proxy_ms is None:
        if "x-kong-response-latency" in headers:
            lines.append(f"X-Kong-Response-Latency: {response_ms}")
    else:
        if "x-kong-upstream-latency" in headers:
            lines.append(f"X-Kong-Upstream-Latency: {upstream_ms}")
        if "x-kong-proxy-latency" in headers:
            lines.append(f"X-Kong-Proxy-Latency: {proxy_ms}")
    if "x-kong-request-id" in headers:
        lines.append(f"X-Kong-Request-Id: {identity}")
    connection = "close" if closes else "keep-alive"
    if fields.startswith(b"Upgrade:"):
        connection = "Upgrade, close" if closes else "Upgrade"
    lines.append(f"Connection: {connection}")
    head = "\r\n".join(lines).encode("ascii") + b"\r\n" + fields + b"\r\n"
    return head if is_head else head + body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
