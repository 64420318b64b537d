"""`fastgw plan`: what a declarative file would change and what speaks against it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fastgw.cli.admin_api import AdminApi, NotAnswered, message_of
from fastgw.cli.changes import lines_of
from fastgw.cli.common import load, settings_options
from fastgw.errors import DeclarativeError

EXIT_CHANGES: Final = 2
EXIT_AGAINST: Final = 3

_TYPES: Final = {".json": "application/json", ".yml": "application/yaml", ".yaml": "application/yaml"}


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--merge", is_flag=True, help="Keep what is not in the file, as 'config import' does.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@settings_options
def plan(file: Path, merge: bool, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Say what FILE would change if it became the configuration, without changing anything.

    Compares it with what the running control plane holds, and tells what speaks against it: reasons why it
    would not be published, routes that could never match any more, and data planes that would refuse it or
    answer 503 for a plugin that they do not have.

    \b
    Exit codes:
      0   nothing would change
      2   something would change, and nothing speaks against it
      3   something would change, and something speaks against it
      1   the file is wrong, or no control plane answers

    \b
      fastgw plan kong.yml                      the file is to be the whole configuration
      fastgw plan kong.yml --merge              it is to be added to what is there
      fastgw plan kong.yml --json | jq .counts
    """
    kind = _TYPES.get(file.suffix)
    if kind is None:
        fault = f"unknown file type: {file.name}. (Accepted types: json, yaml)"
        raise DeclarativeError(str(file), [("the file", fault)])
    from fastgw.model.declarative import read_file  # noqa: PLC0415

    api = AdminApi(load("control_plane", conf, sets, warn=False), timeout_s=180)
    answer = api.ask(
        f"/fastgw/plan?mode={'merge' if merge else 'replace'}", content=read_file(file), content_type=kind
    )
    if answer.status != 200:
        raise NotAnswered(f"{file}: {message_of(answer) or f'the Admin API answered {answer.status}'}")
    if as_json:
        click.echo(json.dumps(answer.body, indent=2, ensure_ascii=False))
    else:
        _show(answer.body)
    counts = answer.body["counts"]
    if counts["created"] or counts["updated"] or counts["deleted"]:
        sys.exit(EXIT_AGAINST if _against(answer.body) else EXIT_CHANGES)


def _show(answer: Mapping[str, Any]) -> None:
    for line in lines_of(answer["changes"]):
        click.echo(line)
    if answer["left_out"]:
        click.echo(f"and {answer['left_out']} more rows")
    counts = ", ".join(f"{number} {what}" for what, number in answer["counts"].items())
    click.echo(f"against version {answer['version']}: {counts}")
    for line in _against(answer):
        click.echo(f"! {line}")


def _against(answer: Mapping[str, Any]) -> list[str]:
    lines = []
    for fault in answer["faults"]:
        place = " ".join(fault[key] for key in ("entity", "id", "field") if fault.get(key))
        lines.append(f"would not be published: {place}: {fault.get('reason', '')}")
    for found in answer["shadowed"]:
        how = "could never match" if found["certain"] else "was not reached by any request made up for it"
        by = ", ".join(_name(one) for one in found["by"])
        lines.append(f"route {_name(found['route'])} {how}: {by} takes its requests")
    for group in answer["duplicates"]:
        names = sorted(_name(one) for one in group)
        lines += [f"routes {', '.join(names)} would ask for the same"]
    for one in answer["data_planes"]:
        lines += [f"data plane {one['hostname']} would refuse it: {reason}" for reason in one["refuses"]]
        lines += [f"data plane {one['hostname']}: {reason}" for reason in one["lacks"]]
    return lines


def _name(route: Mapping[str, Any]) -> str:
    return str(route["name"] or route["id"])
