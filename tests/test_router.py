"""The compiled route table: Kong's precedence by name, the twin held equal, damage never followed."""

import contextlib
import ctypes
import mmap
import random
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw._router import Request, Table
from fastgw._router_build import TableBuilder
from fastgw._router_explain import explain
from tests.reference import router as reference
from tests.routes import FLAVORS, ROUTERS, Route, add_to, check_agreement, freeze


@pytest.fixture(params=ROUTERS)
def router(request: pytest.FixtureRequest) -> Any:
    return ROUTERS[request.param]("traditional_compatible")


def winner(
    router: Any,
    *routes: Route,
    method: bytes = b"GET",
    host: bytes = b"a.com",
    path: bytes = b"/",
    port: int = 80,
    **more: Any,
) -> int | None:
    for number, route in enumerate(routes):
        add_to(router, number, route)
    found = router.match(method, host, path, host_port=port, **more)
    return None if found is None else found[0]


# ---- one kind of condition


@pytest.mark.parametrize(
    ("pattern", "host", "port", "holds"),
    [
        (b"a.com", b"a.com", 80, True),
        (b"a.com", b"a.com:9000", 80, True),
        (b"a.com", b"b.a.com", 80, False),
        (b"a.com", b"", 80, False),
        (b"a.com:80", b"a.com:80", 8000, True),
        (b"a.com:80", b"a.com", 80, True),
        (b"a.com:80", b"a.com", 8000, False),
        (b"a.com:80", b"a.com:81", 80, False),
        (b"a.com:80", b"a.com:", 80, True),
        (b"*.a.com", b"x.a.com", 80, True),
        (b"*.a.com", b"x.y.a.com", 80, True),
        (b"*.a.com", b"a.com", 80, False),
        (b"*.a.com", b".a.com", 80, False),
        (b"*.a.com", b"x.a.com:9000", 80, True),
        (b"*.a.com", b"x.ba.com", 80, False),
        (b"*.a.com:80", b"x.a.com", 80, True),
        (b"*.a.com:80", b"x.a.com:81", 80, False),
        (b"a.*", b"a.com", 80, True),
        (b"a.*", b"a.co.uk", 80, True),
        (b"a.*", b"a.", 80, False),
        (b"a.*", b"ba.com", 80, False),
        (b"a.*:80", b"a.org", 80, True),
        (b"a.*:80", b"a.org", 8000, False),
        (b"[::1]", b"[::1]", 80, True),
        (b"[::1]", b"[::1]:9000", 80, True),
        (b"[::1]:9000", b"[::1]:9000", 80, True),
        (b"[::1]:9000", b"[::1]", 80, False),
        (b"::1", b"[::1]:80", 80, True),
        (b"10.0.0.1:80", b"10.0.0.1", 80, True),
    ],
)
def test_hosts(router: Any, pattern: bytes, host: bytes, port: int, holds: bool) -> None:
    assert winner(router, Route(hosts=[pattern]), host=host, port=port) == (0 if holds else None)


@pytest.mark.parametrize(
    ("prefix", "path", "holds"),
    [
        (b"/route", b"/route", True),
        (b"/route", b"/routereq", True),
        (b"/route", b"/rout", False),
        (b"/route/", b"/route", False),
        (b"/", b"/anything", True),
        (b"/caf\xc3\xa9", b"/caf\xc3\xa9/x", True),
        (b"/Route", b"/route", False),
    ],
)
def test_paths(router: Any, prefix: bytes, path: bytes, holds: bool) -> None:
    assert winner(router, Route(paths=[prefix]), path=path) == (0 if holds else None)


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"POST", b"HEAD", b"PATCH", b"DELETE", b"OPTIONS"])
def test_methods_with_a_bit_of_their_own(router: Any, method: bytes) -> None:
    assert winner(router, Route(methods=[method]), method=method) == 0
    assert router.match(method.lower(), b"", b"/") is None
    assert router.match(b"TRACE", b"", b"/") is None


def test_methods_that_nobody_foresaw(router: Any) -> None:
    routes = [
        Route(methods=[b"PURGE", b"GET"], hosts=[b"a.com"]),
        Route(methods=[b"PROPFIND"], hosts=[b"a.com"]),
        Route(hosts=[b"a.com"]),
    ]
    assert winner(router, *routes, method=b"PURGE") == 0
    assert router.match(b"PROPFIND", b"a.com", b"/") == (1, 0)
    assert router.match(b"PROP", b"a.com", b"/") == (2, 0)
    assert router.match(b"GET", b"a.com", b"/") == (0, 0)


def test_an_absent_host_fails_only_routes_with_hosts(router: Any) -> None:
    assert winner(router, Route(hosts=[b"a.com"], paths=[b"/"]), Route(paths=[b"/"]), host=b"") == 1


def test_any_value_of_a_kind_is_enough_and_every_kind_must_hold(router: Any) -> None:
    route = Route(hosts=[b"a.com", b"*.b.com:80"], paths=[b"/x", b"/yy"], methods=[b"GET", b"PUT"])
    assert winner(router, route, host=b"x.b.com", path=b"/yyz", method=b"PUT") == 0
    assert router.match(b"PUT", b"x.b.com", b"/yyz") == (0, 3)
    assert router.match(b"PUT", b"x.b.com", b"/z") is None
    assert router.match(b"PUT", b"b.com", b"/x") is None
    assert router.match(b"POST", b"a.com", b"/x") is None


# ---- precedence (proxying order of the traditional_compatible flavour)


def test_more_kinds_beat_a_longer_path(router: Any) -> None:
    assert (
        winner(
            router, Route(paths=[b"/long/path"]), Route(hosts=[b"a.com"], paths=[b"/"]), path=b"/long/path"
        )
        == 1
    )


def test_hosts_paths_methods_beat_hosts_paths(router: Any) -> None:
    narrow = Route(hosts=[b"*.com"], paths=[b"/"], methods=[b"GET"])
    assert winner(router, Route(hosts=[b"a.com"], paths=[b"/long"]), narrow, path=b"/long") == 1


def test_hosts_and_paths_beat_any_single_kind(router: Any) -> None:
    both = Route(hosts=[b"*.com"], paths=[b"/"])
    assert (
        winner(
            router, Route(hosts=[b"a.com"]), Route(methods=[b"GET"]), both, Route(paths=[b"/x"]), path=b"/x"
        )
        == 2
    )


def test_plain_host_alone_beats_a_path_alone(router: Any) -> None:
    assert winner(router, Route(paths=[b"/x"]), Route(hosts=[b"a.com"]), path=b"/x") == 1


def test_path_alone_beats_a_wildcard_host_alone(router: Any) -> None:
    assert winner(router, Route(hosts=[b"*.com"]), Route(paths=[b"/x"]), path=b"/x") == 1


def test_path_alone_beats_a_method_alone(router: Any) -> None:
    assert winner(router, Route(methods=[b"GET"]), Route(paths=[b"/"])) == 1


def test_plain_host_beats_a_wildcard_with_a_longer_path(router: Any) -> None:
    wildcard = Route(hosts=[b"*.com"], paths=[b"/long"])
    assert winner(router, wildcard, Route(hosts=[b"a.com"], paths=[b"/"]), path=b"/long") == 1


def test_a_route_with_a_plain_and_a_wildcard_host_is_a_wildcard_route(router: Any) -> None:
    mixed = Route(hosts=[b"a.com", b"*.b.com"], paths=[b"/long"])
    assert winner(router, mixed, Route(hosts=[b"a.com"], paths=[b"/"]), path=b"/long") == 1


def test_a_wildcard_gains_nothing_from_a_port(router: Any) -> None:
    routes = [Route(hosts=[b"*.a.com:80"]), Route(hosts=[b"x.a.com"])]
    assert winner(router, *routes, host=b"x.a.com:80") == 1
    assert router.match(b"GET", b"x.a.com", b"/") == (1, 0)


def test_the_longest_path_of_a_route_with_several_counts(router: Any) -> None:
    routes = [Route(paths=[b"/", b"/a/b"]), Route(paths=[b"/a"])]
    assert winner(router, *routes, path=b"/a/b/c") == 0
    assert router.match(b"GET", b"", b"/a/c") == (1, 2)
    assert router.match(b"GET", b"", b"/c") == (0, 1)


def test_a_shallow_path_with_a_method_beats_a_deep_one_without(router: Any) -> None:
    routes = [Route(paths=[b"/a/b/c"]), Route(paths=[b"/a"], methods=[b"POST"])]
    assert winner(router, *routes, path=b"/a/b/c", method=b"POST") == 1
    assert router.match(b"GET", b"", b"/a/b/c") == (0, 6)


def test_the_older_route_wins_a_tie(router: Any) -> None:
    assert (
        winner(router, Route(paths=[b"/"], created_at=2, key=1), Route(paths=[b"/"], created_at=1, key=2))
        == 1
    )


def test_the_smaller_id_wins_among_routes_of_one_second(router: Any) -> None:
    assert (
        winner(router, Route(paths=[b"/"], created_at=1, key=9), Route(paths=[b"/"], created_at=1, key=8))
        == 1
    )


# ---- the twins, on routes that overlap as much as they can


@given(st.integers(0, 2**32), st.sampled_from(FLAVORS))
@settings(max_examples=150)
@example(1, "traditional")
def test_twins_agree(seed: int, flavor: reference.Flavor) -> None:
    check_agreement(random.Random(seed), flavor, routes=1 + seed % 12, requests=12)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_twins_agree_on_crowded_tables(flavor: reference.Flavor) -> None:
    for seed in range(8):
        check_agreement(random.Random(seed), flavor, routes=40, requests=30)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_many_regexes_that_begin_alike(flavor: reference.Flavor) -> None:
    """More than two sieves of them, of which some ask for more than a path, and one is beyond RE2."""
    draw = random.Random(7)
    beyond = [rb"/(?!x)\w+/7"] if flavor == "traditional" else []
    routes = [
        Route(
            hosts=[b"a.com"],
            regexes=[rb"/[^/]+/%d(/|$)" % draw.randrange(200), *beyond]
            if number % 50 == 49
            else [rb"/[^/]+/%d(/|$)" % draw.randrange(200)],
            methods=[b"GET"] if number % 3 == 0 else [],
            headers=[(b"x-a", [b"1"])] if number % 7 == 0 else [],
            regex_priority=draw.randrange(3),
            created_at=draw.randrange(5),
        )
        for number in range(300)
    ]
    routes += [Route(hosts=[b"a.com"], paths=[b"/"]) for _ in range(5)]
    plain = ROUTERS["reference"](flavor)
    for number, route in enumerate(routes):
        add_to(plain, number, route)
    table = Table(freeze(routes, flavor))
    table.warm()
    for number in range(210):
        for method in (b"GET", b"POST"):
            for headers in ((), ((b"X-A", b"1"),)):
                asked = method, b"a.com", b"/x%d/%d/y" % (number, number)
                expected = plain.match(*asked, headers=headers)
                assert table.match(*asked, headers=headers) == expected


def test_large_table_finds_each_of_its_routes() -> None:
    wanted = [Route(hosts=[b"host-%d.example" % n], paths=[b"/p/%d/" % n]) for n in range(5000)]
    wanted += [Route(paths=[b"/shared/%d/" % n]) for n in range(5000)]
    table = Table(freeze(wanted))
    assert table.routes == 10000
    for n in range(0, 5000, 7):
        assert table.match(b"GET", b"host-%d.example" % n, b"/p/%d/x" % n) == (n, 4 + len(str(n)))
        assert table.match(b"GET", b"host-%d.example" % n, b"/shared/%d/" % n) == (5000 + n, 9 + len(str(n)))
        assert table.match(b"GET", b"host-%d.example" % n, b"/p/x") is None


def test_deeply_nested_paths_need_no_deep_stack() -> None:
    path = b"/" + b"a" * 4000
    table = Table(freeze([Route(paths=[path[: n + 1]]) for n in range(len(path))]))
    assert table.match(b"GET", b"", path) == (4000, 4001)
    assert table.match(b"GET", b"", path[:100] + b"b") == (99, 100)


def test_hosts_with_the_same_routes_share_one_trie() -> None:
    paths = [b"/path/%d" % n for n in range(200)]
    one = freeze([Route(hosts=[b"h0.com"], paths=paths)])
    many = freeze([Route(hosts=[b"h%d.com" % n for n in range(50)], paths=paths)])
    assert len(many) < 1.5 * len(one)
    assert Table(many).match(b"GET", b"h49.com", b"/path/7") == (0, 7)


def test_the_same_routes_make_the_same_block() -> None:
    wanted = [Route(hosts=[b"*.a.com"], paths=[b"/%d" % n]) for n in range(50)]
    assert freeze(wanted) == freeze(wanted)


def test_a_builder_goes_on_after_freezing() -> None:
    builder = TableBuilder()
    add_to(builder, 0, Route(paths=[b"/a"]))
    first = builder.freeze()
    add_to(builder, 1, Route(hosts=[b"a.com"], paths=[b"/a"]))
    assert Table(first).match(b"GET", b"a.com", b"/a") == (0, 2)
    assert Table(builder.freeze()).match(b"GET", b"a.com", b"/a") == (1, 2)


def test_an_empty_table_matches_nothing() -> None:
    table = Table(TableBuilder().freeze())
    assert table.routes == 0
    assert table.match(b"GET", b"a.com", b"/") is None
    assert explain(table, Request(b"GET", b"a.com")) == []


# ---- explain


def test_explain_says_what_held_and_what_failed() -> None:
    wanted = [
        Route(hosts=[b"a.com:80"], paths=[b"/x"], methods=[b"POST", b"PURGE"]),
        Route(hosts=[b"*.com"], paths=[b"/y"]),
        Route(regexes=[rb"/(\d)"], headers=[(b"X-A", [b"1", b"2"])], snis=[b"s.com"]),
        Route(paths=[b"/"]),
    ]
    request = Request(b"GET", b"a.com:80", b"/x/1", headers=[(b"x-a", b"2")])
    explained = explain(Table(freeze(wanted)), request)
    assert [(one.route, one.matches) for one in explained] == [(0, False), (2, False), (1, False), (3, True)]
    assert explained[0].conditions == (
        ("hosts", ("a.com:80",), "a.com:80", True),
        ("paths", ("/x",), "/x/1", True),
        ("methods", ("POST", "PURGE"), "GET", False),
    )
    assert explained[1].conditions == (
        ("paths", (r"~/(\d)",), "/x/1", False),
        ("snis", ("s.com",), None, True),
        ("headers.X-A", ("1", "2"), "2", True),
    )
    near = explain(Table(freeze(wanted)), request, near_only=True)
    assert [one.route for one in near] == [0, 2, 3]


# ---- what is refused


@pytest.mark.parametrize(
    ("route", "message"),
    [
        (Route(), "needs a host, a path, a method, a header or an SNI"),
        (Route(paths=[b"x"]), "does not begin with a slash"),
        (Route(paths=[b"~/x"]), "does not begin with a slash"),
        (Route(paths=[b""]), "does not begin with a slash"),
        (Route(paths=[b"/" + b"x" * 65535]), "longer than 65535"),
        (Route(methods=[b""]), "method is empty"),
        (Route(hosts=[b""]), "neither a name nor a wildcard"),
        (Route(hosts=[b"*"]), "neither a name nor a wildcard"),
        (Route(hosts=[b"a.*.com"]), "neither a name nor a wildcard"),
        (Route(hosts=[b"*a.com"]), "neither a name nor a wildcard"),
        (Route(hosts=[b"*.a.*"]), "neither a name nor a wildcard"),
        (Route(hosts=[b"A.com"]), "not in lower case"),
    ],
)
def test_what_cannot_be_served_is_refused_and_leaves_nothing(route: Route, message: str) -> None:
    builder = TableBuilder()
    empty = builder.freeze()
    with pytest.raises(ValueError, match=message):
        add_to(builder, 0, route)
    assert builder.freeze() == empty


@pytest.mark.parametrize("order", [[3, 0, 2, 1, 4], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]])
@pytest.mark.parametrize("key", ["a.com", "*.com", "a.*"])
def test_one_host_with_many_ports(key: str, order: list[int]) -> None:
    ports = [None, 1, 80, 443, 65535]
    builder = TableBuilder()
    for number in order + order:
        host = key if ports[number] is None else f"{key}:{ports[number]}"
        # Any port is the youngest, and loses to one that is named.
        age = int(ports[number] is None)
        builder.add(
            number,
            hosts=[host.encode()],
            paths=[],
            methods=[],
            created_at=age,
            key=number.to_bytes(16, "big"),
        )
    table = Table(builder.freeze())
    for number, port in enumerate(ports):
        asked = b"a.com:%d" % (8080 if port is None else port)
        assert table.match(b"GET", asked, b"/") == (number, 0)


def test_a_key_has_16_bytes() -> None:
    with pytest.raises(ValueError, match="15 bytes, not 16"):
        TableBuilder().add(0, hosts=[], paths=[b"/"], methods=[], created_at=0, key=bytes(15))


# ---- damage

WHOLE = freeze(
    [
        Route(hosts=[b"a.com", b"*.b.com", b"c.*:80"], paths=[b"/a", b"/ab/c"], methods=[b"GET", b"PURGE"]),
        Route(hosts=[b"a.com:81", b"a.com:80"], paths=[b"/a/b", b"/a/c", b"/b"]),
        Route(paths=[b"/", b"/a"], methods=[b"PURGE"]),
        Route(regexes=[rb"/a/(\d+)", rb"/b"], headers=[(b"x-a", [b"1", b"~*o"])], snis=[b"*.a.com"]),
        Route(headers=[(b"x-b", [b"1"])], methods=[b"GET"]),
    ]
)
PROBES = [
    (method, host, path)
    for method in (b"GET", b"PURGE")
    for host in (b"", b"a.com", b"x.b.com:80", b"c.d.e")
    for path in (b"/", b"/ab/c/d", b"/a/b")
]


class Cliff:
    """Memory that ends where the block ends: to read one byte further ends the process."""

    def __init__(self, size: int) -> None:
        page = mmap.PAGESIZE
        pages = -(-size // page)
        self._map = mmap.mmap(-1, (pages + 1) * page)
        anchor = (ctypes.c_char * len(self._map)).from_buffer(self._map)
        address = ctypes.addressof(anchor)
        del anchor
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + pages * page), page, 0) == 0
        self.block = memoryview(self._map)[pages * page - size : pages * page]


CLIFF = Cliff(len(WHOLE))


def survives(damaged: bytes) -> None:
    """Open *damaged* and search it; an answer must at least be within the table and the path."""
    CLIFF.block[:] = damaged
    try:
        table = Table(CLIFF.block)
    except ValueError:
        return
    for method, host, path in PROBES:
        found = table.match(method, host, path, headers=[(b"x-a", b"one"), (b"X-B", b"1")], is_https=True)
        assert found is None or (found[0] < table.routes and found[1] <= len(path))
    # The text of a condition may be damaged too: what it says is then judged as a route's would be.
    with contextlib.suppress(ValueError):
        explain(table, Request(b"GET", b"a.com", b"/a"))


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=400)
def test_a_damaged_block_is_refused_or_stays_within_itself(damage: list[tuple[int, int]]) -> None:
    block = bytearray(WHOLE)
    for at, byte in damage:
        block[at] = byte
    survives(bytes(block))


@pytest.mark.parametrize(
    "value", [0, 1, 4, len(WHOLE) - 4, len(WHOLE), 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF]
)
def test_any_word_may_hold_anything(value: int) -> None:
    for at in range(0, len(WHOLE), 4):
        survives(WHOLE[:at] + value.to_bytes(4, "little") + WHOLE[at + 4 :])


@pytest.mark.parametrize("size", [0, 1, 59, 60, len(WHOLE) - 1])
def test_a_block_cut_short_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="not a route table"):
        Table(WHOLE[:size])


def test_a_block_must_be_aligned() -> None:
    moved = memoryview(b"\0" + WHOLE)[1:]
    with pytest.raises(ValueError, match="multiple of 8"):
        Table(moved)


def test_a_table_keeps_its_block_alive() -> None:
    block = bytearray(WHOLE)
    table = Table(block)
    with pytest.raises(BufferError):
        block.append(0)
    del table
    block.append(0)
