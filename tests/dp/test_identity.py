"""The node's id: kept with the prefix, replaced when it is none."""

from __future__ import annotations

import socket
import uuid
from pathlib import Path

import pytest

from fastgw.dp.identity import ID_FILE, load_identity
from fastgw.errors import SettingsError


def test_an_id_is_made_once_and_kept(tmp_path: Path) -> None:
    first = load_identity(tmp_path)
    assert str(uuid.UUID(first.id)) == first.id
    assert first.hostname == socket.gethostname()
    assert (tmp_path / ID_FILE).read_text() == f"{first.id}\n"
    assert load_identity(tmp_path) == first


def test_an_old_volume_keeps_its_id_under_another_host_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_identity(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: "moved")
    after = load_identity(tmp_path)
    assert (after.id, after.hostname) == (before.id, "moved")


@pytest.mark.parametrize("content", [b"", b"not a uuid", b"\xff\xfe", b"0" * 10_000, b'{"id": 1}'])
def test_what_is_no_id_is_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ID_FILE).write_bytes(content)
    made = load_identity(tmp_path)
    assert (tmp_path / ID_FILE).read_text().strip() == made.id


def test_an_id_in_capitals_without_line_end_is_taken(tmp_path: Path) -> None:
    node_id = str(uuid.uuid4())
    (tmp_path / ID_FILE).write_text(node_id.upper())
    assert load_identity(tmp_path).id == node_id


def test_a_directory_in_its_place_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / ID_FILE).mkdir()
    with pytest.raises(SettingsError, match=r"fastgw\.id: is a directory"):
        load_identity(tmp_path)
