"""Compare proxies: `python -m bench.load.run --help`."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from bench.load.contenders import CONTENDERS, Contender, start_contender, start_upstream, tools_of
from bench.load.generators import run_wrk
from bench.load.loads import LOADS, Conditions
from bench.load.machine import BenchError, describe, require_tools
from bench.load.processes import Processes
from bench.load.report import LoadReport, Report, describe_machine, doubts, print_load, write_json
from bench.load.rounds import BASELINE, run_rounds, summarise


def _names(known: Iterable[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """A callback for an option whose value is names out of *known*, between commas."""

    def parse(ctx: click.Context, param: click.Parameter, value: str) -> list[str]:
        names = [name.strip() for name in value.split(",")]
        if unknown := [name or "(nothing)" for name in names if name not in known]:
            raise click.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(known)}", ctx, param)
        return list(dict.fromkeys(names))

    return parse


def _shorten(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Put smaller defaults in place; it is eager, so options that are given still win."""
    if value:
        ctx.default_map = {"loads": "get,post16k", "rounds": 3, "seconds": 2}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--proxies", callback=_names(CONTENDERS), default="nginx,haproxy,fastgw", metavar="NAMES",
              help=f"Out of {', '.join(CONTENDERS)}.")  # fmt: skip
@click.option("--only", "loads", callback=_names(LOADS), default="get,post16k,rate", metavar="LOADS",
              help=f"Out of {', '.join(LOADS)}.")  # fmt: skip
@click.option("--rounds", type=click.IntRange(1, 100), default=5, help="Rounds of each load and proxy.")
@click.option("--seconds", type=click.IntRange(1, 120), default=4, help="Length of a round.")
@click.option("--connections", type=click.IntRange(1, 4096), default=64, help="Connections of the load.")
@click.option("--rate", type=click.FloatRange(1), default=None, show_default="half of nginx's peak",
              help="Requests per second of the load 'rate'.")  # fmt: skip
@click.option(
    "--proxy-core", type=click.IntRange(0), default=0, help="Core of the proxy and all its processes."
)
@click.option("--load-core", type=click.IntRange(0), default=1, help="Core of the upstream and the load.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/load.json"), help="Where the result goes.")  # fmt: skip
@click.option("--short", is_flag=True, is_eager=True, expose_value=False, callback=_shorten,
              help="Under a minute: other defaults (get,post16k; 3 rounds of 2 seconds).")  # fmt: skip
def main(
    proxies: list[str],
    loads: list[str],
    rounds: int,
    seconds: int,
    connections: int,
    rate: float | None,
    proxy_core: int,
    load_core: int,
    json_path: Path,
) -> None:
    """Put proxies under the same load, in turns, and compare what a request costs them.

    The cost is the processor time, user and system, of all processes of a proxy, divided by the
    requests that were answered. Proxies share one core; the upstream (nginx) and the load generator
    (wrk, h2load) share another. All of it listens on loopback, lives in a temporary directory, and
    is gone at the end.
    """
    console = Console()
    try:
        _require(proxies, loads, proxy_core, load_core)
        with tempfile.TemporaryDirectory(prefix="fastgw-bench-") as directory:
            conditions = Conditions(seconds, connections, load_core, Path(directory), rate or 0.0)
            report = _run(console, proxies, loads, conditions, rounds, proxy_core)
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    write_json(json_path, report)
    console.print(f"Written to {json_path}.")
    for doubt in doubts(report.machine, report.loads):
        console.print(f"[yellow]Do not keep these figures: {doubt}.[/]", soft_wrap=True)
    if any(summary.failed for load in report.loads.values() for summary in load.summaries):
        sys.exit(1)


def _require(proxies: Sequence[str], loads: Sequence[str], proxy_core: int, load_core: int) -> None:
    needed = {"nginx", "taskset", "wrk"} | {LOADS[name].tool for name in loads}
    require_tools(sorted(needed.union(*(tools_of(name) for name in proxies))))
    if missing := {proxy_core, load_core} - os.sched_getaffinity(0):
        raise BenchError(f"no core {min(missing)} here; choose others with --proxy-core and --load-core")
    if proxy_core == load_core:
        raise BenchError("the proxy and the load need a core each: --proxy-core and --load-core are the same")


def _run(
    console: Console,
    proxies: Sequence[str],
    loads: Sequence[str],
    conditions: Conditions,
    rounds: int,
    proxy_core: int,
) -> Report:
    machine = describe(["nginx", "haproxy", "wrk", "h2load"])
    console.print(describe_machine(machine), highlight=False, soft_wrap=True)
    console.print(
        f"{rounds} rounds of {conditions.seconds} s, {conditions.connections} connections; proxy on core"
        f" {proxy_core}, upstream and load on core {conditions.load_core}\n",
        highlight=False,
        soft_wrap=True,
    )
    # What this process itself does stays off the proxy's core.
    os.sched_setaffinity(0, {conditions.load_core})
    # nginx drops its privileges when root starts it, and needs a way to its files.
    conditions.directory.chmod(0o755)
    reports: dict[str, LoadReport] = {}
    with Processes(conditions.directory) as processes, console.status("starting") as status:
        upstream_port = start_upstream(processes, core=conditions.load_core)
        contenders = []
        for name in proxies:
            status.update(f"starting {name}")
            contenders.append(start_contender(name, processes, upstream_port=upstream_port, core=proxy_core))
        for name in loads:
            load = LOADS[name]
            if load.is_rated and not conditions.rate:
                status.update(f"finding {BASELINE}'s peak")
                conditions = msgspec.structs.replace(conditions, rate=_half_peak(contenders, conditions))
            measured = run_rounds(
                load,
                contenders,
                conditions,
                rounds=rounds,
                proxy_core=proxy_core,
                progress=lambda text, prefix=name: status.update(f"{prefix}: {text}"),  # type: ignore[misc]
            )
            summaries = summarise(measured)
            reports[name] = LoadReport(load.title, load.unit, summaries, measured)
            print_load(console, load, summaries)
    return Report(
        machine,
        {
            "rounds": rounds,
            "seconds": conditions.seconds,
            "connections": conditions.connections,
            "rate": conditions.rate,
        },
        reports,
    )


def _half_peak(contenders: Sequence[Contender], conditions: Conditions) -> float:
    """Half of what nginx answers per second when it is asked as fast as it can."""
    for contender in contenders:
        if contender.name == BASELINE:
            url = f"http://127.0.0.1:{contender.port}/"
            peak = run_wrk(
                url, connections=conditions.connections, seconds=conditions.seconds, core=conditions.load_core
            )
            return peak.requests / peak.duration_s / 2
    raise BenchError(f"the load 'rate' needs --rate, or {BASELINE} among the --proxies")


if __name__ == "__main__":
    main()
