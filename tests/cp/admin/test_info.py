"""`/` and `/status`."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import httpx
import pytest

from fastgw import __version__
from fastgw.settings import PROPERTIES
from tests.cp.admin.server import NODE_ID, AdminServer


def test_root(admin: httpx.Client) -> None:
    body = admin.get("/").json()
    assert body["version"] == "3.9.1"
    assert body["fastgw"]["version"] == __version__
    assert body["node_id"] == NODE_ID
    assert body["hostname"] == socket.gethostname()
    assert body["plugins"]["available_on_server"]["key-auth"] == {"version": "3.9.1", "priority": 1250}
    assert body["plugins"]["enabled_in_cluster"] == []
    assert body["configuration"]["database"] == "sqlite"
    assert body["configuration"]["admin_listen"] == ["127.0.0.1:8001", "127.0.0.1:8444"]
    assert set(body["configuration"]) == {prop.name for prop in PROPERTIES}
    assert body["pids"]["master"] == os.getpid()


def test_root_masks_secrets(tmp_path: Path) -> None:
    with AdminServer(tmp_path, pg_password="hidden-word") as server:
        text = httpx.get(f"http://127.0.0.1:{server.port}/", timeout=20, trust_env=False).text
    assert "hidden-word" not in text
    assert '"pg_password":"******"' in text


def test_status(admin: httpx.Client) -> None:
    body = admin.get("/status").json()
    assert body["database"] == {"reachable": True}
    assert body["fastgw"]["publication"]["refused"] is None
    assert body["server"]["connections_active"] >= 1
    total = body["server"]["total_requests"]
    assert admin.get("/status").json()["server"]["total_requests"] == total + 1
    assert body["memory"]["workers_lua_vms"][0]["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("query", "pattern"),
    [
        ("", r"\d+\.\d\d MiB"),
        ("?unit=k", r"\d+\.\d\d KiB"),
        ("?unit=G&scale=4", r"\d+\.\d{4} GiB"),
        ("?unit=b", r"\d+"),
        ("?scale=0", r"\d+ MiB"),
    ],
)
def test_status_units(admin: httpx.Client, query: str, pattern: str) -> None:
    shown = admin.get(f"/status{query}").json()["memory"]["workers_lua_vms"][0]["http_allocated_gc"]
    assert re.fullmatch(pattern, str(shown))
    assert isinstance(shown, int) == (query == "?unit=b")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("unit=V", "invalid unit 'V' (expected 'k/K', 'm/M', or 'g/G')"),
        ("scale=x", "invalid scale 'x' (expected 0 to 9)"),
    ],
)
def test_bad_status_arguments(admin: httpx.Client, query: str, message: str) -> None:
    response = admin.get(f"/status?{query}")
    assert (response.status_code, response.json()) == (400, {"message": message})


def test_without_storage_the_node_says_so(tmp_path: Path) -> None:
    with (
        AdminServer(tmp_path) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False) as client,
    ):
        server.run(server.storage.close())
        assert client.get("/status").json()["database"] == {"reachable": False}
        for response in (client.get("/services"), client.post("/services", json={"host": "a"})):
            assert response.status_code == 503
            assert response.json()["message"].endswith("fastgw.db: closed")
