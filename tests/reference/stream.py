"""A client's byte stream by the rules: the requests in it, and where it stops being one.

The twin of what a downstream connection does with bytes, whole; limits are the gateway's defaults.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.reference.body import read_chunked
from tests.reference.head import read_request_head

HEAD_BYTES = 32768
LINE_BYTES = 8192
MAX_EMPTY_LINES = 2


class Stream(NamedTuple):
    requests: list[tuple[bytes, bytes]]  #: method and body of each whole request, in order
    is_refused: bool  #: what follows them is answered with an error
    is_open: bool  #: what follows them is not whole


def read_stream(data: bytes) -> Stream:
    """Split *data* into requests, up to the first that is refused, not whole, or the last by its own word."""
    requests: list[tuple[bytes, bytes]] = []
    while True:
        for _ in range(MAX_EMPTY_LINES):
            data = data.removeprefix(b"\r\n")
        end = data.find(b"\r\n\r\n")
        if end < 0:
            return Stream(requests, has_lost_its_head(data), True)
        head, rest = data[: end + 4], data[end + 4 :]
        facts = read_request_head(head)
        if isinstance(facts, int) or len(head) > HEAD_BYTES or head.find(b"\r\n") + 2 > LINE_BYTES:
            return Stream(requests, True, False)
        body = read_body(facts, rest)
        if not isinstance(body, tuple):
            return Stream(requests, body == "malformed", body is None)
        requests.append((facts["method"], body[0]))
        data = body[1]
        if facts["close"] or (facts["minor"] == 0 and not facts["keep_alive"]):
            return Stream(requests, False, False)


def has_lost_its_head(data: bytes) -> bool:
    """True when no more bytes can make a head of *data*."""
    is_bare = any(place == 0 or data[place - 1] != 0x0D for place, byte in enumerate(data) if byte == 0x0A)
    return is_bare or len(data) > HEAD_BYTES or (b"\n" not in data[:LINE_BYTES] and len(data) >= LINE_BYTES)


def read_body(facts: dict[str, Any], data: bytes) -> tuple[bytes, bytes] | None | str:
    """The body and what is behind it; None when it is not whole, "malformed" when it cannot become so."""
    if facts["chunked"]:
        return read_chunked(data)
    length = max(facts["content_length"], 0)
    return (data[:length], data[length:]) if len(data) >= length else None
