"""`fastgw history`: versions of the configuration listed, shown, compared and restored by the Admin API."""

from __future__ import annotations

import datetime as dt
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fastgw.cli.admin_api import AdminApi, NotAnswered
from fastgw.cli.changes import lines_of
from fastgw.cli.common import load, settings_options

EXIT_CHANGES: Final = 2

_VERSION = click.IntRange(min=0)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.group()
def history() -> None:
    """List, show, compare and restore versions of the configuration.

    Every change makes a version. They are kept for as long as history_versions and history_age say.

    \b
      fastgw history list                   who changed how much, and when
      fastgw history show 17                the configuration as it was, secrets masked
      fastgw history show 17 --changes      what version 17 changed
      fastgw history diff 17 21             what lies between two
      fastgw history rollback 17            make the configuration what it was at version 17

    A running control plane is asked, at the admin_listen of these settings.
    """


@history.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Versions.")
@click.option("--before", type=_VERSION, help="Only versions before this one.")
@_json_option
@settings_options
def list_(limit: int, before: int | None, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """List versions, newest first: when, by whom, and how many rows came (+), changed (~) and went (-)."""
    offset = "" if before is None else f"&offset={before}"
    answer = _api(conf, sets).get(f"/fastgw/history/versions?size={limit}{offset}")
    if as_json:
        _print_json(answer)
        return
    for one in answer["data"]:
        at = dt.datetime.fromtimestamp(one["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        counts = f"+{one['created']} ~{one['updated']} -{one['deleted']}"
        click.echo(f"{one['version']:>8}  {at}  {counts:<18}  {one['actor']}")
    if not answer["data"]:
        click.echo("no version is kept")
    elif answer["next"]:
        click.echo(f"older ones: --before {answer['offset']}", err=True)


@history.command()
@click.argument("version", type=_VERSION)
@click.option("--changes", is_flag=True, help="What this version changed, instead of the whole.")
@click.option("--secrets", is_flag=True, help="With secrets: the output can be imported, so keep it safe.")
@_json_option
@settings_options
def show(
    version: int,
    changes: bool,
    secrets: bool,
    as_json: bool,
    conf: Path | None,
    sets: Mapping[str, str],
) -> None:
    """Print the configuration as it was at VERSION, as a declarative file with its secrets masked."""
    api = _api(conf, sets)
    if changes:
        _show_diff(api.get(f"/fastgw/history/{max(version - 1, 0)}/diff/{version}"), as_json=as_json)
        return
    arguments = [*(["secrets=clear"] if secrets else []), *([] if as_json else ["format=yaml"])]
    answer = api.get(f"/fastgw/history/{version}?{'&'.join(arguments)}")
    if as_json:
        _print_json(answer)
    else:
        click.echo(answer, nl=False)


@history.command()
@click.argument("first", metavar="A", type=_VERSION)
@click.argument("second", metavar="B", type=_VERSION)
@_json_option
@settings_options
def diff(first: int, second: int, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Say what changed from version A to version B; exits with 2 when there is something.

    To see what a rollback to A would do, put the version that stands first.
    """
    answer = _api(conf, sets).get(f"/fastgw/history/{first}/diff/{second}")
    _show_diff(answer, as_json=as_json)
    if answer["changes"]:
        sys.exit(EXIT_CHANGES)


@history.command()
@click.argument("version", type=_VERSION)
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_json_option
@settings_options
def rollback(version: int, yes: bool, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Make the configuration what it was at VERSION: a new version, in one transaction.

    Says first what that changes and asks, unless --yes is given. Nothing is done if somebody changed the
    configuration in the meantime.
    """
    api = _api(conf, sets)
    newest = api.get("/fastgw/history/versions?size=1")["data"]
    if not newest:
        raise NotAnswered("no version is kept, so there is nothing to go back from")
    stands = newest[0]["version"]
    if not yes:
        plan = api.get(f"/fastgw/history/{stands}/diff/{version}")
        if not plan["changes"]:
            click.echo(f"version {version} holds what version {stands} holds: nothing to do")
            return
        _show_diff(plan, as_json=False)
        click.confirm(f"Go back from version {stands} to version {version}?", abort=True, err=True)
    answer = api.get(
        f"/fastgw/history/{version}/rollback", method="POST", headers={"If-Match": f'"v{stands}"'}
    )
    if as_json:
        _print_json(answer)
    elif answer["version"] == stands:
        click.echo(f"version {version} holds what version {stands} holds: nothing to do")
    else:
        counts = f"{answer['created']} created, {answer['updated']} updated, {answer['deleted']} deleted"
        click.echo(f"version {answer['version']} is what version {version} was: {counts}")


def _api(conf: Path | None, sets: Mapping[str, str]) -> AdminApi:
    return AdminApi(load("control_plane", conf, sets, warn=False))


def _show_diff(answer: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
        return
    for line in lines_of(answer["changes"]):
        click.echo(line)
    if answer["left_out"]:
        click.echo(f"and {answer['left_out']} more rows")
    if not answer["changes"]:
        click.echo("no changes")


def _print_json(answer: Any) -> None:
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
