"""The decided generation on disk: what a data plane starts from with no control plane in sight.

    PREFIX/dp/current.image      the generation that was decided last: whole, or the overlay of a base
    PREFIX/dp/previous.image     the one before it
    PREFIX/dp/base-*.image       whole images that overlays lie on, named by their checksum
    PREFIX/dp/lock               held by the one data plane of this prefix

Replacing `current.image` is the moment of decision, so at every step of a change a whole state stands under
that name: base and overlay are written beside it and synced, the old one gets its second name by a hard link,
and renames do the rest. A whole generation is its base under a second name, so nothing is written twice.

A file that cannot be used is set aside under another name, for people to look at; it never stops the start.
Then the next best state is taken: the generation before, or a base alone, which is an older generation.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from fastgw._router import Flavor
from fastgw.dp.generation import ImageFile
from fastgw.dp.seal import MAGIC as SEAL_MAGIC
from fastgw.dp.seal import Seal
from fastgw.errors import ImageError, SettingsError, SignatureError, SnapshotError
from fastgw.obs import logs
from fastgw.routing.image import (
    FORMAT_VERSION,
    Image,
    ImageMeta,
    read_format_version,
    snapshot_of,
    snapshot_section_of,
)
from fastgw.routing.layered import LayeredImage

CURRENT: Final = "current.image"
PREVIOUS: Final = "previous.image"
LOCK: Final = "lock"
BASES_KEPT: Final = 3
"""One that generations are to lie on next, that of the current generation, and that of the one before."""
DAMAGED_KEPT: Final = 3
"""Files set aside beyond this number are deleted, oldest first."""

_BASES: Final = "base-*.image"
_NAME_DIGITS: Final = 32
_COPY_BYTES: Final = 1 << 30
_T = TypeVar("_T")
_log: Final = logs.get_logger("supervisor")


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A checked generation of this format, in memory of its own."""

    version: int
    digest: str
    counts: Mapping[str, int]
    image: ImageFile
    overlay: ImageFile | None = None


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """What a generation of another format, or of another flavor, still tells: compile it anew."""

    version: int
    digest: str
    packed: bytes


class _Stamp(NamedTuple):
    """What tells that a file was changed, or replaced."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        found = path.stat()
        return cls(found.st_ino, found.st_size, found.st_mtime_ns)


class Store:
    """The directory `PREFIX/dp`, held by one process. Methods block: call them in a thread."""

    def __init__(self, prefix: Path, *, lock_fd: int = -1, seal: Seal | None = None) -> None:
        """Make the directory and take its lock.

        Args:
            seal: encrypts the files; only such ones are read then.
            lock_fd: holds the lock already, handed over by the process before; the store's from now on.
        Raises:
            SettingsError: another data plane runs in this prefix, or it cannot be written.
        """
        self.directory: Final = prefix / "dp"
        self._prefix = prefix
        self._seal = seal
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock_fd = (
                os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if lock_fd < 0
                else lock_fd
            )
        except OSError as error:
            raise SettingsError(f"prefix {prefix}: cannot write {error.filename}: {error.strerror}") from None
        self._lock()
        self._in_order = threading.Lock()
        """Held while names change: a base may be written in one thread and a generation saved in another."""
        self._bases: list[str] = []
        """Those on disk, by their last use."""
        self._whole: dict[str, _Stamp] = {}
        """Those that are whole, as this process knows: it wrote them, or read them, and they were so then."""
        self._staged: tuple[ImageFile, bool] | None = None
        """What waits for a decision: its base, and whether that is all."""
        self.look_again()

    def look_again(self) -> None:
        """Forget what this process knows of the files: another one may have written here."""
        holder = f"{os.getpid()}\n".encode()
        with contextlib.suppress(OSError):  # the disk may be full, and this is only for who comes second
            os.pwrite(self.lock_fd, holder, 0)
            os.ftruncate(self.lock_fd, len(holder))
        for path in self.directory.glob("*.new"):
            path.unlink(missing_ok=True)  # left behind by a process that was killed
        with self._in_order:
            self._bases = [path.name for path in sorted(self.directory.glob(_BASES), key=_written_at)]
            self._whole.clear()
            self._staged = None

    @property
    def is_sealed(self) -> bool:
        """Whether what is read was written by who knows the secret."""
        return self._seal is not None

    def close(self) -> None:
        """Give the prefix to whoever comes next."""
        os.close(self.lock_fd)

    def save(self, image: ImageFile, overlay: ImageFile | None = None) -> None:
        """Make a generation the current one; when this returns, it survives a loss of power.

        Raises:
            OSError: nothing changed.
        """
        self.stage(image, overlay)
        self.decide()

    def stage(self, image: ImageFile, overlay: ImageFile | None = None) -> None:
        """Write a generation to the disk beside the current one, for `decide` or `discard`.

        Raises:
            OSError: nothing changed.
        """
        self._staged = image, overlay is None
        try:
            self._write_base(image)
            if overlay is not None:
                self._write(overlay, self._fresh(CURRENT))
        except OSError:
            self.discard()  # the disk may be full: leave what room there is
            raise

    def decide(self) -> None:
        """Make what was staged the current generation, as `save` does."""
        assert self._staged is not None
        image, is_whole = self._staged
        base = self._name_base(image)
        if is_whole:
            os.link(base, self._fresh(CURRENT))
        self._staged = None
        self._keep_previous()
        _rename(self._path_of_fresh(CURRENT), self.directory / CURRENT)
        self._sync_directory()
        with self._in_order:
            self._forget_bases()

    def discard(self) -> None:
        """Forget what was staged, if anything was."""
        if self._staged is not None:
            self._fresh(self._base_path(self._staged[0].checksum).name)
            self._staged = None
        self._fresh(CURRENT)

    def save_base(self, image: ImageFile) -> None:
        """Write a whole image that generations will lie on, if it is not there.

        Raises:
            OSError: nothing changed.
        """
        self._write_base(image)
        self._name_base(image)

    def _write_base(self, image: ImageFile) -> None:
        path = self._base_path(image.checksum)
        if not self._is_whole(path):
            self._write(image, self._fresh(path.name))

    def _trust(self, path: Path) -> None:
        """Take the file of a base for whole, as long as it stays the same."""
        self._whole[path.name] = _Stamp.of(path)

    def _is_whole(self, path: Path) -> bool:
        """Whether the file of a base is still the one that was found whole."""
        try:
            return self._whole.get(path.name) == _Stamp.of(path)
        except FileNotFoundError:
            return False

    def _name_base(self, image: ImageFile) -> Path:
        """Give its name to a base that was written; returns where it stands."""
        path = self._base_path(image.checksum)
        with self._in_order:
            fresh = self._path_of_fresh(path.name)
            is_new = fresh.exists()
            if is_new:
                os.rename(fresh, path)
                self._trust(path)
            self._bases = [*(name for name in self._bases if name != path.name), path.name]
        if is_new:
            self._sync_directory()
        return path

    def load(
        self,
        flavor: Flavor = Flavor.FLAVOR_COMPATIBLE,
        *,
        check: Callable[[str], None] = lambda _: None,
        is_to_compile: bool = False,
    ) -> StoredImage | StoredSnapshot | None:
        """Read the newest generation that is whole; None: there is none.

        Args:
            flavor: that its route table must have to be served as it is.
            check: raises a SignatureError against the configuration with a digest.
            is_to_compile: the configuration is wanted, and not what was compiled of it.
        """
        newest_first = [self.directory / name for name in reversed(self._bases)]
        for path in (self.directory / CURRENT, self.directory / PREVIOUS, *newest_first):
            try:
                stored = self._read_snapshot(path) if is_to_compile else self._read(path, flavor)
                check(stored.digest)
                return stored
            except FileNotFoundError:
                continue
            except (ImageError, SignatureError, SnapshotError, OSError) as error:
                self._set_aside(path, str(error))
        return None

    def set_aside_current(self, reason: str) -> None:
        """Put the current image away: it turned out to be of no use later than in `load`."""
        self._set_aside(self.directory / CURRENT, reason)

    def _lock(self) -> None:
        try:
            fcntl.flock(self.lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self.lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self.lock_fd)
            raise SettingsError(
                f"prefix {self._prefix}: another data plane runs there (process {holder}): "
                "stop it, take over from it (--takeover), or give this one another prefix"
            ) from None

    def _base_path(self, checksum: str) -> Path:
        return self.directory / f"base-{checksum[:_NAME_DIGITS]}.image"

    def _fresh(self, name: str) -> Path:
        """Where the file of this name is made, before it gets it."""
        fresh = self._path_of_fresh(name)
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()  # left behind by a process that was killed
        return fresh

    def _path_of_fresh(self, name: str) -> Path:
        return self.directory / f"{name}.new"

    def _forget_bases(self) -> None:
        kept = self._bases[-BASES_KEPT:]
        for path in self.directory.glob(_BASES):
            if path.name not in kept:
                path.unlink()
        self._bases = kept
        self._whole = {name: stamp for name, stamp in self._whole.items() if name in kept}

    def _keep_previous(self) -> None:
        second = self._fresh(PREVIOUS)
        try:
            os.link(self.directory / CURRENT, second)
        except FileNotFoundError:
            return  # the first generation of this prefix
        _rename(second, self.directory / PREVIOUS)

    def _sync_directory(self) -> None:
        fd = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read(self, path: Path, flavor: Flavor) -> StoredImage | StoredSnapshot:
        with self._plain(path) as plain:
            if read_format_version(plain) != FORMAT_VERSION:
                return self._read_snapshot(path)
        file, image = self._open_copy(path)
        if image.table().flavor != flavor:
            return self._read_snapshot(path)
        if not image.meta.base:
            base_file, overlay_file = file, None
            with contextlib.suppress(FileNotFoundError):
                if path.samefile(self._base_path(image.checksum)):
                    self._trust(self._base_path(image.checksum))
        else:
            base_file, base = self._read_base(image.meta.base, self._open_copy)
            LayeredImage(base, image)
            overlay_file = file
            self._trust(self._base_path(base.checksum))
        meta = image.meta
        return StoredImage(meta.version, meta.digest, dict(meta.counts), base_file, overlay_file)

    def _read_snapshot(self, path: Path) -> StoredSnapshot:
        meta, packed = self._section_of(path)
        if meta.base:
            base_meta, base_packed = self._read_base(meta.base, self._section_of)
            packed = snapshot_of(meta, packed, snapshot_of(base_meta, base_packed, None)).pack()
        return StoredSnapshot(meta.version, meta.digest, packed)

    def _section_of(self, path: Path) -> tuple[ImageMeta, bytes]:
        with self._plain(path) as plain:
            return snapshot_section_of(plain)

    def _open_copy(self, path: Path) -> tuple[ImageFile, Image]:
        """A sealed copy of an image, and that opened: whatever happens to the file, no worker maps it."""
        fd = self._copy_of(path)
        try:
            fcntl.fcntl(
                fd,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
            )
            copy = ImageFile(os.dup(fd))
        finally:
            os.close(fd)
        return copy, Image.open(copy.fd)

    @contextlib.contextmanager
    def _plain(self, path: Path) -> Iterator[str | Path]:
        """A path where the file can be read as it was before it was encrypted."""
        if self._seal is None:
            with open(path, "rb") as file:
                if file.read(len(SEAL_MAGIC)) == SEAL_MAGIC:
                    raise ImageError("it is encrypted, and store_secret is not set")
            yield path
            return
        fd = self._copy_of(path)
        try:
            yield f"/proc/self/fd/{fd}"
        finally:
            os.close(fd)

    def _copy_of(self, path: Path) -> int:
        """The file in memory, decrypted if need be; the caller closes it."""
        with open(path, "rb") as file:
            fd = os.memfd_create("fastgw-image", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            try:
                if self._seal is None:
                    _copy(file.fileno(), fd)
                else:
                    self._seal.read(file.fileno(), fd)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def _write(self, image: ImageFile, path: Path) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if self._seal is None:
                _copy(image.fd, fd)
            else:
                self._seal.write(image.fd, fd)
            os.fsync(fd)
        except OSError:
            path.unlink()  # the disk may be full: leave what room there is
            raise
        finally:
            os.close(fd)

    def _read_base(self, checksum: str, read: Callable[[Path], _T]) -> _T:
        """Have the base with this checksum read; one that cannot be is set aside, and so is its overlay."""
        path = self._base_path(checksum)
        try:
            return read(path)
        except FileNotFoundError:
            raise ImageError(f"its base {path.name} is not there") from None
        except (ImageError, OSError) as error:
            self._set_aside(path, str(error))
            raise ImageError(f"its base {path.name} cannot be used") from None

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


def _rename(source: Path, target: Path) -> None:
    os.rename(source, target)
    source.unlink(missing_ok=True)  # still there when both were names of one file: then rename does nothing


def _copy(source_fd: int, target_fd: int) -> None:
    offset = 0
    while sent := os.sendfile(target_fd, source_fd, offset, _COPY_BYTES):
        offset += sent


def _stamp_of(path: Path) -> int:
    stamp = path.name.rpartition("-")[2]
    return int(stamp) if stamp.isdigit() else 0


def _written_at(path: Path) -> int:
    return path.stat().st_mtime_ns
