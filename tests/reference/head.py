"""Message heads by the rules, as plainly as they can be written: the twin of `fastgw.dp._head`.

Source: RFC 9112 §2-§6, RFC 9110 §5-§7, RFC 3986 §3.2, and the gateway's own limits.
"""

from __future__ import annotations

import ipaddress
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

METHOD = re.compile(rb"(?!(?:CONNECT|TRACE)$)[A-Z_-]{1,32}")
#: At most one line each in a request.
SINGLE = frozenset(
    b"host content-length transfer-encoding content-type content-range authorization proxy-authorization range "
    b"if-range if-modified-since if-unmodified-since".split()
)


def split_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]] | None:
    fields = []
    for line in lines:
        match = FIELD.fullmatch(line)
        if match is None:
            return None
        fields.append((match[1], match[2]))
    return fields


def has_tab_behind_coding(lines: list[bytes]) -> bool:
    """Valid by RFC 9110 §5.6.3, and refused: the parser, which has the last word, takes only spaces there
    in requests."""
    return any(re.match(rb"(?i)transfer-encoding:[ \t]*chunked *\t", line) for line in lines)


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


def read_request_head(
    head: bytes, max_fields: int = 100, max_field_bytes: int = 8192
) -> dict[str, Any] | int:
    end = head.find(b"\r\n\r\n")
    if end < 0:
        return 400
    lines = head[:end].split(b"\r\n")
    request_line = REQUEST_LINE.fullmatch(lines[0])
    if request_line is None:
        return 400
    method, target, minor = request_line[1], request_line[2], int(request_line[3])
    fields = split_fields(lines[1:])
    if fields is None or METHOD.fullmatch(method) is None or has_tab_behind_coding(lines):
        return 400
    single = [name.lower() for name, _ in fields if name.lower() in SINGLE]
    if len(single) != len(set(single)):
        return 400
    if len(fields) > max_fields or any(len(line) + 2 > max_field_bytes for line in lines[1:]):
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
    if hosts and hosts[0] and not is_host(hosts[0]):
        return 400
    authority, path, query = split_target(method, target) or (None, None, None)
    if path is None:
        return 400
    if re.search(rb"%(?![0-9A-Fa-f]{2})|%00", path):
        return 400
    host = authority or (hosts[0] if hosts else b"")
    match = HOST.fullmatch(host)
    if (host or minor == 1) and not is_host(host):
        return 400
    name = match[1].lower() if match else b""
    connection = tokens(fields, b"connection")
    te = [token.partition(b";")[0].strip(b" \t") for token in tokens(fields, b"te")]
    upgrades = [value.lower() for key, value in fields if key.lower() == b"upgrade"]
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
        "accepts_trailers": b"trailers" in te,
        "wants_websocket": (
            method == b"GET"
            and minor == 1
            and framed in ((-1, False), (0, False))
            and b"upgrade" in connection
            and upgrades[-1:] == [b"websocket"]
        ),
        "fields": fields,
    }


def is_host(value: bytes) -> bool:
    match = HOST.fullmatch(value)
    if match is not None and match[1].startswith(b"["):
        try:
            ipaddress.IPv6Address(match[1][1:-1].decode())
        except ValueError:
            return False
    return len(value) <= 512 and match is not None and not (match[2] and int(match[2]) > 65535)


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
    if status_line[2] == b"101" and not (
        b"upgrade" in connection and any(key.lower() == b"upgrade" for key, _ in fields)
    ):
        return None
    if (
        len(fields) > 256
        or isinstance(framed, int)
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
