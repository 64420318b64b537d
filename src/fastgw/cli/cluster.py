"""`fastgw cluster`: which data planes run what, and waiting until all run a version."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from fastgw.cli.admin_api import AdminApi
from fastgw.cli.common import load, settings_options

EXIT_LATE: Final = 3
EXIT_REFUSED: Final = 4

_REFRESH_S: Final = 1.0
_LONGEST_QUESTION_S: Final = 20.0
"""A wait is asked in parts, so that no answer is late for whatever stands between."""
_PAGE: Final = 1000
_SOON_DAYS: Final = 7
"""Nodes of the built-in authority renew long before."""


@click.group()
def cluster() -> None:
    """Show which data planes run what, wait until all run a version, and say which cluster is which.

    \b
      fastgw cluster status                       one line for each data plane
      fastgw cluster status --watch               the same, live, until Ctrl-C
      fastgw cluster wait --version 17            until every connected data plane runs version 17
      fastgw cluster id                           the id of the cluster that the database is of
      fastgw cluster adopt                        on a data plane: change over to another cluster

    In a pipeline, change something and wait for it:

    \b
      deck gateway sync kong.yaml && fastgw cluster wait --timeout 60

    For 'status' and 'wait' a running control plane is asked, at the admin_listen of these settings.
    """


@cluster.command()
@click.option("-w", "--watch", is_flag=True, help="Keep the table up to date until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print what the Admin API says, as JSON.")
@settings_options
def status(watch: bool, as_json: bool, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Show each data plane: what is wanted of it, what it runs and since when, and what is wrong.

    The first line counts. CONTROL PLANE is the one that a data plane is linked to, or was last. WANTED and
    APPLIED are versions of the configuration; a data plane is well when they are the same and ERROR is empty.
    CERTIFICATE says when its certificate ends.
    """
    api = AdminApi(load("control_plane", conf, sets, warn=False))
    if as_json:
        known = {"cluster": api.get("/fastgw/cluster"), "data_planes": _data_planes(api)}
        click.echo(json.dumps(known, indent=2))
        return
    from rich.console import Console  # noqa: PLC0415 (slow to import)
    from rich.live import Live  # noqa: PLC0415 (the same)

    if not watch:
        console = Console(width=None if sys.stdout.isatty() else 200)
        console.print(_table(api))
        return
    try:
        with Live(_table(api), refresh_per_second=4, screen=False) as live:
            while True:
                time.sleep(_REFRESH_S)
                live.update(_table(api))
    except KeyboardInterrupt:
        return


@cluster.command()
@click.option(
    "--version", type=click.IntRange(min=0), help="What is waited for.  [default: the newest version]"
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, 86_400),
    default=60.0,
    show_default=True,
    help="Seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print where it stands in the end, as JSON.")
@settings_options
def wait(
    version: int | None, timeout_s: float, as_json: bool, conf: Path | None, sets: Mapping[str, str]
) -> None:
    """Wait until every connected data plane runs a version, or a later one.

    \b
    Exit codes:
      0  they all do
      1  no control plane answers
      2  wrong usage
      3  not within the timeout; those that are behind are named
      4  refused: it does not compile, or data planes that are named refuse it, with their reasons

    A data plane that is not connected is not waited for: it will run what is wanted when it comes back.
    """
    api = AdminApi(load("control_plane", conf, sets, warn=False))
    if version is None:
        newest = api.get("/fastgw/history/versions?size=1")["data"]
        version = newest[0]["version"] if newest else 0
    ends_at_s = time.monotonic() + timeout_s
    while True:
        left_s = max(0.0, ends_at_s - time.monotonic())
        part_s = min(left_s, _LONGEST_QUESTION_S)
        standing = api.get(f"/fastgw/cluster/wait?version={version}&timeout={part_s:.3f}")
        if standing["settled"] or left_s <= part_s:
            break
    if as_json:
        click.echo(json.dumps(standing, indent=2))
    else:
        _tell(standing, timeout_s)
    if not standing["applied"]:
        sys.exit(EXIT_REFUSED if standing["settled"] else EXIT_LATE)


@cluster.command("id")
@settings_options
def id_(conf: Path | None, sets: Mapping[str, str]) -> None:
    """Print the id of the cluster, as the control plane's database has it; it need not run.

    All control planes on one database are one cluster, and each data plane belongs to the first whose
    configuration it serves. A new database is a new cluster, and is refused by data planes of the old one,
    unless it is made with the old one's id: 'fastgw migrations bootstrap --cluster-id ID'. So keep it with
    your backups.
    """
    from fastgw.cp.pki.records import read_cluster_id
    from fastgw.cp.storage import make_storage

    async def read() -> str:
        async with make_storage(load("control_plane", conf, sets, warn=False)).beside() as connection:
            return await read_cluster_id(connection)

    click.echo(asyncio.run(read()))


@cluster.command()
@click.argument("cluster_id", required=False, type=click.UUID)
@settings_options
def adopt(cluster_id: uuid.UUID | None, conf: Path | None, sets: Mapping[str, str]) -> None:
    """Let the data plane of this prefix change over to another cluster, once.

    A data plane serves the configurations of one cluster, and refuses the control planes of others: /status
    and its log then name both ids. Run this where it runs, with its settings, as root or as the user that it
    runs as. From its next try on it takes the configuration of CLUSTER_ID; without one, of the cluster whose
    control plane answers first, which may be the former one again: better give the id. What it serves until
    then stays. One that is linked stays linked: name the control planes of the other cluster in
    cluster_control_plane and restart it at once.
    """
    from fastgw.dp.pledge import Pledge

    settings = load("data_plane", conf, sets, warn=False)
    pledge = Pledge(settings.prefix / "dp")
    before = pledge.replace(str(cluster_id) if cluster_id is not None else "")
    now = f"the cluster {cluster_id}" if cluster_id is not None else "the first cluster that it meets"
    click.echo(
        f"{pledge.path.parent}: belonged to {f'the cluster {before}' if before else 'no cluster'}; "
        f"takes configurations of {now} from now on"
    )


def _tell(standing: Mapping[str, Any], timeout_s: float) -> None:
    count, version = standing["data_planes"], standing["version"]
    if standing["applied"]:
        click.echo(
            f"version {version} is applied by {count['applied']} of {count['connected']} data planes"
            + (f"; a rollout holds {count['held_back']} back" if count["held_back"] else "")
        )
        return
    if standing["refused"]:
        click.echo(f"fastgw: {standing['refused']}; see /status of the Admin API", err=True)
        return
    late = "" if standing["settled"] else f" after {timeout_s:g} s"
    if not standing["published"]:
        click.echo(f"fastgw: version {version} is not published{late}", err=True)
        return
    of = f"{count['applied']} of {count['connected']}"
    click.echo(f"fastgw: version {version} is applied by {of} data planes{late}", err=True)
    for row in standing["not_applied"]:
        error = f": {row['last_error']}" if row["last_error"] else ""
        click.echo(
            f"  {row['hostname']} ({row['id']}) runs version {row['applied_version']}{error}", err=True
        )


def _data_planes(api: AdminApi) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    path: str | None = f"/clustering/data-planes?size={_PAGE}"
    while path:
        page = api.get(path)
        rows += page["data"]
        path = page["next"]
    return rows


def _table(api: AdminApi) -> Any:
    from rich.table import Table  # noqa: PLC0415 (slow to import)
    from rich.text import Text  # noqa: PLC0415 (the same)

    summary, rows = api.get("/fastgw/cluster"), _data_planes(api)
    counts, published = summary["data_planes"], summary["published"]
    title = (
        f"published: version {published['version']}; data planes: {len(rows)} known, "
        f"{counts['connected']} connected, {counts['current']} current, {counts['failing']} failing"
    )
    if summary["rollout"] is not None:
        rollout = summary["rollout"]
        title += f"\nrollout {rollout['id']} of version {rollout['version']}: {rollout['state']}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in (
        "DATA PLANE",
        "ID",
        "ADDRESS",
        "LINK",
        "WANTED",
        "APPLIED",
        "SINCE",
        "CERTIFICATE",
        "CONTROL PLANE",
        "LABELS",
    ):
        table.add_column(name, no_wrap=name not in {"LABELS"})
    table.add_column("ERROR", overflow="fold")
    for row in sorted(rows, key=lambda row: (not row["connected"], row["hostname"], row["id"])):
        is_current = row["applied_version"] == row["wanted_version"]
        labels = ",".join(f"{key}:{value}" for key, value in (row["labels"] or {}).items())
        wanted = str(row["wanted_version"] if row["wanted_version"] is not None else "-")
        part = f" {row['rollout']}" if row.get("rollout") else ""
        table.add_row(
            *(
                Text(text)  # what data planes say of themselves is no markup
                for text in (
                    row["hostname"],
                    row["id"][:8],
                    row["ip"],
                    "up" if row["connected"] else "down",
                )
            ),
            f"{wanted}{part}",
            Text(_applied(row), style="" if is_current else "yellow"),
            _since(row["applied_at"]),
            _certificate(row["cert_details"]),
            Text(_holder(row["control_plane"])),
            Text(labels),
            Text(row["last_error"] or "", style="red"),
        )
    return table


def _holder(control_plane: Mapping[str, str] | None) -> str:
    return "-" if control_plane is None else f"{control_plane['hostname']} {control_plane['id'][:8]}"


def _applied(row: Mapping[str, Any]) -> str:
    # Version 0 is the empty configuration; nobody has applied anything without a time of it.
    return "-" if row["applied_at"] is None else str(row["applied_version"])


def _since(at_s: int | None) -> str:
    if at_s is None:
        return "-"
    return dt.datetime.fromtimestamp(at_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _certificate(details: Mapping[str, Any] | None) -> str:
    if details is None:
        return "-"
    days = int((details["expiry_timestamp"] - time.time()) // 86_400)
    if days < 0:
        return "expired"
    return f"{days} days{' !' if days < _SOON_DAYS else ''}"
