"""Fixtures of scenarios: a stage per test, the key pair, the upstream, and both storages."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.postgres import PgDatabase, PgServer
from tests.scenario import harness
from tests.scenario.harness import Pair, Stage
from tests.tls.certificates import gen_cert_pair


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what all processes of the open stages wrote, when a test fails."""
    report = yield
    if report.failed:
        report.sections += [(f"processes in {stage.directory}", stage.logs()) for stage in harness.STAGES]
    return report


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A key pair as gen-cert makes it."""
    directory = tmp_path_factory.mktemp("pair")
    return write_pair(directory)


def write_pair(directory: Path, name: str = "cluster") -> Pair:
    made = gen_cert_pair()
    pair = Pair(directory / f"{name}.crt", directory / f"{name}.key")
    pair.certificate.write_bytes(made.certificate_pem)
    pair.key.touch(0o600)
    pair.key.write_bytes(made.key_pem)
    return pair


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running httpbin."""
    with Stage(tmp_path_factory.mktemp("upstream")) as opened:
        yield opened.upstream()


@pytest.fixture(scope="session")
def prepared_database(pg_server: PgServer, tmp_path_factory: pytest.TempPathFactory) -> PgDatabase:
    """A database that was bootstrapped by the command, to copy."""
    database = pg_server.create_database()
    with Stage(tmp_path_factory.mktemp("bootstrap")) as opened:
        done = opened.ended("migrations bootstrap", database.properties)
        assert done.exit_code() == 0, done.log
    return database


@contextlib.contextmanager
def prepared_storage(request: pytest.FixtureRequest, dialect: str) -> Iterator[Mapping[str, str]]:
    """The settings of a control plane for a storage of its own that is ready to be used."""
    if dialect == "sqlite":
        yield {}  # it prepares itself
        return
    server: PgServer = request.getfixturevalue("pg_server")
    template: PgDatabase = request.getfixturevalue("prepared_database")
    database = server.create_database(template.name)
    yield database.properties
    server.drop_database(database.name)


@pytest.fixture(params=["sqlite", "postgres"])
def storage(request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    """Both storages, one after the other."""
    with prepared_storage(request, request.param) as settings:
        yield settings
