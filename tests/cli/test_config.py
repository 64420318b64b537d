"""`fastgw config`: files checked, imported, exported, compared and converted, by the real command."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from fastgw.cli import main
from tests.cli.running import environment

OLD = '_format_version: "1.1"\nservices:\n- name: s\n  host: h\n  routes:\n  - name: r\n    paths: ["/a/../b//c"]\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kong.yml"
    path.write_text(
        OLD.replace('"1.1"', '"3.0"').replace("/a/../b//c", "/a")
        + "consumers:\n- username: bob\n  basicauth_credentials:\n  - username: bob\n    password: p\n"
    )
    return path


def run(prefix: Path, *arguments: str) -> Result:
    environ = {"FASTGW_PREFIX": str(prefix)}
    return CliRunner().invoke(main, ["config", *arguments], env=environ)


def bootstrapped(prefix: Path) -> Path:
    prefix.mkdir(exist_ok=True)
    result = CliRunner().invoke(main, ["migrations", "bootstrap"], env={"FASTGW_PREFIX": str(prefix)})
    assert result.exit_code == 0, result.output
    return prefix


def test_parse(tmp_path: Path, file: Path) -> None:
    result = run(tmp_path, "parse", str(file))
    assert (result.exit_code, result.output) == (0, "parse successful\n")
    file.write_text('_format_version: "3.0"\nservices:\n- name: s\n  port: x\n')
    result = run(tmp_path, "parse", str(file))
    assert result.exit_code == 1
    assert "services[0].host (line 3): required field missing" in result.output
    assert "services[0].port (line 4): expected an integer" in result.output
    result = run(tmp_path, "parse", str(tmp_path / "kong.txt"))
    assert "unknown file type: kong.txt. (Accepted types: json, yaml)" in result.output


def test_import_export_and_diff(tmp_path: Path, file: Path) -> None:
    prefix = bootstrapped(tmp_path / "one")
    result = run(prefix, "diff", str(file))
    assert result.exit_code == 2
    assert "+ routes r" in result.output
    result = run(prefix, "db_import", str(file))
    assert result.exit_code == 0, result.output
    assert "import successful: 4 created, 0 updated, 0 deleted, 0 unchanged" in result.output
    assert "4 unchanged" in run(prefix, "import", str(file)).output
    assert run(prefix, "diff", str(file)).output == "no changes\n"

    exported = tmp_path / "out.json"
    assert run(prefix, "export", str(exported)).exit_code == 0
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600
    assert "exists already" in run(prefix, "db_export", str(exported)).output
    document = json.loads(exported.read_text())
    assert document["_transform"] is False

    other = bootstrapped(tmp_path / "two")
    assert run(other, "import", str(exported)).exit_code == 0
    assert run(other, "diff", "--replace", str(exported)).output == "no changes\n"
    again = run(other, "export", "-")
    assert yaml.safe_load(again.output) == document

    file.write_text('_format_version: "3.0"\nservices:\n- name: s\n  host: changed\n')
    assert "~ services s: host" in run(prefix, "diff", str(file)).output
    assert "1 updated, 0 deleted" in run(prefix, "import", str(file)).output
    assert "3 deleted" in run(prefix, "import", "--replace", str(file)).output


def test_convert(tmp_path: Path) -> None:
    old = tmp_path / "old.yml"
    old.write_text(OLD)
    document = yaml.safe_load(run(tmp_path, "convert", str(old)).output)
    assert document["_format_version"] == "3.0"
    assert document["routes"][0]["paths"] == ["/b/c"]


def test_people_at_a_terminal_see_how_far_an_import_is(tmp_path: Path) -> None:
    path = tmp_path / "many.json"
    services = [{"name": f"s{n}", "host": "h"} for n in range(1200)]
    path.write_text(json.dumps({"_format_version": "3.0", "services": services}))
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "fastgw",
                "config",
                "import",
                str(path),
                "-p",
                str(bootstrapped(tmp_path / "p")),
            ],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=environment(TERM="xterm", COLUMNS="100"),
        )
        os.close(theirs)
        shown = bytearray()
        with contextlib.suppress(OSError):  # how the end of a terminal reads
            while part := terminal.read(65536):
                shown += part
        output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"import successful: 1200 created" in output
    assert b"writing rows" in shown
    assert b"100%" in shown
