"""The compiled extensions and their compiler directives; all else stands in pyproject.toml."""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTGW_DEBUG") == "1"

# One entry per compiled module, in the order of the rooms (docs/architecture.md).
MODULES = [
    "fastgw._router",
    "fastgw._router_check",
    "fastgw._router_conditions",
    "fastgw._router_hosts",
    "fastgw._router_regexes",
    "fastgw._router_tests",
    "fastgw._router_tries",
    "fastgw._router_build",
    "fastgw._overlay",
    "fastgw._uri",
    "fastgw.dp._metrics",
    "fastgw.dp._wheel",
    "fastgw.dp._fields",
    "fastgw.dp._host",
    "fastgw.dp._head",
    "fastgw.dp._rewrite",
    "fastgw.dp._body",
    "fastgw.dp._runtime",
    "fastgw.dp._core",
    "fastgw.dp._tls",
    "fastgw.dp._proxy_header",
    "fastgw.dp._exchange",
    "fastgw.dp._admit",
    "fastgw.dp._upstream",
    "fastgw.dp._respond",
    "fastgw.dp._downstream",
]

extensions = [
    Extension(
        name,
        [f"src/{name.replace('.', '/')}.pyx"],
        extra_compile_args=["-O0", "-g"] if DEBUG else ["-O2", "-fno-plt"],
        define_macros=[("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [],
    )
    for name in MODULES
    if os.path.exists(f"src/{name.replace('.', '/')}.pyx")
]

setup(
    ext_modules=cythonize(
        extensions,
        include_path=["src"],
        annotate=DEBUG,
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": False,
            "linetrace": DEBUG,
            "boundscheck": True,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": False,
        },
    ),
)
