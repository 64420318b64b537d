"""Route tables for tests: routes as short values, both routers behind one way of filling them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from fastgw._router import Flavor, Request, Table
from fastgw._router_build import TableBuilder
from fastgw._router_explain import explain
from tests.reference import router as reference

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


def add_to(builder: TableBuilder | reference.Router, number: int, route: Route) -> None:
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
        key=(route.key or number).to_bytes(16, "big"),
    )


def freeze(routes: Sequence[Route], flavor: reference.Flavor = "traditional_compatible") -> bytes:
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
    }
    return draw.choice(METHODS), draw.choice(REQUEST_HOSTS), random_path(draw), more


def check_agreement(draw: random.Random, flavor: reference.Flavor, *, routes: int, requests: int) -> None:
    """Make a table and ask both routers the same; what `explain` says must agree too, which is dear: once."""
    wanted = [random_route(draw) for _ in range(routes)]
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
