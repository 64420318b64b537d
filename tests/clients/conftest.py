"""Real clients against the real Admin API, on both storages; each is installed outside the repository."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cp.admin.conftest import each_admin_server as each_admin_server
from tests.cp.admin.server import AdminServer

HERE = Path(__file__).parent
BUILD_S = 600


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "fastgw-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def deck_program() -> Path:
    """decK, built once from its Go module at the version that `deck/go.mod` names.

    A build takes minutes, so that two runs wait for each other.
    """
    version = next(
        line.split()[-1] for line in (HERE / "deck/go.mod").read_text().splitlines() if "kong/deck v" in line
    )
    program = cache_directory() / f"deck-{version}"
    with open(cache_directory() / "deck.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            go = shutil.which("go")
            if go is None:
                pytest.skip("decK cannot be built: there is no Go here")
            made = subprocess.run(
                [go, "build", "-mod=readonly", "-buildvcs=false", "-o", str(program), "github.com/kong/deck"],
                cwd=HERE / "deck",
                capture_output=True,
                text=True,
                timeout=BUILD_S,
                check=False,
            )
            if made.returncode != 0:
                pytest.skip(f"decK cannot be built: {made.stderr.strip().splitlines()[-1]}")
    return program


@pytest.fixture
def address(each_admin_server: AdminServer) -> Iterator[str]:
    """The URL of an Admin API without rows."""
    yield f"http://127.0.0.1:{each_admin_server.port}"
    each_admin_server.run(each_admin_server.empty())
