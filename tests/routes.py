"""Route tables for tests: routes as short values, both routers behind one way of filling them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from fastgw._router import Flavor, Request, Table
from fastgw._router_build import TableBuilder
from fastgw._router_explain import explain
from fastgw.model.expressions import parse_expression
from tests.reference import router as reference
from tests.reference.expressions import Comparison, Expression, Group

FLAVORS: Final[tuple[reference.Flavor, ...]] = ("traditional_compatible", "traditional")
_NUMBERS: Final = {
    "traditional_compatible": Flavor.FLAVOR_COMPATIBLE,
    "traditional": Flavor.FLAVOR_TRADITIONAL,
}


class Route(NamedTuple):
    hosts: Sequence[bytes] = ()
    paths: Sequence[bytes] = ()
    methods: Sequence[bytes] = ()
    regexes: Sequence[bytes] = ()
    headers: Sequence[tuple[bytes, Sequence[bytes]]] = ()
    snis: Sequence[bytes] = ()
    regex_priority: int = 0
    created_at: int = 0
    key: int = 0


class ExpressionRoute(NamedTuple):
    expression: Expression
    priority: int = 0
    created_at: int = 0
    key: int = 0


AnyRoute = Route | ExpressionRoute


def add_to(builder: TableBuilder | reference.Router, number: int, route: AnyRoute) -> None:
    key = (route.key or number).to_bytes(16, "big")
    if isinstance(route, ExpressionRoute):
        _add_expression(builder, number, route, key)
        return
    builder.add(
        number,
        hosts=route.hosts,
        paths=route.paths,
        methods=route.methods,
        regexes=route.regexes,
        headers=route.headers,
        snis=route.snis,
        regex_priority=route.regex_priority,
        created_at=route.created_at,
        key=key,
    )


def _add_expression(
    builder: TableBuilder | reference.Router, number: int, route: ExpressionRoute, key: bytes
) -> None:
    given: dict[str, Any] = {"priority": route.priority, "created_at": route.created_at, "key": key}
    if isinstance(builder, reference.Router):
        builder.add_expression(number, expression=route.expression, **given)
    else:
        text = route.expression.text()
        builder.add_expression(number, text=text.encode(), tree=parse_expression(text), **given)


def freeze(routes: Sequence[AnyRoute], flavor: reference.Flavor = "traditional_compatible") -> bytes:
    builder = TableBuilder(_NUMBERS[flavor])
    for number, route in enumerate(routes):
        add_to(builder, number, route)
    return builder.freeze()


class Compiled:
    """The compiled table behind the reference's way of filling it."""

    def __init__(self, flavor: reference.Flavor = "traditional_compatible") -> None:
        self._builder = TableBuilder(_NUMBERS[flavor])
        self.add = self._builder.add

    def match(self, method: bytes, host: bytes, path: bytes, **more: Any) -> tuple[int, int] | None:
        return Table(self._builder.freeze()).match(method, host, path, **more)


ROUTERS: Final[dict[str, Callable[[reference.Flavor], Any]]] = {
    "compiled": Compiled,
    "reference": reference.Router,
}


# ---- routes and requests that overlap as much as they can

HOSTS = [b"a.com", b"b.a.com", b"*.a.com", b"*.com", b"a.*", b"b.*", b"a.com:80", b"*.a.com:81", b"a.*:80",
         b"b.a.com:81", b"::1", b"[::1]:80"]  # fmt: skip
REQUEST_HOSTS = [b"", b"a.com", b"a.com:80", b"a.com:81", b"b.a.com", b"b.a.com:81", b"c.b.a.com:81", b"b.com",
                 b"a.", b".com", b"[::1]", b"[::1]:80", b"a.com:x", b"a:b:80"]  # fmt: skip
SEGMENTS = [b"a", b"b", b"/", b"ab", b"1", b"12"]
REGEXES = [rb"/a", rb"/a\d+", rb"/(a|b)", rb"/a(?P<n>b?)/", rb"/.*1", rb"/[ab]+$", rb"/a.b", rb"/a/?b|/b", rb"/ab+",
           rb"/", rb"/b*", rb"/\d{2}", rb"/a\.b|/a/"]  # fmt: skip
METHODS = [b"GET", b"POST", b"PURGE", b"PURGES", b"LINK"]
HEADER_NAMES = [b"x-a", b"X-B", b"x_a"]
HEADER_VALUES = [b"1", b"One", b"one", b"~*on", b"~*^O?ne$", b"~*\\d"]
REQUEST_VALUES = [b"1", b"ONE", b"one", b"none", b"o", b""]
SNIS = [b"a.com", b"*.a.com", b"a.*", b"b.a.com.", b"B.com"]
REQUEST_SNIS = [b"", b"a.com", b"b.a.com", b"b.com"]


def random_path(draw: random.Random) -> bytes:
    return b"/" + b"".join(draw.choices(SEGMENTS, k=draw.randrange(5)))


def random_route(draw: random.Random) -> Route:
    """A route of few kinds, from values that many others have too."""

    def some(values: list[bytes], most: int, chance: float) -> list[bytes]:
        return draw.sample(values, draw.randint(1, most)) if draw.random() < chance else []

    while True:
        paths = [random_path(draw) for _ in range(draw.randint(1, 3))] if draw.random() < 0.5 else []
        names = some(HEADER_NAMES[: draw.choice([2, 2, 3])], 2, 0.2)
        route = Route(
            some(HOSTS, 3, 0.5),
            paths,
            some(METHODS, 2, 0.3),
            some(REGEXES, 2, 0.3),
            [(name, draw.sample(HEADER_VALUES, draw.randint(1, 2))) for name in names],
            some(SNIS, 2, 0.15),
            draw.choice([0, 0, 1, -1]),
            draw.randint(0, 1),
            draw.randint(1, 3),
        )
        if any(route[:6]):
            return route


EXPRESSION_TESTS: Final[tuple[tuple[str, str, list[bytes | int]], ...]] = (
    ("http.method", "== !=", [b"GET", b"POST"]),
    ("http.host", "== != ^= =^ contains", [b"a.com", b"b.a.com", b"a.", b".com", b"b"]),
    ("http.path", "== != ^= =^ contains ~", [b"/a", b"/", b"/a/b", b"/ab", b"/1", b"a"]),
    ("net.protocol", "== !=", [b"http", b"https"]),
    ("tls.sni", "== =^ !=", [b"a.com", b".a.com", b"b.com"]),
    ("net.dst.port", "== != < <= > >=", [80, 81]),
    ("http.path.segments.len", "== != < <= > >=", [0, 1, 2]),
    ("http.path.segments.0", "== ^= !=", [b"a", b"b", b"ab"]),
    ("http.path.segments.0_1", "== =^ ~", [b"a/b", b"b", b"a"]),
    ("http.headers.x_a", "== != ^= contains ~", [b"1", b"one", b"o", b"ONE"]),
    ("http.headers.x_b", "== !=", [b"1", b"one"]),
    ("http.queries.q", "== != ^=", [b"1", b"", b"12"]),
)


def random_expression(draw: random.Random, depth: int = 0) -> Expression:
    """Of few levels; parts of `&&` and `||` as often as not."""
    if depth < 3 and draw.random() < 0.6 - 0.15 * depth:
        sign = draw.choice(["&&", "&&", "||", "!"])
        count = 1 if sign == "!" else draw.randint(2, 3)
        return Group(sign, [random_expression(draw, depth + 1) for _ in range(count)])
    name, operators, wanted = draw.choice(EXPRESSION_TESTS)
    is_text = isinstance(wanted[0], bytes)
    return Comparison(
        name,
        draw.choice(operators.split()),
        draw.choice(wanted),
        is_any=draw.random() < 0.3,
        is_lower=is_text and draw.random() < 0.15,
    )


def random_request(draw: random.Random) -> tuple[bytes, bytes, bytes, dict[str, Any]]:
    headers = [
        (draw.choice([b"X-A", b"x-b", b"X_a", b"x-c"]), draw.choice(REQUEST_VALUES))
        for _ in range(draw.randrange(4))
    ]
    more = {
        "headers": headers,
        "sni": draw.choice(REQUEST_SNIS),
        "is_https": draw.random() < 0.5,
        "host_port": draw.choice([80, 81]),
        "query": draw.choice([b"", b"", b"q=1", b"q", b"q=12&q=1", b"p=1&q="]),
    }
    return draw.choice(METHODS), draw.choice(REQUEST_HOSTS), random_path(draw), more


def check_agreement(draw: random.Random, flavor: reference.Flavor, *, routes: int, requests: int) -> None:
    """Make a table and ask both routers the same; what `explain` says must agree too, which is dear: once."""
    wanted: list[AnyRoute] = [random_route(draw) for _ in range(routes)]
    if flavor != "traditional":
        for number in range(routes):
            if draw.random() < 0.15:
                expression = random_expression(draw)
                wanted[number] = ExpressionRoute(
                    expression, draw.choice([0, 0, 1, 2**46 - 1]), draw.randint(0, 1)
                )
    plain = ROUTERS["reference"](flavor)
    for number, route in enumerate(wanted):
        add_to(plain, number, route)
    table = Table(freeze(wanted, flavor))
    for number in range(requests):
        method, host, path, more = random_request(draw)
        expected = plain.match(method, host, path, **more)
        assert table.match(method, host, path, **more) == expected
        if number:
            continue
        explained = explain(table, Request(method, host, path, **more))
        winners = [one.route for one in explained if one.matches]
        assert (winners[0] if winners else None) == (expected[0] if expected else None)
