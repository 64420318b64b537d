"""Files of a data plane's own: whole, private, and the data plane's even if root writes them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from fastgw.dp.enrolment import Identity
from fastgw.dp.membership import store_identity_file
from fastgw.dp.own_files import replace_own_file
from fastgw.dp.pledge import Pledge

SOMEBODY = (12345, 23456)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can write for another user")


def owner_of(path: Path) -> tuple[int, int]:
    return (path.stat().st_uid, path.stat().st_gid)


def test_it_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here" / "file"
    for content in (b"first", b"second"):
        replace_own_file(path, content)
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [one.name for one in path.parent.iterdir()] == ["file"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (tmp_path / "made" / "here" / "file.new").write_bytes(b"left behind")
    replace_own_file(path, b"third")
    assert path.read_bytes() == b"third"


def test_what_cannot_be_written_leaves_what_there_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        replace_own_file(path, b"content")
    assert path.is_dir()


@needs_root
def test_what_root_writes_belongs_to_whom_the_prefix_belongs_to(tmp_path: Path) -> None:
    os.chown(tmp_path, *SOMEBODY)
    pledge = Pledge(tmp_path / "dp")
    pledge.replace("one")
    pledge.replace("two")
    identity = Identity(
        certificate="", key="", chain=[], authorities=[], cluster_id="one", server_name="", trust=""
    )
    store_identity_file(tmp_path / "pki" / "identity.json", identity)
    made = [pledge.path, pledge.path.parent, tmp_path / "pki", tmp_path / "pki" / "identity.json"]
    assert [owner_of(path) for path in made] == [SOMEBODY] * 4
