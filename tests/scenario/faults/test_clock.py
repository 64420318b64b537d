"""The clock of one machine is hours or years off: what goes on, what is refused and says why, and the way back."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Final

import pytest

from tests.scenario.faults.cluster import Cluster, running_cluster
from tests.scenario.harness import Pair, Stage

_LIBRARY: Final = "/usr/lib/*/faketime/libfaketimeMT.so.1"
_INSTALL: Final = (
    "libfaketime was not found; tests of wrong clocks need it:\n"
    "  Debian, Ubuntu: apt-get install faketime\n"
    "  Fedora:         dnf install libfaketime"
)
YEARS: Final = ["+12y", "-12y"]
REFUSED: Final = (
    r"the peer's certificate \(.*\) (?:has expired|is not valid yet): .* and the clock here says \d{4}-"
)


class WrongClock:
    """The wall clock of one process and all that it starts; deadlines go by another clock and stay right."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set("+0")
        found = glob.glob(_LIBRARY) or glob.glob("/usr/lib64/faketime/libfaketimeMT.so.1")
        if not found:
            pytest.fail(_INSTALL, pytrace=False)
        self.wrapper: Final = [
            *("env", f"LD_PRELOAD={found[0]}", f"FAKETIME_TIMESTAMP_FILE={path}", "FAKETIME_NO_CACHE=1"),
            *("DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"),
        ]

    def set(self, offset: str) -> None:
        """Put it so far off from now on, as `+2h` or `-12y`; `+0` is right."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(offset)
        fresh.rename(self._path)


def test_the_clock_of_a_data_plane(stage: Stage, pair: Pair, upstream: str) -> None:
    clock = WrongClock(stage.directory / "clock")
    with running_cluster(stage, pair, upstream, wrappers={"dp-1": clock.wrapper}) as cluster:
        data_plane_is_off(cluster, clock, YEARS)


def test_the_clock_of_a_control_plane(stage: Stage, pair: Pair, upstream: str) -> None:
    clock = WrongClock(stage.directory / "clock")
    with running_cluster(stage, pair, upstream, wrappers={"cp": clock.wrapper}) as cluster:
        control_plane_is_off(cluster, clock, YEARS)


def data_plane_is_off(cluster: Cluster, clock: WrongClock, offsets: list[str]) -> None:
    """Its link goes on, it starts and serves from disk, and only a new link is refused."""
    data_plane, wire = cluster.data_planes[0], cluster.wires[0]
    for offset in offsets:
        clock.set(offset)
        # The link that is there asks for no date.
        cluster.wait_current(data_plane)
        with cluster.loads[0].away():
            data_plane.kill()
            cluster.restart(data_plane)
        data_plane.wait_line(f"no link to .*: {REFUSED}")
        clock.set("+0")
        data_plane.wait_connected()
        # Hours are nothing to a certificate of years.
        clock.set("+2h")
        wire.cut()
        data_plane.wait_line("the control plane closed the connection")
        data_plane.wait_connected()
    clock.set("+0")
    cluster.check()


def control_plane_is_off(cluster: Cluster, clock: WrongClock, offsets: list[str]) -> None:
    """It takes writes and feeds those that are linked; new links it refuses, and says why."""
    control_plane, data_plane = cluster.control_plane, cluster.data_planes[0]
    for offset in offsets:
        clock.set(offset)
        cluster.wait_current(cluster.data_planes[1])
        cluster.wires[0].cut()
        control_plane.wait_line(f"refused .*: {REFUSED}")
        before = cluster.writer.answered_total
        cluster.wait_current(cluster.data_planes[1])
        assert cluster.writer.answered_total >= before
        clock.set("+0")
        data_plane.wait_connected()
    cluster.check()
