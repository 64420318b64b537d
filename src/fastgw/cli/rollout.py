"""`fastgw rollout`: a version first on some data planes, on the others once it has proved itself there."""

from __future__ import annotations

import datetime as dt
import json
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fastgw.cli.admin_api import AdminApi, NotAnswered, message_of
from fastgw.cli.common import load, settings_options

EXIT_LATE: Final = 3
EXIT_BACK: Final = 4

_REFRESH_S: Final = 1.0
_LONGEST_QUESTION_S: Final = 20.0
"""A wait is asked in parts, so that no answer is late for whatever stands between."""
_UNITS: Final = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def _duration(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """`90`, `90s`, `5m`, `1h`: seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h|d|)", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is no time, such as 90s, 5m or 1h", context, parameter)
    return float(match[1]) * _UNITS[match[2]]


def _id(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """A rollout's id. An empty one, as of a shell variable that is not set, is none."""
    if value is not None and re.fullmatch(r"[0-9a-f]{8}", value) is None:
        raise click.BadParameter(f"{value!r} is no id, such as 4f31c09a", context, parameter)
    return value


def _part(context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    """`10%` or `0.1`: a number from 0 to 1."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", value)
    part = float(match[1]) / (100 if match[2] else 1) if match is not None else -1.0
    if not 0 <= part <= 1:
        raise click.BadParameter(f"{value!r} is no part of a whole, such as 10% or 0.1", context, parameter)
    return part


@click.group()
def rollout() -> None:
    """Have a version run on some data planes first, and on the others once it has proved itself there.

    \b
      fastgw rollout start kong.yml --label zone=canary --hold 5m
      fastgw rollout wait --timeout 15m && echo promoted

    The chosen data planes run the new version, all others stay with the one before. Once all chosen ones
    run it, it has to hold. Then it is promoted to all by itself. If a chosen one refuses it, does not apply
    it, is lost, or answers more requests with 5xx than it did and than the others do, the configuration
    goes back by itself to what it was.

    \b
      fastgw rollout status --watch    who runs what, and how they fare
      fastgw rollout promote           have all run it now
      fastgw rollout abort             go back now
      fastgw rollout list              past ones, and why they ended so

    A running control plane is asked, at the admin_listen of these settings.
    """


@rollout.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-l", "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Choose by a label; all count."
)
@click.option("--share", callback=_part, metavar="PART", help="Choose a part: 10%. At least one.")
@click.option(
    "--hold",
    callback=_duration,
    metavar="TIME",
    default="5m",
    show_default=True,
    help="How long it has to hold.",
)
@click.option(
    "--timeout",
    "timeout_s",
    callback=_duration,
    metavar="TIME",
    default="60s",
    show_default=True,
    help="How long a chosen data plane may take to apply it, or to come back.",
)
@click.option(
    "--max-5xx-rise",
    callback=_part,
    default="1%",
    show_default=True,
    metavar="PART",
    help="How much higher the share of answers with 5xx may be.",
)
@click.option(
    "--min-requests",
    type=click.IntRange(1, 10**9),
    default=100,
    show_default=True,
    help="With fewer requests no share is judged.",
)
@click.option("--merge", is_flag=True, help="Keep what is not in FILE, as 'config import' does.")
@_json_option
@settings_options
def start(
    file: Path | None,
    labels: tuple[str, ...],
    share: float | None,
    hold: float,
    timeout_s: float,
    max_5xx_rise: float,
    min_requests: int,
    merge: bool,
    as_json: bool,
    conf: Path | None,
    sets: Mapping[str, str],
) -> None:
    """Start a rollout of FILE, a declarative file; or, without one, of what is written next.

    FILE is written and the rollout started in one transaction, unless FILE would change nothing or could not
    be applied. While a rollout runs, whatever else is written goes to the chosen data planes only too, and
    the hold begins anew. A rollout without FILE to which nobody writes ends after an hour.

    \b
    Examples:
      fastgw rollout start kong.yml --label zone=canary --hold 10m
      fastgw rollout start kong.yml --share 10% --max-5xx-rise 0.5%
      fastgw rollout start --label zone=canary         then write by the Admin API
    """
    document: dict[str, Any] = {
        "labels": _parse_labels(labels),
        "share": share,
        "hold_s": hold,
        "timeout_s": timeout_s,
        "max_5xx_rise": max_5xx_rise,
        "min_requests": min_requests,
    }
    if not labels and share is None:
        raise click.UsageError("say which data planes are chosen: --label KEY=VALUE, --share 10%, or both")
    if merge and file is None:
        raise click.UsageError("--merge says how FILE is written, and there is none")
    if file is not None:
        from fastgw.model.declarative import read_file  # noqa: PLC0415

        content = read_file(file).decode("utf-8", "surrogateescape")
        document |= {"config": content, "mode": "merge" if merge else "replace"}
    answer = _api(conf, sets, timeout_s=180).ask("/fastgw/rollout", document)
    if answer.status != 201:
        about = f"{file}: " if file is not None else ""
        raise NotAnswered(f"{about}{message_of(answer) or f'the Admin API answered {answer.status}'}")
    if as_json:
        _print_json(answer.body)
        return
    _show(answer.body)


@rollout.command()
@click.option("-w", "--watch", is_flag=True, help="Show it anew every second, until it is over or Ctrl-C.")
@click.option(
    "--id",
    "id_",
    callback=_id,
    metavar="ID",
    help="Of a past one.  [default: the one that runs, or the last]",
)
@_json_option
@settings_options
def status(watch: bool, id_: str | None, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Show the rollout that runs, or the one that ended last: its state, who is chosen, how they fare."""
    api = _api(conf, sets)
    path = "/fastgw/rollout" if id_ is None else f"/fastgw/rollouts/{id_}"
    if as_json:
        _print_json(api.get(path))
        return
    shown = api.get(path)
    _show(shown)
    try:
        while watch and shown["ended_at"] is None:
            time.sleep(_REFRESH_S)
            newer = api.get(f"/fastgw/rollouts/{shown['id']}")
            if sys.stdout.isatty():
                click.clear()
            if sys.stdout.isatty() or newer["state"] != shown["state"]:
                _show(newer)
            shown = newer
    except KeyboardInterrupt:
        return


@rollout.command()
@click.option(
    "--timeout",
    "timeout_s",
    callback=_duration,
    metavar="TIME",
    default="15m",
    show_default=True,
    help="How long.",
)
@click.option(
    "--id", "id_", callback=_id, metavar="ID", help="Which one.  [default: the one that runs, or the last]"
)
@_json_option
@settings_options
def wait(
    timeout_s: float, id_: str | None, as_json: bool, conf: Path | None, sets: Mapping[str, str]
) -> None:
    """Wait until a rollout is over, and say how it ended.

    \b
    Exit codes:
      0  it is promoted
      1  no control plane answers, or there is no rollout
      2  wrong usage
      3  it still runs after the timeout
      4  it was reverted or aborted; the reason is printed
    """
    api = _api(conf, sets)
    ends_at_s = time.monotonic() + timeout_s
    while True:
        left_s = max(0.0, ends_at_s - time.monotonic())
        part_s = min(left_s, _LONGEST_QUESTION_S)
        which = f"&id={id_}" if id_ is not None else ""
        shown = api.get(f"/fastgw/rollout/wait?timeout={part_s:.3f}{which}")
        id_ = shown["id"]
        if shown["ended_at"] is not None or left_s <= part_s:
            break
    if as_json:
        _print_json(shown)
    else:
        click.echo(_summary(shown), err=shown["state"] != "promoted")
    if shown["state"] != "promoted":
        sys.exit(EXIT_LATE if shown["ended_at"] is None else EXIT_BACK)


@rollout.command()
@click.option("--id", "id_", callback=_id, metavar="ID", help="Only if it is this one.")
@_json_option
@settings_options
def promote(id_: str | None, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Have all data planes run now what the chosen ones run, without waiting for the hold."""
    _end("promote", id_, conf, sets, as_json=as_json)


@rollout.command()
@click.option("--id", "id_", callback=_id, metavar="ID", help="Only if it is this one.")
@_json_option
@settings_options
def abort(id_: str | None, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Go back now: the configuration becomes what it was before the rollout, as a new version."""
    _end("abort", id_, conf, sets, as_json=as_json)


@rollout.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 100), default=20, show_default=True, help="Rollouts.")
@_json_option
@settings_options
def list_(limit: int, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """List rollouts, newest first; the last hundred are kept."""
    answer = _api(conf, sets).get(f"/fastgw/rollouts?size={limit}")
    if as_json:
        _print_json(answer)
        return
    for one in answer["data"]:
        click.echo(f"{_time(one['started_at'])}  {_summary(one)}")
    if not answer["data"]:
        click.echo("there has been no rollout yet")


def _api(conf: Path | None, sets: Mapping[str, str], *, timeout_s: float = 60.0) -> AdminApi:
    return AdminApi(load("control_plane", conf, sets, warn=False), timeout_s=timeout_s)


def _end(verb: str, id_: str | None, conf: Path | None, sets: Mapping[str, str], *, as_json: bool) -> None:
    answer = _api(conf, sets).ask(f"/fastgw/rollout/{verb}", {} if id_ is None else {"id": id_})
    if answer.status != 200:
        raise NotAnswered(message_of(answer) or f"the Admin API answered {answer.status}")
    if as_json:
        _print_json(answer.body)
    else:
        click.echo(_summary(answer.body))


def _parse_labels(given: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--label {one!r} is not KEY=VALUE")
        if labels.setdefault(key, value) != value:
            raise click.UsageError(f"--label {key} is given twice, and no data plane has both values")
    return labels


def _show(shown: Mapping[str, Any]) -> None:
    click.echo(_summary(shown))
    if shown["ended_at"] is not None:
        return
    click.echo(
        f"  chosen: {shown['chosen_by']}; hold {shown['hold_s']:g} s, "
        f"in {shown['state']} since {_time(shown['since'])}; held back: {shown['held_back']} data planes"
    )
    for one in shown["data_planes"]:
        link = "" if one["connected"] else ", not connected"
        counts = "" if one["counts"] else ", counts nothing: judged by what it refuses"
        error = f": {one['last_error']}" if one["last_error"] else ""
        click.echo(
            f"  {one['hostname']} ({one['id'][:8]}) runs version {one['applied_version']}"
            f"{link}{counts}{error}"
        )
    if shown["state"] != "open":
        told = [
            f"{name} {shown[key]['server_errors']} of {shown[key]['requests']}"
            for key, name in (("chosen", "chosen"), ("others", "others"), ("before", "chosen before"))
        ]
        click.echo(f"  answers with 5xx: {', '.join(told)}")


def _summary(shown: Mapping[str, Any]) -> str:
    what = f"version {shown['version']}" if shown["version"] != shown["base_version"] else "nothing yet"
    back = ""
    if shown["state"] in ("reverted", "aborted"):
        back = f", back to version {shown['base_version']} as version {shown['final_version']}"
    reason = f": {shown['reason']}" if shown["reason"] else ""
    return f"rollout {shown['id']} of {what} by {shown['started_by']} is {shown['state']}{back}{reason}"


def _time(at_s: float) -> str:
    return dt.datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _print_json(answer: Any) -> None:
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
