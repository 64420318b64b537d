"""`fastgw dp`: run a data plane."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import click

from fastgw.cli.common import load, settings_options
from fastgw.settings import Settings


@click.command()
@click.option(
    "--takeover",
    is_flag=True,
    help="Take over from the data plane that runs in the prefix, without a refused request.",
)
@settings_options
def dp(conf: Path | None, sets: Mapping[str, str], *, takeover: bool) -> None:
    """Run a data plane: the proxy, with configuration from a control plane or a declarative file.

    SIGTERM and Ctrl-C let requests in progress end first; the second one does not wait. SIGHUP reads
    settings, certificates and declarative_config anew, SIGUSR1 opens the log files anew.
    """
    from fastgw.dp.spares import Spares

    # Warnings go to the data plane's log, with all else that it says.
    def load_settings() -> Settings:
        return load("data_plane", conf, sets, warn=False)

    settings = load_settings()
    with contextlib.closing(Spares(settings.workers)) as spares:
        import uvloop

        from fastgw.dp.main import run_data_plane

        uvloop.run(run_data_plane(settings, takes_over=takeover, load_settings=load_settings, spares=spares))
