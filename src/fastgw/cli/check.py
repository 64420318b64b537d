"""`fastgw check`: everything that can be found wrong before a process is started."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import click

from fastgw.cli.common import find_conf, load, settings_options
from fastgw.settings import (
    PROPERTIES,
    Property,
    Role,
    Settings,
    default_prefix,
    find_role,
)


@click.command()
@click.option("--role", type=click.Choice(get_args(Role)), help="The role to check for (default: both).")
@click.option("--list", "list_only", is_flag=True, help="Print all properties as a file to start from.")
@settings_options
def check(role: Role | None, list_only: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Check settings and the files that they name (key pair, tokens, declarative file); start nothing.

    The role is the one that the settings name, unless --role does.
    """
    if list_only:
        for item in PROPERTIES:
            click.echo(_describe(item))
        return
    conf = find_conf(conf)
    role = role or find_role(file=conf, flags=sets)
    for each in (role,) if role else get_args(Role):
        settings = load(each, conf, sets)
        _check_files(settings)
        click.echo(f"the settings of a {each.replace('_', ' ')} are well")


def _check_files(settings: Settings) -> None:
    if settings.role == "data_plane" and settings.declarative_config is not None:
        from fastgw.model.declarative import load_declarative

        load_declarative(settings.declarative_config, flavor=settings.router_flavor)
        return  # no control plane is dialled, so no key pair is needed
    if settings.role == "control_plane" and settings.admin_token_file is not None:
        from fastgw.cp.admin.callers import Tokens

        Tokens(settings.admin_token_file)
    from fastgw.tls.cluster_files import load_link_tls, uses_files

    if not uses_files(settings):
        return  # what the built-in authority issues is in no file that was given
    for warning in load_link_tls(settings).pair.warnings:
        click.echo(f"fastgw: warning: {warning}", err=True)


def _describe(item: Property) -> str:
    roles = " and ".join(role.replace("_", " ") for role in item.roles)
    help = f"{item.help} ({roles})" if item.help else f"({roles})"
    comment = textwrap.fill(help, 100, initial_indent="# ", subsequent_indent="# ")
    default = default_prefix() if item.name == "prefix" else item.default
    return f"{comment}\n#{item.name} = {default}".rstrip() + "\n"
