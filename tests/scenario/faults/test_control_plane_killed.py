"""The control plane is killed while it pushes: before the first chunk, in the middle, after the last."""

from __future__ import annotations

import pytest

from tests.scenario.conftest import prepared_storage
from tests.scenario.faults.cluster import FAT_BYTES, running_cluster
from tests.scenario.faults.wire import Direction
from tests.scenario.harness import Pair, Stage

POINTS: list[tuple[int, Direction]] = [(0, "down"), (FAT_BYTES // 2, "down"), (1, "up")]
"""How far the push to each data plane is, by the bytes that its wire has let pass."""


@pytest.mark.parametrize(
    ("dialect", "rounds"),
    [
        ("sqlite", 1),
        pytest.param("sqlite", 5, marks=pytest.mark.long),
        pytest.param("postgres", 5, marks=pytest.mark.long),
    ],
)
def test_killed_during_a_push(
    request: pytest.FixtureRequest, stage: Stage, pair: Pair, upstream: str, dialect: str, rounds: int
) -> None:
    """What had been answered is published by the next process, under numbers that go on from there."""
    each: list[dict[str, str]] = [{}] * len(POINTS)
    with (
        prepared_storage(request, dialect) as storage,
        running_cluster(stage, pair, upstream, storage=storage, data_plane_settings=each) as cluster,
    ):
        for number in range(rounds):
            for wire, (count, direction) in zip(cluster.wires, POINTS, strict=True):
                wire.stall_after(count, direction)
            cluster.fatten(number)
            for wire in cluster.wires:
                wire.wait_done()
            cluster.control_plane.kill()
            for wire in cluster.wires:
                wire.cut()
            cluster.control_plane.start()
            cluster.control_plane.wait_ready()
            cluster.wait_linked()
        cluster.check()
