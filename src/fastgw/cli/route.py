"""`fastgw route`: why a request takes the route that it takes, and routes that cannot match at all.

Asked of a running control plane at its Admin API, about what is published; or of a declarative file, or a
version of the control plane's history, both of which are compiled here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastgw.cli.admin_api import AdminApi
from fastgw.cli.common import load, settings_options
from fastgw.settings import Settings

if TYPE_CHECKING:
    from fastgw.routing.layered import LayeredImage


_file_option = click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ask a declarative file instead of a running control plane.",
)
_version_option = click.option(
    "--version",
    type=click.IntRange(min=0),
    help="Ask a version of the control plane's history instead of what is published.",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


@click.group()
def route() -> None:
    """Explain how a request is routed, and find routes that cannot match."""


@route.command()
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="May be repeated.")
@click.option("--sni", help="Server name of the handshake; by default the host of an https URL.")
@click.option("--client-ip", help="The client's address.")
@_file_option
@_version_option
@_json_option
@settings_options
def explain(
    method: str,
    url: str,
    headers: tuple[str, ...],
    sni: str | None,
    client_ip: str | None,
    file: Path | None,
    version: int | None,
    as_json: bool,
    conf: Path | None,
    sets: Mapping[str, str],
) -> None:
    """Say which route takes a request, and why no other does.

    \b
    fastgw route explain GET https://example.com/orders/7 -H 'X-Team: blue'
    fastgw route explain GET /orders/7 -f kong.yml
    fastgw route explain GET /orders/7 --version 41
    """
    settings = load("control_plane", conf, sets, warn=False)
    document: dict[str, Any] = {"method": method, "url": url, "headers": _headers_of(headers)}
    document |= {name: value for name, value in (("sni", sni), ("client_ip", client_ip)) if value is not None}
    if file is None and version is None:
        answer = _ask(settings, "/fastgw/routes/explain", document)
    else:
        from fastgw.routing.explain import asked_of, explain_request

        asked = asked_of(document)
        answer = explain_request(_image_of(settings, file, version), asked)
    if as_json:
        _print_json(answer)
    else:
        _show_explanation(answer)


@route.command()
@_file_option
@_version_option
@_json_option
@settings_options
def lint(
    file: Path | None, version: int | None, as_json: bool, conf: Path | None, sets: Mapping[str, str]
) -> None:
    """List routes that can never match and who shadows them, and routes that ask for the same.

    What is refused (a regex that cannot be served, for instance) is told with its reason. Exits with 1 where
    there is something to tell.
    """
    settings = load("control_plane", conf, sets, warn=False)
    if file is None and version is None:
        answer = _ask(settings, "/fastgw/routes/lint", None)
    else:
        from fastgw.routing.lint import lint as lint_image

        answer = lint_image(_image_of(settings, file, version))
    if as_json:
        _print_json(answer)
    else:
        _show_findings(answer)
    if _has_findings(answer):
        click.get_current_context().exit(1)


def _has_findings(answer: Mapping[str, Any]) -> bool:
    return any(answer[kind] for kind in ("shadowed", "contradictions", "duplicates"))


def _headers_of(headers: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for header in headers:
        name, colon, value = header.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{header!r} is not 'NAME: VALUE'", param_hint="-H")
        found.setdefault(name.strip(), []).append(value.strip())
    return found


def _ask(settings: Settings, path: str, document: dict[str, Any] | None) -> Any:
    return AdminApi(settings, otherwise="ask a file with -f, or ").get(path, document)


def _image_of(settings: Settings, file: Path | None, version: int | None) -> LayeredImage:
    """The image of a file, or of a version of the history."""
    from fastgw.model.declarative import load_declarative, rows_of_document
    from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
    from fastgw.model.snapshot import Snapshot
    from fastgw.routing.compile import compile_snapshot
    from fastgw.routing.image import Image
    from fastgw.routing.jobs import make_sealed_memfd
    from fastgw.routing.layered import LayeredImage

    flavor = settings.router_flavor
    if file is not None and version is not None:
        raise click.UsageError("--file and --version exclude each other")
    if file is not None:
        rows = load_declarative(file, flavor=flavor)
    else:
        # With its secrets: what stands in place of one need not be valid.
        document = _ask(settings, f"/fastgw/history/{version}?secrets=clear", None)
        rows = rows_of_document(document, source=f"version {version}", flavor=flavor)
    snapshot = Snapshot.from_rows(version or 0, rows)
    # As if all plugins were there: which are is told with each.
    image = compile_snapshot(snapshot, flavor=flavor, served_plugins=frozenset(PLUGIN_SCHEMAS))
    fd = make_sealed_memfd("fastgw-image", image)
    try:
        return LayeredImage(Image.open(fd))
    finally:
        os.close(fd)


def _print_json(answer: Any) -> None:
    import json

    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def _show_explanation(answer: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    request = answer["request"]
    console.print(
        escape(f"{request['method']} {request['scheme']}://{request['host'] or '-'}{request['path']}")
        + f"  (configuration {answer['version']})"
    )
    table = Table(show_lines=True)
    for heading in ("", "route", "path", "conditions"):
        table.add_column(heading, overflow="fold")
    for one in answer["candidates"]:
        mark = "[green]->[/]" if one["wins"] else "[green]ok[/]" if one["matches"] else "[red]no[/]"
        shown = [_shown(condition) for condition in (*one["conditions"], *one["tests"])]
        name = one["route"]["name"] or one["route"]["id"]
        table.add_row(mark, escape(name), escape(one["path"] or ""), "\n".join(shown))
    if answer["candidates"]:
        console.print(table)
    if answer["left_out"]:
        console.print(f"{answer['left_out']} more candidates are not shown: their path does not fit, or they")
        console.print("stand far from the winner.")
    match = answer["match"]
    if match is None:
        console.print("[red]no route matches[/]: 404")
        return
    name = match["route"]["name"] or match["route"]["id"]
    console.print(f"[green]matches[/] route {escape(name)} ({match['route']['id']})")
    for plugin in match["plugins"]:
        click.echo(f"  plugin {_told_plugin(plugin)}")
    for group, value in match["captures"].items():
        console.print(escape(f"  capture {group}: {value}"))
    if match["answer"]:
        console.print(escape(f"  answered by the gateway: {match['answer']}"))
    elif match["service"]:
        service = match["service"]
        console.print(escape(f"  goes to service {service['name'] or service['id']}, {service['url']}"))
        console.print(escape(f"  as {match['upstream_path']}"))


def _told_plugin(plugin: dict[str, Any]) -> str:
    scope = " and ".join(plugin["scope"])
    who = f", by {scope}" if scope else ", for single consumers alone"
    if plugin["consumers"] and scope:
        who += f", otherwise for {len(plugin['consumers'])} consumers"
    absent = "" if plugin["is_available"] else ", not available on a data plane of this version"
    return f"{plugin['name']} (priority {plugin['priority']}{who}{absent})"


def _shown(condition: dict[str, Any]) -> str:
    from rich.markup import escape

    colour = "green" if condition["holds"] else "red"
    wanted = " or ".join(condition["wanted"])
    got = "" if condition["got"] is None else f"  <- {condition['got']}"
    sign = "+" if condition["holds"] else "-"
    return f"[{colour}]{sign}[/] {escape(condition['kind'])}: {escape(wanted + got)}"


def _show_findings(answer: dict[str, Any]) -> None:
    from fastgw.routing.lint import names_of

    for found in answer["shadowed"]:
        how = "can never match" if found["certain"] else "was not reached by any request made up for it"
        click.echo(f"{names_of([found['route']])}: {how}: {names_of(found['by'])} takes its requests")
    for found in answer["contradictions"]:
        click.echo(f"{names_of([found['route']])}: can never match: {found['reason']}")
    for group in answer["duplicates"]:
        first = names_of(group[:1])
        click.echo(f"{names_of(group)}: ask for the same; {first} stands first and takes all")
    if not _has_findings(answer):
        click.echo(f"{answer['routes']} routes, nothing to tell")
