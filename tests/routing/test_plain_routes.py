"""The short way from line to table against the long one: the same bytes, or the same faults.

A blank within a line means nothing to JSON, and sends its row the long way.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw._router import Table
from fastgw._router_build import TableBuilder
from fastgw.errors import CompileError
from fastgw.model.snapshot import Snapshot
from fastgw.routing._plain_routes import add_plain_routes
from fastgw.routing.compile import LEFT_OUT, compile_layer
from fastgw.routing.surroundings import Surroundings
from tests.routing.snapshots import Row, make_id, route, service

SERVICES: Final = [service(1), service(2, enabled=False), service(3, name=None)]
NUMBERS: Final = {make_id(1): 0, make_id(2): LEFT_OUT}

FIELDS: Final[dict[str, st.SearchStrategy[Any]]] = {
    "created_at": st.sampled_from([0, 7, -1, 10**18 - 1, 10**18, 2**63 - 1]),
    "updated_at": st.sampled_from([0, 1.5]),
    "name": st.sampled_from([None, "", "a" * 31, "b" * 32, "é" * 200, "n" * 70_000, 'qu"ote', "\ud7ff"]),
    "hosts": st.none()
    | st.lists(
        st.sampled_from(["a.com", "b.com", "c-d.e_f", "*.a.com", "a.*", "a.com:80", "A.com", "::1", "ü.de"]),
        max_size=3,
    ),
    "paths": st.none()
    | st.lists(
        st.sampled_from(["/", "/a", "/a/b", "/é", "~/a/\\d", "/q\\", "/" + "x" * 300, "/" + "y" * 0x10000]),
        max_size=3,
    ),
    "methods": st.none() | st.lists(st.sampled_from(["GET", "POST", "PURGE", "BREW"]), max_size=3),
    "headers": st.sampled_from([None, None, {}, {"x-a": ["1", "2"]}]),
    "snis": st.sampled_from([None, None, [], ["a.com"], ["*.a.com"]]),
    "sources": st.sampled_from([None, None, [], [{"ip": "1.2.3.4"}]]),
    "protocols": st.sampled_from([["http"], ["https", "http"], ["https", "https"], [], ["grpc"]]),
    "https_redirect_status_code": st.sampled_from([426, 301, 0, 127, 128, 255, 256, 65535, 65536, -1]),
    "regex_priority": st.sampled_from([None, 0, -5, 2**31]),
    "priority": st.sampled_from([None, 5, 2**62]),
    "expression": st.sampled_from([None, None, None, 'http.path == "/e"']),
    "path_handling": st.sampled_from([None, "v0", "v1"]),
    "strip_path": st.booleans(),
    "preserve_host": st.booleans(),
    "request_buffering": st.booleans(),
    "tags": st.sampled_from([None, [], ["a", "b"], ["ü"], ["\\"], ["t"] * 33]),
    "service": st.sampled_from([None, *({"id": make_id(n)} for n in (1, 1, 2, 3, 4)), {"id": "odd"}]),
    "unknown": st.just({"a": [1]}),
}
ROUTES: Final = st.lists(
    st.fixed_dictionaries({}, optional=FIELDS).map(lambda some: {"paths": ["/p"]} | some), max_size=6
)
PLUGINS: Final[list[dict[str, Any]]] = [
    {"id": make_id(50), "name": "here", "service": None, "route": None, "config": {"x": 1}},
    {"id": make_id(51), "name": "here", "service": make_id(1), "route": None, "config": {}},
    {"id": make_id(52), "name": "missing", "service": None, "route": make_id(102), "config": {}},
]


def plugin(given: dict[str, Any]) -> Row:
    links = {kind: {"id": given[kind]} if given[kind] else None for kind in ("service", "route")}
    return {**given, **links, "consumer": None, "enabled": True, "instance_name": None}


def made_of(lines: list[bytes], around: Surroundings, flavor: str) -> object:
    """All that becomes of lines."""
    try:
        layer = compile_layer(
            lines, around=around, flavor=flavor, base_service={make_id(4): 1000}.get, first_service=200
        )
    except CompileError as error:
        return error.faults
    return layer.table, layer.routes.pack(), layer.services.pack(), layer.service_numbers


def the_long_way(line: bytes) -> bytes:
    return line.replace(b" {", b" { ", 1)


@given(
    ROUTES,
    st.lists(st.sampled_from(range(len(PLUGINS))), unique=True),
    st.sampled_from(["traditional_compatible", "expressions", "traditional"]),
)
@example([{"hosts": ["a.com"], "methods": ["GET"]}, {"hosts": ["a.com"]}, {"paths": None}], [], "expressions")
@example([{"hosts": ["a.com", "a.com"], "paths": ["/a", "/b", "/a"]}] * 2, [0, 2], "expressions")
def test_both_ways_lead_to_the_same(rows: list[Row], plugins: list[int], flavor: str) -> None:
    made = Snapshot.from_rows(
        1,
        {
            "services": SERVICES,
            "plugins": [plugin(PLUGINS[number]) for number in plugins],
            "routes": [route(100 + number, **row) for number, row in enumerate(rows)],
        },
    )
    around = Surroundings(made, frozenset({"here"}))
    lines = made.lines()
    assert made_of(lines, around, flavor) == made_of([the_long_way(line) for line in lines], around, flavor)


LINE: Final = Snapshot.from_rows(
    1, {"routes": [route(100, 1, hosts=["a.com"], paths=["/a", "/b"], methods=["GET"], tags=["x"])]}
).lines()[0]


@given(st.integers(LINE.index(b"{") + 1, len(LINE)), st.integers(0, 3), st.binary(max_size=3))
def test_damage_is_the_same_damage(at: int, cut: int, put: bytes) -> None:
    damaged = LINE[:at] + put + LINE[at + cut :]
    around = Surroundings(Snapshot.from_rows(1, {}))
    flavor = "traditional_compatible"
    services = Snapshot.from_rows(1, {"services": SERVICES}).lines()

    def result(line: bytes) -> object:
        found = made_of([line, *services], around, flavor)
        # A place within the line is another with the blank.
        return [{**fault, "reason": ""} for fault in found] if isinstance(found, list) else found

    assert result(damaged) == result(the_long_way(damaged))


def taken(line: bytes) -> int:
    """How many routes the short way makes of *line*."""
    builder = TableBuilder()
    at, number, records, ends = add_plain_routes(builder, [line], 0, 0, NUMBERS)
    assert (at, bool(ends)) == (1 if number else at, bool(number))
    assert (number > 0) == (len(records) > 0) == (Table(builder.freeze()).candidates > 0)
    return number if at else -1


def line_of(**fields: Any) -> bytes:
    """A plain route, but for *fields*."""
    return Snapshot.from_rows(1, {"routes": [route(100, **{"paths": ["/a"]} | fields)]}).lines()[0]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"to": 1},
        {"hosts": ["a.com", "b.com"], "paths": None},
        {"hosts": ["a.com"], "methods": ["GET", "PURGE"]},
        {"name": None},
        {"name": "é" * 300},
        {"tags": ["a", "ü"]},
        {"protocols": ["https"]},
        {"regex_priority": None},
    ],
    ids=str,
)
def test_what_is_plain(fields: dict[str, Any]) -> None:
    assert taken(line_of(**fields)) == 1


def test_routes_of_a_service_that_is_not_served_are_left_out() -> None:
    assert taken(line_of(to=2)) == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"to": 3},
        {"hosts": ["*.a.com"]},
        {"hosts": ["a.com:80"]},
        {"hosts": ["A.com"]},
        {"hosts": [""]},
        {"hosts": ["a.com"] * 33},
        {"paths": ["~/a"]},
        {"paths": ["a"]},
        {"paths": ["/" + "a" * 0x10000]},
        {"paths": None},
        {"headers": {"x": ["1"]}},
        {"snis": ["a.com"]},
        {"sources": [{"ip": "1.2.3.4"}]},
        {"expression": 'http.path == "/a"'},
        {"protocols": ["grpc"]},
        {"created_at": 10**18},
        {"https_redirect_status_code": 1},
        {"name": 'a"'},
        {"name": "n" * 0x10000},
        {"unknown": 1},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_what_is_not_plain_is_left_alone(fields: dict[str, Any]) -> None:
    assert taken(line_of(**fields)) == -1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"{", b"{ "),
        (b'"strip_path":true', b'"strip_path":1'),
        (b'"strip_path":true,', b""),
        (b'"name":"route-100",', b""),
        (b'"created_at":1700000000', b'"created_at":1700000000.0'),
        (b'"created_at":1700000000', b'"created_at":01'),
        (b"/a", b"/\xff"),
        (b'"id":"00000000', b'"id":"10000000'),
        (make_id(100).encode(), make_id(100).upper().replace("0", "A").encode()),
        (b"}", b"}x"),
        (b"}", b""),
        (b"routes ", b"route2 "),
    ],
    ids=str,
)
def test_what_is_not_canonical_is_left_alone(before: bytes, after: bytes) -> None:
    line = line_of()
    assert before in line
    assert taken(line) == 1
    assert taken(line.replace(before, after)) == -1


def test_the_traditional_flavor_has_no_plain_routes() -> None:
    builder = TableBuilder(1)
    assert add_plain_routes(builder, [line_of()], 0, 0, NUMBERS)[0] == 0


def test_it_goes_on_from_where_it_is() -> None:
    plain, other = line_of(), line_of(paths=["~/a"])
    lines = [other, plain, plain, other]
    at, number, records, ends = add_plain_routes(TableBuilder(), lines, 1, 5, NUMBERS)
    assert (at, number) == (3, 7)
    half = len(records) // 2
    assert ends == half.to_bytes(4, "little") + (2 * half).to_bytes(4, "little")
    assert records[:half] == records[half:]
    assert msgspec.msgpack.decode(records[:half])[:3] == [make_id(100), "route-100", -1]
