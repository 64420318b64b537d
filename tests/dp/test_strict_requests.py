"""What a client may not do to us or to the upstream: each rule by name and source.

Every case is sent whole and cut at every byte, and judged by what the upstream really received. The rules
are those of RFC 9110 and RFC 9112, and the duties that the head's parser leaves to its caller.
"""

from __future__ import annotations

import pathlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import fastgw
from tests.dp.recorder import Message, Recording, cuts_of, recording

HOST = b"Host: a\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True)
class Refused:
    """Answered with *status*, the connection closed, and never a whole request for the upstream."""

    rule: str
    data: bytes
    status: int = 400


@dataclass(frozen=True)
class Passed:
    """Reaches the upstream exactly once, with this line and body; *absent* names fields that must not."""

    rule: str
    data: bytes
    line: str = "GET / HTTP/1.1"
    body: bytes = b""
    present: tuple[tuple[str, str], ...] = ()
    absent: tuple[str, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()


def get(fields: bytes = b"", target: bytes = b"/", version: bytes = b"HTTP/1.1", host: bytes = HOST) -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + fields + b"\r\n"


def post(fields: bytes, body: bytes = b"") -> bytes:
    return POST + fields + b"\r\n" + body


def chunks(body: bytes, fields: bytes = b"") -> bytes:
    return CHUNKED + fields + b"\r\n" + body


LENGTHS = [b"+5", b"-1", b"5,5", b"5, 5", b"0x5", b"", b"5 5", b"18446744073709551616", b"5;", b"5\x0b", b"5.0",
           b"99999999999999999999999", "５".encode()]  # fmt: skip

FRAMING: list[Refused | Passed] = [
    Refused("length and coding: RFC 9112 §6.1", post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")),
    Refused("coding and length: RFC 9112 §6.1", post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n")),
    Refused("two lengths that differ: RFC 9112 §6.3", post(b"Content-Length: 1\r\nContent-Length: 2\r\n", b"ab")),
    Refused("two lengths that agree: RFC 9110 §8.6", post(b"Content-Length: 1\r\nContent-Length: 1\r\n", b"a")),
    *(Refused(f"length {value!r}: RFC 9110 §8.6", post(b"Content-Length: " + value + b"\r\n", b"hello")) for value in LENGTHS),
    Refused("length 2^64 - 1: RFC 9110 §8.6", post(b"Content-Length: 18446744073709551615\r\n")),
    Refused("unknown coding: RFC 9112 §6.1", post(b"Transfer-Encoding: gzip\r\n"), 501),
    Refused("coding list: RFC 9112 §6.1", post(b"Transfer-Encoding: gzip, chunked\r\n"), 501),
    Refused("identity: RFC 9112 §7 (withdrawn)", post(b"Transfer-Encoding: identity\r\n"), 501),
    Refused("chunked is not last: RFC 9112 §6.1", post(b"Transfer-Encoding: chunked, identity\r\n"), 501),
    Refused("xchunked: RFC 9112 §6.1", post(b"Transfer-Encoding: xchunked\r\n"), 501),
    Refused("chunked twice in a line: RFC 9112 §6.1", post(b"Transfer-Encoding: chunked, chunked\r\n")),
    Refused("chunked in two lines: RFC 9112 §6.1", post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
    Refused("two codings in two lines: RFC 9112 §6.1", post(b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"), 501),
    Refused("empty item in codings: RFC 9112 §6.1", post(b"Transfer-Encoding: , chunked\r\n")),
    Refused("chunked with a parameter: RFC 9112 §7", post(b"Transfer-Encoding: chunked;a=b\r\n")),
    Refused("no coding: RFC 9112 §6.1", post(b"Transfer-Encoding:\r\n")),
    Refused("control before chunked: RFC 9110 §5.5", post(b"Transfer-Encoding: \x0bchunked\r\n")),
    Refused("quoted chunked: RFC 9112 §7", post(b'Transfer-Encoding: "chunked"\r\n')),
    Refused("chunked with HTTP/1.0: RFC 9112 §6.1", b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    Passed("chunked in any case: RFC 9112 §7", post(b"tRANSFER-eNCODING: \tChunKed \r\n", b"1\r\nx\r\n0\r\n\r\n"),
           "POST / HTTP/1.1", b"x", (("Transfer-Encoding", "chunked"),), ("Content-Length",)),
    Passed("white space around a length: RFC 9110 §5.5", post(b"Content-Length:\t 5 \t\r\n", b"hello"),
           "POST / HTTP/1.1", b"hello", (("Content-Length", "5"),), ("Transfer-Encoding",)),
    Passed("a length is written afresh: RFC 9110 §8.6", post(b"Content-Length: 0000000005\r\n", b"hello"),
           "POST / HTTP/1.1", b"hello", (("Content-Length", "5"),)),
    Passed("no body: RFC 9112 §6.3", get(), absent=("Content-Length", "Transfer-Encoding")),
    Passed("Transfer_Encoding is another field: RFC 9110 §5.1", post(b"Transfer_Encoding: chunked\r\nContent-Length: 1\r\n", b"x"),
           "POST / HTTP/1.1", b"x", (("Content-Length", "1"), ("Transfer_Encoding", "chunked"))),
]  # fmt: skip

CHUNKING: list[Refused | Passed] = [
    *(Refused(f"chunk size {size!r}: RFC 9112 §7.1", chunks(size + b"\r\nhello\r\n0\r\n\r\n"))
      for size in (b"0x5", b"+5", b"-5", b" 5", b"5 ", b"5\t", b"", b"g", b"5 ;x", b"00000000000000005", b"FFFFFFFFFFFFFFFF",
                   b"8000000000000000", b"5;\x00", b"5;a\nb", b"5;a\x7f", b"5\x00")),
    Refused("bare LF after a size: RFC 9112 §2.2", chunks(b"5\nhello\r\n0\r\n\r\n")),
    Refused("bare CR after a size: RFC 9112 §2.2", chunks(b"5\rhello\r\n0\r\n\r\n")),
    Refused("bare LF after an extension: RFC 9112 §7.1.1", chunks(b"5;a=b\nhello\r\n0\r\n\r\n")),
    Refused("bare LF after data: RFC 9112 §7.1", chunks(b"5\r\nhello\n0\r\n\r\n")),
    Refused("bare CR after data: RFC 9112 §7.1", chunks(b"5\r\nhello\r0\r\n\r\n")),
    Refused("no line end after data: RFC 9112 §7.1", chunks(b"5\r\nhello0\r\n\r\n")),
    Refused("more data than the size: RFC 9112 §7.1", chunks(b"4\r\nhello\r\n0\r\n\r\n")),
    Refused("bare LF at the end: RFC 9112 §7.1", chunks(b"0\r\n\n")),
    Refused("a trailer without a colon: RFC 9112 §7.1.2", chunks(b"0\r\nTrailer\r\n\r\n")),
    Refused("a trailer with a space in its name: RFC 9112 §5.1", chunks(b"0\r\nA : b\r\n\r\n")),
    Refused("a folded trailer: RFC 9112 §5.2", chunks(b"0\r\nA: b\r\n c\r\n\r\n")),
    Refused("NUL in a trailer: RFC 9110 §5.5", chunks(b"0\r\nA: \x00\r\n\r\n")),
    Refused("bare LF in the trailers: RFC 9112 §2.2", chunks(b"0\r\nA: b\n\r\n")),
    Passed("sizes in any case, leading zeros: RFC 9112 §7.1", chunks(b"00A\r\n0123456789\r\n0b\r\nhello world\r\n000\r\n\r\n"),
           "POST / HTTP/1.1", b"0123456789hello world"),
    Passed("extensions end here: RFC 9112 §7.1.1", chunks(b"5;a=b;c=\"d\"\r\nhello\r\n0;last\r\n\r\n"),
           "POST / HTTP/1.1", b"hello"),
    Passed("trailers go on: RFC 9112 §7.1.2", chunks(b"1\r\nx\r\n0\r\nX-Sum: 1\r\nx-sum:2 \r\nHost: evil\r\n\r\n", b"Trailer: X-Sum\r\n"),
           "POST / HTTP/1.1", b"x", present=(("Trailer", "X-Sum"),), trailers=(("X-Sum", "1"), ("x-sum", "2"))),
    Passed("trailers end here when Connection names a field: RFC 9110 §7.6.1",
           chunks(b"0\r\nX-Sum: 1\r\n\r\n", b"Connection: X-Sum\r\n"), "POST / HTTP/1.1", b""),
    Passed("trailers that only the gateway says end here: RFC 9110 §6.5.1, proxying reference §5.5", chunks(
           b"0\r\nX-Forwarded-For: 1\r\nX-Real-IP: 1\r\nX-Consumer-ID: 1\r\nX-Credential-Identifier: 1\r\n"
           b"X-Anonymous-Consumer: 1\r\nX-Authenticated-Groups: 1\r\nX-Kong-Any: 1\r\nX_Sum: 1\r\nCookie: a\r\nVia: 1\r\n\r\n"),
           "POST / HTTP/1.1", b""),
    Passed("trailers that frame or authenticate end here: RFC 9110 §6.5.1", chunks(b"1\r\nx\r\n0\r\nHost: evil\r\nContent-Length: 9\r\nAuthorization: x\r\n\r\n"),
           "POST / HTTP/1.1", b"x", absent=("Authorization", "Content-Length")),
]  # fmt: skip

FIELDS: list[Refused | Passed] = [
    Refused("space before the colon: RFC 9112 §5.1", get(b"X : b\r\n")),
    Refused("tab before the colon: RFC 9112 §5.1", get(b"X\t: b\r\n")),
    Refused("space before the colon of a length: RFC 9112 §5.1", post(b"Content-Length : 5\r\n", b"hello")),
    Refused("empty name: RFC 9110 §5.1", get(b": b\r\n")),
    Refused("no colon: RFC 9112 §5", get(b"X\r\n")),
    Refused("space before the first field: RFC 9112 §2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    Refused("folded line: RFC 9112 §5.2", get(b"X: b\r\n c\r\n")),
    Refused("folded line with a tab: RFC 9112 §5.2", get(b"X: b\r\n\tc: d\r\n")),
    Refused("bare LF in the request line: RFC 9112 §2.2", b"GET / HTTP/1.1\nHost: a\r\n\r\n"),
    Refused("bare LF after a field: RFC 9112 §2.2", get(b"X: b\nY: c\r\n")),
    Refused("bare LFs end the head: RFC 9112 §2.2", b"GET / HTTP/1.1\r\nHost: a\n\n"),
    Refused("bare CR in the request line: RFC 9112 §2.2", b"GET / HTTP/1.1\rHost: a\r\n\r\n"),
    Refused("bare CR in a value: RFC 9112 §2.2", get(b"X: b\rc\r\n")),
    Refused("bare CR after a field: RFC 9112 §2.2", get(b"X: b\rY: c\r\n")),
    Refused("CR CR LF: RFC 9112 §2.2", get(b"X: b\r\r\n")),
    *(Refused(f"byte {byte:#04x} in a value: RFC 9110 §5.5", get(b"X: b" + bytes((byte,)) + b"c\r\n"))
      for byte in (0x00, 0x01, 0x07, 0x08, 0x0B, 0x0C, 0x1B, 0x1F, 0x7F)),
    *(Refused(f"byte {byte:#04x} in a name: RFC 9110 §5.1", get(b"X" + bytes((byte,)) + b"Y: b\r\n"))
      for byte in (*b'\x00\x01\t "(),/;<=>?@[\\]{}\x7f', 0x80, 0xC3, 0xFF)),
    Passed("bytes from 0x80 in a value: RFC 9110 §5.5", get(b"X: \x80\xff\r\n"), present=(("X", "\x80\xff"),)),
    Passed("tab in a value: RFC 9110 §5.5", get(b"X: a\tb\r\n"), present=(("X", "a\tb"),)),
    Passed("an empty value: RFC 9110 §5.5", get(b"X:\r\n"), present=(("X", ""),)),
    Passed("white space behind a value: RFC 9110 §5.5", get(b"X: b \t \r\n"), present=(("X", "b"),)),
    Passed("every token character in a name: RFC 9110 §5.6.2", get(b"!#$%&'*+-.^_`|~09azAZ: b\r\n"),
           present=(("!#$%&'*+-.^_`|~09azAZ", "b"),)),
    *(Refused(f"{name} twice: RFC 9110 §5.3", get(f"{name}: a\r\n{name.lower()}: a\r\n".encode()))
      for name in ("Authorization", "Proxy-Authorization", "Content-Type", "Content-Range", "Range", "If-Range",
                   "If-Modified-Since", "If-Unmodified-Since")),
    Passed("Date twice is harmless: RFC 9110 §5.3", get(b"Date: a\r\nDate: b\r\n")),
    Refused("an expectation that is not known: RFC 9110 §10.1.1", get(b"Expect: tea\r\n"), 417),
    Refused("an expectation among others: RFC 9110 §10.1.1", get(b"Expect: 100-continue, tea\r\n"), 417),
]  # fmt: skip

HOSTS: list[Refused | Passed] = [
    Refused("no Host: RFC 9112 §3.2", b"GET / HTTP/1.1\r\n\r\n"),
    Refused("two Hosts: RFC 9112 §3.2", get(HOST)),
    Refused("two Hosts that differ: RFC 9112 §3.2", get(b"Host: b\r\n")),
    Refused("two Hosts in HTTP/1.0: RFC 9112 §3.2", get(HOST, version=b"HTTP/1.0")),
    Refused("an empty Host: RFC 9110 §7.2", get(host=b"Host:\r\n")),
    *(Refused(f"Host {value!r}: RFC 3986 §3.2", get(host=b"Host: " + value + b"\r\n"))
      for value in (b"a b", b"a/b", b"u@a", b"a,b", b'a"', b"<a>", b"a%00", b"a\xff", b"a:99999", b"a:80:80", b"a:x",
                    b"[::1", b"[dead]", b"[1.2.3.4]", b"[:::]", b"[1:2:3:4:5:6:7:8:9]", b"[fe80::1%25lo]", b"[v1.a]", b"::1", b"[::1]x", b"[]", b"[g]", b":80", b"a\\b", b"a#b", b"a?b", b"a|b", b"a^b", b"a:-1",
                    b"[::1]:x", b"a" * 513)),
    Refused("a bad Host behind an absolute target: RFC 9112 §3.2", get(target=b"http://a/", host=b"Host: b/c\r\n")),
    Passed("HTTP/1.0 needs none: RFC 9112 §3.2", b"GET / HTTP/1.0\r\n\r\n"),
    Passed("an absolute target replaces it: RFC 9112 §3.2.2", get(target=b"http://other:81/x", host=b"Host: a\r\n"),
           "GET /x HTTP/1.1", present=(("X-Forwarded-Host", "other"),)),
    Passed("lower-cased, without the port: RFC 3986 §3.2.2", get(host=b"Host: EXAMPLE.com:8443\r\n"),
           present=(("X-Forwarded-Host", "example.com"),)),
    Passed("an address in brackets: RFC 3986 §3.2.2", get(host=b"Host: [2001:DB8::1]:8443\r\n"),
           present=(("X-Forwarded-Host", "[2001:db8::1]"),)),
    Passed("an address that ends as one of version 4: RFC 3986 §3.2.2", get(host=b"Host: [::FFFF:192.0.2.1]\r\n"),
           present=(("X-Forwarded-Host", "[::ffff:192.0.2.1]"),)),
    Passed("white space behind it: RFC 9110 §5.5", get(host=b"Host: a \t\r\n"), present=(("X-Forwarded-Host", "a"),)),
]  # fmt: skip

TARGETS: list[Refused | Passed] = [
    *(Refused(f"byte {byte:#04x} in the target: RFC 3986 §2", get(target=b"/a" + bytes((byte,)) + b"b"))
      for byte in (0x00, 0x01, 0x09, 0x0B, 0x1B, 0x7F, 0x80, 0xFF)),
    Refused("a space in the target: RFC 9112 §3.2", get(target=b"/a b")),
    Refused("two spaces before the target: RFC 9112 §3", get(target=b" /")),
    Refused("two spaces behind the target: RFC 9112 §3", get(target=b"/ ")),
    Refused("a tab behind the method: RFC 9112 §3", b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    Refused("no target: RFC 9112 §3", b"GET  HTTP/1.1\r\nHost: a\r\n\r\n"),
    Refused("no version: RFC 9112 §3", b"GET /\r\nHost: a\r\n\r\n"),
    Refused("a fragment: RFC 9112 §3.2.1", get(target=b"/a#b")),
    Refused("a fragment behind the query: RFC 9112 §3.2.1", get(target=b"/a?b#c")),
    Refused("no slash: RFC 9112 §3.2.1", get(target=b"a")),
    Refused("a query alone: RFC 9112 §3.2.1", get(target=b"?a")),
    Refused("the asterisk with GET: RFC 9112 §3.2.4", get(target=b"*")),
    Refused("another scheme: RFC 9110 §4.2", get(target=b"ftp://a/x")),
    Refused("no authority: RFC 9110 §4.2.1", get(target=b"http:///x")),
    Refused("nothing behind the scheme: RFC 9110 §4.2.1", get(target=b"http://")),
    Refused("user information: RFC 9110 §4.2.4", get(target=b"http://u:p@a/x")),
    Refused("a bad authority: RFC 3986 §3.2", get(target=b"http://a%00/x")),
    Refused("the authority form with GET: RFC 9112 §3.2.3", get(target=b"a:80")),
    *(Refused(f"version {version!r}: RFC 9112 §2.3", get(version=version), status)
      for version, status in ((b"HTTP/0.9", 505), (b"HTTP/1.2", 505), (b"HTTP/2.0", 505), (b"HTTP/1.", 400), (b"HTTP/1.10", 400),
                              (b"http/1.1", 400), (b"RTSP/1.0", 400), (b"ICE/1.0", 400), (b"HTTP/11", 400), (b"HTTP/1,1", 505))),
    Refused("a preface of HTTP/2: RFC 9113 §3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    Refused("CONNECT: RFC 9110 §9.3.6", b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    Refused("CONNECT with a path: RFC 9110 §9.3.6", b"CONNECT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 405),
    Refused("TRACE: RFC 9110 §9.3.8", b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    Refused("a method in lower case: RFC 9110 §9.1", b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    Refused("a method that is no token: RFC 9110 §9.1", b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
    Refused("a method without end: the gateway's own limit", b"A" * 33 + b" / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    Passed("a method that nobody knows: RFC 9110 §9.1", b"BREW /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx",
           "BREW /x HTTP/1.1", b"x"),
    Passed("a method of another protocol: RFC 9110 §9.1", b"DESCRIBE /x HTTP/1.1\r\nHost: a\r\n\r\n", "DESCRIBE /x HTTP/1.1"),
    Passed("a method with a dash: RFC 9110 §9.1", b"M-SEARCH /x HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH /x HTTP/1.1"),
    Passed("the asterisk with OPTIONS: RFC 9112 §3.2.4", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1"),
    Passed("an absolute target without a path: RFC 9112 §3.2.1", get(target=b"http://a"), "GET / HTTP/1.1"),
    Passed("an absolute target, a query, no path: RFC 9112 §3.2.1", get(target=b"HTTP://a?b=c"), "GET /?b=c HTTP/1.1"),
    Passed("two slashes begin a path, not an authority: RFC 9112 §3.2.1", get(target=b"//evil/x"), "GET /evil/x HTTP/1.1"),
    Passed("dot segments end here: RFC 3986 §5.2.4", get(target=b"/a/../b/%2e%2e/c"), "GET /c HTTP/1.1"),
    Passed("never above the root: RFC 3986 §5.2.4", get(target=b"/../../x"), "GET /x HTTP/1.1"),
    Passed("an encoded slash stays one: RFC 3986 §2.2", get(target=b"/a%2Fb"), "GET /a%2Fb HTTP/1.1"),
    Refused("an encoded NUL in a path: http-security reference §3.3", get(target=b"/a%00b")),
    *(Refused(f"{path!r} is no encoding: RFC 3986 §2.1", get(target=path)) for path in (b"/%zz", b"/%", b"/a%4", b"/%4g/", b"/%?%41")),
    Passed("characters that a path cannot hold are encoded: RFC 3986 §2.1", get(target=b'/a\\b"<>^`{|}'),
           "GET /a%5Cb%22%3C%3E%5E%60%7B%7C%7D HTTP/1.1"),
    Passed("an absolute target with an odd query: RFC 3986 §3.4", get(target=b"http://a?%zz"), "GET /?%zz HTTP/1.1"),
    Passed("an encoded line end stays one: RFC 3986 §2.1", get(target=b"/a%0d%0aX:%20y"), "GET /a%0D%0AX:%20y HTTP/1.1"),
    Passed("a query is not touched: RFC 3986 §3.4", get(target=b'/?a=%zz&b="<>^`{|}\\&c=%0d%0a'), 'GET /?a=%zz&b="<>^`{|}\\&c=%0d%0a HTTP/1.1'),
]  # fmt: skip

HOPS: list[Refused | Passed] = [
    Passed("nominated fields end here: RFC 9110 §7.6.1", get(b"Connection: close, X-Hop , x-two\r\nX-Hop: 1\r\nX-TWO: 2\r\nX-End: 3\r\n"),
           present=(("X-End", "3"),), absent=("X-Hop", "X-Two")),
    Passed("Host cannot be nominated: RFC 9110 §7.6.1", get(b"Connection: Host\r\n"), present=(("X-Forwarded-Host", "a"),)),
    Passed("a length cannot be nominated: RFC 9110 §7.6.1", post(b"Connection: Content-Length\r\nContent-Length: 1\r\n", b"x"),
           "POST / HTTP/1.1", b"x", (("Content-Length", "1"),)),
    Passed("a coding cannot be nominated: RFC 9110 §7.6.1", post(b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n", b"1\r\nx\r\n0\r\n\r\n"),
           "POST / HTTP/1.1", b"x", (("Transfer-Encoding", "chunked"),)),
    Passed("credentials cannot be nominated: CVE-2022-45059's class", get(b"Connection: Authorization\r\nAuthorization: x\r\n"),
           present=(("Authorization", "x"),)),
    Passed("our own fields cannot be nominated: CVE-2024-45410's class",
           get(b"Connection: X-Forwarded-For, X-Forwarded-Host, X-Real-IP, Via, X-Kong-Request-Id\r\nX-Forwarded-For: 9.9.9.9\r\n"),
           present=(("X-Forwarded-For", "9.9.9.9, 127.0.0.1"), ("X-Forwarded-Host", "a"), ("X-Real-IP", "127.0.0.1"))),
    Refused("too many nominated: the gateway's own limit", get(b"Connection: " + b", ".join(b"x%d" % n for n in range(17)) + b"\r\n")),
    Passed("fields of one hop end here: RFC 9110 §7.6.1",
           get(b"Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy: http://evil\r\nUpgrade: h2c\r\nTE: gzip\r\nTrailer: x\r\n"),
           absent=("Keep-Alive", "Proxy-Connection", "Proxy", "Upgrade", "TE", "Trailer")),
    Passed("TE: trailers goes on: RFC 9110 §10.1.4", get(b"TE: deflate;q=0.5, Trailers\r\n"), present=(("TE", "trailers"),)),
    Passed("h2c is an ordinary request: RFC 9110 §7.8",
           get(b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
           absent=("Upgrade", "HTTP2-Settings")),
    Passed("an upgrade with a body is an ordinary request: CVE-2026-2833's class",
           post(b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", b"hello"),
           "POST / HTTP/1.1", b"hello", absent=("Upgrade",)),
    Passed("an upgrade from HTTP/1.0 is an ordinary request: RFC 9110 §7.8",
           get(b"Connection: Upgrade\r\nUpgrade: websocket\r\n", version=b"HTTP/1.0"), absent=("Upgrade",)),
    Passed("forwarded fields of an untrusted client are replaced: proxying reference §2.2",
           get(b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: e\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Path: /e\r\nX-Forwarded-Prefix: /e\r\n"
               b"X-Real-IP: 9.9.9.9\r\nX-Kong-Request-Id: mine\r\n"),
           present=(("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "a"), ("X-Forwarded-Path", "/"), ("X-Real-IP", "127.0.0.1")),
           absent=("X-Forwarded-Prefix",)),
]  # fmt: skip

EDGES: list[Refused | Passed] = [
    Passed("an empty line before a request: RFC 9112 §2.2", b"\r\n" + get()),
    Refused("too many empty lines before a request: the gateway's own limit", b"\r\n\r\n\r\n" + get()),
    Refused("a bare LF before a request: RFC 9112 §2.2", b"\n" + get()),
    Refused("a CR before a request: RFC 9112 §2.2", b"\rG" + get()),
    Refused("a TLS hello: RFC 8446 §5.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    Refused("request line too long: the gateway's own limit", get(target=b"/" + b"a" * 9000), 414),
    Refused("field too long: the gateway's own limit", get(b"X: " + b"b" * 9000 + b"\r\n"), 431),
    Refused("name too long: the gateway's own limit", get(b"X" * 9000 + b": b\r\n"), 431),
    Refused("head too long: the gateway's own limit", get(b"X: " + b"b" * 8000 + b"\r\n", host=HOST + (b"X: " + b"b" * 8000 + b"\r\n") * 4), 431),
    Refused("too many fields: the gateway's own limit", get(b"X: 1\r\n" * 101), 431),
    Refused("a body above the limit: RFC 9110 §15.5.14", post(b"Content-Length: 70000\r\n"), 413),
    Refused("a length near 2^63 above the limit", post(b"Content-Length: 999999999999999999\r\n"), 413),
    Refused("chunks above the limit: RFC 9110 §15.5.14", chunks(b"ffff\r\n" + b"x" * 65535 + b"\r\n5\r\nhello\r\n0\r\n\r\n"), 413),
    Refused("a chunk of 2^63 - 1 bytes: RFC 9112 §7.1", chunks(b"7fffffffffffffff\r\n" + b"x" * 65537), 413),
    Refused("a long chunk extension: RFC 9112 §7.1.1", chunks(b"1;" + b"e" * 17_000 + b"\r\nx\r\n0\r\n\r\n")),
    Refused("many chunks with extensions: CVE-2025-55315's class", chunks((b"1;" + b"e" * 500 + b"\r\nx\r\n") * 40 + b"0\r\n\r\n")),
    Refused("long trailers: CVE-2026-22815's class", chunks(b"0\r\n" + b"T: x\r\n" * 3000 + b"\r\n")),
]  # fmt: skip

ALL: list[Refused | Passed] = [*FRAMING, *CHUNKING, *FIELDS, *HOSTS, *TARGETS, *HOPS, *EDGES]


@pytest.fixture(scope="module")
def gateway() -> Iterator[Recording]:
    # The second route is for the one target that has no path.
    routes = [{"paths": ["/"], "service": "svc"}, {"methods": ["OPTIONS"], "service": "svc"}]
    with recording(routes=routes, body_bytes=65536) as running:
        yield running


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.rule for case in ALL}) == len(ALL)
    assert all(re.search(r"RFC \d{4}|CVE|limit|reference|2\^63", case.rule) for case in ALL)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.rule)
def test_whole_and_cut_at_every_byte(gateway: Recording, case: Refused | Passed) -> None:
    whole = send(gateway, case, [case.data])
    for cut in cuts_of(case.data):
        assert send(gateway, case, [case.data[:cut], case.data[cut:]]) == whole, cut


def test_byte_by_byte(gateway: Recording) -> None:
    for case in ALL:
        if isinstance(case, Passed) and len(case.data) < 400:
            send(gateway, case, [bytes((byte,)) for byte in case.data])


def send(gateway: Recording, case: Refused | Passed, pieces: list[bytes]) -> object:
    """Send a case in pieces, judge both ends, and return what must not depend on the pieces."""
    gateway.upstream.requests.clear()
    client = gateway.client()
    gateway.send_pieces(client, pieces)
    answer = client.read_message()
    if isinstance(case, Refused):
        assert answer.status == case.status, (case.rule, answer)
        assert answer.values("Connection") == ["close"]
        assert client.is_closed()
        assert gateway.upstream.requests == []
        client.close()
        return answer.steady
    assert answer.status == 200, (case.rule, answer)
    (request,) = gateway.upstream.requests
    judge(case, request)
    client.close()
    return answer.steady, request.steady, request.body


def judge(case: Passed, request: Message) -> None:
    assert request.line == case.line
    assert request.body == case.body
    assert request.trailers == case.trailers
    for name, value in case.present:
        assert request.values(name) == [value], name
    for name in case.absent:
        assert request.values(name) == [], name
    # These stand in every request that leaves, once.
    for name in (
        "Host",
        "Connection",
        "Via",
        "X-Real-IP",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Kong-Request-Id",
    ):
        assert len(request.values(name)) == 1, name
    assert len(request.values("Content-Length")) + len(request.values("Transfer-Encoding")) <= 1


@pytest.mark.parametrize("pieces", [1, 2])
def test_one_request_behind_close_is_never_read(gateway: Recording, pieces: int) -> None:
    """RFC 9112 §9.6: what follows the last request of a connection is no request."""
    gateway.upstream.requests.clear()
    client = gateway.client()
    data = get(b"Connection: close\r\n") + get(target=b"/evil")
    at = len(data) // 2
    gateway.send_pieces(client, [data] if pieces == 1 else [data[:at], data[at:]])
    assert client.read_message().status == 200
    assert client.is_closed()
    assert [request.line for request in gateway.upstream.requests] == ["GET / HTTP/1.1"]


def test_nothing_behind_a_refused_request_is_read(gateway: Recording) -> None:
    """CVE-2025-30346's class: after a fault the connection answers once and closes."""
    gateway.upstream.requests.clear()
    client = gateway.client()
    client.send(get(b"X : 1\r\n") + get(target=b"/evil"))
    assert client.read_message().status == 400
    assert client.is_closed()
    assert gateway.upstream.requests == []


def test_a_body_is_never_a_request(gateway: Recording) -> None:
    """CVE-2025-4366's class: a request inside a body stays in the body, answered early or not."""
    gateway.upstream.requests.clear()
    inner = get(target=b"/evil")
    client = gateway.client()
    client.send(post(b"Content-Length: %d\r\n" % len(inner), inner) + get(target=b"/next"))
    assert client.read_message().status == 200
    assert client.read_message().status == 200
    assert [request.line for request in gateway.upstream.requests] == [
        "POST / HTTP/1.1",
        "GET /next HTTP/1.1",
    ]
    assert gateway.upstream.requests[0].body == inner


def test_pipelined_requests_keep_their_order(gateway: Recording) -> None:
    """CVE-2020-8661's class: one request in progress, the rest waits in the socket."""
    gateway.upstream.requests.clear()
    client = gateway.client()
    count = 2_000
    data = b"".join(get(target=b"/%d" % number) for number in range(count))
    sender = threading.Thread(target=client.send, args=(data,))
    sender.start()
    for _ in range(count):
        assert client.read_message().status == 200
    sender.join()
    assert [request.line for request in gateway.upstream.requests] == [
        f"GET /{n} HTTP/1.1" for n in range(count)
    ]


def test_the_parser_stays_strict() -> None:
    """No leniency of the parser is ever switched on."""
    for source in pathlib.Path(fastgw.__file__).parent.rglob("*.py*"):
        if source.suffix in {".py", ".pyx", ".pxd", ".pyi"}:
            assert "set_dangerous_leniencies" not in source.read_text("utf-8"), source
