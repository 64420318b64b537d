"""What a reverse proxy makes of a valid exchange, as plainly as it can be written from the RFCs.

Messages here are their meaning, not their bytes: fields in order, a body, trailers. The test that uses this
puts them into bytes in ways of its own (chunks, cuts) that must make no difference.

Source: RFC 9110 §6.4, §7.6, §15; RFC 9112 §6.3, §7.1.
"""

from __future__ import annotations

from dataclasses import dataclass

Fields = tuple[tuple[str, str], ...]

#: Fields that end at each hop, whether Connection names them or not (RFC 9110 §7.6.1).
HOP_BY_HOP = frozenset(
    "connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy content-length".split()
)
#: Fields of a request that the gateway writes itself.
OWN_IN_REQUESTS = frozenset(
    "host via x-real-ip x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-forwarded-path "
    "x-forwarded-prefix x-kong-request-id expect".split()
)
OWN_IN_ANSWERS = frozenset(
    "via date x-kong-upstream-latency x-kong-proxy-latency x-kong-request-id x-kong-upstream-status".split()
)


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    fields: Fields
    body: bytes | None
    is_chunked: bool
    accepts_trailers: bool
    trailers: Fields = ()


@dataclass(frozen=True)
class Answer:
    status: int
    fields: Fields
    body: bytes
    framing: str  #: "length", "chunked" or "close"
    trailers: Fields


def passing(fields: Fields, own: frozenset[str]) -> Fields:
    """The fields that pass a hop, in order: not those of the hop, nor those that Connection names."""
    named = {
        token.strip().lower()
        for name, value in fields
        if name.lower() == "connection"
        for token in value.split(",")
    }
    return tuple(
        (name, value.strip(" \t"))
        for name, value in fields
        if name.lower() not in HOP_BY_HOP | own and name.lower() not in named
    )


def names_fields(fields: Fields) -> bool:
    """Whether Connection names a field: trailers are dropped then, as one of them might be it."""
    return any(
        token.strip().lower() not in ("", "close", "keep-alive", "upgrade")
        for name, value in fields
        if name.lower() == "connection"
        for token in value.split(",")
    )


def forwarded_request(request: Request) -> tuple[str, Fields, bytes, Fields]:
    """The line, the end-to-end fields, the body and the trailers that the upstream is to receive."""
    line = f"{request.method} {request.target} HTTP/1.1"
    has_trailers = request.body is not None and request.is_chunked and not names_fields(request.fields)
    return (
        line,
        passing(request.fields, OWN_IN_REQUESTS),
        request.body or b"",
        request.trailers if has_trailers else (),
    )


def forwarded_answer(request: Request, answer: Answer) -> tuple[int, Fields, bytes, Fields]:
    """The status, the end-to-end fields, the body and the trailers that the client is to receive."""
    has_body = request.method != "HEAD" and answer.status not in (204, 205, 304)
    has_trailers = has_body and answer.framing == "chunked" and request.accepts_trailers
    has_trailers = has_trailers and not names_fields(answer.fields)
    return (
        answer.status,
        passing(answer.fields, OWN_IN_ANSWERS),
        answer.body if has_body else b"",
        answer.trailers if has_trailers else (),
    )
