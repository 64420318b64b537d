"""The decided generation on disk: what a data plane starts from with no control plane in sight.

    PREFIX/dp/current.image    the generation that was decided last
    PREFIX/dp/previous.image   the one before it
    PREFIX/dp/lock             held by the one data plane of this prefix

Replacing `current.image` is the moment of decision, so at every step of `save` a whole image stands under
that name: the new one is written beside it and synced, the old one gets its second name by a hard link, and
renames do the rest. A file that cannot be used is set aside under another name, for people to look at; it
never stops the start.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fastgw.dp.generation import ImageFile
from fastgw.errors import ImageError, SettingsError
from fastgw.obs import logs
from fastgw.routing.image import FORMAT_VERSION, Image, read_format_version, snapshot_section_of

CURRENT: Final = "current.image"
PREVIOUS: Final = "previous.image"
LOCK: Final = "lock"
DAMAGED_KEPT: Final = 3
"""Files set aside beyond this number are deleted, oldest first."""

_COPY_BYTES: Final = 1 << 30
_log: Final = logs.get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A whole, checked image of this format, in memory of its own."""

    version: int
    digest: str
    counts: Mapping[str, int]
    image: ImageFile


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """What an image of another format still tells: compile it anew."""

    version: int
    digest: str
    compressed: bytes


class Store:
    """The directory `PREFIX/dp`, held by one process. Methods block: call them in a thread."""

    def __init__(self, prefix: Path) -> None:
        """Make the directory and take its lock.

        Raises:
            SettingsError: another data plane runs in this prefix, or it cannot be written.
        """
        self.directory: Final = prefix / "dp"
        self._prefix = prefix
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SettingsError(f"prefix {prefix}: cannot write {error.filename}: {error.strerror}") from None
        self._lock()

    def close(self) -> None:
        """Give the prefix to whoever comes next."""
        os.close(self._lock_fd)

    def save(self, image: ImageFile) -> None:
        """Make *image* the current one; when this returns, it survives a loss of power.

        Raises:
            OSError: nothing changed.
        """
        fresh = self.directory / f"{CURRENT}.new"
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # left behind by a process that was killed
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _copy(image.fd, fd)
            os.fsync(fd)
        except OSError:
            fresh.unlink()  # the disk may be full: leave what room there is
            raise
        finally:
            os.close(fd)
        self._keep_previous()
        os.rename(fresh, self.directory / CURRENT)
        self._sync_directory()

    def load(self) -> StoredImage | StoredSnapshot | None:
        """Read the current generation, or the previous one where the current is damaged; None is neither."""
        for name in (CURRENT, PREVIOUS):
            path = self.directory / name
            try:
                return _read(path)
            except FileNotFoundError:
                continue
            except (ImageError, OSError) as error:
                self._set_aside(path, str(error))
        return None

    def set_aside_current(self, reason: str) -> None:
        """Put the current image away: it turned out to be of no use later than in `load`."""
        self._set_aside(self.directory / CURRENT, reason)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._lock_fd)
            raise SettingsError(
                f"prefix {self._prefix}: another data plane runs there (process {holder}): "
                "stop it, or give this one another prefix"
            ) from None
        os.ftruncate(self._lock_fd, 0)
        os.pwrite(self._lock_fd, f"{os.getpid()}\n".encode(), 0)

    def _keep_previous(self) -> None:
        second = self.directory / f"{PREVIOUS}.new"
        with contextlib.suppress(FileNotFoundError):
            second.unlink()
        try:
            os.link(self.directory / CURRENT, second)
        except FileNotFoundError:
            return  # the first generation of this prefix
        os.rename(second, self.directory / PREVIOUS)

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _set_aside(self, path: Path, reason: str) -> None:
        aside = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000}")
        try:
            os.rename(path, aside)
            for old in sorted(self.directory.glob("*.damaged-*"), key=_stamp_of)[:-DAMAGED_KEPT]:
                old.unlink()
        except OSError as error:
            _log.error("%s cannot be used (%s), nor set aside: %s", path, reason, error.strerror)
        else:
            _log.error("%s cannot be used: %s; set aside as %s", path, reason, aside.name)


def _read(path: Path) -> StoredImage | StoredSnapshot:
    if read_format_version(path) != FORMAT_VERSION:
        meta, compressed = snapshot_section_of(path)
        return StoredSnapshot(meta.version, meta.digest, compressed)
    # Checked and served from a sealed copy: whatever happens to the file later, no worker maps it.
    with open(path, "rb") as file:
        image = ImageFile(os.memfd_create("fastgw-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        _copy(file.fileno(), image.fd)
    fcntl.fcntl(
        image.fd,
        fcntl.F_ADD_SEALS,
        fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
    )
    opened = Image.open(image.fd)
    try:
        return StoredImage(opened.meta.version, opened.meta.digest, dict(opened.meta.counts), image)
    finally:
        opened.close()


def _copy(source_fd: int, target_fd: int) -> None:
    offset = 0
    while sent := os.sendfile(target_fd, source_fd, offset, _COPY_BYTES):
        offset += sent


def _stamp_of(path: Path) -> int:
    stamp = path.name.rpartition("-")[2]
    return int(stamp) if stamp.isdigit() else 0
