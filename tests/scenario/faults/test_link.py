"""The link is cut in the middle of a frame, or falls silent and neither side is told."""

from __future__ import annotations

import random
import time

import pytest

from fastgw.wire.link import HEARTBEAT_S
from tests.scenario.faults.cluster import FAT_BYTES, SILENT_S, running_cluster
from tests.scenario.faults.wire import Direction
from tests.scenario.harness import Pair, Stage

CUTS: list[tuple[int, Direction]] = [(1, "down"), (FAT_BYTES // 2, "down"), (10, "up")]
"""In the first record of TLS, in the middle of a chunk, in the answer."""


@pytest.mark.parametrize("rounds", [1, pytest.param(8, marks=pytest.mark.long)])
def test_cut_in_the_middle_of_a_frame(stage: Stage, pair: Pair, upstream: str, rounds: int) -> None:
    draw = random.Random(rounds)
    with running_cluster(stage, pair, upstream, data_plane_settings=[{}] * len(CUTS)) as cluster:
        for number in range(rounds):
            cuts = CUTS if number == 0 else [(draw.randrange(FAT_BYTES), "down") for _ in CUTS]
            for wire, (count, direction) in zip(cluster.wires, cuts, strict=True):
                wire.cut_after(count, direction)
            cluster.fatten(number)
            for wire in cluster.wires:
                wire.wait_done()
            cluster.wait_linked()
        cluster.check()


@pytest.mark.parametrize(
    "heartbeat_s", [2, pytest.param(HEARTBEAT_S, marks=[pytest.mark.long, pytest.mark.timeout(240)])]
)
def test_a_link_that_falls_silent(stage: Stage, pair: Pair, upstream: str, heartbeat_s: float) -> None:
    """A change is on its way, its answer, or nothing at all; both ends find out by themselves."""
    with running_cluster(stage, pair, upstream, cluster_heartbeat=f"{heartbeat_s:g}") as cluster:
        first, second = cluster.wires
        first.stall_after(FAT_BYTES // 2)
        second.stall_after(10, "up")
        cluster.fatten(1)
        for wire in cluster.wires:
            wire.wait_done()
        begun = time.monotonic()
        silence_s = heartbeat_s * 1.5
        for data_plane in cluster.data_planes:
            # Each end by its own clock, from its last message on.
            data_plane.wait_line(
                f"no link to .*: the control plane is silent for {silence_s:g} s", silence_s + 20
            )
        cluster.control_plane.wait_line(f"is disconnected: silent for {silence_s:g} s", silence_s + 20)
        for wire in cluster.wires:
            # The network is back, and what it held of the old connections is of no use.
            wire.cut()
        cluster.check(max(SILENT_S - (time.monotonic() - begun), 1))
