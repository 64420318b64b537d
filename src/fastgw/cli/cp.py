"""`fastgw cp`: run a control plane."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from fastgw.cli.common import load, settings_options


@click.command()
@settings_options
def cp(conf: Path | None, sets: Mapping[str, str]) -> None:
    """Run a control plane: Admin API, storage and cluster port.

    It ends with SIGTERM or Ctrl-C. Data planes go on serving without it.
    """
    import uvloop

    from fastgw.cp.main import run_control_plane

    # Warnings go to the control plane's log, with all else that it says.
    settings = load("control_plane", conf, sets, warn=False)
    uvloop.run(run_control_plane(settings))
