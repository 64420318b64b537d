"""The compiled extensions and their compiler directives; all else stands in pyproject.toml.

Cython runs when extensions are built, not when somebody asks for metadata or makes an sdist: that one carries
the `.pyx` files, and no C.
"""

import os
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("FASTGW_DEBUG") == "1"

# One entry per compiled module, in the order of the rooms (docs/architecture.md).
MODULES = [
    "fastgw._router",
    "fastgw._router_check",
    "fastgw._router_interning",
    "fastgw._router_conditions",
    "fastgw._router_hosts",
    "fastgw._router_regexes",
    "fastgw._router_tests",
    "fastgw._router_tries",
    "fastgw._router_build",
    "fastgw._overlay",
    "fastgw._uri",
    "fastgw.routing._plain_routes",
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
    "fastgw.dp._phases",
    "fastgw.dp._upstream",
    "fastgw.dp._respond",
    "fastgw.dp._downstream",
]


class CythonBuildExt(build_ext):
    """Translates all extensions at once, then compiles them."""

    def build_extensions(self) -> None:
        from Cython.Build import cythonize  # noqa: PLC0415 - what makes no extension needs no Cython

        translated: list[Any] = cythonize(
            self.extensions,
            include_path=["src"],
            annotate=DEBUG,
            nthreads=os.cpu_count() or 1,
            compiler_directives={
                "language_level": 3,
                "freethreading_compatible": False,
                "linetrace": DEBUG,
                "boundscheck": True,
                "wraparound": False,
                "cdivision": True,
                "embedsignature": False,
            },
        )
        # In place: setuptools has put marks of its own on the objects that it knows.
        by_name = {extension.name: extension for extension in translated}
        for extension in self.extensions:
            extension.sources = by_name[extension.name].sources
            extension.depends = by_name[extension.name].depends
        super().build_extensions()


# A process that translates may import this file, to begin with.
if __name__ == "__main__":
    setup(
        cmdclass={"build_ext": CythonBuildExt},
        ext_modules=[
            Extension(
                name,
                [f"src/{name.replace('.', '/')}.pyx"],
                # Debugging information would be three quarters of a wheel, and a third of its build.
                extra_compile_args=["-O0", "-g"] if DEBUG else ["-O2", "-g0", "-fno-plt"],
                define_macros=[("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [],
            )
            for name in MODULES
        ],
    )
