"""Small files that only the data plane reads: its identity, and the cluster that it belongs to.

Contract. A file is replaced whole or not at all, has the mode 0600, and survives a loss of power. What root
writes, by 'fastgw pki join' or 'fastgw cluster adopt', belongs to whom the directory belongs to: a data plane
that runs as another user is to read it, and to replace it.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_own_file(path: Path, content: bytes) -> None:
    """Write *content* to *path*, in a directory (0700) that is made if need be; blocks.

    Raises:
        OSError: it could not be written; what there was is as it was.
    """
    _make_directory(path.parent)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fresh = f"{path.name}.new"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=directory)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        with open(fd, "wb") as file:
            if os.geteuid() == 0:
                owner = os.fstat(directory)
                # In a container root may lack the right; then it is root who runs the data plane.
                with contextlib.suppress(PermissionError):
                    os.fchown(fd, owner.st_uid, owner.st_gid)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(fresh, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
    finally:
        os.close(directory)


def _make_directory(directory: Path) -> None:
    """Make it, and those above it that are missing, each for the owner of the one above."""
    if directory.exists():
        return
    _make_directory(directory.parent)
    directory.mkdir(mode=0o700, exist_ok=True)
    if os.geteuid() == 0:
        owner = directory.parent.stat()
        # Not through a link that somebody has put in its place.
        with contextlib.suppress(PermissionError):
            os.chown(directory, owner.st_uid, owner.st_gid, follow_symlinks=False)
