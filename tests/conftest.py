"""What holds for all tests: the report header, and PostgreSQL's fixtures."""

from __future__ import annotations

import ast
import asyncio
import importlib.metadata
import sys
from pathlib import Path

import pytest
import uvloop

import fastgw

_ROOT = Path(__file__).parent.parent
_PACKAGE = Path(fastgw.__file__).parent

if (Path(__file__).parent / "postgres.py").exists():
    pytest_plugins = ["tests.postgres"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "starts_first: waits long and works little, so others run beside it")
    config.addinivalue_line("markers", "long: the long form of a test, for `make faults`; only with --long")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long forms of tests, too (make faults)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let tests that mostly wait begin before all others: with several processes they cost nothing then."""
    if not config.getoption("long"):
        left_out = [item for item in items if item.get_closest_marker("long") is not None]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=lambda item: item.get_closest_marker("starts_first") is None)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name what the results depend on: event loop, compiled modules, their directives, versions."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        loop = type(runner.get_loop()).__module__
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("Cython", "uvloop", "httptools", "asyncpg", "websockets", "hypothesis")
    )
    return [
        f"fastgw: {fastgw.__version__}, event loop {loop}, {versions}",
        f"compiled: {', '.join(_compiled_modules()) or 'nothing (run make dev)'}",
        f"directives: {_compiler_directives()}",
    ]


def _compiled_modules() -> list[str]:
    paths = _PACKAGE.rglob(f"*.{sys.implementation.cache_tag}-*.so")
    return sorted(
        ".".join(path.relative_to(_PACKAGE.parent).with_name(path.name.partition(".")[0]).parts)
        for path in paths
    )


def _compiler_directives() -> str:
    """Read the directives out of setup.py, the only place that sets them."""
    for node in ast.walk(ast.parse((_ROOT / "setup.py").read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "compiler_directives":
            return ast.unparse(node.value)
    return "none"
