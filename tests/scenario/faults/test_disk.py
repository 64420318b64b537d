"""A disk that is full, and files that are damaged, cut short or gone."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenario.faults.cluster import FAT_BYTES, running_cluster
from tests.scenario.harness import Pair, Stage
from tests.waiting import wait_until


@contextlib.contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount the small file system that is to be full")
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "fastgw-test", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        pytest.skip(f"this root may not mount a small file system that is to be full: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], timeout=10, check=True)


def fill(path: Path) -> None:
    """Take all room that is left beside *path*."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def test_the_disk_of_a_data_plane_is_full(stage: Stage, pair: Pair, upstream: str) -> None:
    """It serves on, says why it stays where it is, takes no room meanwhile, and catches up by itself."""
    with small_disk(stage.directory / "dp-1", 16 * FAT_BYTES) as disk:
        with running_cluster(stage, pair, upstream) as cluster:
            data_plane = cluster.data_planes[0]
            ballast = disk / "ballast"
            fill(ballast)
            cluster.control_plane.wait_line(
                rf"stays with version \d+: version \d+ is refused: cannot store the configuration in {disk}/dp: "
                r"No space left on device; next try in"
            )
            # Room for the small files, and not for a whole generation.
            os.truncate(ballast, ballast.stat().st_size - FAT_BYTES)
            room = free_bytes(disk)
            version = cluster.fatten(1)
            cluster.control_plane.wait_line(
                rf"version {version} is refused: cannot store|version {version + 1} is"
            )
            wait_until(lambda: free_bytes(disk) >= room - FAT_BYTES // 8, 10, "nothing is left behind")
            ballast.unlink()
            cluster.check()
            data_plane.stop()
