"""Each consequence of Kong's precedence by name, in the flavors in which it holds, on both routers.

Source: proxying reference §1.3, §1.4 (`traditional`) and §1.10 (`traditional_compatible`).
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.reference.router import Flavor
from tests.routes import ROUTERS, Route, add_to

COMPATIBLE: Flavor = "traditional_compatible"
OLD: Flavor = "traditional"
both_flavors = pytest.mark.parametrize("flavor", [COMPATIBLE, OLD])


@pytest.fixture(params=ROUTERS)
def made(request: pytest.FixtureRequest) -> Any:
    return ROUTERS[request.param]


def winner(made: Any, flavor: Flavor, *routes: Route, **request: Any) -> int | None:
    router = made(flavor)
    for number, route in enumerate(routes):
        add_to(router, number, route)
    asked = {"method": b"GET", "host": b"a.com", "path": b"/x/1"} | request
    found = router.match(asked.pop("method"), asked.pop("host"), asked.pop("path"), **asked)
    return None if found is None else int(found[0])


PLAIN_REGEX = Route(hosts=[b"a.com"], regexes=[rb"/x/\d"])
PLAIN_PREFIX = Route(hosts=[b"a.com"], paths=[b"/x/1"])
WILD_REGEX = Route(hosts=[b"*.com"], regexes=[rb"/x/\d"])
WILD_PREFIX = Route(hosts=[b"*.com"], paths=[b"/x/1"])
WILD_PORT = Route(hosts=[b"*.com:80"], paths=[b"/x"])


@both_flavors
def test_plain_host_and_regex_then_prefix_then_wildcard_and_regex_then_prefix(
    made: Any, flavor: Flavor
) -> None:
    order = [PLAIN_REGEX, PLAIN_PREFIX, WILD_REGEX, WILD_PREFIX]
    for place in range(4):
        assert winner(made, flavor, *reversed(order[place:])) == 3 - place


def test_a_wildcard_with_port_beats_a_plain_host_that_is_not_the_whole_host_field(made: Any) -> None:
    routes = [Route(hosts=[b"x.a.com"]), Route(hosts=[b"*.a.com:80"]), Route(hosts=[b"x.a.com:80"])]
    assert winner(made, OLD, *routes[:2], host=b"x.a.com") == 0
    assert winner(made, OLD, *routes[:2], host=b"x.a.com:80") == 1
    assert winner(made, OLD, *routes, host=b"x.a.com:80") == 2
    assert winner(made, COMPATIBLE, *routes[:2], host=b"x.a.com:80") == 0


@both_flavors
def test_a_regex_beats_a_prefix_whatever_the_lengths(made: Any, flavor: Flavor) -> None:
    assert winner(made, flavor, Route(paths=[b"/x/1"]), Route(regexes=[rb"/x"])) == 1


@both_flavors
def test_more_header_names_beat_a_longer_path(made: Any, flavor: Flavor) -> None:
    headers = [(b"x-a", b"1"), (b"x-b", b"1")]
    two = Route(paths=[b"/"], headers=[(name, [value]) for name, value in headers])
    one = Route(paths=[b"/x/1"], headers=[(b"x-a", [b"1"])])
    assert winner(made, flavor, one, two, headers=headers) == 1


@both_flavors
def test_header_count_ranks_only_inside_one_set_of_kinds(made: Any, flavor: Flavor) -> None:
    many = Route(headers=[(b"x-a", [b"1"]), (b"x-b", [b"1"])])
    wider = Route(headers=[(b"x-a", [b"1"])], methods=[b"GET"])
    assert winner(made, flavor, many, wider, headers=[(b"x-a", b"1"), (b"x-b", b"1")]) == 1


@both_flavors
def test_among_regexes_regex_priority_counts_and_then_age(made: Any, flavor: Flavor) -> None:
    long = Route(regexes=[rb"/x/\d+"], regex_priority=-5)
    short = Route(regexes=[rb"/x"], regex_priority=0, created_at=7)
    older = Route(regexes=[rb"/x/1"], regex_priority=0, created_at=3)
    assert winner(made, flavor, long, short) == 1
    assert winner(made, flavor, long, short, older) == 2


@both_flavors
def test_regex_priority_weighs_nothing_for_a_prefix(made: Any, flavor: Flavor) -> None:
    assert winner(made, flavor, Route(paths=[b"/x"], regex_priority=9), Route(paths=[b"/x/1"])) == 1


@both_flavors
def test_a_route_with_a_plain_and_a_wildcard_host_is_a_wildcard_route(made: Any, flavor: Flavor) -> None:
    mixed = Route(hosts=[b"b.com", b"*.com"], paths=[b"/x/1"])
    assert winner(made, flavor, mixed, Route(hosts=[b"a.com"], paths=[b"/"])) == 1


@both_flavors
def test_more_kinds_beat_any_single_one(made: Any, flavor: Flavor) -> None:
    two = Route(hosts=[b"*.com"], paths=[b"/"])
    assert winner(made, flavor, Route(hosts=[b"a.com"]), Route(paths=[b"/x/1"]), two) == 2
    three = Route(hosts=[b"*.com"], paths=[b"/"], methods=[b"GET"])
    assert winner(made, flavor, PLAIN_REGEX, three) == 1


def test_the_larger_set_of_kinds_wins_among_equally_many(made: Any) -> None:
    given = [(b"x-a", b"1")]
    order = [
        Route(hosts=[b"*.com"], headers=[(b"x-a", [b"1"])]),
        Route(hosts=[b"*.com"], paths=[b"/x/1"]),
        Route(hosts=[b"*.com"], methods=[b"GET"]),
        Route(headers=[(b"x-a", [b"1"])], paths=[b"/x/1"]),
    ]
    for place in range(4):
        assert winner(made, OLD, *reversed(order[place:]), headers=given) == 3 - place


def test_which_kinds_are_set_is_no_tie_break_in_traditional_compatible(made: Any) -> None:
    path = Route(paths=[b"/x"])
    assert winner(made, COMPATIBLE, Route(hosts=[b"*.com"]), path) == 1
    assert winner(made, COMPATIBLE, Route(methods=[b"GET"]), path) == 1
    assert winner(made, COMPATIBLE, path, Route(hosts=[b"a.com"])) == 1
    assert winner(made, OLD, path, Route(hosts=[b"*.com"])) == 1


def test_over_http_a_route_without_snis_comes_first_in_traditional(made: Any) -> None:
    with_sni = Route(hosts=[b"a.com"], snis=[b"a.com"])
    without = Route(hosts=[b"a.com"])
    assert winner(made, OLD, with_sni, without) == 1
    assert winner(made, OLD, with_sni) == 0
    assert winner(made, OLD, with_sni, Route(hosts=[b"b.com"])) == 0
    assert winner(made, OLD, with_sni, without, is_https=True, sni=b"a.com") == 0
    assert winner(made, OLD, with_sni, without, is_https=True, sni=b"b.com") == 1
    assert winner(made, COMPATIBLE, with_sni, without) == 0


@both_flavors
def test_an_unrelated_regex_decides_nothing(made: Any, flavor: Flavor) -> None:
    routes = [Route(hosts=[b"b.com"], regexes=[rb"/x.*"], regex_priority=9), PLAIN_PREFIX, WILD_REGEX]
    assert winner(made, flavor, *routes) == 1


# ---- how conditions match


@both_flavors
@pytest.mark.parametrize("path", [b"/", b"/rou", b"/route", b"/route/", b"/route.x"])
@pytest.mark.parametrize("rest", [b"", b"/", b"req", b"/req", b"../req"])
def test_a_regex_strips_what_an_equal_prefix_strips(
    made: Any, flavor: Flavor, path: bytes, rest: bytes
) -> None:
    """So that the table of path handling (tests/test_uri.py) holds for both."""
    asked = b"GET", b"a.com", path + rest
    for route in (Route(paths=[path]), Route(regexes=[re.escape(path)])):
        router = made(flavor)
        add_to(router, 0, route)
        assert router.match(*asked) == (0, len(path))


@pytest.mark.parametrize(
    ("pattern", "host", "is_https", "holds"),
    [
        (b"a.com:80", b"a.com", False, False),
        (b"a.com:80", b"a.com:80", False, True),
        (b"a.com:443", b"a.com", True, False),
        (b"a.*:80", b"a.org", False, True),
        (b"a.*:443", b"a.org", True, True),
        (b"a.*:80", b"a.org", True, False),
        (b"a.*:8000", b"a.org", False, False),
        (b"a.com", b"a.com:9", False, True),
        (b"[::1]", b"[::1]:9", False, True),
    ],
)
def test_ports_of_hosts_in_traditional(
    made: Any, pattern: bytes, host: bytes, is_https: bool, holds: bool
) -> None:
    found = winner(made, OLD, Route(hosts=[pattern]), host=host, is_https=is_https, host_port=8000)
    assert found == (0 if holds else None)


@pytest.mark.parametrize(
    ("values", "sent", "compatible", "old"),
    [
        ([b"One"], [b"oNE"], True, True),
        ([b"1", b"2"], [b"2"], True, True),
        ([b"1"], [b"0", b"1"], True, True),
        ([b"1"], [b"10"], False, False),
        ([b"~*b.d"], [b"aBCDe"], True, True),
        ([b"~*B.D"], [b"abcde"], True, False),
        ([b"~*^b"], [b"abc"], False, False),
        ([b"~*b", b"x"], [b"abc"], True, False),
        ([b"~*q?b$", b"x"], [b"~*q?b$"], False, True),
        ([b"1"], [], False, False),
    ],
)
def test_header_values(
    made: Any, values: list[bytes], sent: list[bytes], compatible: bool, old: bool
) -> None:
    route = Route(headers=[(b"X-Team", values)])
    headers = [(b"x-team", value) for value in sent]
    assert winner(made, COMPATIBLE, route, headers=headers) == (0 if compatible else None)
    assert winner(made, OLD, route, headers=headers) == (0 if old else None)


def test_dash_and_underscore_differ_only_in_traditional(made: Any) -> None:
    route = Route(headers=[(b"x_a", [b"1"])])
    assert winner(made, COMPATIBLE, route, headers=[(b"X-A", b"1")]) == 0
    assert winner(made, OLD, route, headers=[(b"X-A", b"1")]) is None
    assert winner(made, OLD, route, headers=[(b"X_A", b"1")]) == 0


@both_flavors
def test_all_header_names_must_be_there(made: Any, flavor: Flavor) -> None:
    route = Route(headers=[(b"x-a", [b"1"]), (b"x-b", [b"2", b"3"])])
    assert winner(made, flavor, route, headers=[(b"x-a", b"1")]) is None
    assert winner(made, flavor, route, headers=[(b"x-b", b"3"), (b"x-a", b"1")]) == 0


@pytest.mark.parametrize(
    ("pattern", "sni", "compatible", "old"),
    [
        (b"a.com", b"a.com", True, True),
        (b"a.com.", b"a.com", True, True),
        (b"A.com", b"a.com", True, True),
        (b"a.com", b"b.a.com", False, False),
        (b"*.a.com", b"b.a.com", True, False),
        (b"a.*", b"a.org", True, False),
        (b"a.com", b"", False, False),
    ],
)
def test_snis(made: Any, pattern: bytes, sni: bytes, compatible: bool, old: bool) -> None:
    route = Route(snis=[pattern])
    assert winner(made, COMPATIBLE, route, is_https=True, sni=sni) == (0 if compatible else None)
    assert winner(made, OLD, route, is_https=True, sni=sni) == (0 if old else None)
    assert winner(made, COMPATIBLE, route) == 0
    assert winner(made, OLD, route) == 0


@both_flavors
@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        (rb"/users/\d+/profile", b"/users/123/profile/hello", 18),
        (rb"/users/\d+/profile", b"/a/users/123/profile", None),
        (rb"/a|/ab", b"/abc", 2),
        (rb"/ab?", b"/abc", 3),
        (rb"/USERS", b"/users", None),
        (rb"/a$", b"/a/", None),
        (rb"/b|/a", b"/x/b", None),
    ],
)
def test_regexes_match_at_the_start_and_as_much_as_they_take(
    made: Any, flavor: Flavor, pattern: bytes, path: bytes, matched: int | None
) -> None:
    router = made(flavor)
    add_to(router, 0, Route(regexes=[pattern]))
    assert router.match(b"GET", b"", path) == (None if matched is None else (0, matched))


@both_flavors
def test_the_first_regex_of_a_route_that_matches_says_what_is_stripped(made: Any, flavor: Flavor) -> None:
    router = made(flavor)
    add_to(router, 0, Route(regexes=[rb"/x", rb"/x/\d"]))
    assert router.match(b"GET", b"", b"/x/1") == (0, 2)
