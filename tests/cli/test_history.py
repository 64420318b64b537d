"""`fastgw history`: against a running Admin API that asks for tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from fastgw.cli import main
from tests.cp.admin.server import AdminServer

TOKEN = "operator-token-0123456789"
History = Callable[..., Result]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[AdminServer]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"viewer:viewer-token-0123456789:read\noperator:{TOKEN}\n")
    with AdminServer(tmp_path / "prefix", admin_token_file=str(tokens)) as admin_server:
        headers = {"Kong-Admin-Token": TOKEN}
        base = f"http://127.0.0.1:{admin_server.port}"
        with httpx.Client(base_url=base, headers=headers, timeout=20, trust_env=False) as admin:
            admin.post("/services", json={"name": "s", "host": "first"}).raise_for_status()
            admin.post("/consumers", json={"username": "bob"}).raise_for_status()
            admin.post("/consumers/bob/key-auth", json={"key": "hidden-key"}).raise_for_status()
            admin.patch("/services/s", json={"host": "second"}).raise_for_status()
        yield admin_server


@pytest.fixture
def history(server: AdminServer, tmp_path: Path) -> History:
    sets = (
        *("--set", f"admin_listen=127.0.0.1:{server.port}"),
        *("--set", f"admin_token_file={tmp_path / 'tokens'}"),
    )

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["history", *arguments, *sets])

    return run


def test_versions_are_listed_shown_and_compared(history: History) -> None:
    listed = history("list", "--limit", "2")
    assert listed.exit_code == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["4", "3"]
    assert all(line.endswith("operator") for line in listed.stdout.splitlines())
    assert "--before 3" in listed.stderr
    assert len(json.loads(history("list", "--json").stdout)["data"]) == 4

    shown = history("show", "3")
    assert "host: first" in shown.stdout
    assert "hidden-key" not in shown.stdout
    assert "hidden-key" in history("show", "3", "--secrets").stdout
    assert history("show", "4", "--changes").stdout.splitlines() == [
        "~ services s",
        '    host: "first" -> "second"',
    ]
    compared = history("diff", "1", "4")
    assert compared.exit_code == 2
    assert "+ consumers bob" in compared.stdout
    assert (history("diff", "4", "4").exit_code, history("diff", "4", "4").stdout) == (0, "no changes\n")
    unknown = history("show", "99")
    assert unknown.exit_code == 1
    assert "there is no version 99" in unknown.stderr


def test_a_rollback_asks_first_and_then_does_it(history: History) -> None:
    refused = history("rollback", "1")
    assert refused.exit_code == 1
    assert '    host: "second" -> "first"' in refused.stdout
    assert "- consumers bob" in refused.stdout
    done = history("rollback", "1", "--yes")
    assert done.stdout == "version 5 is what version 1 was: 0 created, 1 updated, 2 deleted\n", done.stderr
    again = history("rollback", "1", "--yes")
    assert (again.exit_code, again.stdout) == (0, "version 1 holds what version 5 holds: nothing to do\n")
    assert "operator (rollback to 1)" in history("list").stdout
