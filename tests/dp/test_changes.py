"""Many changes, one after another: overlays, merges, restarts at every point, and what is on disk meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fastgw.dp.generation import ImageFile
from fastgw.dp.store import BASES_KEPT, CURRENT, PREVIOUS, Store, StoredImage, StoredSnapshot
from fastgw.dp.sync import Applied, Refused
from fastgw.model.snapshot import EntityChange, Snapshot
from fastgw.routing import compiler
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import FORMAT_VERSION, Image
from fastgw.routing.overlay import Base, compile_overlay
from tests.cli.running import environment
from tests.dp.node import Node, incoming, run, running_node, stepped, until
from tests.routing.snapshots import make_id, route, service, snapshot

MATCHED = 502  # nothing listens where the routes lead
UNMATCHED = 404


def routes_of(count: int) -> Snapshot:
    rows = (route(100 + n, to=1, paths=[f"/r{n}-"]) for n in range(count))
    return snapshot(service(1, host="127.0.0.1", port=9), *rows, version=1)


def moved(before: Snapshot, number: int, path: str) -> Snapshot:
    row = route(100 + number, to=1, paths=[path])
    return before.apply([EntityChange(before.version + 1, "routes", row["id"], row)])


def test_changes_apply_to_what_runs_even_after_a_restart_and_to_nothing_else(tmp_path: Path) -> None:
    async def test() -> None:
        made = routes_of(50)
        async with running_node(tmp_path, workers=1) as node:
            assert isinstance(await node.apply(incoming(made)), Applied)
            before, made = made, moved(made, 1, "/one-")
            assert isinstance(await node.apply(stepped(before, made)), Applied)
        async with running_node(tmp_path, workers=1) as node:
            before, made = made, moved(made, 2, "/two-")
            assert isinstance(await node.apply(stepped(before, made)), Applied)
            assert await node.statuses("/one-", 1) == await node.statuses("/two-", 1) == {MATCHED}
            refused = await node.apply(stepped(before, moved(made, 3, "/three-")))
            assert isinstance(refused, Refused)
            assert refused.wants_whole
            assert node.supervisor.state().digest == made.digest
            assert await node.statuses("/three-", 1) == {UNMATCHED}

    run(test())


def test_three_hundred_changes_with_merges_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the compile process a table of this size counts as large, so that it merges."""
    monkeypatch.setenv("PYTHONPATH", f"{_patched_start(tmp_path)}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr("fastgw.dp.apply.MERGE_INTERVAL_S", 0.0)
    order = random.Random(4)

    async def test() -> None:
        async with running_node(tmp_path, workers=2) as node:
            made = routes_of(200)
            assert isinstance(await node.apply(incoming(made)), Applied)
            paths = [f"/r{n}-" for n in range(200)]
            for change in range(300):
                number = order.randrange(200)
                gone, paths[number] = paths[number], f"/c{change}-"
                before, made = made, moved(made, number, paths[number])
                applied = await node.apply(incoming(made) if change % 3 == 0 else stepped(before, made))
                assert isinstance(applied, Applied), applied
                if change % 20 == 0:
                    assert await node.statuses(paths[number], 4) == {MATCHED}
                    assert await node.statuses(gone, 4) == {UNMATCHED}
            await node.supervisor.applier.finish()
            for path in order.sample(paths, 10):
                assert await node.statuses(path, 4) == {MATCHED}
            log = node.log()
            assert log.count("is merged into a new base") >= 3
            assert log.count("; overlay; ") >= 295
            assert len(list(node.store.directory.glob("base-*.image"))) <= BASES_KEPT
            assert all(worker.restarts_total == 0 for worker in node.workers)
        async with running_node(tmp_path, workers=1) as node:
            assert node.supervisor.state() == (made.version, made.digest)
            assert node.supervisor.applier.decided is not None
            for path in order.sample(paths, 10):
                assert await node.statuses(path, 1) == {MATCHED}
            # The compile process knows nothing yet: the next change lies on the base from disk all the same.
            made = moved(made, 7, "/after-restart")
            assert isinstance(await node.apply(incoming(made)), Applied)
            assert await node.statuses("/after-restart", 2) == {MATCHED}
            assert "; whole; " not in node.log().rpartition("starts from disk")[2]

    run(test())


def _patched_start(directory: Path) -> Path:
    """A directory whose `sitecustomize` makes small tables count as large in the processes started from here."""
    place = directory / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'fastgw.routing.compile_child' in sys.orig_argv:\n"
        "    from fastgw.routing import compiler\n"
        "    compiler.SMALL_ENTITIES = 0\n"
    )
    return place


def test_changes_are_applied_by_a_compile_process_that_was_killed_meanwhile(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            made = routes_of(50)
            await node.apply(incoming(made))
            for number in range(4):
                pid = node.supervisor.applier._compiler.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                made = moved(made, number, f"/k{number}")
                assert isinstance(await node.apply(incoming(made)), Applied)
                assert await node.statuses(f"/k{number}", 2) == {MATCHED}
            assert "; whole; " not in node.log().partition("version 2, ")[2]

    run(test())


def test_a_worker_that_starts_later_serves_base_and_overlay(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await _two_generations(node)
            pid = node.workers[0].pid
            node.signal(0, signal.SIGKILL)
            await until(lambda: node.workers[0].pid not in (pid, None), "another process")
            await node.all_running()
            assert await node.statuses("/new", 2) == {MATCHED}
            assert await node.statuses("/r3-", 2) == {UNMATCHED}
            assert await node.statuses("/r4-", 2) == {MATCHED}

    run(test())


async def _two_generations(node: Node) -> Snapshot:
    made = routes_of(50)
    await node.apply(incoming(made))
    made = moved(made, 3, "/new")
    assert isinstance(await node.apply(incoming(made)), Applied)
    decided = node.supervisor.applier.decided
    assert decided is not None
    assert decided.overlay is not None
    return made


def mappings_of(pid: int | None) -> list[str]:
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in lines if "memfd:fastgw-" in line and "metrics" not in line]


def test_a_base_is_mapped_once_and_goes_with_its_last_generation(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            pid = node.workers[0].pid
            made = await _two_generations(node)
            for number in range(5, 9):
                made = moved(made, number, f"/n{number}")
                await node.apply(incoming(made))
            mapped = mappings_of(pid)
            assert sum("fastgw-base" in line for line in mapped) == 1
            assert sum("fastgw-overlay" in line for line in mapped) == 1
            await node.apply(incoming(snapshot(version=99)))
            mapped = mappings_of(pid)
            assert sum("fastgw-base" in line for line in mapped) == 1
            assert not any("fastgw-overlay" in line for line in mapped)

    run(test())


# ---- on disk

BASE = routes_of(40)
OVER = moved(BASE, 3, "/over")
LATER = moved(OVER, 4, "/later")
NEXT_BASE = moved(LATER, 5, "/next")


def file_of(data: bytes) -> ImageFile:
    fd = os.memfd_create("test-image")
    os.write(fd, data)
    return ImageFile(fd)


def pair(base: Snapshot, over: Snapshot | None = None) -> tuple[ImageFile, ImageFile | None]:
    image = file_of(compile_snapshot(base))
    if over is None:
        return image, None
    opened = Base(Image.open(image.fd), base)
    return image, file_of(compile_overlay(opened, over, base.delta(over)))


def loaded(store: Store) -> tuple[int, bool] | None:
    """(version, whether it has an overlay) of what is loaded."""
    stored = store.load()
    if stored is None:
        return None
    assert isinstance(stored, StoredImage)
    return stored.version, stored.overlay is not None


def base_path(store: Store, image: ImageFile) -> Path:
    return store.directory / f"base-{image.checksum[:32]}.image"


def test_base_and_overlay_come_back_together(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image, overlay = pair(BASE, OVER)
    store.save(image)
    written = base_path(store, image).stat().st_mtime_ns
    store.save(image, overlay)
    assert loaded(store) == (OVER.version, True)
    assert base_path(store, image).stat().st_mtime_ns == written
    store.close()
    store = Store(tmp_path)
    stored = store.load()
    assert isinstance(stored, StoredImage)
    assert stored.overlay is not None
    assert stored.image.checksum == image.checksum
    assert (stored.digest, dict(stored.counts)) == (OVER.digest, OVER.counts())
    store.close()


@pytest.mark.parametrize(
    ("damaged", "expected", "set_aside"),
    [
        ([CURRENT], (OVER.version, True), 1),
        ([CURRENT, PREVIOUS], (BASE.version, False), 2),
        (["base"], None, 3),
        ([PREVIOUS], (LATER.version, True), 0),
    ],
)
def test_the_newest_whole_state_is_used(
    tmp_path: Path, damaged: list[str], expected: Any, set_aside: int
) -> None:
    store = Store(tmp_path)
    store.save(*pair(BASE))
    store.save(*pair(BASE, OVER))
    image, overlay = pair(BASE, LATER)
    store.save(image, overlay)
    name = next(path.name for path in store.directory.glob("base-*.image"))
    for which in damaged:
        path = store.directory / (name if which == "base" else which)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    # Every base was compiled at another moment, so there are several: only one is kept for this test.
    for path in store.directory.glob("base-*.image"):
        if path.name != name and "base" in damaged:
            path.unlink()
    store.close()
    store = Store(tmp_path)
    assert loaded(store) == expected
    assert len(list(store.directory.glob("*.damaged-*"))) == set_aside
    store.save(image, overlay)
    assert loaded(store) == (LATER.version, True)
    store.close()


@pytest.mark.parametrize("how", ["cut short", "gone", "everything gone"])
def test_a_base_that_is_damaged_under_the_process_is_written_again(tmp_path: Path, how: str) -> None:
    """Not before the next start, and not from what a control plane would have to send."""
    store = Store(tmp_path)
    image, overlay = pair(BASE, OVER)
    store.save(image)
    store.save(image, overlay)
    for path in store.directory.glob("*.image" if how == "everything gone" else "base-*.image"):
        if how == "cut short":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
    store.save(image, overlay)
    store.close()
    store = Store(tmp_path)
    assert loaded(store) == (OVER.version, True)
    assert not list(store.directory.glob("*.damaged-*"))
    store.close()


def test_a_generation_of_another_format_gives_its_snapshot(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(*pair(BASE, OVER))
    for path in (*store.directory.glob("base-*.image"), store.directory / CURRENT):
        content = bytearray(path.read_bytes())
        content[8:12] = (FORMAT_VERSION + 1).to_bytes(4, "little")
        path.write_bytes(content)
    stored = store.load()
    assert isinstance(stored, StoredSnapshot)
    assert Snapshot.unpack(stored.version, stored.packed, stored.digest) == OVER
    store.close()


# Killed just before the n-th change of the directory, as an audit hook sees them coming.
SAVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from fastgw.dp.generation import ImageFile
from fastgw.dp.store import Store

prefix, base, overlay, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
store = Store(Path(prefix))
store.load()
files = [ImageFile(os.open(path, os.O_RDONLY)) for path in (base, overlay)]
left = [steps]

def on_event(event, arguments):
    if event in ("open", "os.remove", "os.link", "os.rename") and str(arguments[0]).startswith(prefix):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

sys.addaudithook(on_event)
store.save(*files)
"""


def test_killed_between_any_two_steps_base_and_overlay_fit(tmp_path: Path) -> None:
    """From one base with an overlay to another with another: the step that writes most."""
    ends = [pair(BASE, OVER), pair(LATER, NEXT_BASE)]
    fresh = [tmp_path / "base", tmp_path / "overlay"]
    for file, path in zip(ends[1], fresh, strict=True):
        assert file is not None
        path.write_bytes(os.pread(file.fd, os.fstat(file.fd).st_size, 0))
    versions = []
    for steps in range(24):
        prefix = tmp_path / f"prefix-{steps}"
        store = Store(prefix)
        store.save(*pair(BASE))
        store.save(*ends[0])
        store.close()
        done = subprocess.run(
            [sys.executable, "-c", SAVE_AND_DIE, str(prefix), *map(str, fresh), str(steps)],
            env=environment(),
            timeout=30,
            check=False,
        )
        store = Store(prefix)  # the lock died with its holder
        versions.append(loaded(store))
        assert not list(store.directory.glob("*.damaged-*"))
        store.save(*ends[0])
        assert loaded(store) == (OVER.version, True)
        assert not list(store.directory.glob("*.new"))
        store.close()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    before, after = (OVER.version, True), (NEXT_BASE.version, True)
    decided = versions.index(after)
    assert decided >= 6
    assert versions == [before] * decided + [after] * (len(versions) - decided)


def test_the_limits_leave_room_for_small_tables() -> None:
    assert compiler.OVERLAY_LEAST < compiler.OVERLAY_LIMIT < compiler.SMALL_ENTITIES
    assert make_id(100) == route(100)["id"]
