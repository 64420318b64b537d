"""Running the command as a user does: a process of its own, with a clean environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastgw

SOURCE_ROOT = Path(fastgw.__file__).parent.parent


def environment(**extra: str) -> dict[str, str]:
    """The test's environment without settings of the machine, plus *extra*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FASTGW_", "KONG_"))}
    return {**kept, "PYTHONPATH": str(SOURCE_ROOT), "PYTHONWARNINGS": "error", **extra}


def fastgw_command(*args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run `fastgw ARGS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fastgw", *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment(**extra),
    )
