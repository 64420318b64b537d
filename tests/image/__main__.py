"""`make image-test`: build the image on a base of Debian and walk through docker/README.md with it.

python -m tests.image [--build-only] [--keep]

It takes root: without it says why it does nothing, and exits with 0. What it needs is installed with apt-get.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.image import base
from tests.image.base import ROOT, Image, ImageTestFailed
from tests.image.composition import load
from tests.image.container import make_bridge
from tests.image.engine import Engine
from tests.image.walk import Walk, check_image

PROGRAMS: Final[Mapping[str, str]] = {
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "unshare": "util-linux",
    "curl": "curl",
}
COMPOSE: Final = ROOT / "docker" / "compose.yaml"


def main() -> int:
    """Run it; the exit code says whether all holds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build-only", action="store_true", help="build the images, run nothing")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        print("image test: skipped, it takes root (namespaces, chroot)")
        return 0
    begun = time.monotonic()
    try:
        if arguments.inside is not None:
            _walk(arguments.inside)
        else:
            _install()
            with base.open_store():
                _build()
                if not arguments.build_only:
                    _walk_apart()
    except (ImageTestFailed, AssertionError) as error:
        print(f"image test: {error}", file=sys.stderr)
        return 1
    if arguments.inside is None:
        print(f"image test: all holds, in {time.monotonic() - begun:.0f} s")
    return 0


def _install() -> None:
    packages = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise ImageTestFailed(f"install {', '.join(packages)} first; this test knows apt-get only")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    base.run("apt-get", "update", deadline_s=300, **quiet)
    base.run("apt-get", "install", "-y", "--no-install-recommends", *packages, deadline_s=600, **quiet)


def _build() -> None:
    begun = time.monotonic()
    base.make_base()
    _tell(begun, "the base file system")
    begun = time.monotonic()
    # Under a name of its own, so that it is there the next time.
    base.build(base.TOOLS, ROOT / "docker" / "Dockerfile", ROOT, target="tools")
    _tell(begun, "compilers and dependencies")
    begun = time.monotonic()
    image = base.build(base.IMAGE, ROOT / "docker" / "Dockerfile", ROOT)
    _tell(begun, f"the image, {image.size_bytes / 1e6:.0f} MB with its base")
    check_image(image, base.inspect(base.BASE))
    begun = time.monotonic()
    place = Path(__file__).parent
    base.build(base.POSTGRES, place / "postgres.Dockerfile", place)
    _tell(begun, "an image of PostgreSQL")
    said = _run_once(image)
    _tell(begun, f"buildah runs it: {said}")
    begun = time.monotonic()
    _tell(begun, f"layers of earlier images: {base.prune()}")


def _run_once(image: Image) -> str:
    made = base.run("buildah", "from", image.name).strip()
    try:
        return base.run("buildah", "run", "--isolation", "chroot", made, "--", "kong", "version").strip()
    finally:
        base.run("buildah", "rm", made)


def _walk_apart() -> None:
    """Walk in namespaces of our own: ports 8000 and 8001 are free there, and nothing is left behind."""
    with tempfile.TemporaryDirectory(prefix="fastgw-image-") as state:
        # Data directories insist on being reachable by their owners.
        os.chmod(state, 0o755)
        command = [
            "unshare", "--net", "--mount", "--kill-child=SIGKILL", "--fork", "--",
            sys.executable, "-m", "tests.image", "--inside", state,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, check=False, timeout=600)
    if done.returncode:
        raise ImageTestFailed("the walk has failed")


def _walk(state: Path) -> None:
    make_bridge()
    names = {"FASTGW_IMAGE": base.IMAGE, "POSTGRES_IMAGE": base.POSTGRES}
    services = load(COMPOSE, names)
    images = {name: base.inspect(name) for name in names.values()}
    engine = Engine(services, images, state)
    engine.open_doors()
    try:
        Walk(engine).run(lambda line: print(f"  {line}", flush=True))
    finally:
        engine.close()


def _tell(begun: float, what: str) -> None:
    print(f"  {time.monotonic() - begun:6.2f} s  {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
