"""The database away or its disk full: reads from what is known, 503 with the reason for writes, and back."""

from __future__ import annotations

import resource
import signal
import time

import yaml

from tests.postgres import PgServer
from tests.scenario.harness import Pair, Stage
from tests.waiting import wait_until

STALE = "x-fastgw-stale"


def test_postgresql_dies_and_comes_back(
    stage: Stage, pair: Pair, pg_own_server: PgServer, upstream: str
) -> None:
    pg_own_server.start()
    database = pg_own_server.create_database()
    assert stage.ended("migrations bootstrap", database.properties).exit_code() == 0
    control_plane = stage.control_plane(pair, database.properties)
    data_plane = stage.data_plane(pair, control_plane)
    admin = control_plane.admin
    admin.post("/services", json={"name": "s", "url": upstream, "tags": ["blue"]}).raise_for_status()
    made = admin.post("/services/s/routes", json={"name": "r", "paths": ["/r"], "tags": ["blue", "green"]})
    data_plane.wait_answer("/r/get")
    wait_until(lambda: published(control_plane.admin.get("/status").json()) == 2, 10, "publication")
    document = yaml.safe_load(admin.get("/config").json()["config"])
    paths = [
        *("/services", "/services/s", f"/routes/{made.json()['id']}", "/services/s/routes"),
        *("/routes?tags=blue,green", "/routes?tags=red/green", "/tags", "/tags/blue", "/routes/r/service"),
    ]
    before = {path: admin.get(path).json() for path in paths}
    assert len(before["/routes?tags=blue,green"]["data"]) == 1

    pg_own_server.stop(signal.SIGKILL)
    for path in paths:
        answer = admin.get(path)
        assert (answer.status_code, answer.headers[STALE]) == (200, "version=2"), answer.text
        assert answer.json() == before[path]
    assert yaml.safe_load(admin.get("/config").json()["config"]) == document
    assert admin.get("/").status_code == 200
    assert admin.get("/services/none").status_code == 404
    assert admin.get("/status").json()["database"] == {"reachable": False}
    for refused in (
        admin.post("/services", json={"host": "h"}),
        admin.patch("/services/s", json={"retries": 1}),
        admin.delete("/routes/r"),
        admin.get("/fastgw/history"),
    ):
        assert refused.status_code == 503
        assert "PostgreSQL at 127.0.0.1" in refused.json()["message"]
    # What is known of this process itself is no older than ever.
    assert STALE not in admin.get("/status").headers
    # A data plane that comes now is given what is known.
    late = stage.data_plane(pair, control_plane, name="late")
    late.wait_answer("/r/get")

    pg_own_server.start()
    wait_until(lambda: admin.patch("/services/s", json={"retries": 1}).status_code == 200, 20, "a write")
    answer = admin.get("/services/s")
    assert (answer.json()["retries"], STALE in answer.headers) == (1, False)
    wait_until(lambda: published(admin.get("/status").json()) == 3, 20, "publication after the return")


def test_a_database_that_hangs_delays_one_read_and_not_the_others(
    stage: Stage, pair: Pair, pg_own_server: PgServer
) -> None:
    pg_own_server.start()
    database = pg_own_server.create_database()
    assert stage.ended("migrations bootstrap", database.properties).exit_code() == 0
    control_plane = stage.control_plane(pair, database.properties, pg_timeout="500")
    admin = control_plane.admin
    admin.post("/services", json={"name": "s", "host": "h"}).raise_for_status()
    wait_until(lambda: published(admin.get("/status").json()) == 1, 10, "publication")
    pg_own_server.freeze()
    try:
        assert admin.get("/services/s").headers[STALE] == "version=1"
        begun = time.monotonic()
        for _ in range(20):
            assert admin.get("/services/s").headers[STALE] == "version=1"
        assert time.monotonic() - begun < 1
        assert admin.patch("/services/s", json={"retries": 1}).status_code == 503
    finally:
        pg_own_server.thaw()
    wait_until(lambda: STALE not in admin.get("/services/s").headers, 10, "the database is back")


def published(status: dict[str, dict[str, dict[str, int]]]) -> int:
    return status["fastgw"]["publication"]["version"]


def test_a_full_disk_refuses_writes_and_keeps_what_was_answered(stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair)
    admin = control_plane.admin
    admin.post("/services", json={"name": "first", "host": "h"}).raise_for_status()
    room = 512 * 1024
    # The kernel refuses to let any file of the process grow beyond this, as a full disk would.
    resource.prlimit(control_plane.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    answered: list[str] = ["first"]
    for number in range(1000):
        answer = admin.post("/services", json={"name": f"s{number}", "host": "h", "tags": ["x" * 4000]})
        if answer.status_code != 201:
            break
        answered.append(f"s{number}")
    assert answer.status_code == 503, answer.text
    assert "SQLite" in answer.json()["message"]
    assert admin.get("/services/first").status_code == 200

    resource.prlimit(control_plane.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    assert admin.post("/services", json={"name": "last", "host": "h"}).status_code == 201
    names = {row["name"] for row in admin.get("/services?size=1000").json()["data"]}
    assert names == {*answered, "last"}
