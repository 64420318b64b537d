"""What validation lets in compiles: a stored row that cannot be published would hold up all later ones."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import ValidationError
from fastgw.model.entities import ROUTES, SERVICES, Row
from fastgw.model.snapshot import Snapshot
from fastgw.model.validate import make_row
from fastgw.routing.compile import compile_snapshot

SERVICE_ID = "7fca84d6-7d37-4a74-a7b0-93e576089a41"

host_texts = st.text(st.sampled_from("aB0.*:-_[]é1"), min_size=1, max_size=8) | st.sampled_from(
    ["*.", "*.:80", "a.*", "*.a:80", "a.", "::1", "[::1]", "[::1]:80", "1.2.3.4:80", "a:80", "A.b", "a:"]
)
path_texts = st.text(st.sampled_from("/a.%2F~é \x00"), max_size=8).map("/{}".format)
regex_texts = st.text(st.sampled_from("/aé.*+?()[]|\\d{2}^$~<P>=!:"), max_size=10)
header_values = st.text(st.sampled_from("aBé \x00"), max_size=3) | regex_texts.map("~*{}".format)
sni_texts = st.text(st.sampled_from("aB.*-"), min_size=1, max_size=6)
nullable = ["name", "retries", "path", "connect_timeout", "write_timeout", "read_timeout", "tags"]
routes = st.fixed_dictionaries(
    {"protocols": st.sampled_from([["http"], ["https"], ["https", "http"]])},
    optional={
        "hosts": st.none() | st.lists(host_texts, max_size=2),
        "paths": st.none() | st.lists(path_texts | regex_texts.map("~/{}".format), max_size=2),
        "headers": st.none()
        | st.dictionaries(st.sampled_from(["x", "X-a", "x_a"]), st.lists(header_values, max_size=2)),
        "snis": st.none() | st.lists(sni_texts, max_size=2),
        "methods": st.none()
        | st.lists(st.text(st.sampled_from("GETXz"), min_size=1, max_size=4), max_size=2),
        "created_at": st.integers(1, 2**63 - 1),
        "regex_priority": st.none() | st.integers(-(2**63), 2**63 - 1),
        "path_handling": st.sampled_from([None, "v0", "v1"]),
        "service": st.sampled_from([None, {"id": SERVICE_ID}]),
    },
)


def compile_rows(rows: dict[str, list[Row]]) -> bytes:
    snapshot = Snapshot.from_rows(1, rows)
    return compile_snapshot(snapshot)


def valid(data: dict[str, Any]) -> Row | None:
    try:
        return make_row(ROUTES, data, now_s=1)
    except ValidationError:
        return None


@given(st.lists(routes, max_size=3), st.sets(st.sampled_from(nullable)))
def test_every_valid_row_compiles(given_routes: list[dict[str, Any]], nulls: set[str]) -> None:
    data = {"host": "a", "id": SERVICE_ID, **dict.fromkeys(nulls)}
    rows = [row for row in map(valid, given_routes) if row is not None]
    assert compile_rows({"services": [make_row(SERVICES, data, now_s=1)], "routes": rows})


@pytest.mark.parametrize(
    "data",
    [
        {"paths": ["/" + "a" * 65534]},
        {"paths": [f"/{n}" for n in range(65535)]},
        {"hosts": ["a." * 32767]},
        {"methods": ["A" * 65535]},
    ],
)
def test_the_largest_valid_rows_compile(data: dict[str, Any]) -> None:
    assert compile_rows({"services": [], "routes": [make_row(ROUTES, data, now_s=1)]})
