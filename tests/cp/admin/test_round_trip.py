"""Random valid entities: written, read back, exported, and imported into the other storage."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.model.entities import ENTITIES
from tests.cp.admin.server import AdminServer
from tests.model.strategies import entity_bodies
from tests.postgres import PgServer

# Those whose bodies need keys that belong together are tested one by one elsewhere.
KINDS = [name for name in ENTITIES if name not in ("certificates", "ca_certificates", "snis", "keys")]


def with_time(kind: str, body: dict[str, Any]) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """*body* of *kind*, sometimes with a time to live where rows may have one."""
    if not ENTITIES[kind].ttl:
        return st.just((kind, body))
    times = st.none() | st.integers(0, 0) | st.integers(1000, 100_000_000)
    return times.map(lambda ttl: (kind, body if ttl is None else {**body, "ttl": ttl}))


drawn = st.lists(
    st.sampled_from(KINDS).flatmap(
        lambda kind: entity_bodies(ENTITIES[kind]).flatmap(lambda body: with_time(kind, body))
    ),
    min_size=3,
    max_size=12,
)


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory, pg_server: PgServer
) -> Iterator[tuple[AdminServer, AdminServer]]:
    flags = dict(pg_server.create_database().properties)
    with (
        AdminServer(tmp_path_factory.mktemp("sqlite")) as sqlite,
        AdminServer(tmp_path_factory.mktemp("postgres"), **flags) as postgres,
    ):
        yield sqlite, postgres


def client_of(server: AdminServer) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False)


def write(client: httpx.Client, bodies: list[tuple[str, dict[str, Any]]]) -> int:
    """POST each body, bound to a parent where it needs one, and read it back; return how many were valid."""
    consumer = client.post("/consumers", json={"username": "parent"}).json()
    upstream = client.post("/upstreams", json={"name": "parent.example"}).json()
    parents = {"consumers": consumer, "upstreams": upstream}
    valid = 0
    for kind, body in bodies:
        entity = ENTITIES[kind]
        path = f"/{entity.admin_path}"
        for name, field in entity.foreign_fields.items():
            if field.required and field.reference in parents:
                parent = parents[field.reference]
                path = f"/{ENTITIES[field.reference].admin_path}/{parent['id']}/{entity.nested_name}"
                assert name not in body
        answer = client.post(path, json=body)
        assert answer.status_code in (201, 400, 409), answer.text
        if answer.status_code == 201:
            valid += 1
            made = answer.json()
            read = client.get(f"{path}/{made['id']}").json()
            if body.get("ttl"):
                assert made["ttl"] == body["ttl"]
                assert made["ttl"] - read["ttl"] in range(3)
                read["ttl"] = made["ttl"]
            assert read == made
            assert set(made) == set(entity.fields) | ({"ttl"} if entity.ttl else set())
    return valid


@given(drawn)
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
def test_what_is_written_moves_to_the_other_storage(
    servers: tuple[AdminServer, AdminServer], bodies: list[tuple[str, dict[str, Any]]]
) -> None:
    for source, target in (servers, servers[::-1]):
        with client_of(source) as one, client_of(target) as other:
            write(one, bodies)
            exported = one.get("/config").json()["config"]
            answer = other.post("/config", json={"config": exported})
            assert answer.status_code == 201, answer.text
            _, rows = source.run(source.storage.load_all())
            _, moved = target.run(target.storage.load_all())
            for row, copy in zip(rows["keyauth_credentials"], moved["keyauth_credentials"], strict=True):
                # What is left of a time is told in whole seconds.
                if row["ttl"] is not None:
                    assert abs(row["ttl"] - copy["ttl"]) < 3
                    copy["ttl"] = row["ttl"]
            assert moved == rows
            assert one.post("/config", json={"_format_version": "3.0"}).status_code == 201
            assert not any(source.run(source.storage.load_all())[1].values())
            assert other.post("/config", json={"_format_version": "3.0"}).status_code == 201


def test_most_bodies_that_are_drawn_are_valid(servers: tuple[AdminServer, AdminServer]) -> None:
    """Else the property above would hold of nothing."""
    counts = {"drawn": 0, "valid": 0}

    @given(drawn)
    @settings(max_examples=5, deadline=None, database=None, derandomize=True)
    def count(bodies: list[tuple[str, dict[str, Any]]]) -> None:
        with client_of(servers[0]) as client:
            counts["drawn"] += len(bodies)
            counts["valid"] += write(client, bodies)
            client.post("/config", json={"_format_version": "3.0"})

    count()
    assert counts["valid"] > counts["drawn"] // 3
