"""Request paths on their way upstream: 1,000 per timed call."""

from __future__ import annotations

from types import ModuleType

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

PATHS = {
    "plain": b"/api/v1/customers/12345/orders/67890/items",
    "encoded": b"/api/v1/caf%C3%A9/12345/a%2Fb/67890/items%20x",
    "dots": b"/api/v1//customers/./12345/../67890/items/",
}


@pytest.mark.parametrize("kind", PATHS)
def test_prepare(benchmark: BenchmarkFixture, loops: ModuleType, kind: str) -> None:
    assert benchmark(loops.prepare_1000, PATHS[kind]) > 0
