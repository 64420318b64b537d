"""Chunked bodies by the rules, as plainly as they can be written: the twin of `fastgw.dp._body`.

Source: RFC 9112 §7.1. Extensions and trailers are read and dropped.
"""

from __future__ import annotations

import re

SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
NAME = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
TRAILER = re.compile(NAME + rb":[\t\x20-\x7e\x80-\xff]*\r\n")


def read_chunked(data: bytes) -> tuple[bytes, bytes] | None | str:
    """Return (body, rest), None when more is needed, or "malformed"."""
    body = b""
    while True:
        match = SIZE_LINE.match(data)
        if match is None:
            return None if is_prefix_of_size_line(data) else "malformed"
        size = int(match[1], 16)
        if size >= 2**63:
            return "malformed"
        data = data[match.end() :]
        if size == 0:
            return read_trailers(body, data)
        body += data[:size]
        after = data[size : size + 2]
        if after != b"\r\n":
            return None if b"\r\n".startswith(after) else "malformed"
        data = data[size + 2 :]


def is_prefix_of_size_line(data: bytes) -> bool:
    return bool(re.fullmatch(rb"|[0-9A-Fa-f]{1,16}(?:;[\t\x20-\x7e\x80-\xff]*)?\r?", data))


def read_trailers(body: bytes, data: bytes) -> tuple[bytes, bytes] | None | str:
    while True:
        if data.startswith(b"\r\n"):
            return body, data[2:]
        match = TRAILER.match(data)
        if match is None:
            ok = re.fullmatch(rb"\r?|" + NAME + rb"(?::[\t\x20-\x7e\x80-\xff]*\r?)?", data)
            return None if ok else "malformed"
        data = data[match.end() :]
