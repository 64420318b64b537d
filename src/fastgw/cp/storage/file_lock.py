"""One owner for a database file, by flock on a file beside it that names the owner.

A file of its own, because closing any descriptor of the database itself would drop the POSIX locks that
SQLite holds on it. The kernel lets go of the lock when its process ends, however it ends; the file stays.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Final, Literal

from fastgw.errors import StorageUnavailable

Purpose = Literal["cp", "migrations"]

_POLL_S: Final = 0.05
_HOLDER_LIMIT_BYTES: Final = 64


class FileLock:
    """The lock of the database at *path*; its file is *path* with `.lock` behind it."""

    __slots__ = ("_database", "_fd", "_path")

    def __init__(self, path: Path) -> None:
        self._database = path
        self._path = path.with_name(path.name + ".lock")
        self._fd = -1

    @property
    def is_held(self) -> bool:
        return self._fd >= 0

    async def acquire(self, purpose: Purpose, *, wait_s: float) -> None:
        """Take the lock, waiting for a migration to end, but not for a control plane.

        Raises:
            StorageUnavailable: somebody else has it, or the place cannot be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageUnavailable(
                f"SQLite {self._database}: cannot open {self._path}: {(error.strerror or str(error)).lower()}"
            ) from error
        try:
            await self._lock(fd, wait_s)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()} {purpose}\n".encode(), 0)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _lock(self, fd: int, wait_s: float) -> None:
        # There is no event for a lock that comes free, so this is a poll with a deadline.
        deadline = asyncio.get_running_loop().time() + wait_s
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pid, _, purpose = (
                    os.pread(fd, _HOLDER_LIMIT_BYTES, 0).decode("ascii", "replace").partition(" ")
                )
            if purpose.strip() == "cp":
                raise StorageUnavailable(
                    f"SQLite {self._database}: a control plane (process {pid}) has it open; "
                    "stop that one first, or use PostgreSQL for several"
                )
            if asyncio.get_running_loop().time() >= deadline:
                raise StorageUnavailable(
                    f"SQLite {self._database}: a migration (process {pid}) has it locked for {wait_s:.0f} s"
                )
            await asyncio.sleep(_POLL_S)
