"""File systems and images: a base by debootstrap, and what buildah builds on it.

The base and buildah's layers are kept in a store of this test's own, in the cache directory, so a second run builds
what has changed, and images of the machine's owner are not touched. The machine's certificate authorities go into the base: who installs packages through a mirror of their own does so in there too.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent.parent
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastgw-image-test"
BASE: Final = "localhost/fastgw-test-base"
IMAGE: Final = "localhost/fastgw-test"
POSTGRES: Final = "localhost/fastgw-test-postgres"
SUITE: Final = "bookworm"
_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
TOOLS: Final = "localhost/fastgw-test-tools"
_BUILD_S: Final = 900.0


class ImageTestFailed(Exception):
    """The image, or what runs from it, is not what it must be; `str()` is for the terminal."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an image says about how it is run."""

    name: str
    user: str
    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    command: Sequence[str]
    directory: str
    health: Sequence[str]
    stop_signal: str
    ports: frozenset[str]
    labels: Mapping[str, str]
    size_bytes: int
    """With the base's."""


def run(*command: str | Path, deadline_s: float = 120.0, **extra: str) -> str:
    """Run a command to its end and return what it printed.

    Raises:
        ImageTestFailed: it failed; with all that it said.
    """
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **extra},
    )
    if done.returncode:
        raise ImageTestFailed(
            f"exit code {done.returncode}: {' '.join(map(str, command))}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


@contextlib.contextmanager
def open_store() -> Iterator[None]:
    """Have buildah keep everything in the cache directory; for this process and its children, one at a time.

    What an interrupted run has left is removed: its containers would hold on to images for ever.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImageTestFailed(
                f"another image test is at work in {CACHE}: wait until it has ended"
            ) from None
        _choose_driver()
        _remove_containers()
        yield


def _choose_driver() -> None:
    conf = CACHE / "storage.conf"
    os.environ["CONTAINERS_STORAGE_CONF"] = str(conf)
    for driver in ("overlay", "vfs"):
        conf.write_text(
            f'[storage]\ndriver = "{driver}"\ngraphroot = "{CACHE}/{driver}"\nrunroot = "/run/fastgw-image-test"\n'
        )
        # Overlay file systems are not to be had everywhere; copies are, and slower.
        if subprocess.run(["buildah", "info"], capture_output=True, check=False).returncode == 0:
            return
    raise ImageTestFailed("buildah has no way to store images here: see 'buildah info'")


def make_base() -> None:
    """Have an image of the base file system; made once, and anew when the machine's authorities change."""
    CACHE.mkdir(parents=True, exist_ok=True)
    stamp = f"{SUITE} {' '.join(_PACKAGES)} {_mirror()} {_digest_of_certificates()}"
    stamp_path = CACHE / "base.stamp"
    if stamp_path.exists() and stamp_path.read_text() == stamp and _exists(BASE):
        return
    rootfs = CACHE / "base"
    shutil.rmtree(rootfs, ignore_errors=True)
    run(
        "debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", SUITE, rootfs, _mirror(),
        deadline_s=_BUILD_S,
    )  # fmt: skip
    for place in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(rootfs / place)
        (rootfs / place / "partial").mkdir(parents=True)
    if _CERTIFICATES.exists():
        shutil.copyfile(_CERTIFICATES, rootfs / _CERTIFICATES.relative_to("/"))
        (rootfs / "etc/pip.conf").write_text(f"[global]\ncert = {_CERTIFICATES}\n")
    container = run("buildah", "from", "scratch").strip()
    try:
        run("buildah", "add", "-q", container, f"{rootfs}/", "/", deadline_s=_BUILD_S)
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run("buildah", "config", "--env", path, "--cmd", "/bin/sh", container)
        run("buildah", "commit", "-q", container, BASE, deadline_s=_BUILD_S)
    finally:
        run("buildah", "rm", container)
        shutil.rmtree(rootfs)
    stamp_path.write_text(stamp)


def build(name: str, dockerfile: Path, context: Path, *, target: str | None = None) -> Image:
    """Build *dockerfile* on the base, up to a stage; layers that did not change are those of the time before."""
    run(
        "buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers", "--timestamp", "0",
        "--build-arg", f"BASE={BASE}", *(("--target", target) if target else ()),
        "-f", dockerfile, "-t", name, context,
        deadline_s=_BUILD_S,
    )  # fmt: skip
    return inspect(name)


def prune() -> str:
    """Forget layers that no image with a name is made of; says how that went, since nothing hangs on it."""
    done = subprocess.run(
        ["buildah", "rmi", "--prune"], capture_output=True, text=True, timeout=120, check=False
    )
    return "forgotten" if done.returncode == 0 else f"kept: {' '.join(done.stderr.split())}"


def _remove_containers() -> None:
    for container in json.loads(run("buildah", "containers", "--all", "--json")) or ():
        for verb in ("umount", "rm"):
            subprocess.run(["buildah", verb, container["id"]], capture_output=True, check=False)


def inspect(name: str) -> Image:
    """Read what *name* says about itself."""
    document: dict[str, Any] = json.loads(run("buildah", "inspect", "--type", "image", name))
    config = document["Docker"]["config"]
    [listed] = json.loads(run("buildah", "images", "--json", name))
    health = (config.get("Healthcheck") or {}).get("Test") or []
    return Image(
        name=name,
        user=config.get("User") or "0:0",
        environment=dict(item.split("=", 1) for item in config.get("Env") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        command=tuple(config.get("Cmd") or ()),
        directory=config.get("WorkingDir") or "/",
        health=tuple(health[1:]) if health[:1] == ["CMD"] else (),
        stop_signal=config.get("StopSignal") or "SIGTERM",
        ports=frozenset(config.get("ExposedPorts") or ()),
        labels=dict(config.get("Labels") or {}),
        size_bytes=_bytes(listed["size"]),
    )


def _exists(name: str) -> bool:
    return (
        subprocess.run(
            ["buildah", "inspect", "--type", "image", name], capture_output=True, check=False
        ).returncode
        == 0
    )


def _bytes(shown: str) -> int:
    number, unit = shown.split()
    return int(float(number) * {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}[unit.upper()])


def _digest_of_certificates() -> str:
    return run("sha256sum", _CERTIFICATES).split()[0] if _CERTIFICATES.exists() else "none"


def _mirror() -> str:
    """The mirror that this machine installs Debian's packages from."""
    listed = run("apt-cache", "policy")
    found = re.search(rf"(https?://\S+/debian/?) {SUITE}/main", listed)
    if not found:
        raise SystemExit(
            f"apt knows no mirror of Debian's {SUITE}: run 'apt-get update', or name one in its sources"
        )
    return found[1]
