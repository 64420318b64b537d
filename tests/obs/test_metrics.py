"""`/metrics`: what two workers really counted, summed, against a page that was read line by line."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw import __version__
from fastgw.dp import _metrics
from fastgw.obs import metrics
from fastgw.obs.metrics import NodeFigures, WorkerFigures, render, sum_totals

GOLDEN: Final = Path(__file__).with_name("metrics.golden.txt")
NODE: Final = NodeFigures(
    node_id="019c6d25-9e93-4cb3-a66f-2523e89b558d",
    config_version=12,
    config_applied_total=3,
    config_refused_total=1,
    control_plane_connected=True,
    control_planes={"cp-2:8005": False, "cp-1:8005": True},
    certificate_expires_s=1826000000.0,
)
FIRST, SECOND, THIRD = (uuid.UUID(int=number).bytes for number in (1, 2, 3))


@contextmanager
def segment() -> Iterator[tuple[int, _metrics.MetricsSegment]]:
    fd = os.memfd_create("test-metrics")
    os.ftruncate(fd, _metrics.SEGMENT_BYTES)
    try:
        yield fd, _metrics.MetricsSegment(fd)
    finally:
        os.close(fd)


def figures(index: int, fd: int) -> WorkerFigures:
    # The header and the first slots: mapping all of a sparse file costs nothing, copying it would.
    values = _metrics.read_segment(os.pread(fd, 1 << 20, 0))
    return WorkerFigures(
        index=index,
        pid=100 + index,
        is_running=index == 0,
        restarts_total=index,
        memory_bytes=1000 * (index + 1),
        segment_bytes=8192,
        values=values,
    )


def page_of_two_workers() -> str:
    with segment() as (one_fd, one), segment() as (two_fd, two):
        for ms in (1, 6, 7000):
            one.count(FIRST, b"s", b"r", 200, 0, 80, 260, ms, 20, ms + 20)
        two.count(FIRST, b"s", b"r", 200, 0, 80, 260, 2, 30, 32)
        two.count(FIRST, b"s", b"r", 502, 1, 80, 120, 1, -1, 90000)
        two.count(SECOND, b"", b'quoted "route"\\', 503, 1, 10, 20, 0, -1, 0)
        two.count(THIRD, b"s", b"r", 200, 0, 1, 2, 1, 1, 2)  # made anew under the same name
        for code in (431, 400, 400):
            two.count_refused(code)
        one.count_refused(400)
        one.log_lines_dropped = 3
        workers = [figures(0, one_fd), figures(1, two_fd)]
        return render(NODE, workers).decode()


def test_the_page_is_the_golden_one() -> None:
    assert page_of_two_workers() == GOLDEN.read_text("utf-8").replace("@VERSION@", __version__)


def test_prometheus_own_parser_reads_it() -> None:
    families = {family.name: family for family in text_string_to_metric_families(page_of_two_workers())}
    assert families["kong_http_requests"].type == "counter"
    assert families["kong_kong_latency_ms"].type == "histogram"
    samples = {sample.labels["route"] for sample in families["kong_bandwidth_bytes"].samples}
    assert samples == {"r", 'quoted "route"\\'}


def test_histograms_rise_to_their_count() -> None:
    for family in text_string_to_metric_families(page_of_two_workers()):
        if family.type != "histogram":
            continue
        series: dict[tuple[str, str], list[float]] = {}
        counts: dict[tuple[str, str], float] = {}
        for sample in family.samples:
            key = (sample.labels["service"], sample.labels["route"])
            if sample.name.endswith("_bucket"):
                series.setdefault(key, []).append(sample.value)
            elif sample.name.endswith("_count"):
                counts[key] = sample.value
        assert series
        for key, values in series.items():
            assert values == sorted(values)
            assert values[-1] == counts[key]


def test_the_bounds_are_those_that_workers_count_into() -> None:
    assert metrics.GATEWAY_BOUNDS == _metrics.GATEWAY_BOUNDS
    assert metrics.LATENCY_BOUNDS == _metrics.LATENCY_BOUNDS


def test_a_node_without_workers_or_control_plane_has_a_page() -> None:
    node = NodeFigures(NODE.node_id, 0, 0, 0, None, {}, None)
    page = render(node, []).decode()
    assert "fastgw_control_plane_connected" not in page
    assert "cluster_cert_expiry" not in page
    assert 'state="active"} 0' in page
    list(text_string_to_metric_families(page))


def test_a_worker_that_never_ran_counts_nothing() -> None:
    fd = os.memfd_create("test-metrics")
    try:
        os.ftruncate(fd, _metrics.SEGMENT_BYTES)
        totals = sum_totals([figures(0, fd)])
    finally:
        os.close(fd)
    assert totals.requests == 0
    assert set(totals.connections.values()) == {0}


@pytest.mark.parametrize("family", ["kong_bandwidth_bytes", "kong_http_requests_total"])
def test_label_names_stand_in_kongs_order(family: str) -> None:
    line = next(line for line in page_of_two_workers().splitlines() if line.startswith(f"{family}{{"))
    names = re.findall(r'(\w+)="', line)
    expected = {
        "kong_bandwidth_bytes": ["service", "route", "direction", "workspace", "consumer"],
        "kong_http_requests_total": ["service", "route", "code", "source", "workspace", "consumer"],
    }
    assert names == expected[family]
