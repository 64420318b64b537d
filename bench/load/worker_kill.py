"""A worker killed with -9 under load: `python -m bench.load.worker_kill --help`.

Told are the requests that failed (those in flight on that worker may; one per client at most), the time until
its replacement accepts by its own word, and the slowest answer: what waited in the socket's backlog for the
replacement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click

from bench.load.declared import DeclaredNode
from bench.load.machine import BenchError
from bench.load.steady import Load, Report, Upstream

_DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.005
_LIMIT_S: Final = 0.5


async def measure(kills: int, rate: float, clients: int, workers: int) -> tuple[Report, list[float]]:
    """Kill workers one after another; what the clients saw, and the seconds until each was replaced."""
    replaced_s = []
    with tempfile.TemporaryDirectory(prefix="fastgw-kill-") as directory:
        async with Upstream() as upstream:
            with DeclaredNode(Path(directory), upstream.port, workers=workers) as node:
                node.start()
                status = await asyncio.to_thread(node.wait_serving)
                async with Load(node.port, rate=rate, clients=clients) as load:
                    for number in range(kills):
                        await asyncio.sleep(1)
                        victim = status["workers"][number % workers]
                        before, begun = load.report.failed, time.monotonic()
                        os.kill(victim["pid"], signal.SIGKILL)
                        status = await asyncio.to_thread(_wait_replaced, node, victim["pid"])
                        replaced_s.append(time.monotonic() - begun)
                        failed = load.report.failed - before
                        after_ms = replaced_s[-1] * 1000
                        click.echo(f"kill {number + 1}: accepts after {after_ms:.0f} ms, {failed} failed")
                return load.report, replaced_s


def _wait_replaced(node: DeclaredNode, pid: int) -> dict[str, Any]:
    ends_at = time.monotonic() + _DEADLINE_S
    while time.monotonic() < ends_at:
        status = node.status()
        if status and all(one["state"] == "running" and one["pid"] != pid for one in status["workers"]):
            return status
        time.sleep(_POLL_S)
    raise BenchError(f"no replacement in {_DEADLINE_S:g} s")


@click.command()
@click.option("--kills", default=5, show_default=True, help="Workers to kill, one after another.")
@click.option("--rate", default=2000.0, show_default=True, help="Requests per second.")
@click.option("--clients", default=64, show_default=True, help="Keep-alive connections.")
@click.option("--workers", default=2, show_default=True, help="Workers of the data plane.")
def main(kills: int, rate: float, clients: int, workers: int) -> None:
    """Kill workers under load; fails where a replacement took over 500 ms or too many requests failed."""
    try:
        report, replaced_s = asyncio.run(measure(kills, rate, clients, workers))
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{kills} kills, {report.answers} answers, failures: {dict(report.failures) or 'none'}; replaced in "
        f"{min(replaced_s) * 1000:.0f} to {max(replaced_s) * 1000:.0f} ms, "
        f"slowest answer {report.longest_s * 1000:.0f} ms"
    )
    if report.failed > kills * clients or max(replaced_s) > _LIMIT_S:
        sys.exit(1)


if __name__ == "__main__":
    main()
