"""How long a change takes to all of a large cluster: `python -m bench.cluster.run --help`.

One control plane on SQLite, one real data plane, and many simulated ones in a few processes
(`bench.cluster.data_planes`). Routes are changed one by one. For each change two times are taken, both from
the start of the Admin write: until each simulated data plane had given its verdict, and until the real one
served the new route.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.progress import track

from bench.cluster.fleet import LINK_DEADLINE_S, Fleet, started_fleet
from bench.load.gateway import Admin, Client, Gateway, ask_until, start_gateway
from bench.load.generators import percentile
from bench.load.machine import BenchError, Machine, describe, require_tools
from bench.load.processes import Processes, cpu_s, pss_bytes
from bench.load.report import describe_machine, doubts, write_json

_CHANGE_DEADLINE_S: Final = 60.0


class ClusterReport(msgspec.Struct, frozen=True):
    """One run."""

    machine: Machine
    data_planes: int
    routes: int
    whole: bool
    acknowledged_ms: list[list[float]]
    """For each change, from the Admin write until each simulated data plane had applied it."""
    served_ms: list[float]
    """For each change, from the Admin write until the real data plane served it."""
    bytes_per_change: float
    """Received by one simulated data plane, TLS included."""
    control_plane_mib: float
    """PSS of the control plane and its compile process, at the end."""
    control_plane_cpu_ms: float
    """For one change, of the control plane and its compile process."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--data-planes", type=click.IntRange(1, 5_000), default=1_000, help="Simulated ones.")
@click.option("--processes", type=click.IntRange(1, 16), default=4, help="Processes that they share.")
@click.option(
    "--routes", type=click.IntRange(0, 100_000), default=10_000, help="Routes that are there before."
)
@click.option("--changes", type=click.IntRange(1, 1_000), default=30, help="Routes added, one by one.")
@click.option("--whole", is_flag=True, help="Simulated data planes know no deltas: for comparison.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/cluster.json"), help="Where the result goes.")  # fmt: skip
def main(data_planes: int, processes: int, routes: int, changes: int, whole: bool, json_path: Path) -> None:
    """Measure how long one changed route takes to many data planes, and what it costs.

    All on loopback, in a temporary directory; everything is gone at the end. A thousand data planes take a
    minute to connect, for they keep to the control plane's pacing.
    """
    console = Console()
    try:
        require_tools(["nginx"])
        machine = describe(["nginx"])
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as name,
            Processes(Path(name)) as running,
        ):
            gateway = start_gateway(running, workers=1, routes=routes)
            control_planes = [f"127.0.0.1:{gateway.cluster_port}"]
            with started_fleet(control_planes, Path(name), data_planes, processes, whole=whole) as fleet:
                with console.status(f"{data_planes} data planes connect"):
                    fleet.gather("linked", LINK_DEADLINE_S)
                # Only now: connections that wait for so long would be closed for being idle.
                with gateway.admin() as admin, gateway.proxy() as proxy:
                    report = _measure(
                        console, machine, gateway, admin, proxy, fleet, changes,
                        data_planes=data_planes, routes=routes, whole=whole,
                    )  # fmt: skip
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    _print(console, report)
    write_json(json_path, report)
    console.print(f"Written to {json_path}.")
    for doubt in doubts(machine, {}):
        console.print(f"[yellow]Do not keep these figures: {doubt}.[/]", soft_wrap=True)


def _measure(
    console: Console,
    machine: Machine,
    gateway: Gateway,
    admin: Admin,
    proxy: Client,
    fleet: Fleet,
    changes: int,
    **conditions: Any,
) -> ClusterReport:
    body = {"name": "bench", "url": f"http://127.0.0.1:{gateway.upstream_port}"}
    admin.call("POST", "/services", body)
    fleet.gather("version", _CHANGE_DEADLINE_S)
    _change(admin, proxy, fleet, "/warm-up")
    address = f"127.0.0.1:{gateway.cluster_port}"
    received, spent_s = fleet.received_bytes(address), cpu_s(gateway.cp_pid)
    measured = [
        _change(admin, proxy, fleet, f"/changes/{number:06}")
        for number in track(range(changes), "changes", console=console)
    ]
    spent_s = cpu_s(gateway.cp_pid) - spent_s
    received = fleet.received_bytes(address) - received
    _await_verdicts(admin, conditions["data_planes"] + 1)
    return ClusterReport(
        machine,
        acknowledged_ms=[acknowledged for acknowledged, _ in measured],
        served_ms=[served for _, served in measured],
        bytes_per_change=received / changes / conditions["data_planes"],
        control_plane_mib=pss_bytes(gateway.cp_pid) / 2**20,
        control_plane_cpu_ms=spent_s * 1000 / changes,
        **conditions,
    )


def _change(admin: Admin, proxy: Client, fleet: Fleet, path: str) -> tuple[list[float], float]:
    """Add a route; the milliseconds until each simulated data plane had it, and until the real one served."""
    began = time.monotonic()
    admin.call("POST", "/services/bench/routes", {"name": path[1:].replace("/", "-"), "paths": [path]})
    served_s = ask_until(proxy, path, lambda status, _: status == 200) - began
    facts = fleet.gather("version", _CHANGE_DEADLINE_S)
    if len({fact["version"] for fact in facts}) != 1:
        raise BenchError("the data planes are at different versions after one change")
    return [(at_s - began) * 1000 for fact in facts for at_s in fact["at_s"]], served_s * 1000


def _await_verdicts(admin: Admin, count: int) -> None:
    """Return when the control plane has heard that all data planes run what it wants of them."""
    until = time.monotonic() + _CHANGE_DEADLINE_S
    while True:
        rows: list[dict[str, Any]] = []
        path: str | None = "/clustering/data-planes?size=1000"
        while path:
            page = admin.call("GET", path)
            rows += page["data"]
            path = page["next"]
        behind = [row for row in rows if row["applied_version"] != row["wanted_version"]]
        if len(rows) == count and not behind:
            return
        if time.monotonic() > until:
            raise BenchError(f"{len(rows)} data planes are known, {len(behind)} of them behind")
        time.sleep(0.1)


def _print(console: Console, report: ClusterReport) -> None:
    each = sorted(value for change in report.acknowledged_ms for value in change)
    last = sorted(max(change) for change in report.acknowledged_ms)
    served = sorted(report.served_ms)
    for what, values in (
        ("each has applied", each),
        ("the last has applied", last),
        ("a real one serves", served),
    ):
        console.print(
            f"{what:>21}: median {percentile(values, 50):.1f} ms, p99 {percentile(values, 99):.1f} ms,"
            f" most {values[-1]:.1f}",
            highlight=False,
        )
    console.print(
        f"  sent to each a change: {report.bytes_per_change:.0f} bytes\n"
        f"          control plane: {report.control_plane_mib:.0f} MiB,"
        f" {report.control_plane_cpu_ms:.1f} ms of processor time a change",
        highlight=False,
    )


if __name__ == "__main__":
    main()
