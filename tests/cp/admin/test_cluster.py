"""The cluster in short, waiting for a version, and writes that wait until they are applied."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fastgw.cp.storage.contract import DataPlaneRow
from tests.cp.admin.server import AdminServer


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple[AdminServer, httpx.Client]]:
    with (
        AdminServer(tmp_path) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False) as client,
    ):
        yield server, client


def data_plane(number: int, version: int, error: str | None = None) -> DataPlaneRow:
    return DataPlaneRow(
        id=str(uuid.UUID(int=number)),
        hostname=f"dp-{number}",
        ip="127.0.0.1",
        last_seen=int(time.time()),
        config_hash=f"{version:032x}",
        applied_version=version,
        wanted_version=9,
        last_error=error,
        connected=number != 4,
    )


def test_how_many_run_what(cluster: tuple[AdminServer, httpx.Client]) -> None:
    server, client = cluster
    rows = [data_plane(1, 9), data_plane(2, 8, "odd"), data_plane(3, 9), data_plane(4, 1)]
    server.run(server.storage.put_data_planes(rows))
    shown = client.get("/fastgw/cluster").json()
    assert shown["data_planes"] == {"connected": 3, "current": 2, "failing": 1}
    assert shown["versions"] == [
        {"version": 9, "config_hash": f"{9:032x}", "data_planes": 2},
        {"version": 8, "config_hash": f"{8:032x}", "data_planes": 1},
    ]
    assert shown["published"]["refused"] is None


@pytest.mark.parametrize(
    ("query", "prefer", "timeout_s"),
    [
        ("?wait=applied", None, 30),
        ("", "wait=7", 7),
        ("?tags=x&wait=applied", "return=representation, Wait = 5", 5),
        ("", "wait=100000", 300),
    ],
)
def test_a_write_waits_if_asked_to(
    cluster: tuple[AdminServer, httpx.Client], query: str, prefer: str | None, timeout_s: float
) -> None:
    server, client = cluster
    headers = {} if prefer is None else {"Prefer": prefer}
    answer = client.post(f"/services{query}", json={"name": "s", "host": "h"}, headers=headers)
    assert answer.status_code == 201
    assert answer.json()["name"] == "s"
    assert server.cluster_view.waited == [(1, timeout_s)]
    assert (answer.headers["x-fastgw-version"], answer.headers["x-fastgw-applied"]) == ("1", "2/2")
    assert answer.headers.get("preference-applied") == (None if prefer is None else f"wait={timeout_s}")
    assert "x-fastgw-not-applied" not in answer.headers


def test_other_requests_do_not_wait(cluster: tuple[AdminServer, httpx.Client]) -> None:
    server, client = cluster
    assert client.post("/services", json={"name": "s", "host": "h"}).status_code == 201
    assert client.get("/services/s?wait=applied").status_code == 200
    assert client.post("/services?wait=applied", json={"name": "s", "host": "h"}).status_code == 409
    assert client.post("/services", json={"host": 1}, headers={"Prefer": "respond-async"}).status_code == 400
    assert server.cluster_view.waited == []


def test_an_unknown_wish_is_refused_before_anything_is_stored(
    cluster: tuple[AdminServer, httpx.Client],
) -> None:
    _, client = cluster
    answer = client.post("/services?wait=forever", json={"name": "s", "host": "h"})
    assert (answer.status_code, answer.json()) == (
        400,
        {"message": "wait: 'forever' is not known; 'applied' is"},
    )
    assert client.get("/services/s").status_code == 404


def test_who_does_not_run_it_is_named_and_the_write_stands(
    cluster: tuple[AdminServer, httpx.Client],
) -> None:
    server, client = cluster
    server.cluster_view.behind = [data_plane(number, 0) for number in range(1, 23)]
    answer = client.put("/services/s?wait=applied", json={"host": "h"})
    assert answer.status_code == 202
    assert answer.json()["name"] == "s"
    assert answer.headers["x-fastgw-applied"] == "2/24"
    named = answer.headers["x-fastgw-not-applied"]
    assert named.startswith(f"dp-1 ({uuid.UUID(int=1)}), dp-2 (")
    assert named.endswith(", and 2 more")
    assert client.delete("/services/s?wait=applied").status_code == 202


def test_waiting_for_a_version(cluster: tuple[AdminServer, httpx.Client]) -> None:
    server, client = cluster
    server.cluster_view.behind = [data_plane(1, 0, "odd")]
    answer = client.get("/fastgw/cluster/wait?version=7&timeout=0.5").json()
    assert server.cluster_view.waited == [(7, 0.5)]
    assert answer["data_planes"] == {"connected": 3, "applied": 2, "held_back": 0}
    assert (answer["applied"], answer["settled"]) == (False, False)
    assert [(row["hostname"], row["last_error"]) for row in answer["not_applied"]] == [("dp-1", "odd")]
    for query in ("", "?version=x", "?version=-1", "?version=1&timeout=x", "?version=1&timeout=99999"):
        assert client.get(f"/fastgw/cluster/wait{query}").status_code == 400
