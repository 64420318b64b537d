"""The image file: damage is named and never served, and other versions still give their snapshot."""

from __future__ import annotations

import gc
import os
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.errors import ImageError
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import (
    FORMAT_VERSION,
    Image,
    Section,
    read_format_version,
    snapshot_of,
    snapshot_section_of,
)
from fastgw.routing.jobs import make_sealed_memfd
from tests.routing.snapshots import route, service, snapshot

MADE = snapshot(service(1), *(route(n, to=1, paths=[f"/{n}"]) for n in range(10, 20)))
WHOLE = compile_snapshot(MADE)
HEADER_BYTES = 56


def write(directory: Path, data: bytes) -> Path:
    path = directory / "image"
    path.write_bytes(data)
    return path


def with_checksum(data: bytes) -> bytes:
    """*data* as if it had been written so: what follows the checksum is not damaged but wrong."""
    return data[:24] + sha256(data[HEADER_BYTES:]).digest() + data[HEADER_BYTES:]


def directory_entry(section: Section) -> int:
    return HEADER_BYTES + 24 * (section - 1)


def test_a_sealed_memfd_opens_and_stays_the_callers() -> None:
    fd = make_sealed_memfd("test-image", WHOLE)
    try:
        image = Image.open(fd)
        assert image.meta.version == MADE.version
        assert os.fstat(fd).st_size == len(WHOLE)
    finally:
        os.close(fd)
    assert image.table().match(b"GET", b"", b"/10") == (0, 3)


def test_the_mapping_lives_as_long_as_its_last_table(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    image = Image.open(path)
    table = image.table()
    image.close()
    del image
    gc.collect()
    assert str(path) in mappings()
    assert table.match(b"GET", b"", b"/19") == (9, 3)
    del table
    gc.collect()
    assert str(path) not in mappings()


def mappings() -> str:
    return Path("/proc/self/maps").read_text()


def test_a_closed_image_says_so(tmp_path: Path) -> None:
    image = Image.open(write(tmp_path, WHOLE))
    image.close()
    image.close()
    with pytest.raises(ValueError, match="closed"):
        image.route(0)


def test_there_are_no_records_beyond_the_last(tmp_path: Path) -> None:
    image = Image.open(write(tmp_path, WHOLE))
    assert (image.route_count, image.service_count) == (10, 1)
    for number in (-1, 10):
        with pytest.raises(IndexError, match="no record"):
            image.route(number)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"x" * 100, "not an image"),
        (WHOLE[:-1], "was written with"),
        (WHOLE + b"\0", "was written with"),
        (WHOLE[:-1] + bytes([WHOLE[-1] ^ 1]), "checksum"),
        (
            WHOLE[:8] + bytes([FORMAT_VERSION + 1]) + WHOLE[9:],
            f"format version is {FORMAT_VERSION + 1}, not {FORMAT_VERSION}",
        ),
        (with_checksum(WHOLE[:12] + b"\xff" + WHOLE[13:]), "directory of 255 sections"),
        (with_checksum(WHOLE[:12] + b"\1" + WHOLE[13:]), "no TABLE section"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        Image.open(write(tmp_path, data))


@pytest.mark.parametrize("section", [one for one in Section if one < Section.PATCH])
def test_a_section_outside_the_file_is_refused(tmp_path: Path, section: Section) -> None:
    at = directory_entry(section) + 8
    moved = WHOLE[:at] + (1 << 40).to_bytes(8, "little") + WHOLE[at + 8 :]
    with pytest.raises(ImageError, match="lies outside"):
        Image.open(write(tmp_path, with_checksum(moved)))


def test_a_table_for_more_routes_than_there_are_is_refused(tmp_path: Path) -> None:
    """The section directory of one image, the table of another."""
    fewer = snapshot(*(route(n, paths=[f"/{n}"]) for n in range(10, 13)))
    small = compile_snapshot(fewer)
    at = directory_entry(Section.ROUTES) + 8
    routes_of_small = small[section_of(small, Section.ROUTES)]
    grafted = bytearray(WHOLE + bytes(-len(WHOLE) % 64))
    grafted[at : at + 8] = len(grafted).to_bytes(8, "little")
    grafted[at + 8 : at + 16] = len(routes_of_small).to_bytes(8, "little")
    grafted += routes_of_small
    grafted[16:24] = len(grafted).to_bytes(8, "little")
    with pytest.raises(ImageError, match="table names 10 routes, it holds 3"):
        Image.open(write(tmp_path, with_checksum(bytes(grafted))))


def section_of(data: bytes, section: Section) -> slice:
    at = directory_entry(section)
    offset = int.from_bytes(data[at + 8 : at + 16], "little")
    return slice(offset, offset + int.from_bytes(data[at + 16 : at + 24], "little"))


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_any_damaged_byte_is_noticed(at: int, flip: int) -> None:
    fd = make_sealed_memfd("test-image", WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :])
    try:
        with pytest.raises(ImageError):
            Image.open(fd)
    finally:
        os.close(fd)


@given(st.integers(HEADER_BYTES, len(WHOLE) - 1), st.integers(1, 255))
@settings(max_examples=200)
def test_wrong_bytes_under_a_right_checksum_do_no_harm(at: int, flip: int) -> None:
    fd = make_sealed_memfd(
        "test-image", with_checksum(WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :])
    )
    try:
        image = Image.open(fd)
        found = image.table().match(b"GET", b"", b"/10")
        if found is not None:
            image.route(found[0])
        image.service(0)
    except (ImageError, IndexError):
        pass
    finally:
        os.close(fd)


def test_the_snapshot_can_be_had_from_another_format_version(tmp_path: Path) -> None:
    later = WHOLE[:8] + (FORMAT_VERSION + 1).to_bytes(4, "little") + WHOLE[12:]
    path = write(tmp_path, later)
    assert read_format_version(path) == FORMAT_VERSION + 1
    meta, packed = snapshot_section_of(path)
    assert (meta.version, meta.digest) == (MADE.version, MADE.digest)
    assert snapshot_of(meta, packed, None) == MADE


def test_a_damaged_snapshot_of_another_version_is_not_given(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE[:8] + bytes([FORMAT_VERSION + 1]) + WHOLE[9:-1] + bytes([WHOLE[-1] ^ 1]))
    with pytest.raises(ImageError, match="checksum"):
        snapshot_section_of(path)


def test_an_image_in_a_cycle_of_garbage_goes_quietly(tmp_path: Path) -> None:
    """As one that a traceback refers to: the collector clears such objects in any order."""
    path = write(tmp_path, WHOLE)
    cycle: list[object] = [Image.open(path)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert str(path) not in mappings()
