"""A disk that is full, and files that are damaged, cut short or gone."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.scenario.faults.cluster import FAT_BYTES, VISIBLE_S, running_cluster
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
            ballast = disk / "ballast"
            fill(ballast)
            cluster.control_plane.wait_line(
                rf"stays with version \d+: version \d+ is refused: cannot store the configuration in {disk}/dp: "
                r"No space left on device; next try in"
            )
            with cluster.loads[0].away():
                cluster.data_planes[0].kill()
                fill(disk / "rest")
                cluster.restart(cluster.data_planes[0])
            (disk / "rest").unlink()
            # Room for the small files, and not for a whole generation.
            os.truncate(ballast, ballast.stat().st_size - FAT_BYTES)
            room = free_bytes(disk)
            version = cluster.fatten(1)
            control_plane = cluster.control_plane

            def is_refused() -> bool:
                refused = re.findall(r"version (\d+) is refused: cannot store", control_plane.log)
                return int(refused[-1]) >= version

            # Tried again after 15 s at most.
            wait_until(is_refused, VISIBLE_S, f"version {version} is refused")
            wait_until(lambda: free_bytes(disk) >= room - FAT_BYTES // 8, 10, "nothing is left behind")
            ballast.unlink()
            cluster.check()


def test_the_disk_of_a_control_plane_is_full(stage: Stage, pair: Pair, upstream: str) -> None:
    """Writes are refused with the reason and none that was answered is lost; data planes notice nothing."""
    with (
        small_disk(stage.directory / "cp", 16 * FAT_BYTES) as disk,
        running_cluster(stage, pair, upstream) as cluster,
    ):
        ballast, writer = disk / "ballast", cluster.writer
        fill(ballast)
        writer.wait_unanswered(5)
        cluster.control_plane.wait_line(r"\[error\] .*/routes.* failed: .*(?:disk is full|disk I/O error)")
        ballast.unlink()
        writer.wait_answered(5)
        for data_plane in cluster.data_planes:
            assert "no link to" not in data_plane.log
        cluster.check()


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


HARMS: Final[list[tuple[Callable[[Path], None], str]]] = [
    (cut_short, "current.image"),
    (damage, "*.image"),
    (damage, "current.image"),
    (cut_short, "base-*.image"),
    (Path.unlink, "base-*.image"),
    (cut_short, "*.image"),
]


@pytest.mark.parametrize(
    "harms", [HARMS[:2], pytest.param(HARMS, marks=pytest.mark.long)], ids=["some", "all"]
)
def test_stored_files_are_damaged_or_cut_short(
    stage: Stage, pair: Pair, upstream: str, harms: list[tuple[Callable[[Path], None], str]]
) -> None:
    """Found at the start, set aside with one line, and what is left is served until the link brings the rest."""
    with running_cluster(stage, pair, upstream) as cluster:
        data_plane, load = cluster.data_planes[0], cluster.loads[0]
        for harm, pattern in harms:
            cluster.wait_current(data_plane)
            with load.away():
                data_plane.kill()
                # Some are two names of one file.
                paths = {path.stat().st_ino: path for path in (data_plane.prefix / "dp").glob(pattern)}
                for path in paths.values():
                    harm(path)
                data_plane.start()
                if "base" not in pattern:  # the current generation may need none
                    data_plane.wait_line(r"\[error\] .*\.image cannot be used: .*; set aside as ")
                data_plane.wait_ready()
                cluster.wait_current(data_plane)
        cluster.check()
