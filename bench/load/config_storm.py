"""Configurations applied one after another under load: `python -m bench.load.config_storm --help`.

Each change points one route at another service, whose answers carry that service's number. The route is
asked until the new number comes; only then the next change is made, so no configuration is skipped. A
generator loads another route all the while: wrk as fast as it is answered, or, with --rate or --share, h2load
by the clock, and then stretches with changes and as long ones without take turns: which connection is whose,
and how fast the machine is just then, is the same for both. Any answer but 200, in either place, and any
number that is neither the old nor the new one, is a failure.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.progress import Progress, track

from bench.load.gateway import Admin, Client, Gateway, ask_until, settled_version, start_gateway
from bench.load.generators import BackgroundH2load, BackgroundWrk, LoadResult, percentile
from bench.load.machine import BenchError, Machine, describe, require_tools
from bench.load.processes import Processes
from bench.load.report import describe_machine, doubts, write_json

_LIMIT_S: Final = 600
_PEAK_S: Final = 4.0
_STRETCH: Final = 25
"""Changes in a row, before a stretch without."""
_SETTLE_S: Final = 2.0
_BETWEEN_QUESTIONS_S: Final = 0.002
"""It is the load that is measured here: whether a change has come is asked often enough, and no more."""


class StormReport(msgspec.Struct, frozen=True):
    """One run."""

    machine: Machine
    changes: int
    applied_versions: int
    """By how much the applied version rose."""
    served_ms: list[float]
    """From each Admin write to the first answer by the new body."""
    load: LoadResult
    """What the generator counted meanwhile."""
    quiet: LoadResult | None
    """The same of the stretches without changes; None without a rate."""
    failed: int
    """Requests of all its time."""
    peak: float | None
    """Requests per second that wrk had answered before, without changes; None without --share."""
    rate: float | None
    """Requests per second of the load; None: as many as are answered."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--changes", type=click.IntRange(1, 5_000), default=200, help="Configurations, one by one.")
@click.option("--connections", type=click.IntRange(1, 1024), default=16, help="Connections of the load.")
@click.option("--routes", type=click.IntRange(0, 100_000), default=0, help="Routes that are there before.")
@click.option("--every-ms", type=click.IntRange(0, 10_000), default=0,
              help="Time from one change to the next, at least.")  # fmt: skip
@click.option("--rate", type=click.IntRange(1), default=None,
              help="Requests per second of the load, instead of as many as are answered.")  # fmt: skip
@click.option("--share", type=click.IntRange(1, 100), default=None,
              help="The same in percent of the peak, which wrk finds first.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=2, help="Workers of the data plane.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/config_storm.json"), help="Where the result goes.")  # fmt: skip
def main(
    changes: int,
    connections: int,
    routes: int,
    every_ms: int,
    rate: int | None,
    share: int | None,
    workers: int,
    json_path: Path,
) -> None:
    """Apply configurations one after another under load, and see that each serves and no request fails.

    Starts a control plane (SQLite), a data plane and wrk on loopback, in a temporary directory; all are gone
    at the end. Ends with status 1 when anything failed.
    """
    if rate is not None and share is not None:
        raise click.UsageError("--rate and --share exclude each other")
    console = Console()
    try:
        tools = ["nginx", *(["wrk"] if rate is None else []), *(["h2load"] if rate or share else [])]
        require_tools(tools)
        machine = describe(tools)
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as directory,
            Processes(Path(directory)) as processes,
        ):
            gateway = start_gateway(
                processes,
                workers=workers,
                routes=routes,
                # A connection of h2load that is closed stays closed.
                nginx_http_keepalive_requests=10_000_000,
            )
            load = _Load(connections, rate, share, Path(directory) / "h2load.log")
            report = _storm(console, machine, gateway, changes, load, every_ms / 1000)
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    ordered = sorted(report.served_ms)
    console.print(
        f"{changes} configurations, each served its own answer; applied version + {report.applied_versions};"
        f" write to served: median {percentile(ordered, 50):.1f} ms, p99 {percentile(ordered, 99):.1f} ms\n"
        f"load meanwhile: {report.load.requests} requests in {report.load.duration_s:.1f} s,"
        f" p99 {report.load.p99_us / 1000:.2f} ms, {report.failed} failed"
        + (f"; without changes p99 {report.quiet.p99_us / 1000:.2f} ms" if report.quiet is not None else "")
        + (f"; peak {report.peak:.0f} requests per second" if report.peak is not None else ""),
        highlight=False,
        soft_wrap=True,
    )
    write_json(json_path, report)
    console.print(f"Written to {json_path}.")
    for doubt in doubts(machine, {}):
        console.print(f"[yellow]Do not keep these figures: {doubt}.[/]", soft_wrap=True)
    if report.failed or report.applied_versions < changes:
        sys.exit(1)


class _Load(msgspec.Struct, frozen=True):
    """What asks meanwhile."""

    connections: int
    rate: float | None
    share: int | None
    """Percent of the peak, in place of a rate."""
    log: Path

    def peak(self, url: str) -> float | None:
        """How many requests per second are answered to as many connections; None where nobody asks."""
        if self.share is None:
            return None
        with BackgroundWrk(url, connections=self.connections, limit_s=_LIMIT_S) as generator:
            time.sleep(_PEAK_S)
            found = generator.stop()
        return found.requests / found.duration_s

    def run_beside(self, url: str, change: Callable[[int], None], changes: int) -> tuple[LoadResult, ...]:
        """Ask *url* while all changes are made.

        Returns:
            what came meanwhile; by the clock also what came without changes, and in all.
        """
        if self.rate is None:
            with BackgroundWrk(url, connections=self.connections, limit_s=_LIMIT_S) as wrk:
                for number in range(1, changes + 1):
                    change(number)
                return (wrk.stop(),)
        loud, quiet = [], []
        with BackgroundH2load(
            url, connections=self.connections, limit_s=_LIMIT_S, rate=self.rate, log=self.log
        ) as h2load:
            time.sleep(_SETTLE_S)
            began_s = time.time()
            for first in range(1, changes + 1, _STRETCH):
                loud_s = time.time()
                for number in range(first, min(first + _STRETCH, changes + 1)):
                    change(number)
                loud.append((loud_s, time.time()))
                # What a change leaves to be done in the background belongs to neither.
                time.sleep(_SETTLE_S)
                quiet_s = time.time()
                time.sleep(loud[-1][1] - loud_s)
                quiet.append((quiet_s, time.time()))
            return tuple(h2load.stop_and_part(loud, quiet, [(began_s, time.time())]))


def _storm(
    console: Console, machine: Machine, gateway: Gateway, changes: int, load: _Load, every_s: float
) -> StormReport:
    with gateway.admin() as admin, gateway.proxy() as proxy:
        services = [
            _add_service(admin, gateway, number)
            for number in track(range(changes + 1), "services", console=console)
        ]
        for name in ("steady", "storm"):
            admin.call("POST", f"/services/{services[0]}/routes", {"name": name, "paths": [f"/{name}"]})
            ask_until(proxy, f"/{name}", lambda status, body: (status, body) == (200, b"0"))
        before = settled_version(admin)
        url = f"http://127.0.0.1:{gateway.proxy_port}/steady"
        peak = load.peak(url)
        if peak is not None and load.share is not None:
            load = msgspec.structs.replace(load, rate=peak * load.share / 100)
        served_ms = []
        with Progress(console=console) as progress:
            task = progress.add_task("changes", total=changes)

            def reconnect() -> None:
                # After so long the control plane has closed it.
                admin.close()

            def change(number: int) -> None:
                if number % _STRETCH == 1:
                    reconnect()
                began = time.monotonic()
                served_ms.append(_change(admin, proxy, services, number))
                progress.advance(task)
                time.sleep(max(0.0, began + every_s - time.monotonic()))

            results = load.run_beside(url, change, changes)
            reconnect()
        after = settled_version(admin)
    return StormReport(
        machine,
        changes,
        after - before,
        served_ms,
        load=results[0],
        quiet=results[1] if len(results) > 1 else None,
        failed=results[-1].failed,
        peak=peak,
        rate=load.rate,
    )


def _add_service(admin: Admin, gateway: Gateway, number: int) -> str:
    """A service whose every answer is its number; returns its id."""
    url = f"http://127.0.0.1:{gateway.upstream_port}/bench/number/{number}"
    return str(admin.call("POST", "/services", {"name": f"number-{number}", "url": url})["id"])


def _change(admin: Admin, proxy: Client, services: list[str], number: int) -> float:
    """Point the route at service *number*; return the milliseconds until it answers by that number."""
    old, new = str(number - 1).encode(), str(number).encode()

    def is_new(status: int, body: bytes) -> bool:
        if status != 200 or body not in {old, new}:
            raise BenchError(f"change {number}: a request was answered by {status} {body[:200]!r}")
        return body == new

    began = time.monotonic()
    admin.call("PATCH", "/routes/storm", {"service": {"id": services[number]}})
    return (ask_until(proxy, "/storm", is_new, pause_s=_BETWEEN_QUESTIONS_S) - began) * 1000


if __name__ == "__main__":
    main()
