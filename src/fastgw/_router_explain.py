"""Why a request takes the route that it takes: each candidate in order, and which of its conditions hold.

The compiled table searches; here each candidate is looked at alone and judged in plain code, except for
programs (headers, SNIs, regexes, expressions), which run as they do in a search.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final, NamedTuple

from fastgw._overlay import LayeredTable
from fastgw._router import CandidateRecord, Flavor, Operator, Request, RequestField, Table, TestRecord

AnyTable = Table | LayeredTable

RAW_HOST_BIT: Final = 1 << 56
"""Of a priority in the `traditional` flavor: the candidate holds only for a Host equal to one of its own."""


class Condition(NamedTuple):
    """What a candidate asks of one kind, and what the request has there."""

    kind: str
    """hosts, paths, methods, headers, snis or expression; for a test of an expression the field's name."""
    wanted: tuple[str, ...]
    got: str | None
    holds: bool


class Considered(NamedTuple):
    route: int
    rank: int
    path: bytes | None
    """The prefix, or the regex behind its `~`."""
    conditions: tuple[Condition, ...]
    tests: tuple[Condition, ...]
    """The comparisons of an expression, each judged by itself."""
    matches: bool


def explain(table: AnyTable, request: Request, *, near_only: bool = False) -> list[Considered]:
    """Every candidate in order of precedence; the first that matches is the one that `match` answers.

    Args:
        near_only: leave out those whose prefix path does not fit, which in large tables are nearly all.
    """
    ranks = table.ranks_near(request.path) if near_only else range(table.candidates)
    is_old = table.flavor == Flavor.FLAVOR_TRADITIONAL
    considered = [one for rank in ranks if (one := _consider(table, table.candidate(rank), request, is_old))]
    if is_old:
        considered = _in_order_of_request(table, considered, request)
    return considered


def _in_order_of_request(table: AnyTable, considered: list[Considered], request: Request) -> list[Considered]:
    """One entry for each route and path, where it stands for this request.

    A candidate with plain hosts has a second, better place for a Host that is equal to one of them; and over
    http those that list SNIs stand behind all others.
    """
    seen: set[tuple[int, bytes | None]] = set()
    once = []
    for one in considered:
        if (one.route, one.path) not in seen:
            seen.add((one.route, one.path))
            once.append(one)
    if not request.is_https:
        once.sort(key=lambda one: bool(table.candidate(one.rank).snis))
    return once


def _consider(
    table: AnyTable, candidate: CandidateRecord, request: Request, is_old: bool
) -> Considered | None:
    if is_old and candidate.priority & RAW_HOST_BIT and request.host not in candidate.hosts:
        return None
    program_holds, tests = table.run_program(candidate.rank, request)
    conditions = []
    if candidate.hosts:
        holds = any(host_admits(host, request, is_old) for host in candidate.hosts)
        conditions.append(Condition("hosts", _texts(candidate.hosts), _text(request.host), holds))
    if candidate.path is not None:
        if candidate.path.startswith(b"~"):
            holds = bool(tests) and tests[-1].holds
        else:
            holds = request.path.startswith(candidate.path)
        conditions.append(Condition("paths", (_text(candidate.path),), _text(request.path), holds))
    if candidate.methods:
        holds = request.method in candidate.methods
        if not candidate.expressions:
            conditions.append(Condition("methods", _texts(candidate.methods), _text(request.method), holds))
    if candidate.snis:
        sni = _text(request.sni) if request.sni else None
        holds = not request.is_https or any(
            test.holds for test in tests if test.field == RequestField.FIELD_SNI
        )
        conditions.append(Condition("snis", _texts(candidate.snis), sni, holds))
    conditions += _header_conditions(candidate, request, tests)
    shown: tuple[Condition, ...] = ()
    if candidate.expressions:
        conditions.append(Condition("expression", _texts(candidate.expressions), None, program_holds))
        shown = tuple(_test_condition(test, request) for test in tests)
    matches = all(condition.holds for condition in conditions)
    return Considered(candidate.route, candidate.rank, candidate.path, tuple(conditions), shown, matches)


def _header_conditions(
    candidate: CandidateRecord, request: Request, tests: list[TestRecord]
) -> Iterator[Condition]:
    """One condition for each header name; the tests stand in the order of the configured values."""
    of_headers = iter([test for test in tests if test.field == RequestField.FIELD_HEADER])
    by_name: dict[bytes, list[bytes]] = {}
    if candidate.expressions:
        return
    for text in candidate.headers:
        name, _, value = text.partition(b"\0")
        by_name.setdefault(name, []).append(value)
    for name, values in by_name.items():
        holds = any([test.holds for test in islice(of_headers, len(values))])
        got = [value for own, value in request.headers if _same_name(own, name)]
        yield Condition(
            f"headers.{_text(name)}", _texts(values), ", ".join(map(_text, got)) if got else None, holds
        )


def _same_name(own: bytes, name: bytes) -> bool:
    return own.lower().replace(b"_", b"-") == name.lower().replace(b"_", b"-")


_FIELDS: Final = {
    RequestField.FIELD_METHOD: "http.method",
    RequestField.FIELD_HOST: "http.host",
    RequestField.FIELD_PATH: "http.path",
    RequestField.FIELD_PROTOCOL: "net.protocol",
    RequestField.FIELD_SNI: "tls.sni",
    RequestField.FIELD_SEGMENTS: "http.path.segments",
    RequestField.FIELD_HEADER: "http.headers",
    RequestField.FIELD_QUERY: "http.queries",
    RequestField.FIELD_SEGMENT_COUNT: "http.path.segments.len",
    RequestField.FIELD_SOURCE_PORT: "net.src.port",
    RequestField.FIELD_DESTINATION_PORT: "net.dst.port",
    RequestField.FIELD_SOURCE_IP: "net.src.ip",
}
_OPERATORS: Final = {
    Operator.OPERATOR_EQUAL: "==",
    Operator.OPERATOR_NOT_EQUAL: "!=",
    Operator.OPERATOR_PREFIX: "^=",
    Operator.OPERATOR_SUFFIX: "=^",
    Operator.OPERATOR_CONTAINS: "contains",
    Operator.OPERATOR_REGEX: "~",
    Operator.OPERATOR_LESS: "<",
    Operator.OPERATOR_LESS_EQUAL: "<=",
    Operator.OPERATOR_GREATER: ">",
    Operator.OPERATOR_GREATER_EQUAL: ">=",
    Operator.OPERATOR_IN: "in",
    Operator.OPERATOR_NOT_IN: "not in",
}


def _test_condition(test: TestRecord, request: Request) -> Condition:
    field = RequestField(test.field)
    name = _FIELDS[field]
    got: str | None = None
    wanted = f'"{_text(test.text)}"'
    if field in (RequestField.FIELD_HEADER, RequestField.FIELD_QUERY):
        name = f"{name}.{_text(test.name)}"
    if field == RequestField.FIELD_HEADER:
        values = [_text(value) for own, value in request.headers if _same_name(own, test.name)]
        got = ", ".join(values) if values else None
    elif field == RequestField.FIELD_SEGMENTS:
        first, last = test.segments
        name = f"{name}.{first}" if first == last else f"{name}.{first}_{last}"
        got = _text(request.path)
    elif field in (RequestField.FIELD_PATH, RequestField.FIELD_SEGMENT_COUNT):
        got = _text(request.path)
    elif field == RequestField.FIELD_METHOD:
        got = _text(request.method)
    elif field == RequestField.FIELD_HOST:
        got = _text(request.host)
    elif field == RequestField.FIELD_QUERY:
        got = _text(request.query)
    elif field == RequestField.FIELD_PROTOCOL:
        got = "https" if request.is_https else "http"
    elif field == RequestField.FIELD_SNI:
        got = _text(request.sni) if request.sni else None
    elif field == RequestField.FIELD_SOURCE_IP:
        got = _text(request.peer)
        wanted = f"{_address(test.text, test.number)}"
    elif field == RequestField.FIELD_SOURCE_PORT:
        got = str(request.peer_port)
    else:
        got = str(request.host_port)
    if field in (
        RequestField.FIELD_SEGMENT_COUNT,
        RequestField.FIELD_SOURCE_PORT,
        RequestField.FIELD_DESTINATION_PORT,
    ):
        wanted = str(test.number)
    return Condition(name, (f"{_OPERATORS[Operator(test.operator)]} {wanted}",), got, test.holds)


def _address(packed: bytes, bits: int) -> str:
    if any(packed[4:]) or bits > 32:
        return ":".join(packed[at : at + 2].hex() for at in range(0, 16, 2)) + f"/{bits}"
    return ".".join(map(str, packed[:4])) + f"/{bits}"


def split_host(host: bytes) -> tuple[bytes, int | None]:
    """Name, without brackets, and port of a host; a colon without a decimal port belongs to the name."""
    found = re.fullmatch(rb"\[([^\]]*)\](?::(\d{0,5}))?|([^:]*)(?::(\d{0,5}))?", host, re.DOTALL)
    if found is None:
        return host, None
    bracketed, its_port, plain, port = found.groups()
    digits = its_port or port
    if digits and int(digits) > 65535:
        return host, None
    return (plain if bracketed is None else bracketed), int(digits) if digits else None


def host_admits(pattern: bytes, request: Request, is_old: bool) -> bool:
    """Whether a route's host stands for the request's."""
    own_name, own_port = split_host(pattern)
    name, port = split_host(request.host)
    is_wild = b"*" in own_name
    if own_port is not None:
        if port is None and not is_old:
            port = request.host_port
        elif port is None and is_wild:
            port = 443 if request.is_https else 80
        if own_port != port:
            return False
    if not is_wild:
        return bool(request.host) and name == own_name
    fixed = own_name.strip(b"*")
    if len(name) <= len(fixed):
        return False
    return name.endswith(fixed) if own_name.startswith(b"*") else name.startswith(fixed)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _texts(values: tuple[bytes, ...] | list[bytes]) -> tuple[str, ...]:
    return tuple(map(_text, values))
