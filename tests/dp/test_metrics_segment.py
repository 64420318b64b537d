"""The shared segment: what a worker counts is what the supervisor reads, also after the worker is gone."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator

import pytest

from fastgw.dp._metrics import SEGMENT_BYTES, MetricsSegment, read_answered, read_segment

ROUTE = bytes(range(16))


@pytest.fixture
def segment_fd() -> Iterator[int]:
    fd = os.memfd_create("metrics")
    os.ftruncate(fd, SEGMENT_BYTES)
    yield fd
    os.close(fd)


def test_counts_by_route_code_and_source(segment_fd: int) -> None:
    segment = MetricsSegment(segment_fd)
    for _ in range(3):
        segment.count(ROUTE, b"svc", b"rt", 200, 0, 100, 300, 1, 26, 27)
    segment.count(ROUTE, b"svc", b"rt", 502, 1, 10, 20, 7000, -1, 70_000)
    with mmap.mmap(segment_fd, 0) as view:
        (route,) = read_segment(view)["routes"]
    assert (route["route_id"], route["service"], route["route"]) == (ROUTE, "svc", "rt")
    assert route["codes"] == {(200, 0): 3, (502, 1): 1}
    assert (route["bytes_in"], route["bytes_out"]) == (310, 920)
    assert route["gateway"] == ([3] + [0] * 16 + [1], 7003)
    assert route["upstream"] == ([0, 3] + [0] * 12, 78)
    assert route["request"][0][1] == 3
    assert route["request"][0][13] == 1


def test_a_new_worker_goes_on_where_the_old_one_ended(segment_fd: int) -> None:
    MetricsSegment(segment_fd).count(ROUTE, b"svc", b"rt", 200, 0, 1, 1, 0, 0, 0)
    MetricsSegment(segment_fd).count(ROUTE, b"svc", b"renamed", 200, 0, 1, 1, 0, 0, 0)
    with mmap.mmap(segment_fd, 0) as view:
        (route,) = read_segment(view)["routes"]
    assert route["codes"] == {(200, 0): 2}
    assert route["route"] == "renamed"


def test_long_labels_are_cut(segment_fd: int) -> None:
    MetricsSegment(segment_fd).count(ROUTE, b"s" * 500, b"", 200, 0, 1, 1, 0, 0, 0)
    with mmap.mmap(segment_fd, 0) as view:
        assert read_segment(view)["routes"][0]["service"] == "s" * 232


def test_more_codes_than_places_are_counted_as_dropped(segment_fd: int) -> None:
    segment = MetricsSegment(segment_fd)
    for code in range(200, 240):
        segment.count(ROUTE, b"", b"", code, 0, 1, 1, 0, 0, 0)
    with mmap.mmap(segment_fd, 0) as view:
        values = read_segment(view)
    assert len(values["routes"][0]["codes"]) == 32
    assert values["totals"]["codes_dropped_total"] == 8


def test_a_segment_nobody_wrote_is_empty(segment_fd: int) -> None:
    with mmap.mmap(segment_fd, 0) as view:
        assert read_segment(view) == {"totals": {}, "routes": []}


def test_a_short_file_is_refused() -> None:
    fd = os.memfd_create("short")
    try:
        with pytest.raises(ValueError, match="bytes"):
            MetricsSegment(fd)
    finally:
        os.close(fd)


def test_answers_are_summed_over_routes_sources_and_what_found_no_route(segment_fd: int) -> None:
    with mmap.mmap(segment_fd, 0) as view:
        assert read_answered(view) == (0, 0)  # nobody has counted in it
    segment = MetricsSegment(segment_fd)
    for number, (code, source) in enumerate([(200, 0), (499, 1), (500, 0), (503, 1), (599, 0), (200, 0)]):
        segment.count(bytes([number % 3] * 16), b"svc", b"rt", code, source, 1, 1, 1, 1, 1)
    segment.count_refused(404)
    segment.count_refused(503)
    with mmap.mmap(segment_fd, 0) as view:
        assert read_answered(view) == (8, 4)
    with pytest.raises(ValueError, match="too short"):
        read_answered(bytes(100))
