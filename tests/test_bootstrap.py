"""tools/bootstrap.sh on machines that lack something: what it names, and that it stops there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What the script itself calls, besides what it looks for.
TOOLS = ("sh", "dirname", "uname", "cut", "tr", "sed", "paste", "cat", "git", "make", "python3", "openssl")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A directory that is the whole PATH: everything but g++, and a user that is not root."""
    for name in TOOLS:
        found = shutil.which(name)
        assert found is not None, name
        (tmp_path / name).symlink_to(found)
    put(tmp_path, "id", "echo 1000")
    put(tmp_path, "apt-get", "exit 99")
    put(tmp_path, "initdb", "exit 0")
    put(tmp_path, "python3", "exit 1")
    for minor in range(11, 15):
        put(tmp_path, f"python3.{minor}", "exit 0")
    return tmp_path


def put(machine: Path, name: str, script: str) -> None:
    path = machine / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def bootstrap(machine: Path, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", str(ROOT / "tools" / "bootstrap.sh"), *args],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={"PATH": str(machine), **extra},
    )


def test_what_is_missing_is_named_with_the_command_that_installs_it(machine: Path) -> None:
    done = bootstrap(machine, "run")
    assert (done.returncode, done.stderr) == (
        1,
        "bootstrap: missing: g++. Install with: sudo apt-get install g++\n",
    )


def test_all_that_is_missing_is_named_at_once(machine: Path) -> None:
    for name in ("git", "openssl", *(f"python3.{minor}" for minor in range(11, 15))):
        (machine / name).unlink()
    done = bootstrap(machine, "test")
    assert done.returncode == 1
    assert done.stderr == (
        "bootstrap: missing: git, g++, Python 3.11 or newer with headers and venv, openssl. "
        "Install with: sudo apt-get install git g++ python3 python3-dev python3-venv openssl\n"
    )


def test_openssl_is_for_tests_only(machine: Path) -> None:
    (machine / "openssl").unlink()
    assert "openssl" not in bootstrap(machine, "run").stderr
    assert "openssl" in bootstrap(machine, "test").stderr


def test_another_package_manager_gets_the_names_only(machine: Path) -> None:
    (machine / "apt-get").unlink()
    assert (
        "Install them with this system's package manager (Debian's names: g++)" in bootstrap(machine).stderr
    )


def test_root_has_it_installed(machine: Path) -> None:
    put(machine, "id", "echo 0")
    put(machine, "apt-get", f'echo "$@" >>{machine}/asked; exit 0')
    done = bootstrap(machine, "run")
    assert (machine / "asked").read_text() == "install -y --no-install-recommends g++\n"
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "bootstrap: still missing after installing: g++"


def test_the_interpreter_that_is_asked_for_must_serve(machine: Path) -> None:
    put(machine, "g++", "exit 0")
    put(machine, "old", "echo 'is not 3.11 to 3.14' >&2; exit 1")
    done = bootstrap(machine, "run", PYTHON="old")
    assert (done.returncode, done.stderr) == (1, "bootstrap: PYTHON=old cannot serve: is not 3.11 to 3.14\n")


def test_an_unknown_mode(machine: Path) -> None:
    assert bootstrap(machine, "play").stderr == "bootstrap: unknown mode 'play': run, dev or test\n"
