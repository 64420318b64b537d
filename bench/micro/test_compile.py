"""From a snapshot's document to an image: one whole compile per timed call."""

from __future__ import annotations

import os

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastgw.model.entities import ROUTES, SERVICES
from fastgw.model.snapshot import Snapshot
from fastgw.model.validate import make_row
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.jobs import make_sealed_memfd

SIZES = [1_000, 100_000]
ROUTES_PER_SERVICE = 10


def snapshot_of(size: int) -> Snapshot:
    services = [
        make_row(SERVICES, {"name": f"service-{n}", "host": f"{n}.internal"}, now_s=1)
        for n in range(size // ROUTES_PER_SERVICE)
    ]
    plain = make_row(ROUTES, {"paths": ["/"]}, now_s=1)
    routes = [
        plain
        | {
            "id": f"00000000-0000-4000-8000-{n:012x}",
            "name": f"route-{n}",
            "hosts": [f"service-{n}.example.com"],
            "paths": [f"/api/v1/{n}/items"],
            "service": {"id": services[n // ROUTES_PER_SERVICE]["id"]},
        }
        for n in range(size)
    ]
    return Snapshot.from_rows(1, {"services": services, "routes": routes})


@pytest.mark.parametrize("size", SIZES)
def test_compile(benchmark: BenchmarkFixture, size: int) -> None:
    snapshot = snapshot_of(size)
    snapshot.pack()
    image = benchmark.pedantic(compile_snapshot, (snapshot,), rounds=20_000 // size or 3, warmup_rounds=1)
    benchmark.extra_info["image_bytes_per_route"] = round(len(image) / size)


@pytest.mark.parametrize("size", SIZES)
def test_unpack_and_check_digest(benchmark: BenchmarkFixture, size: int) -> None:
    """What the compile process does before it compiles the first snapshot."""
    snapshot = snapshot_of(size)
    benchmark.pedantic(
        Snapshot.unpack,
        (1, snapshot.pack(), snapshot.digest),
        rounds=20_000 // size or 3,
        warmup_rounds=1,
    )


@pytest.mark.parametrize("size", SIZES)
def test_open_image(benchmark: BenchmarkFixture, size: int) -> None:
    """What a worker does to prepare a generation: map, checksum, check."""
    snapshot = snapshot_of(size)
    fd = make_sealed_memfd("bench-image", compile_snapshot(snapshot))
    try:
        benchmark.pedantic(Image.open, (fd,), rounds=10, warmup_rounds=1)
    finally:
        os.close(fd)
