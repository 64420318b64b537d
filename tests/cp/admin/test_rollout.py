"""Rollouts by the Admin API: what is asked wrongly, who may ask, and what is answered."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fastgw.cp.admin.app import tidy
from fastgw.cp.admin.clustering import Capability
from fastgw.cp.storage.contract import DataPlaneRow, Storage
from fastgw.model.snapshot import Snapshot
from tests.cp.admin.server import AdminServer
from tests.cp.rollout.parts import a_canary, a_data_plane

SERVICE = {"_format_version": "3.0", "services": [{"name": "one", "url": "http://one.test"}]}
TWO = {"_format_version": "3.0", "services": [{"name": "two", "url": "http://two.test"}]}


class Server:
    """An Admin API whose control plane has published what is stored, and data planes of another one."""

    def __init__(self, server: AdminServer, client: httpx.Client) -> None:
        self.server = server
        self.client = client

    def publish(self) -> int:
        """Publish what is stored; something, if nothing was."""
        if self.server.run(self.server.storage.version()) == 0:
            self.client.post("/consumers", json={"username": "first"}).raise_for_status()
        version, rows = self.server.run(self.server.storage.load_all())
        self.server.publisher.current = Snapshot.from_rows(version, rows)
        return int(version)

    def link(self, *rows: DataPlaneRow) -> None:
        self.server.run(self.server.storage.put_data_planes(rows))

    def start(self, **asked: Any) -> httpx.Response:
        return self.client.post("/fastgw/rollout", json=asked)


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[Server]:
    with (
        AdminServer(tmp_path) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30, trust_env=False) as client,
    ):
        yield Server(server, client)


def seen_now(row: DataPlaneRow) -> DataPlaneRow:
    return msgspec.structs.replace(row, last_seen=int(time.time()))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({}, "labels or share must say who is chosen"),
        ({"share": 0}, "share must be above 0 and at most 1"),
        (
            {"share": 1.5, "hold_s": -1},
            "share must be above 0 and at most 1; hold_s must be from 0 to 604800",
        ),
        ({"share": 1, "timeout_s": 0}, "timeout_s must be from 1 to 3600"),
        ({"share": 1, "max_5xx_rise": 2}, "max_5xx_rise must be from 0 to 1"),
        ({"share": 1, "min_requests": 0}, "min_requests must be from 1 to 1000000000"),
        ({"share": 1, "mode": "x"}, "mode must be one of replace, merge"),
        ({"share": 1, "colour": "red"}, "Object contains unknown field `colour`"),
        ({"labels": ["a"]}, "Expected `object`, got `array`"),
    ],
)
def test_what_is_asked_wrongly_is_named(admin: Server, asked: dict[str, Any], reason: str) -> None:
    answer = admin.start(**asked)
    assert answer.status_code == 400
    assert reason in answer.json()["message"]


def test_without_a_data_plane_none_is_started(admin: Server) -> None:
    admin.publish()
    answer = admin.start(share=0.5)
    assert answer.status_code == 409
    assert answer.json() == {"message": "no data plane is connected, so there is none to try a version on"}
    assert admin.client.get("/fastgw/rollout").status_code == 404
    assert admin.client.get("/fastgw/rollouts").json() == {"data": [], "next": None}
    assert admin.client.get("/fastgw/rollout/wait").status_code == 404


def test_from_its_start_to_its_end(admin: Server) -> None:
    base = admin.publish()
    admin.link(seen_now(a_canary(1, base)), seen_now(a_data_plane(2, base)))
    started = admin.start(labels={"zone": "canary"}, config=json.dumps(SERVICE), hold_s=60)
    assert started.status_code == 201, started.text
    shown = started.json()
    assert (shown["state"], shown["base_version"], shown["version"]) == ("applying", base, base + 1)
    assert [row["hostname"] for row in shown["data_planes"]] == ["dp-1"]
    assert (shown["held_back"], shown["chosen_by"]) == (1, "labels zone=canary")
    assert admin.client.get("/services/one").status_code == 200
    assert admin.client.get("/fastgw/cluster").json()["rollout"]["id"] == shown["id"]
    second = admin.start(share=1)
    assert second.status_code == 409
    assert "one runs at a time" in second.json()["message"]

    wrong = admin.client.post("/fastgw/rollout/abort", json={"colour": "red"})
    assert wrong.status_code == 400
    assert admin.client.post("/fastgw/rollout/abort", json={"id": "x"}).status_code == 409
    ended = admin.client.post("/fastgw/rollout/abort", json={"id": shown["id"]}).json()
    assert (ended["state"], ended["reason"], ended["final_version"]) == ("aborted", "by 127.0.0.1", base + 2)
    assert admin.client.get("/services/one").status_code == 404
    assert admin.client.get(f"/fastgw/rollout/wait?id={shown['id']}&timeout=1").json() == ended
    assert admin.client.get("/fastgw/rollouts").json()["data"] == [ended]
    assert admin.client.get(f"/fastgw/rollouts/{shown['id']}").json() == ended
    assert admin.client.get("/fastgw/rollouts/none").status_code == 404
    (last, first, *_) = admin.client.get("/fastgw/history/versions").json()["data"]
    assert last["actor"] == f"127.0.0.1 (abort rollout {shown['id']})"
    assert first["actor"] == f"127.0.0.1 (rollout {shown['id']})"


def test_a_document_is_looked_at_before_anything_is_written(admin: Server) -> None:
    admin.client.post("/config", json=SERVICE)
    base = admin.publish()
    admin.link(seen_now(a_canary(1, base)))
    chosen = {"labels": {"zone": "canary"}}
    text = admin.client.get("/config").json()["config"]
    same = admin.start(**chosen, config=text)
    assert (same.status_code, "nothing would change" in same.json()["message"]) == (409, True)
    wrong = admin.start(**chosen, config="_format_version: '3.0'\nservices:\n- name: [x]\n")
    assert (wrong.status_code, wrong.json()["code"]) == (400, 14)
    admin.server.cluster_view.capable = [Capability("x", "dp-1", "0", None, max_snapshot_bytes=1)]
    large = admin.start(**chosen, config=json.dumps(TWO))
    assert large.status_code == 400
    assert "would not be published or applied: data plane dp-1: the configuration would be" in large.text
    admin.server.cluster_view.capable = []
    stale = admin.client.post(
        "/fastgw/rollout", json={**chosen, "config": "_format_version: '3.0'\n"}, headers={"If-Match": '"v0"'}
    )
    assert stale.status_code == 412
    assert admin.publish() == base
    added = admin.start(**chosen, mode="merge", config=json.dumps(TWO))
    assert added.status_code == 201
    assert {row["name"] for row in admin.client.get("/services").json()["data"]} == {"one", "two"}


def test_what_is_not_published_is_waited_for_or_named(admin: Server) -> None:
    base = admin.publish()
    admin.link(seen_now(a_canary(1, base)))
    admin.client.post("/services", json={"name": "one", "host": "h"})
    admin.server.publisher.refused = (base + 1, "version 1 does not compile and is not published: so")
    answer = admin.start(share=1)
    assert answer.status_code == 409
    assert answer.json()["message"].endswith("is not published: so; put that right first, or roll back")


def test_a_credential_whose_time_is_over_is_no_write_while_a_rollout_runs(admin: Server) -> None:
    consumer = admin.client.post("/consumers", json={"username": "one"}).json()
    key = admin.client.post("/consumers/one/key-auth", json={"ttl": 100}).json()
    base = admin.publish()
    admin.link(seen_now(a_canary(1, base)))
    assert admin.start(share=1).status_code == 201
    admin.server.run(_end_time_of(admin.server.storage, key["id"]))
    written = admin.publish()
    admin.server.run(tidy(admin.server.storage))
    assert admin.publish() == written
    assert admin.client.get(f"/key-auths/{key['id']}").status_code == 404
    admin.client.post("/fastgw/rollout/promote", json={})
    admin.server.run(tidy(admin.server.storage))
    assert admin.publish() == written + 1
    assert admin.client.get(f"/consumers/{consumer['id']}").status_code == 200


async def _end_time_of(storage: Storage, key_id: str) -> None:
    async with storage.write("test") as writer:
        row = await writer.get("keyauth_credentials", key_id)
        assert row is not None
        await writer.update("keyauth_credentials", {**row, "ttl": 1})


def test_who_may_only_read_may_only_look(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:writer-token-0123456789\nbob:reader-token-0123456789:read\n")
    with AdminServer(tmp_path / "prefix", admin_token_file=str(tokens)) as server:
        headers = {"Kong-Admin-Token": "reader-token-0123456789"}
        base = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=base, headers=headers, timeout=20, trust_env=False) as client:
            for path in ("/fastgw/rollout", "/fastgw/rollout/abort", "/fastgw/rollout/promote"):
                assert client.post(path, json={"share": 1}).status_code == 403
            assert client.get("/fastgw/rollouts").status_code == 200
            assert client.get("/fastgw/rollout").status_code == 404
            described = client.get("/openapi.json").json()["paths"]
            assert set(described["/fastgw/rollout"]) == {"parameters", "get", "post"}
            assert {"/fastgw/rollout/abort", "/fastgw/rollout/promote", "/fastgw/rollout/wait"} <= set(
                described
            )
