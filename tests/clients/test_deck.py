"""decK: ping, validate, sync, diff, dump and reset, with a file of 300 entities."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.conftest import INSTALL_S

Deck = Callable[..., str]

pytestmark = pytest.mark.timeout(INSTALL_S)


@pytest.fixture
def deck(deck_program: Path, address: str, tmp_path: Path) -> Deck:
    def run(*arguments: str, code: int = 0) -> str:
        command = [str(deck_program), "--analytics=false", "--kong-addr", address, *arguments]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "NO_PROXY": "*"},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def format_version(deck_program: Path) -> str:
    """What this decK writes for a gateway of version 3: only newer ones know the newer format."""
    return "1.1" if deck_program.name.startswith("deck-v1.12") else "3.0"


def make_file(format_version: str) -> dict[str, Any]:
    """300 entities of all the kinds that decK knows and that need no certificate."""
    services = [
        {
            "name": f"s{n}",
            "host": f"h{n}.example",
            "tags": ["generated"],
            "routes": [
                {"name": f"r{n}-a", "paths": [f"/s{n}/a"]},
                {"name": f"r{n}-b", "paths": [f"/s{n}/b"], "methods": ["GET", "POST"], "strip_path": False},
            ],
            "plugins": [{"name": "rate-limiting", "config": {"minute": n + 1}}] if n % 4 == 0 else [],
        }
        for n in range(60)
    ]
    consumers = [
        {
            "username": f"c{n}",
            "custom_id": f"custom-{n}",
            "keyauth_credentials": [{"key": f"key-number-{n}"}],
            "acls": [{"group": "readers"}],
        }
        for n in range(24)
    ]
    upstreams = [
        {"name": f"u{n}.example", "targets": [{"target": f"t{n}.example:80", "weight": 10 * n}]}
        for n in range(16)
    ]
    scoped = [{"name": name} for name in ("cors", "key-auth", "prometheus", "correlation-id", "acl")]
    scoped[-1]["config"] = {"allow": ["readers"]}  # type: ignore[assignment]
    return {
        "_format_version": format_version,
        "services": services,
        "consumers": consumers,
        "upstreams": upstreams,
        "plugins": scoped,
    }


def count(document: Any) -> int:
    """The entities of a file: mappings in lists under a name, but for plain settings."""
    kinds = {
        "services",
        "routes",
        "plugins",
        "consumers",
        "keyauth_credentials",
        "acls",
        "upstreams",
        "targets",
    }
    if not isinstance(document, dict):
        return 0
    return sum(
        1 + count(item)
        for kind, items in document.items()
        if kind in kinds and isinstance(items, list)
        for item in items
    )


@pytest.fixture
def state(tmp_path: Path, format_version: str) -> Path:
    path = tmp_path / "kong.yaml"
    document = make_file(format_version)
    assert count(document) == 304
    path.write_text(yaml.safe_dump(document))
    return path


def summary(output: str) -> list[int]:
    """(created, updated, deleted)."""
    lines = [line.split(":") for line in output.splitlines() if line.startswith("  ") and ":" in line]
    return [int(value) for name, value in lines if name.strip() in ("Created", "Updated", "Deleted")]


def test_decks_whole_round(deck: Deck, state: Path, tmp_path: Path) -> None:
    assert "Successfully connected" in deck("ping")
    deck("validate", "-s", str(state))
    assert summary(deck("diff", "-s", str(state))) == [304, 0, 0]
    assert summary(deck("sync", "-s", str(state))) == [304, 0, 0]
    # The second time there is nothing to do.
    assert summary(deck("sync", "-s", str(state))) == [0, 0, 0]
    assert summary(deck("diff", "--non-zero-exit-code", "-s", str(state))) == [0, 0, 0]

    dumped = tmp_path / "dumped.yaml"
    deck("dump", "-o", str(dumped))
    assert count(yaml.safe_load(dumped.read_text())) == 304
    assert summary(deck("diff", "-s", str(dumped))) == [0, 0, 0]

    document = yaml.safe_load(state.read_text())
    document["services"][0]["retries"] = 7
    del document["services"][1]
    state.write_text(yaml.safe_dump(document))
    assert summary(deck("sync", "-s", str(state))) == [0, 1, 3]
    assert summary(deck("diff", "-s", str(state))) == [0, 0, 0]

    tagged = tmp_path / "tagged.yaml"
    deck("dump", "--select-tag", "generated", "-o", str(tagged))
    assert len(yaml.safe_load(tagged.read_text())["services"]) == 59
    assert summary(deck("reset", "--force")) == [0, 0, 301]


def test_decks_faults_are_told(deck: Deck, tmp_path: Path, format_version: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(f'_format_version: "{format_version}"\nservices:\n- name: s\n  host: h\n  port: 70000\n')
    output = deck("sync", "-s", str(path), code=1)
    assert "value should be between 0 and 65535" in output
