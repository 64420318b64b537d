"""Finding a route: 1,000 requests per timed call."""

from __future__ import annotations

import functools
import random
from types import ModuleType

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastgw._router import Table
from fastgw._router_build import TableBuilder

SHAPES = ["host_and_path", "paths_of_one_host"]
SIZES = [10, 10_000, 100_000]


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
    return Table(builder.freeze())


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
