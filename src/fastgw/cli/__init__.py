"""The command `fastgw`: one file per subcommand, imported when it is called.

`fastgw --help` and the start of a process must be fast, and neither side of the house may be loaded for the
other's sake; so the table below holds each command's place and one line of help, and a command imports its
side only inside its function.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

import click

from fastgw import __version__
from fastgw.errors import FastgwError

# name -> one line of help; the click object of the same name stands in fastgw.cli.<name>.
COMMANDS: Final[Mapping[str, str]] = {
    "quickstart": "Run a control plane and a data plane here, in one terminal.",
    "cp": "Run a control plane: Admin API, storage and cluster port.",
    "dp": "Run a data plane: the proxy.",
    "migrations": "Prepare and upgrade the control plane's database.",
    "config": "Check, import, export, compare and convert declarative files.",
    "history": "List, show, compare and restore versions of the configuration.",
    "cluster": "Show which data planes run what, and wait until all run a version.",
    "plan": "Say what a declarative file would change, and what speaks against it.",
    "rollout": "Have a version run on some data planes first, and go back by itself.",
    "pki": "Give every node a certificate of its own, and take it back.",
    "hybrid": "Make the key pair that control plane and data planes share.",
    "route": "Explain how a request is routed, and find routes that cannot match.",
    "check": "Check settings without starting anything.",
    "health": "Ask a running control plane or data plane how it is.",
    "completion": "Print the completion script of a shell.",
    "version": "Print versions.",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when called; `FastgwError` becomes one line and exit code 1."""

    def list_commands(self, _context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"fastgw.cli.{name}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, _context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except FastgwError as error:
            click.echo(f"fastgw: {' '.join(str(error).split())}", err=True)
            context.exit(1)


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See 'fastgw COMMAND --help'.",
)
@click.version_option(__version__, message="fastgw %(version)s")
def main() -> None:
    """An API gateway: a control plane with Kong's Admin API, and data planes that proxy.

    \b
    Try it here, everything on loopback:
      fastgw quickstart --demo
      curl localhost:8000/demo

    \b
    On servers:
      fastgw hybrid gen-cert          a key pair for both sides
      fastgw cp --set cluster_cert=cluster.crt --set cluster_cert_key=cluster.key
      fastgw dp --set cluster_cert=cluster.crt --set cluster_cert_key=cluster.key \\
                --set cluster_control_plane=HOST:8005

    Properties are set by a file (-c fastgw.conf), by FASTGW_NAME in the environment (KONG_NAME is
    understood too), or by --set name=value; the later wins. 'fastgw check --list' names them all.
    """
