"""Expressions: what they mean, against a plain reading of the same tree, and what is refused, with its place."""

from __future__ import annotations

import contextlib
import ipaddress
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._router import InstructionFlag, Operator, Request, RequestField, Table
from fastgw._router_build import TableBuilder
from fastgw._router_program import All, Either, Not, Tree, hints_of
from fastgw._router_program import Test as Comparison
from fastgw.model.expressions import ExpressionError, parse_expression
from tests.routes import Route, add_to


def table_of(*expressions: str, routes: tuple[Route, ...] = (), priorities: tuple[int, ...] = ()) -> Table:
    builder = TableBuilder()
    for number, text in enumerate(expressions):
        builder.add_expression(
            number,
            text=text.encode(),
            tree=parse_expression(text),
            priority=priorities[number] if priorities else 0,
            created_at=number,
            key=number.to_bytes(16, "big"),
        )
    for number, route in enumerate(routes, len(expressions)):
        add_to(builder, number, route)
    return Table(builder.freeze())


@pytest.mark.parametrize(
    ("text", "request_", "matched"),
    [
        ('http.method == "GET"', {}, 0),
        ('http.method != "GET"', {}, None),
        ('http.host == "A.com"', {"host": b"a.com:99"}, 0),
        ('http.host == "[::1]"', {"host": b"[::1]:99"}, 0),
        ('http.host =^ ".com"', {"host": b"a.com"}, 0),
        ('http.host == ""', {}, None),
        ('http.path ^= "/a"', {"path": b"/ab"}, 2),
        ('http.path == "/ab"', {"path": b"/ab"}, 0),
        ('http.path contains "b"', {"path": b"/abc"}, 0),
        ('http.path contains "bcd"', {"path": b"/abc"}, None),
        (r'http.path ~ r#"^/\d+"#', {"path": b"/12/x"}, 3),
        (r'http.path ~ "\\d"', {"path": b"/x/1"}, 0),
        ('lower(http.path) ^= "/a"', {"path": b"/AB"}, 2),
        ('http.path ^= "/A"', {"path": b"/ab"}, None),
        ('net.protocol == "https"', {"is_https": True}, 0),
        ('net.protocol == "https"', {}, None),
        ('tls.sni == "a.com"', {"is_https": True, "sni": b"a.com"}, 0),
        ('tls.sni != "a.com"', {}, None),
        ('!(tls.sni != "a.com")', {}, 0),
        ('http.headers.x_team == "a"', {"headers": [(b"X-Team", b"a")]}, 0),
        ('http.headers.x_team == "a"', {"headers": [(b"X-Team", b"A")]}, None),
        ('lower(http.headers.x_team) == "a"', {"headers": [(b"X-Team", b"A")]}, 0),
        ('http.headers.x == "a"', {"headers": [(b"x", b"a"), (b"x", b"b")]}, None),
        ('any(http.headers.x) == "a"', {"headers": [(b"x", b"b"), (b"x", b"a")]}, 0),
        ('any(lower(http.headers.x)) == "a"', {"headers": [(b"x", b"b"), (b"x", b"A")]}, 0),
        ('http.headers.x != "a"', {}, None),
        ('http.queries.q == ""', {"query": b"a=1&q"}, 0),
        ('http.queries.q == "a b&"', {"query": b"q=a+b%26"}, 0),
        ('any(http.queries.q) == "2"', {"query": b"q=1&q=2"}, 0),
        ('http.queries.q == "2"', {"query": b"q=1&q=2"}, None),
        ('http.queries.q == "1"', {"query": b"x=" + b"y" * 2000 + b"&q=1"}, 0),
        ('http.path.segments.0 == "a"', {"path": b"/a/b"}, 0),
        ('http.path.segments.1_2 == "b/c"', {"path": b"/a/b/c/d"}, 0),
        ('http.path.segments.2 == "c"', {"path": b"/a/b"}, None),
        ("http.path.segments.len == 2", {"path": b"/a/b/"}, 0),
        ("http.path.segments.len == 0", {"path": b"/"}, 0),
        ("http.path.segments.len >= 0x2 ", {"path": b"/a"}, None),
        ("net.src.ip == 10.1.2.3", {"peer": b"10.1.2.3"}, 0),
        ("net.src.ip in 10.0.0.0/8", {"peer": b"10.1.2.3"}, 0),
        ("net.src.ip not in 10.0.0.0/8", {"peer": b"::1"}, 0),
        ("net.src.ip in fe80::/10", {"peer": b"febf::1"}, 0),
        ("net.src.ip in fe80::/10", {"peer": b"fec0::1"}, None),
        ("net.src.ip in 10.0.0.0/9", {"peer": b"10.128.0.0"}, None),
        ("net.src.port > 1024", {"peer_port": 1025}, 0),
        ("net.dst.port == 8000", {"host_port": 8000}, 0),
        ("net.port == 99", {"host": b"a:99", "host_port": 8000}, 0),
    ],
)
def test_what_an_expression_means(text: str, request_: dict[str, Any], matched: int | None) -> None:
    found = table_of(text).match_request(Request(**request_))
    assert found == (None if matched is None else (0, matched))


def test_expressions_come_first_by_priority_then_age() -> None:
    table = table_of(
        'http.path ^= "/a"',
        'http.path ^= "/"',
        'http.path ^= "/a"',
        routes=(Route(hosts=[b"a.com"], paths=[b"/a/b"], methods=[b"GET"]),),
        priorities=(5, 2**46 - 1, 5),
    )
    assert table.match(b"GET", b"a.com", b"/a/b") == (1, 1)
    table = table_of('http.path ^= "/b"', routes=(Route(paths=[b"/"]),))
    assert table.match(b"GET", b"", b"/b") == (0, 2)
    assert table.match(b"GET", b"", b"/a") == (1, 1)
    table = table_of('http.path ^= "/"', 'http.path ^= "/"')
    assert table.match(b"GET", b"", b"/a") == (0, 1)


def test_captures_of_an_expression() -> None:
    table = table_of(r'http.method == "PUT" || http.path ~ r#"^/u/(?P<id>\d+)(x)?"#')
    assert table.captures_of(Request(path=b"/u/12")) == {0: b"/u/12", 1: b"12", "id": b"12"}


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ("", 1, "expected a field such as http.path, not the end"),
        ("http.path", 10, "expected an operator, not the end"),
        ("http.path == 1", 14, "expected a string"),
        ('http.path > "a"', 11, "'>' does not compare a string"),
        ('http.path == "a" http.path == "b"', 18, "expected && or || or the end"),
        ('a == "b"', 1, "there is no field 'a'"),
        ('(http.path == "a"', 18, "expected a closing parenthesis, not the end"),
        ('http.path == "a', 14, "this string does not end"),
        ('http.path == r#"a', 14, "this string does not end"),
        (r'http.path == "\d"', 15, r"'\d' is no escape"),
        ('http.path ~ "("', 13, "invalid regex"),
        ('http.path ~ "a(?=b)"', 13, "look-around"),
        ("lower(net.src.port) == 1", 1, "lower() takes a string"),
        ("net.src.ip in 10.0.0.1", 15, "expected a network"),
        ("net.src.ip == 10.0.0.0/8", 15, "expected one address"),
        ("net.src.ip in 10.0.0.1/8", 15, "has host bits set"),
        ("net.src.ip == 10.0.0.256", 15, "does not appear to be"),
        ("net.dst.ip == 10.0.0.1", 1, "does not serve net.dst.ip yet"),
        ("net.src.port == 99999999999999999999", 17, "64 bits"),
        ("net.src.port == 08", 17, "octal"),
        ('http.headers.X == "a"', 1, "in lower case"),
        ('http.path.segments.3_1 == "a"', 1, "must be larger"),
        ('http.path == "a" && http.path == "b" || http.path == "c"', 38, "put parentheses"),
        ("@", 1, "'@' has no meaning here"),
        ("(" * 70 + 'http.path == "a"' + ")" * 70, 66, "more than 64 levels"),
    ],
)
def test_what_is_refused_says_where(text: str, place: int, reason: str) -> None:
    with pytest.raises(ExpressionError, match=re.escape(reason)) as caught:
        parse_expression(text)
    assert str(caught.value).startswith(f"at character {place}: ")


@given(st.text(st.sampled_from('htp.a&|!()=~^"r# 1:/\\<>'), max_size=30))
def test_no_text_breaks_the_parser(text: str) -> None:
    with contextlib.suppress(ExpressionError):
        parse_expression(text)


def test_a_long_expression_is_refused() -> None:
    with pytest.raises(ExpressionError, match="at most 65535 bytes"):
        parse_expression('http.path == "' + "a" * 65535 + '"')


# ---- the same by a plain reading

LEAVES = [
    'http.method == "GET"',
    'http.host == "a.com"',
    'http.host != "b.com"',
    'http.path ^= "/a"',
    'http.path == "/a/b"',
    'http.path ~ "^/a.b"',
    'http.path ~ "b$"',
    'any(http.headers.x) == "1"',
    'http.headers.x == "1"',
    'net.protocol == "https"',
    "http.path.segments.len > 1",
    "net.src.ip in 10.0.0.0/8",
]


def random_text(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.3:
        text = draw.choice(LEAVES)
    else:
        sign = draw.choice([" && ", " || "])
        text = "(" + sign.join(random_text(draw, depth - 1) for _ in range(draw.randint(1, 3))) + ")"
    return f"!{text}" if draw.random() < 0.2 and text.startswith("(") else text


def reads(tree: Tree, request: Request) -> bool:
    if isinstance(tree, Not):
        return not reads(tree.part, request)
    if isinstance(tree, All):
        return all(reads(part, request) for part in tree.parts)
    if isinstance(tree, Either):
        return any(reads(part, request) for part in tree.parts)
    values = {
        RequestField.FIELD_METHOD: [request.method],
        RequestField.FIELD_HOST: [request.host] if request.host else [],
        RequestField.FIELD_PATH: [request.path],
        RequestField.FIELD_PROTOCOL: [b"https" if request.is_https else b"http"],
        RequestField.FIELD_HEADER: [value for name, value in request.headers if name == tree.name],
    }
    if tree.field == RequestField.FIELD_SEGMENT_COUNT:
        return len([part for part in request.path.split(b"/") if part]) > tree.number
    if tree.field == RequestField.FIELD_SOURCE_IP:
        return ipaddress.ip_address(request.peer.decode()) in ipaddress.ip_network("10.0.0.0/8")
    found = [reads_value(tree, value) for value in values[tree.field]]
    return bool(found) and (any(found) if tree.flags & InstructionFlag.INSTRUCTION_ANY else all(found))


def reads_value(test: Comparison, value: bytes) -> bool:
    match test.operator:
        case Operator.OPERATOR_EQUAL:
            return value == test.text
        case Operator.OPERATOR_NOT_EQUAL:
            return value != test.text
        case Operator.OPERATOR_PREFIX:
            return value.startswith(test.text)
        case _:
            return re.search(test.text, value) is not None


@given(st.integers(0, 2**32))
def test_trees_are_read_as_they_are_searched(seed: int) -> None:
    draw = random.Random(seed)
    texts = [random_text(draw, 3) for _ in range(draw.randint(1, 6))]
    trees = [parse_expression(text) for text in texts]
    table = table_of(*texts)
    for _ in range(10):
        request = Request(
            draw.choice([b"GET", b"PUT"]),
            draw.choice([b"", b"a.com", b"b.com"]),
            draw.choice([b"/", b"/a/b", b"/a.b", b"/b"]),
            headers=[(b"x", draw.choice([b"1", b"2"])) for _ in range(draw.randrange(3))],
            peer=draw.choice([b"10.0.0.1", b"11.0.0.1", b"::1"]),
            is_https=draw.random() < 0.5,
        )
        expected = next((number for number, tree in enumerate(trees) if reads(tree, request)), None)
        found = table.match_request(request)
        assert (None if found is None else found[0]) == expected


def test_hints_are_what_every_match_needs() -> None:
    hints = hints_of(parse_expression('(http.host == "a" || http.host == "b") && http.path ^= "/x"'))
    assert hints == (frozenset([b"a", b"b"]), frozenset([b"/x"]), None)
    assert hints_of(parse_expression('http.host == "a" || http.path ^= "/x"')) == (None, None, None)
    assert hints_of(parse_expression('!(http.host == "a")')) == (None, None, None)
    assert hints_of(parse_expression(r'http.path ~ "^/u/\\d"')).prefixes == frozenset([b"/u/"])
    assert hints_of(parse_expression('http.path ~ "/u"')).prefixes is None
    many = " || ".join(f'http.host == "{n}"' for n in range(65))
    assert hints_of(parse_expression(many)).hosts is None


def test_dash_and_underscore_of_a_header_are_one() -> None:
    """As in Kong, whose table of headers is asked by either."""
    builder = TableBuilder()
    text = 'http.headers.x_a == "1"'
    builder.add_expression(
        0, text=text.encode(), tree=parse_expression(text), priority=0, created_at=0, key=bytes(16)
    )
    table = Table(builder.freeze())
    for name in (b"x-a", b"X_A"):
        assert table.match(b"GET", b"a.com", b"/", headers=[(name, b"1")]) == (0, 0)
