"""Who this data plane is: an id that stays with the prefix, and the host name of today."""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path
from typing import Final

from fastgw.dp.sync import NodeIdentity
from fastgw.errors import SettingsError
from fastgw.obs import logs

ID_FILE: Final = "fastgw.id"
_READ_BYTES: Final = 256
_log: Final = logs.get_logger("supervisor")


def load_identity(prefix: Path) -> NodeIdentity:
    """Read PREFIX/fastgw.id, a bare UUID; a missing or invalid one is replaced by a new id.

    The id belongs to the volume, not to the host: a data plane that moves keeps it.

    Raises:
        SettingsError: the file cannot be read or written.
    """
    path = prefix / ID_FILE
    try:
        node_id = _read(path)
        if node_id is None:
            node_id = str(uuid.uuid4())
            _write(path, node_id)
    except OSError as error:
        raise SettingsError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    return NodeIdentity(node_id, socket.gethostname() or "localhost")


def _read(path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            content = file.read(_READ_BYTES)
    except FileNotFoundError:
        return None
    try:
        return str(uuid.UUID(content.decode("ascii").strip()))
    except ValueError:
        _log.warning("%s holds no UUID: this node gets a new id", path)
        return None


def _write(path: Path, node_id: str) -> None:
    fresh = path.with_name(f"{path.name}.new")
    with open(fresh, "w", encoding="ascii") as file:
        file.write(f"{node_id}\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
