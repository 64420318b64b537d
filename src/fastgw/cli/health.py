"""`fastgw health`: for people, probes and scripts; the exit code says whether a node is well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import click

from fastgw.cli.admin_api import AdminApi, NotAnswered, message_of
from fastgw.cli.ask import Answer, ask, reachable
from fastgw.cli.common import find_conf, load, settings_options
from fastgw.errors import FastgwError
from fastgw.settings import Role, find_role

_ROLES: Final[Mapping[str, Role]] = {"cp": "control_plane", "dp": "data_plane"}


class NotHealthy(FastgwError):
    code = "not_healthy"


@click.command()
@click.argument("node", type=click.Choice(tuple(_ROLES)), required=False)
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(0.1, 600), default=5.0, show_default=True, help="Seconds."
)
@settings_options
def health(
    node: Literal["cp", "dp"] | None, timeout_s: float, conf: Path | None, sets: Mapping[str, str]
) -> None:
    """Ask the control plane (cp) or data plane (dp) of these settings how it is.

    A control plane is asked at its Admin API, a data plane at its status port, where it is well once it has
    applied a configuration; which control plane it is linked to is told besides. Exits with 0 when it is
    well, else with 1. NODE may be left out where the settings name the role.
    """
    conf = find_conf(conf)
    role = _ROLES[node] if node else find_role(file=conf, flags=sets)
    if role is None:
        raise click.UsageError("say which node is asked: 'fastgw health cp' or 'fastgw health dp'")
    settings = load(role, conf, sets, warn=False)
    if role == "control_plane":
        try:
            api = AdminApi(settings, timeout_s=timeout_s)
            _judge("control plane", f"{api.url}/status", api.ask("/status"))
        except NotAnswered as error:
            raise NotHealthy(str(error)) from None
        return
    if not settings.status_listen:
        raise NotHealthy("status_listen is off, so the data plane cannot be asked")
    listen = settings.status_listen[0]
    url = f"http://{reachable(listen)}/status/ready"
    try:
        answer = ask(listen, "/status/ready", timeout_s=timeout_s)
        link = _describe_link(ask(listen, "/status", timeout_s=timeout_s))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NotHealthy(f"the data plane does not answer at {url}: {reason}") from None
    _judge("data plane", url, answer, link)


def _describe_link(answer: Answer) -> str:
    """Which control plane a data plane is linked to, as its /status says; empty where it has no link."""
    link = answer.body.get("fastgw", {}).get("link") if isinstance(answer.body, dict) else None
    if link is None:
        return ""
    if link["is_connected"]:
        return f", linked to the control plane {link['control_plane']}"
    return f", linked to no control plane now: {link['last_error'] or 'not dialled yet'}"


def _judge(name: str, url: str, answer: Answer, more: str = "") -> None:
    if answer.status != 200:
        raise NotHealthy(
            f"the {name} is not well: {url} answered {answer.status} {message_of(answer)}".rstrip()
        )
    click.echo(f"the {name} is well{more}")
