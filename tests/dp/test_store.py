"""The generation on disk: whole at every step, whatever happens to process, file or power."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.dp.generation import ImageFile
from fastgw.dp.store import CURRENT, DAMAGED_KEPT, PREVIOUS, Store, StoredImage, StoredSnapshot
from fastgw.errors import SettingsError
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import FORMAT_VERSION
from tests.cli.running import environment
from tests.routing.snapshots import route, snapshot


def image_bytes(version: int) -> bytes:
    made = snapshot(route(version, paths=[f"/v{version}"]), version=version)
    return compile_snapshot(made)


def image_file(content: bytes) -> ImageFile:
    fd = os.memfd_create("test-image")
    os.write(fd, content)
    return ImageFile(fd)


ONE, TWO, THREE = (image_bytes(version) for version in (1, 2, 3))


def version_of(stored: StoredImage | StoredSnapshot | None) -> int | None:
    return None if stored is None else stored.version


def test_an_empty_prefix_holds_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "prefix")
    assert store.load() is None
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    store.close()


def test_what_is_saved_is_loaded_and_the_one_before_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for content in (ONE, TWO, THREE):
        store.save(image_file(content))
        stored = store.load()
        assert isinstance(stored, StoredImage)
        assert os.pread(stored.image.fd, len(content) + 1, 0) == content
    last = store.load()
    assert isinstance(last, StoredImage)
    assert (last.version, last.counts) == (3, {"routes": 1})
    assert (tmp_path / "dp" / CURRENT).read_bytes() == THREE
    assert (tmp_path / "dp" / PREVIOUS).read_bytes() == TWO
    for name in (CURRENT, PREVIOUS):
        assert stat.S_IMODE((tmp_path / "dp" / name).stat().st_mode) == 0o600
    bases = [f"base-{image_file(content).checksum[:32]}.image" for content in (ONE, TWO, THREE)]
    names = sorted(path.name for path in (tmp_path / "dp").iterdir())
    assert names == sorted([*bases, CURRENT, "lock", PREVIOUS])
    store.save(image_file(image_bytes(4)))
    assert not (tmp_path / "dp" / bases[0]).exists()
    store.close()


def test_a_loaded_image_does_not_change_with_its_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(image_file(ONE))
    stored = store.load()
    assert isinstance(stored, StoredImage)
    (tmp_path / "dp" / CURRENT).write_bytes(b"")
    assert os.pread(stored.image.fd, len(ONE), 0) == ONE
    with pytest.raises(PermissionError):
        os.ftruncate(stored.image.fd, 0)
    store.close()


# No deadline: a sync takes what the disk takes.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_is_noticed_and_set_aside(tmp_path: Path, data: st.DataObject) -> None:
    store = Store(tmp_path)
    try:
        store.save(image_file(ONE))
        store.save(image_file(TWO))
        current = tmp_path / "dp" / CURRENT
        if data.draw(st.booleans()):
            damaged = bytearray(TWO)
            damaged[data.draw(st.integers(0, len(TWO) - 1))] ^= data.draw(st.integers(1, 255))
        else:
            damaged = bytearray(TWO[: data.draw(st.integers(0, len(TWO) - 1))])
        current.write_bytes(damaged)
        stored = store.load()
        if isinstance(stored, StoredSnapshot):
            # The format version itself was hit: the snapshot inside is whole, and so compiled anew.
            assert damaged[8:12] != TWO[8:12]
            assert (stored.version, current.exists()) == (2, True)
        else:
            assert version_of(stored) == 1
            assert not current.exists()
            assert 1 <= len(list(store.directory.glob(f"{CURRENT}.damaged-*"))) <= DAMAGED_KEPT
    finally:
        store.close()


def test_without_a_usable_file_there_is_nothing_and_the_next_save_works(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "dp" / CURRENT).write_bytes(b"")
    (tmp_path / "dp" / PREVIOUS).mkdir()
    assert store.load() is None
    store.save(image_file(ONE))
    assert version_of(store.load()) == 1
    store.close()


def test_another_format_version_gives_its_snapshot(tmp_path: Path) -> None:
    store = Store(tmp_path)
    content = bytearray(TWO)
    struct.pack_into("<I", content, 8, FORMAT_VERSION + 7)
    (tmp_path / "dp" / CURRENT).write_bytes(content)
    made = snapshot(route(2, paths=["/v2"]), version=2)
    stored = store.load()
    assert isinstance(stored, StoredSnapshot)
    assert (stored.version, stored.digest) == (2, made.digest)
    assert stored.packed == made.pack()
    store.close()


# Killed just before the n-th change of the directory, as an audit hook sees them coming.
SAVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from fastgw.dp.generation import ImageFile
from fastgw.dp.store import Store

prefix, image, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = Store(Path(prefix))
file = ImageFile(os.open(image, os.O_RDONLY))
left = [steps]

def on_event(event, arguments):
    if event in ("open", "os.remove", "os.link", "os.rename") and str(arguments[0]).startswith(prefix):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

sys.addaudithook(on_event)
store.save(file)
"""


def test_killed_between_any_two_steps_a_whole_image_stands(tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.write_bytes(THREE)
    versions = []
    for steps in range(20):
        prefix = tmp_path / f"prefix-{steps}"
        store = Store(prefix)
        store.save(image_file(ONE))
        store.save(image_file(TWO))
        store.close()
        done = subprocess.run(
            [sys.executable, "-c", SAVE_AND_DIE, str(prefix), str(fresh), str(steps)],
            env=environment(),
            timeout=30,
            check=False,
        )
        store = Store(prefix)  # the lock died with its holder
        versions.append(version_of(store.load()))
        store.save(image_file(ONE))
        assert version_of(store.load()) == 1
        assert not list(store.directory.glob("*.damaged-*"))
        store.close()
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    # Every step but those after the last rename leaves what was there; at least open, link, two renames.
    assert len(versions) >= 6
    decided = versions.index(3)
    assert versions == [2] * decided + [3] * (len(versions) - decided)


def test_a_prefix_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="prefix .*file/sub: cannot write .*: Not a directory"):
        Store(tmp_path / "file" / "sub")


def test_what_is_staged_is_nothing_before_the_decision(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(image_file(ONE))
    before = {path.name for path in store.directory.iterdir()}
    store.stage(image_file(TWO))
    assert version_of(store.load()) == 1
    store.discard()
    store.discard()
    assert {path.name for path in store.directory.iterdir()} == before
    store.stage(image_file(TWO))
    store.decide()
    assert version_of(store.load()) == 2
    store.close()


def test_a_failed_save_leaves_what_was_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save(image_file(ONE))
    closed = image_file(TWO)
    bad = os.open(tmp_path, os.O_RDONLY)  # a directory: reading its bytes fails
    os.dup2(bad, closed.fd)
    os.close(bad)
    with pytest.raises(OSError, match=r"Is a directory|Invalid argument"):
        store.save(closed)
    assert version_of(store.load()) == 1
    assert not list(store.directory.glob("*.new"))  # the disk may be full of it
    store.close()
