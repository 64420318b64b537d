"""Two control planes on one database, and a rollout that both see: one of them decides, once."""

from __future__ import annotations

import json

import pytest

from tests.cli.running import fastgw_command
from tests.postgres import PgDatabase, PgServer
from tests.scenario.harness import Pair, Stage
from tests.scenario.upstream import say
from tests.waiting import wait_until


@pytest.fixture
def database(pg_server: PgServer, prepared_database: PgDatabase) -> PgDatabase:
    return pg_server.create_database(prepared_database.name)


def test_started_at_one_and_over_at_both(
    stage: Stage, pair: Pair, upstream: str, database: PgDatabase
) -> None:
    first = stage.control_plane(pair, database.properties, name="cp-1")
    second = stage.control_plane(pair, database.properties, name="cp-2")
    first.add_service("tried", upstream + say("old"))
    first.add_route("tried", "/tried")
    canary = stage.data_plane(pair, first, name="canary", cluster_dp_labels="zone:canary")
    other = stage.data_plane(pair, second, name="other", cluster_dp_labels="zone:main")
    for data_plane in (canary, other):
        data_plane.wait_answer("/tried")

    def start(text: str, **options: object) -> dict[str, object]:
        asked = {"labels": {"zone": "canary"}, "hold_s": 2, **options}
        started = first.expect(201, first.admin.post("/fastgw/rollout", json=asked))
        first.expect(200, first.admin.patch("/services/tried", json={"url": upstream + say(text)}))
        return dict(started)

    started = start("new")
    wait_until(lambda: canary.proxy.get("/tried").text == "new", 10, "the canary serves the new version")
    assert other.proxy.get("/tried").text == "old"
    admin = ("--set", f"admin_listen=127.0.0.1:{second.admin_port}")
    done = fastgw_command("rollout", "wait", "--timeout", "25s", *admin)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: other.proxy.get("/tried").text == "new", 10, "so does the other")
    assert sum(log.count(f"rollout {started['id']} is promoted") for log in (first.log, second.log)) == 1

    # Held for long, and the one that was asked dies: the other goes on and takes a person's word.
    started = start("given up", hold_s=600)
    wait_until(lambda: canary.proxy.get("/tried").text == "given up", 10, "the canary serves it")
    first.kill()
    ended = second.expect(200, second.admin.post("/fastgw/rollout/abort", json={}))
    assert (ended["id"], ended["state"]) == (started["id"], "aborted")
    assert other.proxy.get("/tried").text == "new"
    versions = second.admin.get("/fastgw/history/versions?size=2").json()["data"]
    assert [row["version"] for row in versions] == [ended["final_version"], ended["final_version"] - 1]
    first.start()
    first.wait_ready()
    wait_until(lambda: canary.proxy.get("/tried").text == "new", 25, "the canary is back where it was")
    assert json.loads(fastgw_command("rollout", "status", "--json", *admin).stdout)["state"] == "aborted"
