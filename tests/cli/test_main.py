"""The command itself: what help teaches, what is imported when, how errors end it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import fastgw
from fastgw.cli import COMMANDS, LazyGroup, main
from fastgw.errors import SettingsError
from tests.cli.running import environment, fastgw_command


def test_help_teaches_the_first_steps() -> None:
    done = fastgw_command("--help")
    assert done.returncode == 0
    for words in ("fastgw quickstart --demo", "fastgw hybrid gen-cert", "FASTGW_NAME", "check --list"):
        assert words in done.stdout
    for name, help in COMMANDS.items():
        assert name in done.stdout
        assert help[:40] in done.stdout


def test_versions() -> None:
    assert fastgw_command("--version").stdout == f"fastgw {fastgw.__version__}\n"
    assert fastgw_command("version").stdout == f"fastgw {fastgw.__version__}\n"
    everything = fastgw_command("version", "--all").stdout
    for words in ("Kong interface 3.9.1", "Python 3.", "OpenSSL", "uvloop 0."):
        assert words in everything


@pytest.mark.parametrize("args", [["--help"], ["version"], ["check", "--list"], ["completion", "bash"]])
def test_neither_side_is_imported_for_what_needs_none(args: list[str]) -> None:
    code = (
        "import sys, fastgw.cli\n"
        "assert not [name for name in sys.modules if name.startswith('fastgw.') "
        "and name not in ('fastgw.cli', 'fastgw.errors')], sys.modules\n"
        f"try: fastgw.cli.main({args!r}, prog_name='fastgw')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = ('fastgw.cp', 'fastgw.dp', 'fastgw.tls', 'asyncio', 'cryptography', 'starlette', 'uvloop')\n"
        "assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=20, env=environment(), stdout=subprocess.PIPE
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Usage: main {name}" in result.output


def test_commands_import_their_side_only_when_called() -> None:
    for path in Path(fastgw.__file__).parent.joinpath("cli").rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            module = node.module if isinstance(node, ast.ImportFrom) else None
            assert not str(module).startswith(("fastgw.cp", "fastgw.dp")), path


class Broken(LazyGroup):
    """A group whose every command ends with an error of ours."""

    def get_command(self, _context: click.Context, name: str) -> click.Command:
        def fail() -> None:
            raise SettingsError("first\nsecond  line")

        return click.Command(name, callback=fail)


def test_our_errors_are_one_line_and_exit_code_1() -> None:
    result = CliRunner().invoke(Broken("group"), ["broken"])
    assert (result.exit_code, result.stderr) == (1, "fastgw: first second line\n")


@pytest.mark.parametrize(
    ("command", "role", "message"),
    [
        ("cp", "data_plane", "role data_plane contradicts this command ('fastgw dp' runs it)"),
        ("dp", "control_plane", "role control_plane contradicts this command ('fastgw cp' runs it)"),
        ("cp", "traditional", "run 'fastgw cp' and 'fastgw dp', or 'fastgw quickstart' for both at once"),
    ],
)
def test_a_role_that_contradicts_the_command(command: str, role: str, message: str) -> None:
    done = fastgw_command(command, KONG_ROLE=role)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fastgw: environment variable KONG_ROLE: ")
    assert done.stderr.endswith(f"{message}\n")


def test_an_unknown_command_is_a_usage_error() -> None:
    done = fastgw_command("nonsense")
    assert done.returncode == 2
    assert "No such command 'nonsense'" in done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = fastgw_command("completion", shell).stdout
    assert "_FASTGW_COMPLETE" in script


def test_completion_completes() -> None:
    done = fastgw_command(_FASTGW_COMPLETE="bash_complete", COMP_WORDS="fastgw mig", COMP_CWORD="1")
    assert done.stdout == "plain,migrations\n"
