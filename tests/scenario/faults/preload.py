"""Libraries in C that a process of a test is made to load: what kills it at a step, what puts its clock off."""

from __future__ import annotations

import subprocess
from pathlib import Path


def build(name: str, directory: Path) -> Path:
    """Compile NAME.c of this directory into *directory*; returns the library."""
    made = directory / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return made


def preloaded(library: Path, **environ: str) -> list[str]:
    """The command that runs another one with a library and what it asks of the environment."""
    return ["env", f"LD_PRELOAD={library}", *(f"{name}={value}" for name, value in environ.items())]
