"""Any valid exchanges, cut anywhere, through the real connections: what comes out is what the RFCs say.

Requests are pipelined on one client connection, so that order and reuse are tried at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.messages import Headers
from fastgw.dp.plugins.messages import Request as PluginRequest
from fastgw.dp.plugins.messages import Response as PluginResponse
from tests.dp.recorder import Message, Recording, recording
from tests.reference import exchange as reference
from tests.reference.exchange import Answer, Fields, Request

T = TypeVar("T")

BODIES = st.one_of(
    st.binary(max_size=50), st.integers(0, 70_000).map(lambda size: bytes(range(256)) * (size // 256))
)
NAMES = st.sampled_from(
    ["X-One", "x-two", "X_Three", "Accept", "Cookie", "Cache-Control", "X-Hop", "Set-Cookie"]
)
VALUES = st.sampled_from(["", "a", "b c", "a, b", '"q"', "\x80\xff", "x" * 300, "a\tb"])
FIELDS = st.lists(
    st.one_of(
        st.tuples(NAMES, VALUES),
        st.sampled_from(
            [
                ("Connection", "X-Hop"),
                ("connection", "keep-alive, x-hop"),
                ("Keep-Alive", "5"),
                ("Upgrade", "h2c"),
            ]
        ),
    ),
    max_size=5,
).map(tuple)
TRAILERS = st.lists(
    st.tuples(st.sampled_from(["X-Sum", "X-Other"]), st.sampled_from(["1", "a b"])), max_size=2
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "OPTIONS", "DELETE", "BREW"]))
    body = draw(st.none() if method in ("GET", "HEAD") else st.one_of(st.none(), BODIES))
    target = draw(st.sampled_from(["/", "/a/b", "/a?b=c&d", "/%20", "/x;y=z?", "/long/" + "p" * 200]))
    trailers = tuple(draw(TRAILERS))
    return Request(method, target, draw(FIELDS), body, draw(st.booleans()), draw(st.booleans()), trailers)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    status = draw(st.sampled_from([200, 200, 200, 201, 204, 205, 304, 404, 500, 599]))
    framing = draw(st.sampled_from(["length", "chunked", "length", "chunked", "close"]))
    return Answer(status, draw(FIELDS), draw(BODIES), framing, tuple(draw(TRAILERS)))


Conversation = tuple[list[Request], list[Answer], list[bytes], list[list[bytes | None]]]
"""Requests, answers, and the pieces in which each side sends them; None closes the connection."""


@st.composite
def cut(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=5)))
    bounds = [0, *places, len(data)]
    return [data[start:end] for start, end in zip(bounds, bounds[1:], strict=False) if start != end]


@st.composite
def chunked(draw: st.DrawFn, body: bytes, trailers: Fields = ()) -> bytes:
    out = b""
    for piece in draw(cut(body)):
        size = draw(st.sampled_from([b"%x", b"%X", b"000%x"])) % len(piece)
        out += size + draw(st.sampled_from([b"", b";a", b';a="b"'])) + b"\r\n" + piece + b"\r\n"
    return out + b"0\r\n" + lines(trailers) + b"\r\n"


def lines(fields: Fields) -> bytes:
    return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in fields)


@st.composite
def request_bytes(draw: st.DrawFn, request: Request) -> bytes:
    head = f"{request.method} {request.target} HTTP/1.1\r\nHost: a\r\n".encode() + lines(request.fields)
    if request.accepts_trailers:
        head += b"TE: trailers\r\n"
    if request.body is None:
        return head + b"\r\n"
    if request.is_chunked:
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + draw(chunked(request.body, request.trailers))
    return head + b"Content-Length: %d\r\n\r\n" % len(request.body) + request.body


@st.composite
def answer_bytes(draw: st.DrawFn, request: Request, answer: Answer) -> bytes:
    head = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * draw(st.integers(0, 2))
    head += b"HTTP/1.1 %d Fine\r\n" % answer.status + lines(answer.fields)
    has_body = request.method != "HEAD" and answer.status not in (204, 304)
    if answer.status == 204 or answer.framing == "close":
        return head + b"Connection: close\r\n\r\n" + (answer.body if has_body else b"")
    if answer.framing == "chunked":
        body = draw(chunked(answer.body, answer.trailers)) if has_body else b""
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + body
    return head + b"Content-Length: %d\r\n\r\n" % len(answer.body) + (answer.body if has_body else b"")


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    asked = draw(st.lists(requests(), min_size=1, max_size=4))
    answered = [draw(answers()) for _ in asked]
    sent = draw(cut(b"".join([draw(request_bytes(request)) for request in asked])))
    returned: list[list[bytes | None]] = []
    for request, answer in zip(asked, answered, strict=True):
        pieces: list[bytes | None] = [*draw(cut(draw(answer_bytes(request, answer))))]
        ends = answer.status == 204 or answer.framing == "close"
        returned.append([*pieces, None] if ends else pieces)
    return asked, answered, sent, returned


@pytest.fixture(scope="module")
def gateway() -> Iterator[Recording]:
    with recording() as running:
        yield running


def named(message: Message, own: frozenset[str]) -> Fields:
    return tuple(field for field in message.fields if field[0].lower() not in reference.HOP_BY_HOP | own)


def taking_turns(returned: Sequence[T]) -> Iterator[T]:
    yield from returned


class Untouched(Plugin):
    """Takes part in every phase, waits, has heads and bodies made anew, and changes nothing."""

    name = "untouched"

    def rewrite(self, request: PluginRequest) -> None:
        write(request.headers)

    async def access(self, request: PluginRequest) -> None:
        await asyncio.sleep(0)
        write(request.headers)

    def header_filter(self, request: PluginRequest, response: PluginResponse) -> None:
        write(response.headers)

    def body_filter(
        self, request: PluginRequest, response: PluginResponse, data: bytes, is_last: bool
    ) -> bytes:
        return bytes(data)


class UntouchedWhole(Untouched):
    """The same with the request's body read first."""

    name = "untouched-whole"
    reads_body = True


def write(headers: Headers) -> None:
    headers["X-Passing"] = "1"
    del headers["x-passing"]


@pytest.fixture(scope="module", params=[Untouched, UntouchedWhole])
def through_plugins(request: Any) -> Iterator[Recording]:
    with recording(plugin=request.param) as running:
        yield running


SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@given(conversation=conversations())
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
def test_any_exchanges_come_out_as_the_rfcs_say(gateway: Recording, conversation: Conversation) -> None:
    judge(gateway, conversation)


@given(conversation=conversations())
@settings(max_examples=60, deadline=None, suppress_health_check=SLOW)
def test_plugins_that_change_nothing_change_nothing(
    through_plugins: Recording, conversation: Conversation
) -> None:
    judge(through_plugins, conversation)


def judge(gateway: Recording, conversation: Conversation) -> None:
    """Hold the conversation, and compare what both ends received with what they were to receive."""
    asked, answered, sent, returned = conversation
    upstream = gateway.upstream
    upstream.requests.clear()
    turns = taking_turns(returned)
    upstream.answer = lambda _: next(turns)
    client = gateway.client()
    gateway.send_pieces(client, sent)
    for request, answer in zip(asked, answered, strict=True):
        got = client.read_message(request.method)
        expected = reference.forwarded_answer(request, answer)
        assert (got.status, named(got, reference.OWN_IN_ANSWERS), got.body, got.trailers) == expected
    received = [
        (message.line, named(message, reference.OWN_IN_REQUESTS), message.body, message.trailers)
        for message in upstream.requests
    ]
    assert received == [reference.forwarded_request(request) for request in asked]
    client.close()
