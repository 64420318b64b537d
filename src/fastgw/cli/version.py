"""`fastgw version`: ours, and with --all everything that a report of a fault should name."""

from __future__ import annotations

import importlib.metadata
import platform
import ssl

import click

from fastgw import KONG_VERSION, __version__


@click.command()
@click.option("-a", "--all", "show_all", is_flag=True, help="Versions of Python, OpenSSL and libraries too.")
def version(show_all: bool) -> None:
    """Print versions."""
    click.echo(f"fastgw {__version__}")
    if not show_all:
        return
    click.echo(f"Kong interface {KONG_VERSION}")
    click.echo(f"Python {platform.python_version()} ({platform.platform()})")
    click.echo(ssl.OPENSSL_VERSION)
    for name in _libraries():
        try:
            click.echo(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            click.echo(f"{name} is not installed")


def _libraries() -> list[str]:
    """List what fastgw itself requires here, by name."""
    try:
        requirements = importlib.metadata.requires("fastgw") or []
    except importlib.metadata.PackageNotFoundError:  # run from its sources, not installed
        return ["uvloop", "httptools", "msgspec", "websockets", "asyncpg", "cryptography"]
    names = []
    for requirement in requirements:
        spec, _, marker = requirement.partition(";")
        if "extra" not in marker:
            end = next((at for at, c in enumerate(spec) if not (c.isalnum() or c in "-_.")), len(spec))
            names.append(spec[:end])
    return names
