"""How long until a new route serves: `python -m bench.load.change_latency --help`.

The time from the start of an Admin write to the end of the first request that the new route answered. The
Admin API's answer is awaited before the first question, as a script with two curl commands does it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import track

from bench.load.gateway import Admin, Client, ask_until, start_gateway
from bench.load.generators import percentile
from bench.load.machine import BenchError, Machine, describe, require_tools
from bench.load.processes import Processes
from bench.load.report import describe_machine, doubts, write_json


class Latencies(msgspec.Struct, frozen=True):
    """Milliseconds of each change, in the order they were made."""

    admin_ms: list[float]
    """Until the Admin API had answered."""
    served_ms: list[float]
    """Until the new route had answered."""


class ChangeReport(msgspec.Struct, frozen=True):
    """One run."""

    machine: Machine
    routes_before: int
    workers: int
    latencies: Latencies


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--changes", type=click.IntRange(1, 10_000), default=100, help="Routes added, one by one.")
@click.option("--routes", type=click.IntRange(0, 100_000), default=0, help="Routes that are there before.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Workers of the data plane.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/change_latency.json"), help="Where the result goes.")  # fmt: skip
def main(changes: int, routes: int, workers: int, json_path: Path) -> None:
    """Measure the time from an Admin write to the first request served by the new route.

    Starts a control plane (SQLite) and a data plane on loopback, in a temporary directory; both are gone at
    the end.
    """
    console = Console()
    try:
        require_tools(["nginx"])
        machine = describe(["nginx"])
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as directory,
            Processes(Path(directory)) as processes,
        ):
            gateway = start_gateway(processes, workers=workers, routes=routes)
            with gateway.admin() as admin, gateway.proxy() as proxy:
                service = {"name": "bench", "url": f"http://127.0.0.1:{gateway.upstream_port}"}
                admin.call("POST", "/services", service)
                _measure(admin, proxy, "/warm-up")
                measured = [
                    _measure(admin, proxy, f"/changes/{number:06}")
                    for number in track(range(changes), "changes", console=console)
                ]
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    latencies = Latencies([admin for admin, _ in measured], [served for _, served in measured])
    _print(console, "Admin API answered", latencies.admin_ms)
    _print(console, "new route served", latencies.served_ms)
    write_json(json_path, ChangeReport(machine, routes, workers, latencies))
    console.print(f"Written to {json_path}.")
    for doubt in doubts(machine, {}):
        console.print(f"[yellow]Do not keep these figures: {doubt}.[/]", soft_wrap=True)


def _add_route(admin: Admin, path: str) -> None:
    admin.call("POST", "/services/bench/routes", {"name": path[1:].replace("/", "-"), "paths": [path]})


def _measure(admin: Admin, proxy: Client, path: str) -> tuple[float, float]:
    """Add a route; return the milliseconds to the Admin API's answer, and to the route's.

    Paths are prefixes, so they are all of one length: none may be served by a route that was there before.
    """
    if (status := proxy.ask("GET", path)[0]) != 404:
        raise BenchError(f"{path} is answered by {status} before it has a route")
    began = time.monotonic()
    _add_route(admin, path)
    admin_s = time.monotonic() - began
    served_s = ask_until(proxy, path, _is_served) - began
    return admin_s * 1000, served_s * 1000


def _is_served(status: int, body: bytes) -> bool:
    if status not in {200, 404}:
        raise BenchError(f"a new route was answered by {status}: {body[:200]!r}")
    return status == 200


def _print(console: Console, what: str, values_ms: list[float]) -> None:
    ordered = sorted(values_ms)
    console.print(
        f"{what:>20}: median {percentile(ordered, 50):.1f} ms, p99 {percentile(ordered, 99):.1f} ms,"
        f" least {ordered[0]:.1f}, most {ordered[-1]:.1f} ({len(ordered)} changes)",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main()
