"""What a quickstart says when both processes are ready: what listens where, and what to try next."""

from __future__ import annotations

import click

from fastgw import __version__
from fastgw.cli.quickstart.layout import Layout


def make_banner(layout: Layout, demo_port: int | None) -> str:
    """Write the banner; *demo_port* is where the echo upstream listens, None without --demo."""
    rule = click.style("─" * 78, fg="cyan")
    lines = [
        rule,
        click.style(f"fastgw {__version__} is ready; everything listens on this machine only.", bold=True),
        "",
        f"  proxy      http://{layout.proxy}",
        f"  Admin API  http://{layout.admin}",
        f"  status     http://{layout.status}/status  and  /metrics",
        f"  cluster    {layout.cluster}  (data planes connect here with the key pair in state)",
        *([f"  upstream   http://127.0.0.1:{demo_port}  (the demo's echo)"] if demo_port else []),
        f"  state      {layout.state}",
        "",
        "Try next, in another terminal:",
        "",
        *(f"  {command}" for command in _commands(layout, demo_port)),
        "",
        "Ctrl-C stops all of it; 'fastgw quickstart' goes on where you left off.",
        f"To start afresh: 'fastgw quickstart --fresh', or stop and 'rm -r {layout.state}'.",
        rule,
    ]
    return "\n".join(lines)


def _commands(layout: Layout, demo_port: int | None) -> tuple[str, str, str]:
    proxy, admin = f"localhost:{layout.proxy.port}", f"localhost:{layout.admin.port}"
    if demo_port:
        return (
            f"curl {proxy}/demo",
            f"curl {admin}/services/demo/routes -d 'paths[]=/hello'",
            f"curl -i {proxy}/hello/world",
        )
    # The data plane's own status port is an upstream that is always there.
    return (
        f"curl {admin}/services -d name=example -d url=http://{layout.status}/status",
        f"curl {admin}/services/example/routes -d 'paths[]=/example'",
        f"curl -i {proxy}/example",
    )
