"""Build the sdist from a clean tree and a wheel from it for every Python here; each must install and serve.

.venv/bin/python tools/wheels.py [--python PATH ...] [--output DIRECTORY]

The clean tree is what git tracks, so a file that was forgotten in MANIFEST.in or package-data is missed here
and not by users. Each wheel is installed into an empty virtual environment, outside the checkout, where
`smoke.py` has to pass.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
MINORS: Final = range(11, 15)
_EXAMINE: Final = """
import importlib.util, os, sys, sysconfig
whole = os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
print("3.%d" % sys.version_info[1] if whole and importlib.util.find_spec("ensurepip") else "")
"""


def find_interpreters() -> dict[str, Path]:
    """Find one interpreter per minor version that can build: in PATH, then among pyenv's."""
    found: dict[str, Path] = {}
    for path in _candidates():
        done = subprocess.run([path, "-c", _EXAMINE], capture_output=True, text=True, check=False, timeout=30)
        version = done.stdout.strip()
        if done.returncode == 0 and version in {f"3.{minor}" for minor in MINORS}:
            found.setdefault(version, path)
    return dict(sorted(found.items()))


def _candidates() -> Iterator[Path]:
    for minor in MINORS:
        for directory in os.get_exec_path():
            path = Path(directory, f"python3.{minor}")
            # A virtual environment of somebody's is no interpreter of the machine.
            if os.access(path, os.X_OK) and not (path.parent.parent / "pyvenv.cfg").exists():
                yield path
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in MINORS:
        yield from sorted(versions.glob(f"3.{minor}.*/bin/python"))


def export_clean_tree(place: Path) -> None:
    """Copy what git tracks (as it is in the work tree) into *place*."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=60
    ).stdout.split(b"\0")
    for raw in filter(None, names):
        name = os.fsdecode(raw)
        if (ROOT / name).is_file():
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())


def build_sdist(tree: Path, output: Path) -> Path:
    """Build the sdist of *tree* in an environment of its own."""
    _run([sys.executable, "-m", "build", "--sdist", "--outdir", output, tree])
    [sdist] = output.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name for name in archive.getnames() if "/src/" in name]
    if not any(name.endswith(".pyx") for name in names) or any(
        name.endswith((".c", ".so")) for name in names
    ):
        raise SystemExit(f"{sdist.name} must hold the .pyx files, and nothing that a build makes of them")
    return sdist


def build_wheel(interpreter: Path, sdist: Path, output: Path, scratch: Path) -> Path:
    """Build a wheel for *interpreter*, with all cores."""
    builder = _make_environment(interpreter, scratch / "builder")
    config = scratch / "build.cfg"
    config.write_text(f"[build_ext]\nparallel = {os.cpu_count() or 1}\n")
    made = scratch / "made"
    _run(
        [builder, "-m", "pip", "wheel", "-q", "--no-deps", "--no-cache-dir", "-w", made, sdist],
        DIST_EXTRA_CONFIG=str(config),
    )
    [wheel] = made.glob("fastgw-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    sources = [name for name in names if name.endswith((".c", ".pyx"))]
    if sources or "fastgw/py.typed" not in names:
        raise SystemExit(f"{wheel.name} must hold py.typed and no sources of extensions: {sources}")
    return wheel.rename(output / wheel.name)


def try_wheel(interpreter: Path, wheel: Path, scratch: Path) -> None:
    """Install *wheel* where nothing is, and have it serve."""
    python = _make_environment(interpreter, scratch / "empty")
    _run([python, "-m", "pip", "install", "-q", wheel])
    _run([python, "-P", ROOT / "tools" / "smoke.py"], cwd=scratch)


def _make_environment(interpreter: Path, place: Path) -> Path:
    _run([interpreter, "-m", "venv", place])
    return place / "bin" / "python"


def _environment(**extra: str) -> dict[str, str]:
    """What a user has: nothing that leads back to the checkout."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FASTGW_", "KONG_")) and name not in {"PYTHONPATH", "DIST_EXTRA_CONFIG"}
    }
    return {**kept, **extra}


def _run(command: Sequence[str | Path], *, cwd: Path | None = None, **extra: str) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=_environment(**extra), capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def main() -> None:
    """Build and try all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, action="append", help="an interpreter (default: all found)")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="where they go (default: dist)")
    arguments = parser.parse_args()
    interpreters = {str(path): path for path in arguments.python or ()} or find_interpreters()
    if not interpreters:
        raise SystemExit("no Python of 3.11 to 3.14 with headers and ensurepip was found")
    arguments.output.mkdir(parents=True, exist_ok=True)
    for old in (*arguments.output.glob("fastgw-*.tar.gz"), *arguments.output.glob("fastgw-*.whl")):
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="fastgw-wheels-") as scratch:
        tree = Path(scratch, "tree")
        export_clean_tree(tree)
        sdist = build_sdist(tree, arguments.output)
        print(f"{sdist.name}: {sdist.stat().st_size / 1024:.0f} KiB")
        for number, (version, interpreter) in enumerate(interpreters.items()):
            begun = time.monotonic()
            own = Path(scratch, str(number))
            own.mkdir()
            wheel = build_wheel(interpreter, sdist, arguments.output, own)
            try_wheel(interpreter, wheel, own)
            size_kib = wheel.stat().st_size / 1024
            took_s = time.monotonic() - begun
            print(f"{version}: {wheel.name}, {size_kib:.0f} KiB, installs and serves ({took_s:.0f} s)")


if __name__ == "__main__":
    main()
