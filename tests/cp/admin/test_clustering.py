"""Data planes as old and as new tools read them."""

from __future__ import annotations

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


def data_plane(number: int) -> DataPlaneRow:
    return DataPlaneRow(
        id=str(uuid.UUID(int=number)),
        hostname=f"dp-{number}",
        ip="192.168.10.3",
        last_seen=1_571_197_860,
        config_hash="64d661f505f7e1de5b4c5e5faa1797dd",
        applied_version=number,
        wanted_version=9,
        last_error="too old",
        labels={"zone": "a"},
    )


def test_no_data_planes(admin: httpx.Client) -> None:
    assert admin.get("/clustering/status").json() == {}
    assert admin.get("/clustering/data-planes").json() == {"data": [], "next": None}


def test_both_shapes(cluster: tuple[AdminServer, httpx.Client]) -> None:
    server, client = cluster
    server.run(server.storage.put_data_planes([data_plane(n) for n in (3, 1, 2)]))
    response = client.get("/clustering/status")
    assert response.headers["deprecation"] == "true"
    assert response.json()[str(uuid.UUID(int=1))] == {
        "config_hash": "64d661f505f7e1de5b4c5e5faa1797dd",
        "hostname": "dp-1",
        "ip": "192.168.10.3",
        "last_seen": 1_571_197_860,
    }
    first = client.get("/clustering/data-planes?size=2").json()
    assert [row["hostname"] for row in first["data"]] == ["dp-1", "dp-2"]
    row = first["data"][0]
    assert (row["applied_version"], row["wanted_version"], row["last_error"]) == (1, 9, "too old")
    assert row["labels"] == {"zone": "a"}
    assert first["next"] == f"/clustering/data-planes?offset={first['offset']}&size=2"
    last = client.get(first["next"]).json()
    assert [row["hostname"] for row in last["data"]] == ["dp-3"]
    assert last["next"] is None
    assert client.get("/clustering/data-planes?size=0").json()["code"] == 9
