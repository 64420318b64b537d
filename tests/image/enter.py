"""Become a container: run by `container.py` as the first process of fresh namespaces, with nothing of ours imported.

Reads one line of JSON (what to become) and a second, empty one (the network is there), lays out the file system,
gives up every privilege, and is replaced by the container's command.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def mount(*words: str | Path) -> None:
    """Call mount(8)."""
    subprocess.run(["mount", *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def lay_out(root: Path, spec: dict[str, object]) -> None:
    """Mount everything that the container sees under *root*."""
    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    for name in ("hosts", "resolv.conf", "hostname"):
        (root / "etc" / name).unlink(missing_ok=True)
        (root / "etc" / name).write_text(str(spec[name]))
    mount("-t", "tmpfs", "-o", "mode=0755,size=1m", "dev", root / "dev")
    for name in DEVICES:
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", root / "dev" / name)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        (root / "dev" / name).symlink_to(f"/proc/self/fd{target}")
    (root / "dev/shm").mkdir()
    mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "shm", root / "dev/shm")
    mount("-t", "proc", "proc", root / "proc")
    for target in spec["tmpfs"]:  # type: ignore[attr-defined]
        inside = root / target.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", inside)
    for source, target, read_only in spec["binds"]:  # type: ignore[attr-defined]
        inside = root / target.lstrip("/")
        if Path(source).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        mount("--bind", source, inside)
        if read_only:
            mount("-o", "remount,bind,ro", inside)
    if spec["read_only"]:
        mount("-o", "remount,bind,ro", root)


def drop_privileges(uid: int, gid: int) -> None:
    """Be that user, without capabilities and without a way to get any."""
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_CAPBSET_DROP)")
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")


def main() -> None:
    """Become the container; does not return."""
    spec = json.loads(sys.stdin.readline())
    sys.stdin.readline()
    root = Path(spec["root"])
    lay_out(root, spec)
    socket.sethostname(spec["hostname"].strip())
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.chroot(root)
    os.chdir(spec["directory"])
    drop_privileges(spec["uid"], spec["gid"])
    os.umask(0o022)
    os.execvpe(spec["command"][0], spec["command"], spec["environment"])


if __name__ == "__main__":
    main()
