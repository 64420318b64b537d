"""What the processes of a data plane load: every megabyte counts once per worker, every import at each start."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

from tests.cli.running import environment

#: Much to load, and nothing that the path of a request needs.
HEAVY: Final = frozenset(
    {
        "cryptography",
        "yaml",
        "websockets",
        "uvicorn",
        "starlette",
        "asyncpg",
        "click",
        "rich",
        "fastgw.settings",
    }
    | {"fastgw.model.entities", "fastgw.model.declarative", "fastgw.routing.compile", "fastgw._router_build"}
)


def loaded_by(module: str) -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True, text=True, env=environment(), timeout=30, check=True,
    )  # fmt: skip
    return frozenset(done.stdout.split())


@pytest.mark.parametrize(
    ("module", "may"), [("fastgw.dp.worker", frozenset[str]()), ("fastgw.dp.spares", frozenset({"none"}))]
)
def test_a_process_loads_only_what_it_needs(module: str, may: frozenset[str]) -> None:
    assert not loaded_by(module) & HEAVY - may


def test_what_starts_spares_loads_next_to_nothing() -> None:
    assert "asyncio" not in loaded_by("fastgw.dp.spares")
