"""The clock of one machine is hours or years off: what goes on, what is refused and says why, and the way back."""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.scenario.faults.cluster import VISIBLE_S, Cluster, running_cluster
from tests.scenario.harness import Pair, Stage
from tests.scenario.test_15_pki import pki
from tests.waiting import wait_until

_LIBRARY: Final = "/usr/lib/*/faketime/libfaketimeMT.so.1"
_INSTALL: Final = (
    "libfaketime was not found; tests of wrong clocks need it:\n"
    "  Debian, Ubuntu: apt-get install faketime\n"
    "  Fedora:         dnf install libfaketime"
)
YEARS: Final = ["+12y", "-12y"]
LONG: Final = [pytest.mark.long, pytest.mark.timeout(300)]
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
            *("env", f"LD_PRELOAD={found[0]}", f"FAKETIME_TIMESTAMP_FILE={path}", "FAKETIME_CACHE_DURATION=1"),
            *("DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"),
        ]

    def set(self, offset: str) -> None:
        """Put it so far off from now on, as `+2h` or `-12y`; `+0` is right."""
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(offset)
        fresh.rename(self._path)


@pytest.mark.parametrize(
    ("mode", "offsets"),
    [
        ("shared", ["+12y"]),
        pytest.param("shared", YEARS, marks=LONG),
        pytest.param("pki", YEARS, marks=LONG),
    ],
)
def test_the_clock_of_a_data_plane(
    stage: Stage, pair: Pair, upstream: str, mode: str, offsets: list[str]
) -> None:
    """Its link goes on, it starts and serves from disk, and only a new link is refused."""
    clock = WrongClock(stage.directory / "clock")
    with cluster_of(stage, pair, upstream, mode, {"dp-1": clock.wrapper}) as cluster:
        data_plane = cluster.data_planes[0]
        for offset in offsets:
            clock.set(offset)
            # The link that is there asks for no date.
            cluster.wait_current(data_plane)
            with cluster.loads[0].away():
                data_plane.kill()
                cluster.restart(data_plane)
            data_plane.wait_line(f"no link to .*: {REFUSED}")
            # Hours are nothing to a certificate of weeks.
            clock.set("+2h")
            cluster.wait_current(data_plane)
        clock.set("+0")
        cluster.check()


@pytest.mark.parametrize(
    ("mode", "offsets"),
    [
        ("pki", ["+12y"]),
        pytest.param("pki", YEARS, marks=LONG),
        pytest.param("shared", YEARS, marks=LONG),
    ],
)
def test_the_clock_of_a_control_plane(
    stage: Stage, pair: Pair, upstream: str, mode: str, offsets: list[str]
) -> None:
    """It takes writes and feeds those that are linked; new links are refused, and both sides say why."""
    clock = WrongClock(stage.directory / "clock")
    with cluster_of(stage, pair, upstream, mode, {"cp": clock.wrapper}) as cluster:
        control_plane, (data_plane, linked) = cluster.control_plane, cluster.data_planes
        for offset in offsets:
            clock.set(offset)
            cluster.wires[0].cut()
            control_plane.wait_line(f"refused .*: {REFUSED}")
            before = cluster.writer.answered_total
            wait_until(lambda before=before: cluster.writer.answered_total > before, 10, "writes go on")
            cluster.wait_current(linked)
            clock.set("+0")
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
