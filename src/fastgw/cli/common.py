"""What commands share: the options that lead to settings, and loading them.

@click.command()
@settings_options
def cp(conf: Path | None, sets: Mapping[str, str]) -> None:
    settings = load("control_plane", conf, sets)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from fastgw.settings import Role, Settings, load_settings

DEFAULT_CONF: Final = Path("/etc/fastgw/fastgw.conf")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def settings_options(command: _Command) -> _Command:
    """Add `-c/--conf FILE`, `-p/--prefix DIR` and `--set NAME=VALUE`; the command gets `conf` and `sets`."""
    command = click.option(
        "--set",
        "sets",
        multiple=True,
        metavar="NAME=VALUE",
        callback=_parse_sets,
        help="Set one property; may be given several times.",
    )(command)
    command = click.option(
        "-p",
        "--prefix",
        type=click.Path(file_okay=False),
        expose_value=False,
        is_eager=True,
        callback=_keep_prefix,
        help="Directory of state and logs; the same as --set prefix=DIR.",
    )(command)
    return click.option(
        "-c",
        "--conf",
        type=click.Path(path_type=Path),
        envvar="FASTGW_CONF",
        help=f"File of properties, 'name = value' (default: {DEFAULT_CONF} if it exists).",
    )(command)


def find_conf(conf: Path | None) -> Path | None:
    """Say which file of properties counts: the given one, else the default one if it exists."""
    return DEFAULT_CONF if conf is None and DEFAULT_CONF.exists() else conf


def load(role: Role, conf: Path | None, sets: Mapping[str, str], *, warn: bool = True) -> Settings:
    """Load settings from *conf* (or the default file), the environment and `--set`.

    Warnings go to stderr, one line each; a process with a log of its own passes `warn=False` and logs
    `Settings.warnings` instead.

    Raises:
        SettingsError: all faults at once.
    """
    settings = load_settings(role, file=find_conf(conf), flags=sets)
    if warn:
        for warning in settings.warnings:
            click.echo(f"fastgw: warning: {warning}", err=True)
    return settings


def _keep_prefix(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta["fastgw.prefix"] = value


def _parse_sets(
    context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    sets: dict[str, str] = {}
    if "fastgw.prefix" in context.meta:
        sets["prefix"] = context.meta["fastgw.prefix"]
    for value in values:
        name, equals, content = value.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", context)
        sets[name.strip().lower()] = content
    return sets
