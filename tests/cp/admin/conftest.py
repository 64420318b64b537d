"""One Admin API for all tests that need no settings of their own, emptied after each test."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.cp.admin.server import AdminServer
from tests.postgres import PgServer


@pytest.fixture(scope="session")
def admin_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminServer]:
    with AdminServer(tmp_path_factory.mktemp("admin")) as server:
        yield server


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def each_admin_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[AdminServer]:
    """One per storage, for what the storage may answer differently."""
    flags: dict[str, str] = {}
    if request.param == "postgres":
        server: PgServer = request.getfixturevalue("pg_server")
        flags = dict(server.create_database().properties)
    with AdminServer(tmp_path_factory.mktemp("admin"), **flags) as admin_server:
        yield admin_server


@pytest.fixture
def admin(admin_server: AdminServer) -> Iterator[httpx.Client]:
    """A client of an Admin API without rows."""
    with httpx.Client(
        base_url=f"http://127.0.0.1:{admin_server.port}", timeout=20, trust_env=False
    ) as client:
        yield client
    admin_server.run(admin_server.empty())
