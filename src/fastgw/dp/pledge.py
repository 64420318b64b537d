"""The cluster that this data plane belongs to, kept beside its stored configuration.

    none ──first configuration of a cluster──> belongs to it ──'fastgw cluster adopt'──> another, or none

Contract. `PREFIX/dp/cluster.id` (0600) holds the cluster's id, one line. It is written before the first
configuration of a cluster is decided, and from then on nothing of another cluster is applied: a control plane
on a strange or new database would otherwise replace what is served, by nothing at all if it is empty. Only a
person changes it. It is read at every use, so that a running data plane takes the change with its next try.

Kong's control planes do not say which cluster is theirs: what they send is not compared, and pledges to
nothing.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

from fastgw.dp.own_files import replace_own_file
from fastgw.errors import ForeignClusterError, SettingsError

CLUSTER_FILE: Final = "cluster.id"
_LIMIT_BYTES: Final = 256


class Pledge:
    """The pledge of one data plane.

    Args:
        directory: PREFIX/dp.
    """

    def __init__(self, directory: Path) -> None:
        self.path: Final = directory / CLUSTER_FILE
        self._changing = threading.Lock()
        """Held while the file changes: threads of an apply and of a link may come to keep it at once."""

    def read(self) -> str:
        """The cluster's id; empty while this data plane belongs to none.

        Raises:
            SettingsError: it cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                return file.read(_LIMIT_BYTES).decode("utf-8", "replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as exc:
            raise SettingsError(
                f"{self.path}: cannot be read: {os.strerror(exc.errno or 0).lower()}"
            ) from None

    def check(self, cluster_id: str) -> None:
        """Insist that a control plane of *cluster_id* may say what is served here.

        Raises:
            ForeignClusterError: this data plane belongs to another cluster; says what to do.
            SettingsError: it cannot be told.
        """
        mine = self.read()
        if mine and cluster_id and mine != cluster_id:
            raise ForeignClusterError(
                f"the control plane is of the cluster {cluster_id}, and this data plane belongs to {mine}: "
                "nothing of it is applied. Name control planes of its own cluster in cluster_control_plane; "
                f"or, if it is to change over, run 'fastgw cluster adopt {cluster_id}' here"
            )

    def keep(self, cluster_id: str) -> None:
        """Belong to *cluster_id* from now on, unless there is a pledge already; blocks.

        Raises:
            OSError: it could not be written.
        """
        with self._changing:
            if cluster_id and not self.read():
                replace_own_file(self.path, f"{cluster_id}\n".encode())

    def replace(self, cluster_id: str) -> str:
        """Belong to *cluster_id*, or with an empty one to whichever comes first; return what was before.

        Raises:
            SettingsError: it cannot be read or written.
        """
        with self._changing:
            before = self.read()
            try:
                if cluster_id:
                    replace_own_file(self.path, f"{cluster_id}\n".encode())
                else:
                    self.path.unlink(missing_ok=True)
            except OSError as exc:
                raise SettingsError(
                    f"{self.path}: cannot be written: {os.strerror(exc.errno or 0).lower()}"
                ) from None
            return before
