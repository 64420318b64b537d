"""Rounds of a load, interleaved between the contenders, and what is made of them.

A round is: processor time of the proxy's processes, load, processor time again. The order of the
contenders moves on by one in each round. Ratios are taken within a round, where both sides met the same
machine, and their median counts.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from bench.load.contenders import Contender
from bench.load.loads import Conditions, Load
from bench.load.machine import core_busy_s
from bench.load.processes import cpu_s, rss_bytes

#: The contender that all are compared with.
BASELINE: Final = "nginx"


class Sample(msgspec.Struct, frozen=True):
    """One round of one contender."""

    contender: str
    requests: int
    failed: int
    requests_per_s: float
    cpu_us: float
    """Processor microseconds, user and system, per unit of the load (request or MiB)."""
    p50_us: float
    p99_us: float
    busy_share: float
    """Of the proxy's core, used by the proxy."""
    foreign_share: float
    """Of the proxy's core, used by anybody else: what makes a figure worthless."""
    rss_mib: float


class Summary(msgspec.Struct, frozen=True):
    """The medians of one contender's rounds of one load."""

    contender: str
    cpu_us: float
    cpu_us_least: float
    cpu_us_most: float
    ratio: float | None
    """Median of the rounds' own ratios to nginx; None without nginx in the run."""
    requests_per_s: float
    p50_us: float
    p99_us: float
    busy_share: float
    foreign_share: float
    """The worst round's."""
    rss_mib: float
    failed: int


def run_rounds(
    load: Load,
    contenders: Sequence[Contender],
    conditions: Conditions,
    *,
    rounds: int,
    proxy_core: int,
    progress: Callable[[str], None],
) -> list[list[Sample]]:
    """Measure all contenders *rounds* times; one list per round. `progress` is told what begins."""
    warm_up = msgspec.structs.replace(conditions, seconds=1)
    # Those that do not speak TLS sit out the loads that do.
    ports = {
        contender: port
        for contender in contenders
        if (port := contender.tls_port if load.is_tls else contender.port) is not None
    }
    contenders = list(ports)
    for contender, port in ports.items():
        progress(f"{contender.name}, warm-up")
        load.run(port, warm_up)
    measured = []
    for number in range(rounds):
        shift = number % len(contenders)
        samples = []
        for contender in [*contenders[shift:], *contenders[:shift]]:
            progress(f"{contender.name}, round {number + 1} of {rounds}")
            samples.append(_measure(load, contender, ports[contender], conditions, proxy_core))
        measured.append(samples)
    return measured


def _measure(load: Load, contender: Contender, port: int, conditions: Conditions, proxy_core: int) -> Sample:
    began_s, core_s, used_s = time.monotonic(), core_busy_s(proxy_core), cpu_s(contender.pid)
    result = load.run(port, conditions)
    used_s = cpu_s(contender.pid) - used_s
    core_s = core_busy_s(proxy_core) - core_s
    elapsed_s = time.monotonic() - began_s
    return Sample(
        contender=contender.name,
        requests=result.requests,
        failed=result.failed,
        requests_per_s=result.requests / result.duration_s,
        cpu_us=used_s * 1e6 / max(1, result.requests * load.units),
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        busy_share=used_s / elapsed_s,
        foreign_share=max(0.0, core_s - used_s) / elapsed_s,
        rss_mib=rss_bytes(contender.pid) / 2**20,
    )


def summarise(measured: Sequence[Sequence[Sample]]) -> list[Summary]:
    """Medians by contender, in the order of the first round."""
    by_name: dict[str, list[Sample]] = {}
    ratios: dict[str, list[float]] = {}
    for samples in measured:
        baseline = next((sample.cpu_us for sample in samples if sample.contender == BASELINE), None)
        for sample in samples:
            by_name.setdefault(sample.contender, []).append(sample)
            if baseline:
                ratios.setdefault(sample.contender, []).append(sample.cpu_us / baseline)
    return [_summary(name, samples, ratios.get(name)) for name, samples in by_name.items()]


def _summary(name: str, samples: Sequence[Sample], ratios: Sequence[float] | None) -> Summary:
    costs = [sample.cpu_us for sample in samples]
    return Summary(
        contender=name,
        cpu_us=statistics.median(costs),
        cpu_us_least=min(costs),
        cpu_us_most=max(costs),
        ratio=statistics.median(ratios) if ratios else None,
        requests_per_s=statistics.median(sample.requests_per_s for sample in samples),
        p50_us=statistics.median(sample.p50_us for sample in samples),
        p99_us=statistics.median(sample.p99_us for sample in samples),
        busy_share=statistics.median(sample.busy_share for sample in samples),
        foreign_share=max(sample.foreign_share for sample in samples),
        rss_mib=statistics.median(sample.rss_mib for sample in samples),
        failed=sum(sample.failed for sample in samples),
    )
