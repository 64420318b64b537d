"""The clock of one machine is hours or years off: what goes on, what is refused and says why, and the way back."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.scenario.faults.cluster import VISIBLE_S, Cluster, running_cluster
from tests.scenario.faults.preload import build, preloaded
from tests.scenario.harness import Pair, Stage
from tests.scenario.test_15_pki import pki

HOURS: Final = 2 * 3600
YEARS: Final = [12 * 365 * 86_400, -12 * 365 * 86_400]
LONG: Final = [pytest.mark.long, pytest.mark.timeout(300)]
REFUSED: Final = (
    r"the peer's certificate \(.*\) (?:has expired|is not valid yet): .* and the clock here says \d{4}-"
)


class WrongClock:
    """The wall clock of one process and all that it starts; deadlines go by another clock and stay right."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "clock"
        self.set(0)
        self.wrapper: Final = preloaded(build("wrong_clock", directory), WRONG_CLOCK=str(self._path))

    def set(self, ahead_s: int) -> None:
        """Put it so far off from now on; 0 is right."""
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(fd, struct.pack("=q", ahead_s), 0)
        os.close(fd)


@pytest.mark.parametrize(
    ("mode", "offsets"),
    [
        ("shared", YEARS[:1]),
        pytest.param("shared", YEARS, marks=LONG),
        pytest.param("pki", YEARS, marks=LONG),
    ],
)
def test_the_clock_of_a_data_plane(
    stage: Stage, pair: Pair, upstream: str, mode: str, offsets: list[int]
) -> None:
    """Its link goes on, it starts and serves from disk, and only a new link is refused."""
    clock = WrongClock(stage.directory)
    with cluster_of(stage, pair, upstream, mode, {"dp-1": clock.wrapper}) as cluster:
        data_plane = cluster.data_planes[0]
        for offset in offsets:
            clock.set(offset)
            # The link that is there asks for no date.
            cluster.wait_current(data_plane)
            with cluster.loads[0].away():
                data_plane.kill()
                cluster.restart(data_plane)
            data_plane.wait_line(f"(?:no link to .*|has not joined the cluster): {REFUSED}")
            # Hours are nothing to a certificate of weeks.
            clock.set(HOURS)
            cluster.wait_current(data_plane)
        clock.set(0)
        cluster.check()


@pytest.mark.parametrize(
    ("mode", "offsets"),
    [
        ("pki", YEARS[:1]),
        pytest.param("pki", YEARS, marks=LONG),
        pytest.param("shared", YEARS, marks=LONG),
    ],
)
def test_the_clock_of_a_control_plane(
    stage: Stage, pair: Pair, upstream: str, mode: str, offsets: list[int]
) -> None:
    """It takes writes and feeds those that are linked; new links are refused, and both sides say why."""
    clock = WrongClock(stage.directory)
    with cluster_of(stage, pair, upstream, mode, {"cp": clock.wrapper}) as cluster:
        control_plane, (data_plane, linked) = cluster.control_plane, cluster.data_planes
        for offset in offsets:
            clock.set(offset)
            cluster.wires[0].cut()
            control_plane.wait_line(f"refused .*: {REFUSED}")
            cluster.writer.wait_answered(1)
            cluster.wait_current(linked)
            clock.set(0)
            data_plane.wait_connected(VISIBLE_S)
        cluster.check()


def cluster_of(
    stage: Stage, pair: Pair, upstream: str, mode: str, wrappers: Mapping[str, Sequence[str]]
) -> contextlib.AbstractContextManager[Cluster]:
    """A cluster with one pair for all, or with the built-in authority."""
    if mode == "shared":
        return running_cluster(stage, pair, upstream, wrappers=wrappers)
    pki(stage, "init")
    each = [{"cluster_mtls": "pki", "cluster_token": pki(stage, "token")} for _ in range(2)]
    return running_cluster(
        stage, None, upstream, wrappers=wrappers, data_plane_settings=each, cluster_mtls="pki"
    )
