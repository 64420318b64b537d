"""`fastgw migrations`: exit codes, twice in a row, two at once, on both databases."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from click.testing import CliRunner

from fastgw.cli import main
from fastgw.cp.storage.migrations import MIGRATIONS
from tests.postgres import PASSWORD, PgDatabase

_FASTGW: Final = (sys.executable, "-c", "from fastgw.cli import main; main(prog_name='fastgw')")


# What a fresh database is made with.
ALL: Final = ", ".join(map(str, MIGRATIONS))


class Place(NamedTuple):
    environ: Mapping[str, str]
    where: str
    postgres: PgDatabase | None

    def run(self, *arguments: str, input: str | None = None) -> tuple[int, str]:
        """Run the command in this process; return exit code and all output."""
        result = CliRunner().invoke(main, ["migrations", *arguments], env=dict(self.environ), input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result.exit_code, result.output

    def alter(self, sql: str) -> None:
        """Change the record of migrations."""
        if self.postgres is not None:
            self.postgres.run(f"SET search_path = fastgw; {sql}")
            return
        connection = sqlite3.connect(self.where.removeprefix("SQLite "), isolation_level=None)
        connection.execute(sql)
        connection.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name in [name for name in os.environ if name.startswith(("FASTGW_", "KONG_"))]:
        monkeypatch.delenv(name)
    environ = {"FASTGW_PREFIX": str(tmp_path)}
    if request.param == "sqlite":
        return Place(environ, f"SQLite {tmp_path}/fastgw.db", None)
    database: PgDatabase = request.getfixturevalue("pg_database")
    where = f"PostgreSQL at {database.host}:{database.port} (database {database.name}, user kong)"
    return Place({**environ, **database.environ}, where, database)


def test_the_life_of_a_database(place: Place) -> None:
    assert place.run("list") == (3, f"{place.where}: empty; run 'fastgw migrations bootstrap'\n")
    assert place.run("up") == (
        1,
        "fastgw: the database is empty: run 'fastgw migrations bootstrap' first\n",
    )
    assert place.run("bootstrap") == (0, f"{place.where}: bootstrapped with {ALL}\n")
    assert place.run("bootstrap") == (0, f"{place.where}: already bootstrapped, nothing to do\n")
    assert place.run("list") == (0, f"executed: {ALL}\n")
    assert place.run("up") == (0, f"{place.where}: no new migrations, nothing to do\n")
    assert place.run("finish") == (0, f"{place.where}: no pending migrations, nothing to do\n")
    assert place.run("reset", "--yes") == (0, f"{place.where}: everything removed\n")
    assert place.run("reset", "-y") == (0, f"{place.where}: already empty, nothing to do\n")
    assert place.run("list", "-q") == (3, "")


def test_pending_and_new_have_their_exit_codes(place: Place) -> None:
    place.run("bootstrap")
    place.alter("UPDATE schema_migrations SET is_finished = 0")
    assert place.run("list")[0] == 4
    assert place.run("finish") == (0, f"{place.where}: {ALL} finished\n")
    assert place.run("list")[0] == 0
    place.alter("DELETE FROM schema_migrations")
    assert place.run("list") == (5, f"new: {ALL}\nrun 'fastgw migrations up'\n")


def test_a_newer_program_was_here(place: Place) -> None:
    place.run("bootstrap")
    place.alter("INSERT INTO schema_migrations VALUES (99, 'future', 1, 0)")
    code, output = place.run("list")
    assert code == 1
    assert output.endswith(
        "fastgw: the database was upgraded by a newer fastgw (099_future): "
        "run that version here, or restore a backup\n"
    )


def test_reset_asks_or_wants_to_be_told(place: Place) -> None:
    place.run("bootstrap")
    code, output = place.run("reset", input="")
    assert (code, output) == (
        1,
        f"fastgw: {place.where}: reset removes everything; confirm with --yes\n",
    )
    assert place.run("list")[0] == 0


def test_two_processes_at_once(place: Place) -> None:
    root = Path(__file__).parents[2]
    environ = {**os.environ, **place.environ}

    def together(*arguments: str) -> list[str]:
        processes = [
            subprocess.Popen(
                [*_FASTGW, "migrations", *arguments],
                env=environ,
                cwd=root,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=60)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], outputs
        return sorted(outputs)

    assert together("bootstrap") == [
        f"{place.where}: already bootstrapped, nothing to do\n",
        f"{place.where}: bootstrapped with {ALL}\n",
    ]
    assert together("reset", "--yes") == [
        f"{place.where}: already empty, nothing to do\n",
        f"{place.where}: everything removed\n",
    ]


def test_a_database_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    environ = {
        "FASTGW_PREFIX": str(tmp_path),
        "FASTGW_DATABASE": "postgres",
        "FASTGW_PG_PORT": "1",
        "FASTGW_PG_PASSWORD": PASSWORD,
    }
    result = CliRunner().invoke(main, ["migrations", "list"], env=environ)
    assert result.exit_code == 1
    assert result.output == (
        "fastgw: PostgreSQL at 127.0.0.1:1 (database kong, user kong): connection refused; "
        "is it running, and are pg_host and pg_port right?\n"
    )


@pytest.mark.parametrize("command", ["bootstrap", "up", "finish", "list", "reset"])
def test_help_teaches(command: str) -> None:
    group = CliRunner().invoke(main, ["migrations", "-h"])
    assert f"  {command} " in group.output
    result = CliRunner().invoke(main, ["migrations", command, "-h"])
    assert (group.exit_code, result.exit_code) == (0, 0)
    assert f"migrations {command} [OPTIONS]" in result.output


def test_help_names_the_exit_codes() -> None:
    output = CliRunner().invoke(main, ["migrations", "list", "-h"]).output
    for line in ("0  up to date", "3  empty: run", "4  pending: run", "5  new ones: run", "1  anything else"):
        assert line in output
