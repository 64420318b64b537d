"""What a configuration costs the event loops of the workers: `python -m bench.load.loop_time --help`.

Walks through all that happens to a worker with large tables, under a steady load: it takes a whole image at
its start, its routes are asked for one after another, one route changes again and again, many change at once,
the overlay is merged into a new base, the generation before goes, a whole image takes the place of another.
For each stage it says what one turn of the loop took at most, in processor time of its thread (`turns.py`).
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from bench.load.gateway import Gateway, ask_until, start_gateway
from bench.load.generators import BackgroundH2load, BackgroundWrk, LoadResult
from bench.load.machine import BenchError, Machine, describe, require_tools
from bench.load.processes import Processes
from bench.load.report import describe_machine, doubts, write_json
from bench.load.turns import BAR_MS, Mark, TurnCounter, Turns, workers_of

_LIMIT_S: Final = 600
_EACH_LIMIT_S: Final = 60
_STEP_S: Final = 60.0
"""A merge of 100,000 routes, or a whole image, takes some seconds; on a busy machine many."""
_BETWEEN_S: Final = 0.2
_FIRST: Final = "start, a first whole image"
"""The longest turn makes the proxy, before anything is accepted: nobody waits for that loop."""
_MANY: Final = 600
"""Routes that change at once: more than an overlay holds without being merged."""


class LoopReport(msgspec.Struct, frozen=True):
    """One run."""

    machine: Machine
    stages: dict[str, Turns]
    load: LoadResult


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--routes", type=click.IntRange(1_000, 100_000), default=100_000, help="Routes of the table.")
@click.option("--changes", type=click.IntRange(1, 5_000), default=50, help="Changes of one route.")
@click.option("--rate", type=click.IntRange(1), default=5_000, help="Requests per second of the load.")
@click.option("--workers", type=click.IntRange(1, 64), default=2, help="Workers of the data plane.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/loop_time.json"), help="Where the result goes.")  # fmt: skip
def main(routes: int, changes: int, rate: int, workers: int, json_path: Path) -> None:
    """Measure the longest turns of the workers' event loops while configurations come and go.

    Starts a control plane (SQLite), a data plane, nginx and generators on loopback, in a temporary
    directory; all are gone at the end. Needs a C compiler. Ends with status 1 when a turn took more than
    5 ms of processor time, or a request failed.
    """
    console = Console()
    try:
        tools = ["nginx", "wrk", "h2load"]
        require_tools(tools)
        machine = describe(tools)
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as directory,
            Processes(Path(directory)) as processes,
        ):
            counter = TurnCounter(Path(directory))
            gateway = start_gateway(
                processes,
                workers=workers,
                routes=routes,
                dp_environment=counter.preloaded(),
                log_level="info",  # which tells of merges
                nginx_http_keepalive_requests=10_000_000,
            )
            stages = _Stages(gateway, counter)
            stages.end(_FIRST)
            load = _walk(console, gateway, stages, routes, changes, rate, Path(directory) / "h2load.log")
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    _print(console, stages.found)
    console.print(
        f"{load.requests} requests of the load, {load.failed} failed, p99 {load.p99_us / 1000:.2f} ms"
    )
    write_json(json_path, LoopReport(machine, stages.found, load))
    console.print(f"Written to {json_path}.")
    for doubt in doubts(machine, {}):
        console.print(f"[yellow]Do not keep these figures: {doubt}.[/]", soft_wrap=True)
    if load.failed or any(turns.above_bar for name, turns in stages.found.items() if name != _FIRST):
        sys.exit(1)


class _Stages:
    """What each stage cost, in order."""

    def __init__(self, gateway: Gateway, counter: TurnCounter) -> None:
        self.found: dict[str, Turns] = {}
        self._gateway = gateway
        self._counter = counter
        self._last = Mark({})

    def end(self, name: str) -> None:
        """What has passed since the last stage was this one."""
        mark = self._counter.mark(workers_of(self._gateway.dp_pid))
        self.found[name] = self._counter.between(self._last, mark)
        self._last = mark


def _walk(
    console: Console, gateway: Gateway, stages: _Stages, routes: int, changes: int, rate: int, log: Path
) -> LoadResult:
    for number in range(2):
        url = f"http://127.0.0.1:{gateway.upstream_port}/bench/number/{number}"
        _write(gateway, "POST", "/services", {"name": f"number-{number}", "url": url})
    for name in ("steady", "storm"):
        _write(gateway, "POST", "/services/number-0/routes", {"name": name, "paths": [f"/{name}"]})
        _expect(gateway, f"/{name}", b"0")
    url = f"http://127.0.0.1:{gateway.proxy_port}/steady"
    with BackgroundH2load(url, connections=16, limit_s=_LIMIT_S, rate=rate, log=log) as generator:
        time.sleep(1.0)
        stages.end("few changes")
        _ask_each(gateway, routes)
        stages.end("every route asked for")
        for number in range(1, changes + 1):
            _storm(gateway, number)
            time.sleep(_BETWEEN_S)
        stages.end("one route changes")
        _change_many(gateway, routes)
        _storm(gateway, changes + 1)
        stages.end(f"{_MANY} routes change")
        _wait(lambda: _count(gateway, "is merged into a new base") > 0, "a merge")
        stages.end("a merge, its base staged")
        # The first change lies on the new base, and the generation on the old one goes.
        for number in range(changes + 2, changes + 5):
            _storm(gateway, number)
            time.sleep(_BETWEEN_S)
        stages.end("the new base serves, the old one goes")
        _ask_each(gateway, routes)
        stages.end("every route asked for anew")
        wholes = _count(gateway, "; whole;")
        _write(gateway, "POST", "/upstreams", {"name": "an.upstream.example.com"})
        _wait(lambda: _count(gateway, "; whole;") > wholes, "a whole image")
        time.sleep(1.0)
        stages.end("a whole image in place of another")
        return generator.stop()


def _ask_each(gateway: Gateway, routes: int) -> None:
    """Have wrk ask for every route, each at least once by every worker, most likely."""
    os.environ["SEEDED_ROUTES"] = str(routes)
    url = f"http://127.0.0.1:{gateway.proxy_port}/"
    with BackgroundWrk(url, connections=32, limit_s=_EACH_LIMIT_S, script="wrk_each.lua") as wrk:
        time.sleep(min(12.0, 2.0 + routes / 10_000))
        wrk.stop()


def _write(gateway: Gateway, method: str, path: str, body: Mapping[str, object]) -> None:
    """One request to the Admin API, on a connection of its own: minutes may lie between two."""
    with gateway.admin() as admin:
        admin.call(method, path, body)


def _expect(gateway: Gateway, path: str, answer: bytes) -> None:
    with gateway.proxy() as proxy:
        ask_until(proxy, path, lambda status, body: (status, body) == (200, answer))


def _storm(gateway: Gateway, number: int) -> None:
    """Point one route at the other service, and wait until it serves."""
    new = number % 2
    _write(gateway, "PATCH", "/routes/storm", {"service": {"name": f"number-{new}"}})
    _expect(gateway, "/storm", str(new).encode())


def _change_many(gateway: Gateway, routes: int) -> None:
    operations = [
        {"method": "PATCH", "path": f"/routes/seed-{number}", "body": {"preserve_host": True}}
        for number in range(0, routes, routes // _MANY)
    ]
    _write(gateway, "POST", "/fastgw/transaction", {"operations": operations})


def _count(gateway: Gateway, text: str) -> int:
    """How often the data plane has logged it."""
    return gateway.dp_log.read_text().count(text)


def _wait(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _STEP_S
    while not holds():
        if time.monotonic() > until:
            raise BenchError(f"{what} did not come within {_STEP_S:g} s")
        time.sleep(0.05)


def _print(console: Console, stages: dict[str, Turns]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    for heading in ("turns", "p99.9", "longest", f"> {BAR_MS:g} ms", "by the clock"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, turns in stages.items():
        cells = (f"{ms:.2f}" for ms in (turns.p999_ms, turns.longest_ms, turns.longest_wall_ms))
        p999, longest, wall = cells
        table.add_row(name, str(turns.turns), p999, longest, str(turns.above_bar), wall)
    console.print(table)
    console.print("Milliseconds of the loop's thread; by the clock, what it waited for is in it, too.")


if __name__ == "__main__":
    main()
