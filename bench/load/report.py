"""What a run found: a table with bars on the terminal, and one JSON file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.load.loads import Load
from bench.load.machine import Machine
from bench.load.rounds import Sample, Summary

#: Above this share of the proxy's core used by others, or this load average before, a run is only a try.
QUIET_FOREIGN_SHARE: Final = 0.03
QUIET_LOADAVG: Final = 0.5
_BAR_CELLS: Final = 10


class LoadReport(msgspec.Struct, frozen=True):
    """One load: the medians, and the rounds that they come from."""

    title: str
    unit: str
    summaries: list[Summary]
    rounds: list[list[Sample]]


class Report(msgspec.Struct, frozen=True):
    """One run."""

    machine: Machine
    conditions: dict[str, float]
    loads: dict[str, LoadReport]


def describe_machine(machine: Machine) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine.versions.items()))
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib} MiB, Linux {machine.kernel},"
        f" Python {machine.python}; {versions}; load average {machine.loadavg_1min:.2f}"
    )


def print_load(console: Console, load: Load, summaries: Sequence[Summary]) -> None:
    console.print(f"{load.title} [dim](medians; latency in ms)[/]", highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("proxy", no_wrap=True)
    for heading in (f"µs/{load.unit}", "× nginx", "req/s", "p50", "p99", "core", "others"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    most = max(summary.cpu_us for summary in summaries)
    for summary in summaries:
        table.add_row(
            summary.contender,
            f"{summary.cpu_us:.2f}",
            "" if summary.ratio is None else f"{summary.ratio:.2f}",
            f"{summary.requests_per_s:.0f}",
            f"{summary.p50_us / 1000:.2f}",
            f"{summary.p99_us / 1000:.2f}",
            f"{summary.busy_share:.0%}",
            f"{summary.foreign_share:.0%}",
            "█" * max(1, round(_BAR_CELLS * summary.cpu_us / most)) if most else "",
        )
    console.print(table)
    console.print()


def doubts(machine: Machine, loads: Mapping[str, LoadReport]) -> list[str]:
    """Reasons not to keep these figures, each one line; empty when there are none."""
    found = []
    if machine.loadavg_1min > QUIET_LOADAVG:
        found.append(
            f"the machine was not quiet before the start: load average {machine.loadavg_1min:.2f}"
            f" (quiet: below {QUIET_LOADAVG})"
        )
    for name, load in loads.items():
        worst = max(load.summaries, key=lambda summary: summary.foreign_share)
        if worst.foreign_share > QUIET_FOREIGN_SHARE:
            found.append(
                f"{name}: others used up to {worst.foreign_share:.0%} of the proxy's core"
                f" (round of {worst.contender}; quiet: below {QUIET_FOREIGN_SHARE:.0%})"
            )
        found += [
            f"{name}: {summary.failed} requests failed through {summary.contender}"
            for summary in load.summaries
            if summary.failed
        ]
    return found


def write_json(path: Path, report: msgspec.Struct) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
