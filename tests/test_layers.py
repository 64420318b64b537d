"""Imports go downward only: every `import` and `cimport` line against the table of rooms.

    cli → cp | dp → routing → tls, obs → wire → model, listening → settings, _router, _uri → errors

Source: docs/architecture.md, the rooms.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

import fastgw

PACKAGE: Final = Path(fastgw.__file__).parent

# Lower imports nothing of higher; rooms of one rank do not know each other.
RANKS: Final = {
    "errors": 0,
    "settings": 1,
    "_router": 1,
    "_router_build": 1,
    "_router_check": 1,
    "_router_conditions": 1,
    "_router_explain": 1,
    "_router_hosts": 1,
    "_router_interning": 1,
    "_router_program": 1,
    "_router_regexes": 1,
    "_router_tests": 1,
    "_router_tries": 1,
    "_regex": 1,
    "_overlay": 1,
    "_uri": 1,
    "bounded_http": 2,
    "listening": 2,
    "model": 2,
    "wire": 3,
    "tls": 4,
    "obs": 4,
    "routing": 5,
    "cp": 6,
    "dp": 6,
    "cli": 7,
    "__main__": 8,
}
# Know ints and bytes only: nothing of ours but each other.
PLAIN: Final = {
    "_router",
    "_router_build",
    "_router_check",
    "_router_conditions",
    "_router_explain",
    "_router_hosts",
    "_router_interning",
    "_router_program",
    "_router_regexes",
    "_router_tests",
    "_router_tries",
    "_regex",
    "_overlay",
    "_uri",
}
SIDES: Final = {"cp", "dp"}

SOURCES: Final = sorted(
    path for suffix in ("py", "pyx", "pxd", "pyi") for path in PACKAGE.rglob(f"*.{suffix}")
)

_CYTHON_IMPORT = re.compile(r"\s*(?:from\s+(?P<module>[\w.]+)\s+)?c?import\s+(?P<names>[\w., *]+)")


class Import(NamedTuple):
    line: int
    module: str
    """Dotted, in full; what is imported from the package itself is named with it."""
    is_top_level: bool


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].partition(".")[0]


def imports_of(path: Path) -> Iterator[Import]:
    text = path.read_text("utf-8")
    yield from _python_imports(text) if path.suffix in (".py", ".pyi") else _cython_imports(text)


def _python_imports(text: str) -> Iterator[Import]:
    tree = ast.parse(text)
    top_level = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, id(node) in top_level)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield Import(node.lineno, f"{module}.{alias.name}", id(node) in top_level)


def _cython_imports(text: str) -> Iterator[Import]:
    for number, line in enumerate(text.splitlines(), start=1):
        if match := _CYTHON_IMPORT.match(line.partition("#")[0]):
            for name in match["names"].split(","):
                name = name.split(" as ")[0].strip()
                yield Import(
                    number, f"{match['module']}.{name}" if match["module"] else name, line[:1] != " "
                )


def faults_of(path: Path) -> list[str]:
    room, faults = room_of(path), []
    for found in imports_of(path):
        where = f"{path.relative_to(PACKAGE)}:{found.line}: "
        if found.module.startswith("."):
            faults.append(where + "relative import; write it in full")
        parts = found.module.split(".")
        if parts[0] != "fastgw" or len(parts) < 2 or room == "__init__":
            continue
        target = parts[1]
        if target not in RANKS:
            if (PACKAGE / target).exists() or (PACKAGE / f"{target}.py").exists():
                faults.append(where + f"room {target} is not in the table")
            continue
        if target == room:
            continue
        if room in PLAIN and target not in PLAIN:
            faults.append(where + f"{room} knows ints and bytes only, not {target}")
        elif not (room in PLAIN and target in PLAIN) and RANKS[target] >= RANKS[room]:
            faults.append(where + f"{room} may not import {target}")
        elif room == "cli" and target in SIDES and found.is_top_level:
            faults.append(where + f"cli imports {target} only inside a command")
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward(path: Path) -> None:
    assert faults_of(path) == []


def test_every_room_is_in_the_table() -> None:
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms <= set(RANKS)


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("wire/x.py", "from fastgw.obs.logs import get_logger", "wire may not import obs"),
        ("cp/x.py", "import fastgw.dp.server", "cp may not import dp"),
        ("dp/x.pyx", "from fastgw.cp.hub cimport Hub  # why", "dp may not import cp"),
        ("dp/x.pxd", "from fastgw cimport nothing, cli", "dp may not import cli"),
        (
            "_router.pyx",
            "from fastgw.errors import FastgwError",
            "_router knows ints and bytes only, not errors",
        ),
        ("model/x.py", "from fastgw.listening import x", "model may not import listening"),
        ("tls/x.py", "def f():\n    from fastgw.obs import logs", "tls may not import obs"),
        ("cli/x.py", "from fastgw.cp.main import main", "cli imports cp only inside a command"),
        ("cp/x.py", "from . import hub", "relative import; write it in full"),
    ],
)
def test_the_check_itself_finds(
    name: str, text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    (found,) = faults_of(path)
    assert found.endswith(fault)


def test_the_check_itself_lets_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "cli").mkdir()
    path = tmp_path / "cli" / "x.py"
    path.write_text(
        "import os\nfrom fastgw import __version__\ndef f():\n    from fastgw.dp.main import main\n"
    )
    assert faults_of(path) == []
