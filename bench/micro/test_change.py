"""One changed route in a large table, stage by stage, from the Admin write to the worker."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.test_compile import snapshot_of
from fastgw.dp._metrics import SEGMENT_BYTES, MetricsSegment
from fastgw.dp._runtime import BaseRuntime, Runtime
from fastgw.dp.generation import ImageFile
from fastgw.dp.plugins.registry import Plugins
from fastgw.dp.store import Store
from fastgw.model.snapshot import EntityChange, Snapshot
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.compile_process import CompileProcess
from fastgw.routing.image import Image
from fastgw.routing.jobs import make_sealed_memfd
from fastgw.routing.overlay import Base, compile_overlay

SIZE = 100_000
CHANGED = [1, 512]
ROUNDS = 20


class Table:
    """A table with its base compiled, and snapshots that are one change apart."""

    def __init__(self) -> None:
        self.first = snapshot_of(SIZE)
        self.first.pack()
        self.image_file = ImageFile(make_sealed_memfd("bench-base", compile_snapshot(self.first)))
        self.base = Base(Image.open(self.image_file.fd), self.first)

    def changed(self, before: Snapshot, number: int) -> Snapshot:
        id_ = f"00000000-0000-4000-8000-{number * 97 % SIZE:012x}"
        row = dict(before.rows("routes")[id_]) | {"paths": [f"/changed/{number}"]}
        return before.apply([EntityChange(before.version + 1, "routes", id_, row)])

    def after(self, changes: int) -> Snapshot:
        snapshot = self.first
        for number in range(changes):
            snapshot = self.changed(snapshot, number)
        return snapshot

    def overlay(self, changes: int) -> bytes:
        after = self.after(changes)
        return compile_overlay(self.base, after, self.first.delta(after))


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


def steps(table: Table) -> Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]:
    """A new snapshot for each round."""
    made = [table.first]

    def step() -> tuple[tuple[Any, ...], dict[str, Any]]:
        made.append(table.changed(made[-1], len(made)))
        return (made[-1],), {}

    return step


def test_control_plane_applies_one_change(benchmark: BenchmarkFixture, table: Table) -> None:
    row = dict(table.first.rows("routes")["00000000-0000-4000-8000-000000000007"]) | {"paths": ["/x"]}
    change = EntityChange(2, "routes", row["id"], row)
    benchmark.pedantic(table.first.apply, ([change],), rounds=ROUNDS, warmup_rounds=1)


def test_control_plane_packs_it(benchmark: BenchmarkFixture, table: Table) -> None:
    benchmark.pedantic(Snapshot.pack, setup=steps(table), rounds=ROUNDS)


def test_compile_process_unpacks_it(benchmark: BenchmarkFixture, table: Table) -> None:
    packed = table.after(1).pack()
    like = Snapshot.unpack(1, table.first.pack())
    benchmark.pedantic(Snapshot.unpack, (2, packed), {"like": like}, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("changed", CHANGED)
def test_compile_process_compiles_the_overlay(
    benchmark: BenchmarkFixture, table: Table, changed: int
) -> None:
    after = table.after(changed)
    delta = table.first.delta(after)
    overlay = benchmark.pedantic(compile_overlay, (table.base, after, delta), rounds=ROUNDS, warmup_rounds=1)
    benchmark.extra_info["overlay_bytes"] = len(overlay)


@pytest.mark.parametrize("changed", CHANGED)
def test_worker_prepares_it(benchmark: BenchmarkFixture, table: Table, changed: int) -> None:
    with metrics() as segment:
        base = BaseRuntime(table.image_file.fd, segment, Plugins())
        fd = make_sealed_memfd("bench-overlay", table.overlay(changed))
        benchmark.pedantic(Runtime, (base, fd), rounds=ROUNDS, warmup_rounds=1)
        os.close(fd)


@contextmanager
def metrics() -> Iterator[MetricsSegment]:
    fd = os.memfd_create("bench-metrics")
    os.ftruncate(fd, SEGMENT_BYTES)
    try:
        yield MetricsSegment(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("changed", CHANGED)
def test_supervisor_stores_it(benchmark: BenchmarkFixture, table: Table, changed: int) -> None:
    """Two syncs of the disk are nearly all of it."""
    overlay = ImageFile(make_sealed_memfd("bench-overlay", table.overlay(changed)))
    with tempfile.TemporaryDirectory() as prefix:
        store = Store(Path(prefix))
        store.save(table.image_file)
        benchmark.pedantic(store.save, (table.image_file, overlay), rounds=ROUNDS, warmup_rounds=1)
        store.close()


def test_a_job_from_parent_to_child_and_back(benchmark: BenchmarkFixture, table: Table) -> None:
    """The whole of what the supervisor waits for: packed snapshot in, overlay out."""
    with asyncio.Runner() as runner:
        process = CompileProcess()
        runner.run(process.start())

        def compile_one(snapshot: Snapshot) -> None:
            packed = snapshot.pack()
            base = table.image_file
            result = runner.run(
                process.compile(
                    packed,
                    version=snapshot.version,
                    digest=snapshot.digest,
                    base=base.checksum,
                    base_fd=base.fd,
                )
            )
            assert result.fd < 0
            result.close()

        compile_one(table.first)  # the child reads the base
        benchmark.pedantic(compile_one, setup=steps(table), rounds=ROUNDS)
        runner.run(process.close())
