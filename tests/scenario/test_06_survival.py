"""The control plane goes and comes back; data planes serve all the while, and start without it."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Final

import pytest

from tests.postgres import PgServer
from tests.scenario.conftest import prepared_storage
from tests.scenario.harness import Pair, Stage
from tests.scenario.load import Load
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.scenario.upstream import say
from tests.waiting import is_listening, wait_until

RECONNECTED_S: Final = 12.0
"""The promise: from the port accepting to a data plane that is connected."""


def with_route(stage: Stage, pair: Pair, upstream: str, **settings: str) -> tuple[ControlPlane, DataPlane]:
    """A control plane with the route /steady, and a data plane that serves it."""
    control_plane = stage.control_plane(pair, settings)
    control_plane.add_service("steady", upstream + say("steady"))
    control_plane.add_route("steady", "/steady")
    data_plane = stage.data_plane(pair, control_plane)
    data_plane.wait_answer("/steady")
    return control_plane, data_plane


def test_traffic_goes_on_without_the_control_plane(
    storage: Mapping[str, str], stage: Stage, pair: Pair, upstream: str
) -> None:
    control_plane, data_plane = with_route(stage, pair, upstream, **storage)
    node_id = data_plane.node_id

    with Load(data_plane.proxy_port, "/steady", expect=b"steady") as load:
        control_plane.kill()
        data_plane.wait_line(r"\[warn\] dp supervisor link: no link to \S+: .+; next try in \d+\.\d s")
        assert not data_plane.is_connected
        done = load.answered_total
        wait_until(lambda: load.answered_total > done + 100, 10, "a hundred requests without a control plane")
    load.assert_nothing_failed()

    data_plane.stop()
    data_plane.start()
    data_plane.wait_ready()
    assert data_plane.proxy.get("/steady").text == "steady"
    data_plane.wait_line(r"starts from disk with version 2, digest [0-9a-f]{32}: routes 1, services 1; load")
    data_plane.wait_line(r"no link to \S+: cannot connect: Connection refused; next try in \d+\.\d s")
    assert data_plane.node_id == node_id

    with Load(data_plane.proxy_port, "/steady", expect=b"steady") as load:
        control_plane.start()
        wait_until(lambda: is_listening(control_plane.cluster_port), 25, "the cluster port accepts")
        accepting = time.monotonic()
        data_plane.wait_connected(RECONNECTED_S)
        assert time.monotonic() - accepting < RECONNECTED_S
        control_plane.add_service("new", upstream + say("new"))
        control_plane.add_route("new", "/new")
        assert data_plane.wait_answer("/new").text == "new"
    load.assert_nothing_failed()
    (row,) = control_plane.data_planes().values()
    assert (row["id"], row["connected"]) == (node_id, True)


def test_a_data_plane_that_was_killed_starts_again(stage: Stage, pair: Pair, upstream: str) -> None:
    """Its workers end with it, its ports and its prefix are free at once."""
    control_plane, data_plane = with_route(stage, pair, upstream)
    control_plane.kill()
    data_plane.kill()
    data_plane.start()
    data_plane.wait_ready()
    assert data_plane.proxy.get("/steady").text == "steady"


def test_a_damaged_generation_is_set_aside(stage: Stage, pair: Pair, upstream: str) -> None:
    """And the one before it is served."""
    control_plane, data_plane = with_route(stage, pair, upstream)
    control_plane.add_route("steady", "/second")
    data_plane.wait_answer("/second")
    data_plane.stop()
    control_plane.kill()

    image = data_plane.prefix / "dp" / "current.image"
    content = image.read_bytes()
    half = len(content) // 2
    image.write_bytes(content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :])

    data_plane.start()
    data_plane.wait_ready()
    found = data_plane.wait_line(r"\[error\] .*current\.image cannot be used: .+; set aside as (\S+)$")
    assert (image.parent / found[1]).exists()
    assert data_plane.proxy.get("/steady").text == "steady"
    assert data_plane.proxy.get("/second").status_code == 404

    # What is published now has the digest of what was set aside, and is applied all the same.
    control_plane.start()
    data_plane.wait_answer("/second", deadline_s=RECONNECTED_S + 10)


def test_with_nothing_left_on_disk_it_waits_for_a_control_plane(
    stage: Stage, pair: Pair, upstream: str
) -> None:
    control_plane, data_plane = with_route(stage, pair, upstream)
    data_plane.stop()
    control_plane.kill()
    images = list((data_plane.prefix / "dp").glob("*.image"))
    for image in images:
        image.write_bytes(b"no image")
    data_plane.start()
    data_plane.wait_line("1 worker on")
    assert len(re.findall(r"\[error\] .* cannot be used: ", data_plane.log)) == len(images)
    ready = data_plane.status_client.get("/status/ready")
    assert (ready.status_code, ready.json()["message"]) == (503, "no configuration available")
    assert data_plane.proxy.get("/steady").status_code == 404
    control_plane.start()
    data_plane.wait_answer("/steady", deadline_s=RECONNECTED_S + 10)


def in_another_host(name: str) -> list[str]:
    """A command that runs another one under the host name *name*; skips where that is not allowed."""
    rename = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
    for unshare in (["unshare", "--uts"], ["unshare", "--user", "--map-root-user", "--uts"]):
        command = [*unshare, sys.executable, "-c", rename, name]
        if subprocess.run([*command, "true"], capture_output=True, timeout=10, check=False).returncode == 0:
            return command
    pytest.skip("this user may not make a UTS namespace, so no process can have another host name")


def test_an_old_volume_under_another_host_name_keeps_its_id(stage: Stage, pair: Pair, upstream: str) -> None:
    """As when a container is replaced and its volume stays: the same data plane, and nothing to clear up."""
    wrapper = in_another_host("moved-host")
    control_plane, data_plane = with_route(stage, pair, upstream)
    node_id = data_plane.node_id
    assert control_plane.data_planes()[node_id]["hostname"] == socket.gethostname()
    data_plane.stop()

    volume = stage.directory / "moved"
    shutil.copytree(data_plane.prefix, volume)
    moved = stage.data_plane(pair, control_plane, name="moved-dp", wrapper=wrapper, prefix=str(volume))
    assert moved.node_id == node_id
    assert moved.proxy.get("/steady").text == "steady"
    wait_until(
        lambda: control_plane.data_planes()[node_id]["hostname"] == "moved-host",
        10,
        "the new host name is shown",
    )
    assert set(control_plane.expect(200, control_plane.admin.get("/clustering/status"))) == {node_id}


def test_a_write_at_one_control_plane_reaches_the_data_plane_of_another(
    request: pytest.FixtureRequest, stage: Stage, pair: Pair, upstream: str
) -> None:
    with prepared_storage(request, "postgres") as storage:
        first = stage.control_plane(pair, storage)
        second = stage.control_plane(pair, storage, name="cp-2")
        data_plane = stage.data_plane(pair, second)
        first.add_service("far", upstream + say("far"))
        first.add_route("far", "/far")
        assert data_plane.wait_answer("/far").text == "far"
        wait_until(lambda: data_plane.node_id in first.data_planes(), 10, "both know the data plane")
        for process in (data_plane, second, first):
            process.stop()


def test_postgres_goes_and_comes_back(
    stage: Stage, pair: Pair, upstream: str, pg_own_server: PgServer
) -> None:
    """Writes are refused meanwhile, traffic goes on, and afterwards changes arrive without a restart."""
    pg_own_server.start()
    database = pg_own_server.create_database()
    assert stage.ended("migrations bootstrap", database.properties).exit_code() == 0
    control_plane, data_plane = with_route(stage, pair, upstream, **database.properties)

    pg_own_server.stop()
    refused = control_plane.admin.post("/services", data={"name": "lost", "url": upstream})
    assert refused.status_code == 503
    assert "connection refused" in refused.json()["message"]
    control_plane.wait_line(r"\[error\] .*POST /services failed: PostgreSQL at ")
    assert data_plane.proxy.get("/steady").text == "steady"
    assert data_plane.is_connected

    pg_own_server.start()
    wait_until(lambda: control_plane.admin.get("/services").status_code == 200, 15, "the storage is back")
    control_plane.add_route("steady", "/later")
    assert data_plane.wait_answer("/later").text == "steady"
    data_plane.stop()
    control_plane.stop()
