"""Finding a route: 1,000 requests per timed call."""

from __future__ import annotations

import functools
import mmap
import random
from collections.abc import Callable
from types import ModuleType

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastgw._router import Table
from fastgw._router_build import TableBuilder
from fastgw.model.expressions import parse_expression

SHAPES = ["host_and_path", "paths_of_one_host"]
SIZES = [10, 10_000, 100_000]


def opened(builder: TableBuilder) -> Table:
    """The table as a worker has it: mapped, at the start of a page."""
    block = builder.freeze()
    mapped = mmap.mmap(-1, len(block))
    mapped[:] = block
    return Table(mapped)


def route_of(shape: str, number: int) -> tuple[bytes, bytes]:
    if shape == "host_and_path":
        return b"service-%d.example.com" % number, b"/api/v1/%d/items" % number
    return b"www.example.com", b"/api/v1/%d/items" % number


@functools.cache
def table_of(shape: str, size: int) -> Table:
    builder = TableBuilder()
    for number in range(size):
        host, path = route_of(shape, number)
        key = number.to_bytes(16, "big")
        builder.add(number, hosts=[host], paths=[path], methods=[], created_at=0, key=key)
    return opened(builder)


def requests_of(shape: str, size: int, keys: str) -> list[tuple[bytes, bytes]]:
    chosen = random.Random(1)
    if keys == "hot":
        host, path = route_of(shape, size // 2)
        return [(host, path + b"/77")]
    numbers = chosen.sample(range(size), size) if keys == "random" else range(size, 2 * size)
    return [(host, path + b"/77") for host, path in (route_of(shape, number) for number in numbers)]


@pytest.mark.parametrize("keys", ["hot", "random", "missing"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_find(benchmark: BenchmarkFixture, loops: ModuleType, shape: str, size: int, keys: str) -> None:
    table = table_of(shape, size)
    requests = loops.Requests(requests_of(shape, size, keys))
    hits = benchmark(requests.find_1000, table)
    assert hits == (0 if keys == "missing" else 1000)


def table_with(add: Callable[[TableBuilder, int], None], size: int) -> Table:
    builder = TableBuilder()
    for number in range(size):
        add(builder, number)
    return opened(builder)


@functools.cache
def regex_table(size: int) -> Table:
    """Regex routes under one host, each with a literal prefix of its own."""
    return table_with(
        lambda builder, number: builder.add(
            number,
            hosts=[b"www.example.com"],
            paths=[],
            regexes=[rb"/api/v1/%d/items/(?P<item>\d+)/" % number],
            methods=[],
            created_at=0,
            key=number.to_bytes(16, "big"),
        ),
        size,
    )


@pytest.mark.parametrize("keys", ["hot", "random", "missing"])
@pytest.mark.parametrize("size", [10, 5_000])
def test_find_regex(benchmark: BenchmarkFixture, loops: ModuleType, size: int, keys: str) -> None:
    """One call of RE2 per hit; a miss ends in the trie."""
    draw = random.Random(1)
    numbers = [size // 2] if keys == "hot" else draw.sample(range(size), size)
    if keys == "missing":
        numbers = [number + size for number in numbers]
    requests = loops.Requests([(b"www.example.com", b"/api/v1/%d/items/77/x" % number) for number in numbers])
    table = regex_table(size)
    for _ in range(len(numbers) // 1000 + 1):
        requests.find_1000(table)  # regexes compile on first use
    assert benchmark(requests.find_1000, table) == (0 if keys == "missing" else 1000)


@pytest.mark.parametrize("keys", ["hit", "missing"])
@pytest.mark.parametrize("size", [10, 5_000])
def test_find_regex_that_begins_alike(
    benchmark: BenchmarkFixture, loops: ModuleType, size: int, keys: str
) -> None:
    """Without a literal prefix of their own: one RE2 set for each 256 of them, then one call for the hit."""
    table = table_with(
        lambda builder, number: builder.add(
            number,
            hosts=[b"www.example.com"],
            paths=[],
            regexes=[rb"/(?P<tenant>[^/]+)/items/%d(/|$)" % number],
            methods=[],
            created_at=number,
            key=number.to_bytes(16, "big"),
        ),
        size,
    )
    table.warm()
    number = size if keys == "missing" else size // 2
    requests = loops.Requests([(b"www.example.com", b"/acme/items/%d/x" % number)])
    requests.find_1000(table)
    assert benchmark(requests.find_1000, table) == (0 if keys == "missing" else 1000)


@pytest.mark.parametrize("size", [10, 10_000])
def test_find_expression(benchmark: BenchmarkFixture, loops: ModuleType, size: int) -> None:
    def add(builder: TableBuilder, number: int) -> None:
        text = (
            f'http.host == "service-{number}.example.com" && http.path ^= "/api/v1/" && http.method == "GET"'
        )
        builder.add_expression(
            number,
            text=text.encode(),
            tree=parse_expression(text),
            priority=0,
            created_at=0,
            key=number.to_bytes(16, "big"),
        )

    requests = loops.Requests([(b"service-%d.example.com" % (size // 2), b"/api/v1/77")])
    assert benchmark(requests.find_1000, table_with(add, size)) == 1000


@pytest.mark.parametrize("rivals", [1, 16])
def test_find_header(benchmark: BenchmarkFixture, loops: ModuleType, rivals: int) -> None:
    """Routes of one host and path that differ in a header's value; the request has nine other fields."""

    def add(builder: TableBuilder, number: int) -> None:
        builder.add(
            number,
            hosts=[b"www.example.com"],
            paths=[b"/api"],
            methods=[],
            headers=[(b"X-Version", [b"v%d" % number])],
            created_at=number,
            key=number.to_bytes(16, "big"),
        )

    fields = [(b"X-Field-%d" % number, b"value") for number in range(9)]
    requests = loops.Requests(
        [(b"www.example.com", b"/api/v1/77")], [*fields, (b"x-version", b"v%d" % (rivals - 1))]
    )
    assert benchmark(requests.find_1000, table_with(add, rivals)) == 1000


@pytest.mark.parametrize("size", SIZES)
def test_match_from_python(benchmark: BenchmarkFixture, size: int) -> None:
    """The same with one Python call per request, to show what that costs."""
    match = table_of(SHAPES[0], size).match
    host, path = route_of(SHAPES[0], size // 2)

    def match_1000() -> None:
        for _ in range(1000):
            match(b"GET", host, path)

    benchmark(match_1000)


@pytest.mark.parametrize("size", SIZES)
def test_open(benchmark: BenchmarkFixture, size: int) -> None:
    """Checking a whole block, once per timed call."""
    builder = TableBuilder()
    for number in range(size):
        host, path = route_of(SHAPES[0], number)
        key = number.to_bytes(16, "big")
        builder.add(number, hosts=[host], paths=[path], methods=[], created_at=0, key=key)
    benchmark(Table, builder.freeze())
