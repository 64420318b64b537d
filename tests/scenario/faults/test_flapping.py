"""Five hundred data planes connect and drop at random, and the others do not notice."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cli.running import environment
from tests.scenario.faults.cluster import SILENT_S, Cluster, running_cluster
from tests.scenario.faults.wire import Wire
from tests.scenario.harness import Pair, Stage
from tests.scenario.process import HOST
from tests.waiting import wait_until

COUNT: Final = 500
_ROOT: Final = Path(__file__).parent.parent.parent.parent
_LEFT_OVER: Final = 8


class Flapping:
    """The process of those that flap."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def settle(self) -> dict[str, Any]:
        """Have them stay, and tell how many are linked and what they run."""
        assert self._process.poll() is None, f"the crowd ended with {self._process.returncode}"
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("settle\n")
        self._process.stdin.flush()
        state: dict[str, Any] = json.loads(self._process.stdout.readline())
        return state


@contextlib.contextmanager
def flapping(stage: Stage, pair: Pair, port: int) -> Iterator[Flapping]:
    """Have them flap until the end of the block; then all are gone at once, without a word."""
    command = [sys.executable, "-m", "tests.scenario.faults.flapping", "--control-plane", f"{HOST}:{port}",
               "--pair", str(pair.certificate.parent), "--count", str(COUNT)]  # fmt: skip
    environ = environment()
    environ["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{environ['PYTHONPATH']}"
    with (stage.directory / "flapping.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environ, text=True
        )
    with process:
        try:
            yield Flapping(process)
        finally:
            process.kill()


def descriptors(cluster: Cluster) -> int:
    return len(os.listdir(f"/proc/{cluster.control_plane.pid}/fd"))


@pytest.mark.parametrize("storm_s", [4, pytest.param(30, marks=[pytest.mark.long, pytest.mark.timeout(240)])])
def test_five_hundred_flap(stage: Stage, pair: Pair, upstream: str, storm_s: int) -> None:
    with running_cluster(stage, pair, upstream) as cluster:
        before = descriptors(cluster)
        control_plane = cluster.control_plane
        with (
            Wire(control_plane.cluster_port) as wire,
            flapping(stage, pair, wire.port) as crowd,
        ):
            begun = time.monotonic()
            control_plane.wait_for(
                lambda: control_plane.log.count(" is connected and runs ") > 20, 45, "a crowd"
            )
            while time.monotonic() - begun < storm_s:
                for data_plane in cluster.data_planes:
                    # What is written arrives while they storm.
                    cluster.wait_current(data_plane)
                wire.cut()
            if storm_s > 10:
                digest = ""

                def is_settled() -> bool:
                    nonlocal digest
                    state = crowd.settle()
                    digest = control_plane.admin.get("/status").json()["fastgw"]["publication"]["config_hash"]
                    runs = {digest[:32] for digest in state["digests"]}
                    return bool(state["linked"] == COUNT and runs == {digest})

                cluster.writer.stop()
                wait_until(is_settled, SILENT_S, "all are linked and at one digest")
        cluster.check()
        for data_plane in cluster.data_planes:
            assert "no link to" not in data_plane.log
        wait_until(lambda: descriptors(cluster) <= before + _LEFT_OVER, 10, "no descriptor is left over")
