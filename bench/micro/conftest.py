"""Builds the benchmarks' own loops against the interfaces of the compiled modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from Cython.Build import cythonize
from setuptools import Distribution, Extension

_HERE = Path(__file__).parent
_ROOT = _HERE.parent.parent


@pytest.fixture(scope="session")
def loops() -> ModuleType:
    """`_loops`, compiled as the package's own extensions are."""
    build = _ROOT / "build" / f"bench-micro-{sys.implementation.cache_tag}"
    extension = Extension("_loops", [str(_HERE / "_loops.pyx")], extra_compile_args=["-O2", "-fno-plt"])
    modules = cythonize(
        [extension], include_path=[str(_ROOT / "src")], build_dir=str(build), force=True, quiet=True
    )
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(build)
    command.build_temp = str(build)
    command.ensure_finalized()
    command.run()
    spec = importlib.util.spec_from_file_location("_loops", command.get_ext_fullpath("_loops"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
