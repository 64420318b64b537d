"""Message heads by the rules, as plainly as they can be written: the twin of `fastgw.dp._head`.

Source: RFC 9112 §2-§6, RFC 9110 §5-§7, RFC 3986 §3.2, and the gateway's own limits.
"""

from __future__ import annotations

import re
from typing import Any

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
REQUEST_LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
FIELD = re.compile(
    rb"("
    + TOKEN
    + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,}\]|[A-Za-z0-9\-._~!$&'()*+;=]+)(?::([0-9]{0,5}))?")

#: The methods that the parser knows and the gateway lets through.
METHODS = frozenset(
    b"DELETE GET HEAD POST PUT OPTIONS COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND "
    b"ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK "
    b"UNLINK SOURCE QUERY".split()
)


def split_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    fields = []
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1], match[2]))
    return fields


def tokens(fields: list[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    values = [value for key, value in fields if key.lower() == name]
    return [
        token.strip(b" \t").lower() for value in values for token in value.split(b",") if token.strip(b" \t")
    ]


def framing(fields: list[tuple[bytes, bytes]], minor: int) -> tuple[int, bool] | int:
    """Return (content length or -1, chunked), or the status that refuses the message."""
    lengths = [value for key, value in fields if key.lower() == b"content-length"]
    codings = [value for key, value in fields if key.lower() == b"transfer-encoding"]
    if len(lengths) > 1 or len(codings) > 1 or (lengths and codings):
        return 400
    if lengths:
        if not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            return 400
        return int(lengths[0]), False
    if codings:
        if codings[0] == b"":
            return 400
        if codings[0].lower() != b"chunked":
            return 501
        if minor == 0:
            return 400
        return -1, True
    return -1, False


def read_request_head(head: bytes, max_fields: int = 100) -> dict[str, Any] | int:
    end = head.find(b"\r\n\r\n")
    if end < 0:
        return 400
    lines = head[:end].split(b"\r\n")
    request_line = REQUEST_LINE.fullmatch(lines[0])
    if request_line is None:
        return 400
    method, target, minor = request_line[1], request_line[2], int(request_line[3])
    fields = split_fields(lines[1:])
    if fields is None or method not in METHODS:
        return 400
    if len(fields) > max_fields:
        return 431
    framed = framing(fields, minor)
    if isinstance(framed, int):
        return framed
    expectations = [value.lower() for key, value in fields if key.lower() == b"expect"]
    if any(value != b"100-continue" for value in expectations):
        return 417
    hosts = [value for key, value in fields if key.lower() == b"host"]
    if len(hosts) > 1 or (not hosts and minor == 1):
        return 400
    authority, path, query = split_target(method, target) or (None, None, None)
    if path is None:
        return 400
    host = authority or (hosts[0] if hosts else b"")
    match = HOST.fullmatch(host)
    if (host or minor == 1) and match is None:
        return 400
    if match and match[2] and int(match[2]) > 65535:
        return 400
    name = match[1].lower() if match else b""
    connection = tokens(fields, b"connection")
    if len([token for token in connection if token not in (b"close", b"keep-alive", b"upgrade")]) > 16:
        return 400
    return {
        "method": method,
        "minor": minor,
        "path": path,
        "query": query,
        "host": name + (b":" + match[2] if match and match[2] else b""),
        "host_name": name,
        "content_length": framed[0],
        "chunked": framed[1],
        "close": b"close" in connection,
        "keep_alive": b"keep-alive" in connection,
        "expects_continue": bool(expectations) and minor == 1,
        "fields": fields,
    }


def split_target(method: bytes, target: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Return (authority or b"", path, query with its "?"), or None when the form is not allowed."""
    if target == b"*":
        return (b"", b"*", b"") if method == b"OPTIONS" else None
    authority = b""
    if not target.startswith(b"/"):
        match = re.match(rb"(?i:https?)://([^/?#@]+)(?=[/?#]|$)", target)
        if match is None:
            return None
        authority = match[1]
        target = target[match.end() :]
    if b"#" in target:
        return None
    path, mark, query = target.partition(b"?")
    return authority, path, mark + query


def read_response_head(head: bytes) -> dict[str, Any] | None:
    end = head.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = head[:end].split(b"\r\n")
    status_line = STATUS_LINE.fullmatch(lines[0])
    fields = split_fields(lines[1:])
    if status_line is None or fields is None:
        return None
    minor = int(status_line[1])
    framed = framing(fields, minor)
    connection = tokens(fields, b"connection")
    if (
        isinstance(framed, int)
        or len([t for t in connection if t not in (b"close", b"keep-alive", b"upgrade")]) > 16
    ):
        return None
    return {
        "status": int(status_line[2]),
        "minor": minor,
        "content_length": framed[0],
        "chunked": framed[1],
        "close": b"close" in connection,
        "fields": fields,
    }
