"""The error log, with both libraries, in a process of its own: what is logged is state of the process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastgw

BLOCK_PICOLOGGING = "import sys; sys.modules['picologging'] = None\n"
STAMP = r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d"


@pytest.fixture(params=["picologging", "logging"])
def library(request: pytest.FixtureRequest) -> str:
    if request.param == "picologging" and sys.version_info >= (3, 13):
        pytest.skip("picologging has no wheels for Python 3.13 and later")
    return str(request.param)


def run(code: str, library: str, *args: str) -> subprocess.CompletedProcess[str]:
    prelude = BLOCK_PICOLOGGING if library == "logging" else ""
    check = f"from fastgw.obs import logs\nassert logs.backend.__name__ == {library!r}\n"
    return subprocess.run(
        [sys.executable, "-c", prelude + check + code, *args],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
        env={"PYTHONPATH": str(Path(fastgw.__file__).parent.parent), "TZ": "UTC"},
    )


def test_line_format_and_levels(library: str) -> None:
    done = run(
        "log = logs.get_logger('fastgw.dp.supervisor')\n"
        "logs.setup('notice', '/dev/stdout', process='dp')\n"
        "log.debug('no'); log.info('no')\n"
        "log.notice('a %s', 1); log.warning('b'); log.error('c'); log.critical('d')\n"
        "logs.get_logger('late').info('no')\n"
        "logs.setup('info', '/dev/stdout', process='dp worker 0')\n"
        "log.info('e'); logs.get_logger('late').info('f')\n",
        library,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    assert [line[20:] for line in lines] == [
        "[notice] dp supervisor: a 1",
        "[warn] dp supervisor: b",
        "[error] dp supervisor: c",
        "[crit] dp supervisor: d",
        "[info] dp worker 0 supervisor: e",
        "[info] dp worker 0 late: f",
    ]


def test_before_setup_lines_go_to_stderr(library: str) -> None:
    done = run("logs.get_logger('x').notice('early'); logs.get_logger('x').info('no')", library)
    assert (done.stdout, done.stderr[20:]) == ("", "[notice] fastgw x: early\n")


def test_the_name_is_not_said_twice(library: str) -> None:
    done = run(
        "logs.setup('info', None, process='dp supervisor'); logs.get_logger('a.supervisor').info('once')",
        library,
    )
    assert done.stderr[20:] == "[info] dp supervisor: once\n"


def test_a_message_cannot_forge_a_line(library: str) -> None:
    done = run(
        "logs.get_logger('x').error('GET /\\n2026/01/01 [emerg] \\x1b[31m %s', 'Grüße \\udc80')", library
    )
    assert done.stderr[20:] == "[error] fastgw x: GET /\\n2026/01/01 [emerg] \\x1b[31m Grüße \\udc80\n"


def test_exceptions_bring_their_traceback(library: str) -> None:
    done = run("try: 1 / 0\nexcept ZeroDivisionError: logs.get_logger('x').exception('boom')", library)
    first, *rest = done.stderr.splitlines()
    assert first[20:] == "[error] fastgw x: boom"
    assert rest[0] == "Traceback (most recent call last):"
    assert rest[-1] == "ZeroDivisionError: division by zero"


def test_libraries_join_from_warning_on(library: str) -> None:
    done = run(
        "import logging as std\nlogs.setup('debug', None, process='cp')\n"
        "std.getLogger('asyncio').error('slow'); std.getLogger('uvicorn.error').info('no')",
        library,
    )
    assert done.stderr[20:] == "[error] cp asyncio: slow\n"


def test_a_moved_file_is_reopened(library: str, tmp_path: Path) -> None:
    done = run(
        "import os, sys\npath = sys.argv[1]\nlogs.setup('info', path, process='cp')\n"
        "log = logs.get_logger('x'); log.info('old'); os.rename(path, path + '.1')\n"
        "log.info('still old'); logs.reopen(); log.info('new')\n"
        "os.unlink(path); os.mkdir(path)\n"
        "logs.reopen(); logs.setup('info', '/dev/stderr', process='cp'); log.info('end')",
        library,
        str(tmp_path / "logs" / "error.log"),
    )
    moved = (tmp_path / "logs" / "error.log.1").read_text().splitlines()
    assert [line[20:] for line in moved] == ["[info] cp x: old", "[info] cp x: still old"]
    assert done.stderr[20:] == "[info] cp x: end\n"


def test_a_log_that_cannot_be_opened_is_one_clear_error(library: str, tmp_path: Path) -> None:
    done = run(
        "import sys\nfrom fastgw.errors import SettingsError\n"
        "try: logs.setup('info', sys.argv[1], process='cp')\n"
        "except SettingsError as error: print(error)\n"
        "logs.get_logger('x').notice('here still')",
        library,
        str(tmp_path),
    )
    assert done.stdout == f"cannot open the log {tmp_path}: is a directory\n"
    assert done.stderr[20:] == "[notice] fastgw x: here still\n"
