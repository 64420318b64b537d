"""`fastgw health`: for people, probes and scripts; the exit code says whether a node is well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import click

from fastgw.cli.ask import ask, reachable
from fastgw.cli.common import find_conf, load, settings_options
from fastgw.errors import FastgwError
from fastgw.settings import Listen, Role, find_role

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
    applied a configuration. Exits with 0 when it is well, else with 1. NODE may be left out where the
    settings name the role.
    """
    conf = find_conf(conf)
    role = _ROLES[node] if node else find_role(file=conf, flags=sets)
    if role is None:
        raise click.UsageError("say which node is asked: 'fastgw health cp' or 'fastgw health dp'")
    settings = load(role, conf, sets, warn=False)
    if role == "control_plane":
        name, listens, path = "control plane", settings.admin_listen, "/status"
    else:
        name, listens, path = "data plane", settings.status_listen, "/status/ready"
        if not listens:
            raise NotHealthy("status_listen is off, so the data plane cannot be asked")
    _ask(name, listens[0], path, timeout_s)


def _ask(name: str, listen: Listen, path: str, timeout_s: float) -> None:
    url = f"http://{reachable(listen)}{path}"
    try:
        answer = ask(listen, path, timeout_s=timeout_s)
    except OSError as error:
        raise NotHealthy(
            f"the {name} does not answer at {url}: {(error.strerror or str(error)).lower()}"
        ) from None
    if answer.status != 200:
        message = answer.body.get("message", "") if isinstance(answer.body, dict) else ""
        raise NotHealthy(f"the {name} is not well: {url} answered {answer.status} {message}".rstrip())
    click.echo(f"the {name} is well")
