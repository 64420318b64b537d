"""Restarts of a whole data plane under load, by take-over: `python -m bench.load.restart --help`.

Beside steady requests run one websocket and one slow download per restart; all of them must outlive it.
Nothing may be refused or cut (`steady.py` says what counts).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from bench.load.declared import DeclaredNode
from bench.load.machine import BenchError
from bench.load.steady import Load, Report, Upstream, Websocket, cancelled_at_end, download

_SLOW_S = 3.0


async def measure(
    restarts: int, rate: float, clients: int, workers: int, pause_s: float
) -> tuple[Report, list[float]]:
    """Run it; what the clients saw, and the seconds of each take-over.

    Raises:
        BenchError: a data plane did not start, or something long was cut.
    """
    taken_s = []
    with tempfile.TemporaryDirectory(prefix="fastgw-restart-") as directory:
        async with Upstream() as upstream:
            with DeclaredNode(Path(directory), upstream.port, workers=workers) as node:
                node.start()
                await asyncio.to_thread(node.wait_serving)
                tunnels, echoing, downloads = [], [], []
                try:
                    async with Load(node.port, rate=rate, clients=clients) as load:
                        for number in range(restarts):
                            tunnels.append(await Websocket.open(node.port))
                            echoing.append(asyncio.create_task(tunnels[-1].run()))
                            downloads.append(asyncio.create_task(download(node.port, _SLOW_S)))
                            await asyncio.sleep(pause_s)
                            taken_s.append(await asyncio.to_thread(node.take_over))
                            click.echo(
                                f"restart {number + 1}: {taken_s[-1]:.2f} s, {load.report.failed} failures"
                            )
                        await asyncio.to_thread(node.wait_serving)
                        await asyncio.gather(*downloads)
                    with cancelled_at_end(*echoing):
                        before = [tunnel.echoes for tunnel in tunnels]
                        await asyncio.sleep(0.5)
                    if any(tunnel.echoes == echoes for tunnel, echoes in zip(tunnels, before, strict=True)):
                        raise BenchError("a websocket stands still")
                except (OSError, asyncio.IncompleteReadError) as error:
                    raise BenchError(f"a websocket or a download was cut: {error!r}") from error
                finally:
                    for tunnel in tunnels:
                        tunnel.close()
                return load.report, taken_s


@click.command()
@click.option("--restarts", default=20, show_default=True, help="Take-overs, one after another.")
@click.option("--rate", default=500.0, show_default=True, help="Requests per second.")
@click.option("--clients", default=32, show_default=True, help="Keep-alive connections.")
@click.option("--workers", default=2, show_default=True, help="Workers of each data plane.")
@click.option("--pause", default=0.5, show_default=True, help="Seconds between two restarts.")
def main(restarts: int, rate: float, clients: int, workers: int, pause: float) -> None:
    """Restart a data plane again and again under load; fails unless nothing was refused or cut."""
    try:
        report, taken_s = asyncio.run(measure(restarts, rate, clients, workers, pause))
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    click.echo(
        f"{restarts} restarts, {report.answers} answers, failures: {dict(report.failures) or 'none'}; "
        f"take-over {min(taken_s):.2f} to {max(taken_s):.2f} s, "
        f"slowest answer {report.longest_s * 1000:.0f} ms, "
        f"{restarts} websockets and {restarts} downloads whole"
    )
    if report.failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
