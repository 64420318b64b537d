"""Real clients against the real Admin API, on both storages; each is installed outside the repository."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cp.admin.conftest import each_admin_server as each_admin_server
from tests.cp.admin.server import AdminServer

HERE = Path(__file__).parent
BUILD_S = 600
DECKS = (HERE / "deck", HERE / "deck-1.12")
INSTALL_S = BUILD_S * len(DECKS) + 120
"""What the first test of a session may take on a machine that has none of the clients yet."""


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = Path(base) / "fastgw-tests"
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def deck_program() -> Path:
    """decK, built once from its Go module: the newer one of the two versions here that can be had.

    A build takes minutes, so that two runs wait for each other.
    """
    reasons = []
    for module in DECKS:
        version = next(
            line.split()[-1] for line in (module / "go.mod").read_text().splitlines() if "kong/deck v" in line
        )
        program = cache_directory() / f"deck-{version}"
        with open(cache_directory() / "deck.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if program.exists() or (reason := build_deck(module, program)) is None:
                return program
        reasons.append(f"{version}: {reason}")
    pytest.skip(f"decK cannot be built: {'; '.join(reasons)}")


def build_deck(module: Path, program: Path) -> str | None:
    """Build it; return why that is impossible here."""
    go = shutil.which("go")
    if go is None:
        return "there is no Go here"
    made = subprocess.run(
        [go, "build", "-mod=readonly", "-buildvcs=false", "-o", str(program), "github.com/kong/deck"],
        cwd=module,
        capture_output=True,
        text=True,
        timeout=BUILD_S,
        check=False,
    )
    return None if made.returncode == 0 else made.stderr.strip().splitlines()[-1]


@pytest.fixture
def address(each_admin_server: AdminServer) -> Iterator[str]:
    """The URL of an Admin API without rows."""
    yield f"http://127.0.0.1:{each_admin_server.port}"
    each_admin_server.run(each_admin_server.empty())


@pytest.fixture(scope="session")
def python_clients() -> Path:
    """The directory of programs of an environment with the clients that are Python packages.

    It is an environment of its own: their requirements are none of ours.
    """
    requirements = (HERE / "requirements.txt").read_text()
    digest = hashlib.sha256(f"{sys.version}{requirements}".encode()).hexdigest()[:12]
    place = cache_directory() / f"clients-{digest}"
    with open(cache_directory() / "clients.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            commands = [
                [sys.executable, "-m", "venv", str(place)],
                [
                    str(place / "bin/python"),
                    "-m",
                    "pip",
                    "install",
                    "-q",
                    "-r",
                    str(HERE / "requirements.txt"),
                ],
            ]
            for command in commands:
                made = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_S, check=False)
                if made.returncode != 0:
                    why = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
                    pytest.skip(f"the clients cannot be installed: {why}")
            (place / "complete").touch()
    return place / "bin"
