"""Headers of every answer, and who is kept from asking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fastgw import __version__
from tests.cp.admin.server import AdminServer


def test_headers_of_every_answer(admin: httpx.Client) -> None:
    for method, path in (("GET", "/"), ("GET", "/x"), ("POST", "/services"), ("OPTIONS", "/services")):
        headers = admin.request(method, path).headers
        assert headers["server"] == f"fastgw/{__version__}"
        assert 0 <= int(headers["x-kong-admin-latency"]) < 20_000
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-allow-credentials"] == "true"
        assert "date" in headers
        assert "via" not in headers


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1", "[::1]:8001", "10.1.2.3"])
def test_hosts_of_this_machine(admin: httpx.Client, host: str) -> None:
    assert admin.get("/services", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8001"])
def test_other_hosts_on_loopback(admin: httpx.Client, host: str) -> None:
    response = admin.get("/services", headers={"Host": host})
    assert response.status_code == 403
    assert host.partition(":")[0] in response.json()["message"]
    assert admin.post("/services", json={"host": "a"}, headers={"Host": host}).status_code == 403


@pytest.mark.parametrize("host", ["", "a b", "a/b", "localhost:x"])
def test_malformed_host(admin: httpx.Client, host: str) -> None:
    assert admin.get("/services", headers={"Host": host}).status_code == 400


def test_a_foreign_origin_may_neither_write_nor_read(admin: httpx.Client) -> None:
    foreign = {"Origin": "https://evil.example"}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = admin.request(method, "/services/a", headers=foreign)
        assert response.status_code == 403
        assert "admin_cors_origins" in response.json()["message"]
    for method in ("GET", "OPTIONS"):
        response = admin.request(method, "/services", headers=foreign)
        assert response.is_success
        assert "access-control-allow-origin" not in response.headers
        assert "access-control-allow-credentials" not in response.headers


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[httpx.Client]:
    """An Admin API with a page of its own, and without the headers that can be switched off."""
    flags = {
        "admin_cors_origins": "https://admin.example",
        "headers": "off",
        "admin_listen": "admin.test:8001",
    }
    with (
        AdminServer(tmp_path, **flags) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False) as client,
    ):
        yield client


def test_settings_of_origins_hosts_and_headers(configured: httpx.Client) -> None:
    own = {"Origin": "https://admin.example", "Host": "admin.test:8001"}
    response = configured.post("/services", json={"host": "a"}, headers=own)
    assert response.status_code == 201
    assert response.headers["access-control-allow-origin"] == "https://admin.example"
    assert response.headers["vary"] == "Origin"
    assert "server" not in response.headers
    assert "x-kong-admin-latency" not in response.headers
    foreign = {"Origin": "https://admin.example.evil"}
    assert configured.post("/services", json={"host": "a"}, headers=foreign).status_code == 403
