"""`fastgw quickstart`: a control plane and a data plane in one terminal, everything on loopback.

1. `layout.py` says where everything is: ports, state, and the settings of both processes.
2. `run.py` checks ports, makes the key pair, starts both, waits until they answer, stops them again.
3. `children.py` owns a child process: its group, its log lines, its end.
4. `demo.py` is the echo upstream of --demo; `banner.py` is what is said when all is ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from fastgw.cli.common import settings_options
from fastgw.cli.quickstart.layout import Layout

_PORT = click.IntRange(1, 65535)


@click.command()
@click.option(
    "--demo", is_flag=True, help="Add an echo upstream, a service and a route: /demo answers at once."
)
@click.option("--fresh", is_flag=True, help="Forget what an earlier quickstart has stored.")
@click.option("--proxy-port", type=_PORT, default=8000, show_default=True)
@click.option("--admin-port", type=_PORT, default=8001, show_default=True)
@click.option("--cluster-port", type=_PORT, default=8005, show_default=True)
@click.option("--status-port", type=_PORT, default=8007, show_default=True)
@settings_options
@click.pass_context
def quickstart(
    context: click.Context,
    demo: bool,
    fresh: bool,
    proxy_port: int,
    admin_port: int,
    cluster_port: int,
    status_port: int,
    conf: Path | None,
    sets: Mapping[str, str],
) -> None:
    """Run a control plane on SQLite and a data plane here, until Ctrl-C.

    Both listen on loopback only and keep their state in the directory 'quickstart' of the prefix. FASTGW_
    and KONG_ variables do not count here; --conf and --set do.
    """
    import asyncio

    from fastgw.cli.quickstart.run import run

    layout = Layout.make(
        sets, conf=conf, proxy=proxy_port, admin=admin_port, cluster=cluster_port, status=status_port
    )
    context.exit(asyncio.run(run(layout, demo=demo, fresh=fresh)))
