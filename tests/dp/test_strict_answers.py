"""What an upstream may not do to the client: each rule by name and source.

Every case is sent whole and cut at every byte, and judged by what the client really received; afterwards the
same client connection must get a right answer to its next request.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.dp.recorder import OK, Client, Message, Recording, cuts_of, recording


@dataclass(frozen=True)
class BadGateway:
    """The client gets a 502 of ours and nothing of the answer."""

    rule: str
    data: bytes
    method: str = "GET"


@dataclass(frozen=True)
class Cut:
    """The answer had begun when its fault came: the client's connection breaks before the body is whole."""

    rule: str
    data: bytes
    closes: bool = False


@dataclass(frozen=True)
class Passed:
    """The client gets this, and its connection stays; *reuses* tells whether the upstream's does."""

    rule: str
    data: bytes
    status: int = 200
    body: bytes = b""
    method: str = "GET"
    request: bytes = b""
    closes: bool = False
    reuses: bool = True
    present: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()


def ok(
    fields: bytes = b"", body: bytes = b"", status: bytes = b"200 OK", version: bytes = b"HTTP/1.1"
) -> bytes:
    return version + b" " + status + b"\r\n" + fields + b"\r\n" + body


def chunks(body: bytes) -> bytes:
    return ok(b"Transfer-Encoding: chunked\r\n", body)


NUMBERS = itertools.count()
TE = b"TE: trailers\r\n"

FRAMING: list[BadGateway | Cut | Passed] = [
    BadGateway("length and coding: RFC 9112 §6.3", ok(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
    BadGateway("coding and length: RFC 9112 §6.3", ok(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n")),
    BadGateway("two lengths that differ: RFC 9112 §6.3", ok(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"ab")),
    BadGateway("two lengths that agree: RFC 9110 §8.6", ok(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"a")),
    *(BadGateway(f"length {value!r}: RFC 9110 §8.6", ok(b"Content-Length: " + value + b"\r\n", b"hello"))
      for value in (b"+5", b"-1", b"5,5", b"5, 5", b"0x5", b"", b"5 5", b"18446744073709551616", b"5\x0b")),
    *(BadGateway(f"codings {value!r}: RFC 9112 §6.1", ok(b"Transfer-Encoding: " + value + b"\r\n", b"0\r\n\r\n"))
      for value in (b"gzip", b"gzip, chunked", b"chunked, gzip", b"identity", b"chunked, chunked", b", chunked", b"chunked;a=b", b"",
                    b"\x0bchunked", b"xchunked")),
    BadGateway("chunked in two lines: RFC 9112 §6.1", ok(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
    BadGateway("chunked with HTTP/1.0: RFC 9112 §6.1", ok(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", version=b"HTTP/1.0")),
    Passed("a length: RFC 9112 §6.3", ok(b"Content-Length: 5\r\n", b"hello"), body=b"hello", present=(("Content-Length", "5"),)),
    Passed("a length is written afresh: RFC 9110 §8.6", ok(b"Content-Length: 0000000005\r\n", b"hello"), body=b"hello",
           present=(("Content-Length", "5"),)),
    Passed("chunks are made anew: RFC 9112 §7.1", chunks(b"00A;x=y\r\n0123456789\r\n0b\r\nhello world\r\n000\r\n\r\n"),
           body=b"0123456789hello world", present=(("Transfer-Encoding", "chunked"),), absent=("Content-Length",)),
    Passed("chunked in any case: RFC 9112 §7", ok(b"transfer-encoding: CHUNKED\r\n", b"1\r\nx\r\n0\r\n\r\n"), body=b"x"),
    Passed("the connection's end ends a body: RFC 9112 §6.3", ok(b"", b"until the end"), body=b"until the end", closes=True, reuses=False,
           present=(("Transfer-Encoding", "chunked"),)),
    Passed("an answer of HTTP/1.0: RFC 9112 §9.3", ok(b"Content-Length: 5\r\n", b"hello", version=b"HTTP/1.0"), body=b"hello", reuses=False),
    Passed("an answer that closes: RFC 9112 §9.6", ok(b"Content-Length: 5\r\nConnection: close\r\n", b"hello"), body=b"hello", reuses=False,
           present=(("Connection", "keep-alive"),)),
]  # fmt: skip

BODIES: list[BadGateway | Cut | Passed] = [
    Passed("HEAD with a length has no body: RFC 9110 §9.3.2", ok(b"Content-Length: 40\r\n"), method="HEAD", present=(("Content-Length", "40"),)),
    Passed("HEAD with chunks has no body: RFC 9110 §9.3.2", ok(b"Transfer-Encoding: chunked\r\n"), method="HEAD"),
    Passed("HEAD answered with a body: RFC 9110 §9.3.2", ok(b"Content-Length: 5\r\n", b"hello"), method="HEAD", reuses=False),
    Passed("204 has no body: RFC 9110 §15.3.5", ok(status=b"204 No Content"), 204, absent=("Content-Length", "Transfer-Encoding")),
    Passed("204 with a length: RFC 9110 §8.6", ok(b"Content-Length: 5\r\n", b"hello", status=b"204 No Content"), 204, reuses=False,
           absent=("Content-Length",)),
    Passed("204 with a length, its body yet to come: RFC 9110 §8.6", ok(b"Content-Length: 5\r\n", status=b"204 No Content"), 204, reuses=False,
           absent=("Content-Length",)),
    Passed("204 with a length of nothing: RFC 9110 §8.6", ok(b"Content-Length: 0\r\n", status=b"204 No Content"), 204, absent=("Content-Length",)),
    Passed("204 with chunks, yet to come: RFC 9112 §6.1", ok(b"Transfer-Encoding: chunked\r\n", status=b"204 No Content"), 204, reuses=False,
           absent=("Transfer-Encoding",)),
    Passed("204 with chunks: RFC 9112 §6.1", ok(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", status=b"204 No Content"), 204, reuses=False,
           absent=("Transfer-Encoding",)),
    Passed("205 has no content: RFC 9110 §15.3.6", ok(b"Content-Length: 5\r\n", b"hello", status=b"205 Reset Content"), 205,
           present=(("Content-Length", "0"),)),
    Passed("205 with chunks: RFC 9110 §15.3.6", ok(b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n", status=b"205 Reset Content"), 205,
           present=(("Content-Length", "0"),)),
    Passed("304 has no body, its length stays: RFC 9110 §15.4.5", ok(b"Content-Length: 40\r\n", status=b"304 Not Modified"), 304,
           present=(("Content-Length", "40"),)),
    Passed("304 with a body: RFC 9110 §15.4.5", ok(b"Content-Length: 5\r\n", b"hello", status=b"304 Not Modified"), 304, reuses=False),
    Passed("a second answer nobody asked for: RFC 9112 §9.2", OK + ok(b"Content-Length: 4\r\n", b"evil"), body=b"ok", reuses=False),
    Passed("more bytes than the length: RFC 9112 §6.3", ok(b"Content-Length: 2\r\n", b"okevil"), body=b"ok", reuses=False),
    Passed("bytes behind the last chunk: RFC 9112 §7.1", chunks(b"2\r\nok\r\n0\r\n\r\nevil"), body=b"ok", reuses=False),
    Cut("fewer bytes than the length: RFC 9112 §8", ok(b"Content-Length: 10\r\n", b"short"), closes=True),
    Cut("no last chunk: RFC 9112 §8", chunks(b"5\r\nshort\r\n"), closes=True),
    Cut("half a chunk: RFC 9112 §8", chunks(b"a\r\nshort"), closes=True),
]  # fmt: skip

CHUNKING: list[BadGateway | Cut | Passed] = [
    *(Cut(f"chunk size {size!r} behind a good one: RFC 9112 §7.1", chunks(b"2\r\nok\r\n" + size + b"\r\nhello\r\n0\r\n\r\n"))
      for size in (b"0x5", b"+5", b"-5", b" 5", b"5 ", b"", b"g", b"00000000000000005", b"FFFFFFFFFFFFFFFF", b"5;\x00")),
    Cut("bare LF after a size: RFC 9112 §2.2", chunks(b"2\r\nok\r\n5\nhello\r\n0\r\n\r\n")),
    Cut("bare LF after data: RFC 9112 §2.2", chunks(b"2\r\nok\n0\r\n\r\n")),
    Cut("no line end after data: RFC 9112 §7.1", chunks(b"2\r\nokay\r\n0\r\n\r\n")),
    Cut("a trailer without a colon: RFC 9112 §7.1.2", chunks(b"2\r\nok\r\n0\r\nTrailer\r\n\r\n")),
    Cut("a long chunk extension: the gateway's own limit", chunks(b"2;" + b"e" * 17_000 + b"\r\nok\r\n0\r\n\r\n")),
    Cut("long trailers: the gateway's own limit", chunks(b"2\r\nok\r\n0\r\n" + b"T: x\r\n" * 3000 + b"\r\n")),
]  # fmt: skip

TRAILERS: list[BadGateway | Cut | Passed] = [
    Passed("trailers are dropped unless asked for: RFC 9110 §6.5.1", chunks(b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"), body=b"ok"),
    Passed("trailers for a client that asks: RFC 9110 §6.5.1",
           ok(b"Transfer-Encoding: chunked\r\nTrailer: X-Sum, X-Two\r\n", b"2\r\nok\r\n0\r\nX-Sum: 1\r\nX-Two: \t2 \r\n\r\n"), body=b"ok", request=TE,
           trailers=(("X-Sum", "1"), ("X-Two", "2")), present=(("Trailer", "X-Sum, X-Two"),)),
    Passed("trailers behind an empty body: RFC 9112 §7.1.2", chunks(b"0\r\nX-Sum: 1\r\n\r\n"), request=TE, trailers=(("X-Sum", "1"),)),
    Passed("trailers never frame, route or authenticate: RFC 9110 §6.5.1",
           chunks(b"0\r\nContent-Length: 5\r\nTransfer-Encoding: gzip\r\nHost: e\r\nSet-Cookie: a=b\r\nAuthorization: x\r\nConnection: close\r\n"
                  b"Content-Type: x\r\nContent-Encoding: gzip\r\nX-Sum: 1\r\nTrailer: y\r\nLocation: /e\r\nCache-Control: x\r\n\r\n"),
           request=TE, trailers=(("X-Sum", "1"),)),
    Passed("no trailers behind a length: RFC 9112 §6.5", ok(b"Content-Length: 2\r\nTrailer: X-Sum\r\n", b"ok"), body=b"ok", absent=("Trailer",)),
]  # fmt: skip

HEADS: list[BadGateway | Cut | Passed] = [
    *(BadGateway(f"status line {line!r}: RFC 9112 §4", line + b"\r\nContent-Length: 0\r\n\r\n")
      for line in (b"HTTP/1.1 099 x", b"HTTP/1.1 000 x", b"HTTP/1.1 600 x", b"HTTP/1.1 999 x", b"HTTP/1.1 20 x", b"HTTP/1.1 2000 x", b"HTTP/1.1 200OK",
                   b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.2 200 OK", b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK", b"RTSP/1.0 200 OK",
                   b"ICY 200 OK", b"http/1.1 200 OK", b" HTTP/1.1 200 OK", b"200 OK", b"nonsense", b"GET / HTTP/1.1", b"HTTP/1.1 200 a\x00b",
                   b"HTTP/1.1 200 a\x1bb", b"HTTP/1.1 200 a\x7fb", b"HTTP/1.1 -20 x", b"HTTP/1.1 2x0 x")),
    BadGateway("bare LF behind the status line: RFC 9112 §2.2", b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
    BadGateway("bare LF behind a field: RFC 9112 §2.2", ok(b"X: a\nContent-Length: 0\r\n")),
    BadGateway("bare LFs end the head: RFC 9112 §2.2", b"HTTP/1.1 200 OK\r\nContent-Length: 0\n\n"),
    BadGateway("bare CR in a value: RFC 9112 §2.2", ok(b"X: a\rb\r\nContent-Length: 0\r\n")),
    BadGateway("an empty line before the head: RFC 9112 §2.2", b"\r\n" + OK),
    BadGateway("space before the colon: RFC 9112 §5.1", ok(b"X : a\r\nContent-Length: 0\r\n")),
    BadGateway("folded line: RFC 9112 §5.2", ok(b"X: a\r\n b\r\nContent-Length: 0\r\n")),
    BadGateway("empty name: RFC 9110 §5.1", ok(b": a\r\nContent-Length: 0\r\n")),
    BadGateway("no colon: RFC 9112 §5", ok(b"X\r\nContent-Length: 0\r\n")),
    *(BadGateway(f"byte {byte:#04x} in a value: RFC 9110 §5.5", ok(b"X: a" + bytes((byte,)) + b"b\r\nContent-Length: 0\r\n"))
      for byte in (0x00, 0x01, 0x0B, 0x1B, 0x7F)),
    *(BadGateway(f"byte {byte:#04x} in a name: RFC 9110 §5.1", ok(b"X" + bytes((byte,)) + b"Y: a\r\nContent-Length: 0\r\n"))
      for byte in (0x00, 0x20, 0x28, 0x7F, 0x80, 0xFF)),
    BadGateway("a head above the limit: the gateway's own limit", ok(b"X: " + b"a" * 33_000 + b"\r\nContent-Length: 0\r\n")),
    BadGateway("too many fields: the gateway's own limit", ok(b"X: 1\r\n" * 257 + b"Content-Length: 0\r\n")),
    BadGateway("101 that nobody asked for: RFC 9110 §15.2.2", ok(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", status=b"101 Switching Protocols")),
    BadGateway("interim answers without end: CVE-2024-30255's class", ok(status=b"103 Early Hints") * 17 + OK),
    Passed("a status nobody knows: RFC 9110 §15", ok(b"Content-Length: 0\r\n", status=b"299 Fine"), 299),
    Passed("the reason goes no further: RFC 9112 §4", ok(b"Content-Length: 0\r\n", status=b"200 \xffsecret"), 200),
    Passed("no reason: RFC 9112 §4", ok(b"Content-Length: 0\r\n", status=b"200 "), 200),
    Passed("interim answers: RFC 9110 §15.2", ok(status=b"102 Processing") + ok(b"Link: </x>\r\n", status=b"103 Early Hints") + OK, body=b"ok"),
    Passed("a 100 that nobody asked for: RFC 9110 §15.2.1", ok(status=b"100 Continue") + OK, body=b"ok"),
    Passed("bytes from 0x80 in a value: RFC 9110 §5.5", ok(b"X: \x80\xff\r\nContent-Length: 0\r\n"), present=(("X", "\x80\xff"),)),
    Passed("nominated fields end here: RFC 9110 §7.6.1",
           ok(b"Connection: X-Hop, Content-Length, Set-Cookie2\r\nX-Hop: 1\r\nSet-Cookie2: 1\r\nX-End: 2\r\nContent-Length: 2\r\n", b"ok"),
           body=b"ok", present=(("X-End", "2"), ("Content-Length", "2")), absent=("X-Hop", "Set-Cookie2")),
    Passed("fields of one hop end here: RFC 9110 §7.6.1",
           ok(b"Keep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nTrailer: x\r\nContent-Length: 2\r\n", b"ok"),
           body=b"ok", absent=("Keep-Alive", "Proxy-Connection", "Upgrade", "Trailer")),
    Passed("fields that are ours: proxying reference §2.3",
           ok(b"X-Kong-Request-Id: e\r\nX-Kong-Proxy-Latency: -1\r\nVia: 1.1 up\r\nServer: up\r\nContent-Length: 0\r\n"), present=(("Server", "up"),)),
]  # fmt: skip

ALL: list[BadGateway | Cut | Passed] = [*FRAMING, *BODIES, *CHUNKING, *TRAILERS, *HEADS]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Recording]:
    with recording() as running:
        yield running


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.rule for case in ALL}) == len(ALL)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.rule)
def test_whole_and_cut_at_every_byte(gateway: Recording, case: BadGateway | Cut | Passed) -> None:
    whole = ask(gateway, case, [case.data])
    for cut in cuts_of(case.data):
        assert ask(gateway, case, [case.data[:cut], case.data[cut:]]) == whole, cut


def test_byte_by_byte(gateway: Recording) -> None:
    for case in ALL:
        if isinstance(case, Passed):
            ask(gateway, case, [bytes((byte,)) for byte in case.data])


def ask(gateway: Recording, case: BadGateway | Cut | Passed, pieces: list[bytes]) -> object:
    """Send a request that is answered in pieces; return what must not depend on the pieces."""
    upstream = gateway.upstream
    upstream.requests.clear()
    method = getattr(case, "method", "GET")
    line = f"{method} /{next(NUMBERS)} HTTP/1.1"
    closing = (None,) if getattr(case, "closes", False) else ()
    upstream.answer = lambda request: (*pieces, *closing) if request.line == line else (OK,)
    client = gateway.client()
    client.send(line.encode() + b"\r\nHost: a\r\n" + getattr(case, "request", b"") + b"\r\n")
    if isinstance(case, Cut):
        cut = read_cut(client)
        client.close()
        return cut
    answer = client.read_message(method)
    verdict = judge(case, answer)
    if isinstance(case, Passed) and not case.closes:
        # What comes behind the answer has been seen before there is a next request that it could answer.
        while upstream.answered.get(timeout=5) != line:
            pass
    # The connection is good for another request, and gets the answer to that one.
    client.send(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
    following = client.read_message()
    assert (following.status, following.body) == (200, b"ok"), following
    first, second = upstream.requests
    assert (first.line, second.line) == (line, "GET /next HTTP/1.1")
    assert (first.connection == second.connection) == (isinstance(case, Passed) and case.reuses)
    client.close()
    return verdict


def read_cut(client: Client) -> str:
    """Read an answer that must not look whole: 502 if nothing had been sent, else a broken connection."""
    try:
        answer = client.read_message()
    except (EOFError, ConnectionError):
        return "cut"
    assert answer.status == 502, answer
    return "cut"


def judge(case: BadGateway | Passed, answer: Message) -> object:
    if isinstance(case, BadGateway):
        assert answer.status == 502, (case.rule, answer)
        assert b"An invalid response was received from the upstream server" in answer.body
        assert answer.values("Connection") == ["keep-alive"]
        return answer.status
    assert answer.status == case.status, (case.rule, answer)
    assert answer.body == case.body
    assert answer.trailers == case.trailers
    for name, value in case.present:
        assert answer.values(name) == [value], name
    for name in case.absent:
        assert answer.values(name) == [], name
    assert len(answer.values("Content-Length")) + len(answer.values("Transfer-Encoding")) <= 1
    assert "secret" not in answer.line
    assert len(answer.values("X-Kong-Request-Id")[0]) == 32
    assert answer.values("X-Kong-Proxy-Latency") != ["-1"]
    return answer.steady
