"""Files encrypted at rest: what comes back, and that nothing comes back of a file that was touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.dp.generation import ImageFile
from fastgw.dp.seal import Seal
from fastgw.dp.store import CURRENT, Store, StoredImage
from fastgw.errors import ImageError, SettingsError
from fastgw.routing.compile import compile_snapshot
from tests.routing.snapshots import route, snapshot

SECRET = "0123456789abcdef" * 4
SEAL = Seal(SECRET)
IMAGE = compile_snapshot(snapshot(route(1, paths=["/kept-secret"]), version=1))
MIB = 1 << 20


def memory(content: bytes = b"") -> int:
    fd = os.memfd_create("test")
    os.write(fd, content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def content_of(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def sealed(content: bytes, seal: Seal = SEAL) -> bytes:
    source, target = memory(content), memory()
    try:
        seal.write(source, target)
        return content_of(target)
    finally:
        os.close(source)
        os.close(target)


def opened(content: bytes, seal: Seal = SEAL) -> bytes:
    source, target = memory(content), memory()
    try:
        seal.read(source, target)
        return content_of(target)
    finally:
        os.close(source)
        os.close(target)


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 7])
def test_what_was_sealed_comes_back(size: int) -> None:
    content = os.urandom(size)
    assert opened(sealed(content)) == content


def test_equal_contents_are_sealed_differently() -> None:
    assert sealed(b"a" * 100) != sealed(b"a" * 100)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_is_changed_is_noticed(data: st.DataObject) -> None:
    content = bytearray(sealed(b"x" * 1000))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageError):
        opened(bytes(content))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1023))
def test_a_file_that_is_cut_off_is_noticed(length: int) -> None:
    with pytest.raises(ImageError):
        opened(sealed(b"x" * 1000)[:length])


def test_pieces_cannot_be_left_out_or_moved() -> None:
    whole = sealed(os.urandom(3 * MIB))
    head, step = 24, MIB + 16
    one, two, three = (
        whole[head : head + step],
        whole[head + step : head + 2 * step],
        whole[head + 2 * step :],
    )
    for pieces in ((one, two), (one, three), (two, one, three), (one, two, three, three)):
        with pytest.raises(ImageError):
            opened(whole[:head] + b"".join(pieces))


def test_another_secret_opens_nothing() -> None:
    with pytest.raises(ImageError, match="or store_secret is another one"):
        opened(sealed(b"x"), Seal("f" * 32))


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(SettingsError, match="31 characters are too few"):
        Seal("x" * 31)


def image() -> ImageFile:
    return ImageFile(memory(IMAGE))


class TestStore:
    def test_a_sealed_store_gives_back_what_it_took_and_shows_none_of_it(self, tmp_path: Path) -> None:
        for _ in range(2):
            store = Store(tmp_path, seal=SEAL)
            store.save(image())
            found = store.load()
            assert isinstance(found, StoredImage)
            assert os.pread(found.image.fd, len(IMAGE) + 1, 0) == IMAGE
            store.close()
        assert b"kept-secret" in IMAGE
        for path in store.directory.glob("*.image"):
            assert b"kept-secret" not in path.read_bytes()

    @pytest.mark.parametrize(
        ("before", "after", "reason"),
        [
            (SEAL, None, "it is encrypted, and store_secret is not set"),
            (None, SEAL, "it is not encrypted, and store_secret is set"),
            (SEAL, Seal("f" * 32), "store_secret is another one"),
        ],
    )
    def test_what_cannot_be_read_is_set_aside(
        self,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        before: Seal | None,
        after: Seal | None,
        reason: str,
    ) -> None:
        store = Store(tmp_path, seal=before)
        store.save(image())
        store.close()
        store = Store(tmp_path, seal=after)
        assert store.load() is None
        assert f"{CURRENT} cannot be used: {reason}" in capfd.readouterr().err.replace(
            "it is damaged or cut off, or ", ""
        )
        store.save(image())
        assert isinstance(store.load(), StoredImage)
        store.close()
