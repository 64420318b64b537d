"""Who this control plane is: a process with an id of its own, in a cluster whose id the database keeps."""

from __future__ import annotations

import socket
import uuid
from typing import NamedTuple, Self


class ControlPlaneIdentity(NamedTuple):
    id: str
    """Of this process; the next one has another."""
    hostname: str
    cluster_id: str
    """Of all control planes on this database, and of the data planes that take configurations of it."""

    @classmethod
    def make(cls, cluster_id: str) -> Self:
        return cls(str(uuid.uuid4()), socket.gethostname() or "localhost", cluster_id)
