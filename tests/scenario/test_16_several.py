"""Several control planes on one PostgreSQL, one of them killed; and control planes of another cluster."""

from __future__ import annotations

import concurrent.futures
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.cp.cluster_nodes import node_id_that_prefers
from tests.scenario.conftest import prepared_storage
from tests.scenario.harness import Pair, Stage
from tests.scenario.load import Load
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.scenario.process import HOST, START_S
from tests.scenario.test_06_survival import with_route
from tests.scenario.upstream import say
from tests.waiting import wait_until

WRITES_BEFORE_THE_END = 40
STRANGE = "0b8f6d0e-3c43-4f6f-a9f4-6a1d5f2e7a10"


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Iterator[Mapping[str, str]]:
    with prepared_storage(request, "postgres") as settings:
        yield settings


def data_plane_that_prefers(
    stage: Stage, pair: Pair, first: ControlPlane, other: ControlPlane, name: str
) -> DataPlane:
    """A data plane whose first of two control planes is this one, by the id that its prefix holds."""
    addresses = [f"{HOST}:{one.cluster_port}" for one in (first, other)]
    prefix = stage.directory / name
    prefix.mkdir()
    (prefix / "fastgw.id").write_text(f"{node_id_that_prefers(addresses)}\n")
    return stage.data_plane(pair, [first, other], name=name, cluster_return_delay="1s")


def versions_applied(data_plane: DataPlane) -> list[int]:
    return [int(found) for found in re.findall(r" applied version (\d+), ", data_plane.log)]


def test_one_of_two_is_killed_amid_writes(
    postgres: Mapping[str, str], stage: Stage, pair: Pair, upstream: str
) -> None:
    cp_a = stage.control_plane(pair, postgres, name="cp-a")
    cp_b = stage.control_plane(pair, postgres, name="cp-b")
    cp_a.add_service("steady", upstream + say("steady"))
    cp_a.add_route("steady", "/steady")
    dps = [
        data_plane_that_prefers(stage, pair, cp_a, cp_b, "dp-1"),
        data_plane_that_prefers(stage, pair, cp_b, cp_a, "dp-2"),
    ]
    for dp in dps:
        dp.wait_answer("/steady")
    ids = {dp: dp.node_id for dp in dps}

    def holders(seen_by: ControlPlane) -> list[str | None]:
        rows = seen_by.data_planes()
        return [
            rows[ids[dp]]["control_plane"]["id"] if ids[dp] in rows and rows[ids[dp]]["connected"] else None
            for dp in dps
        ]

    of_a, of_b = (one.cluster()["control_plane"]["id"] for one in (cp_a, cp_b))
    for seen_by in (cp_a, cp_b):
        wait_until(lambda: holders(seen_by) == [of_a, of_b], START_S, "each at its first")  # noqa: B023
    shown = cp_b.cluster()
    assert {one["id"]: one["data_planes"] for one in shown["control_planes"]} == {of_a: 1, of_b: 1}
    assert shown["cluster_id"] == cp_a.cluster()["cluster_id"] == dps[0].status()["link"]["cluster_id"]

    answered: list[str] = []
    enough, done = threading.Event(), threading.Event()

    def write(to: ControlPlane, label: str) -> None:
        with httpx.Client(base_url=to.admin.base_url, timeout=20, trust_env=False) as client:
            for number in range(100_000):
                name = f"{label}-{number}"
                try:
                    answer = client.post(
                        "/services/steady/routes", json={"name": name, "paths": [f"/{name}"]}
                    )
                except httpx.HTTPError:
                    return
                assert answer.status_code == 201, answer.text
                answered.append(name)
                if len(answered) >= WRITES_BEFORE_THE_END:
                    enough.set()
                if done.is_set():
                    return

    with (
        concurrent.futures.ThreadPoolExecutor(4) as pool,
        Load(dps[0].proxy_port, "/steady", expect=b"steady") as load,
    ):
        writers = [
            pool.submit(write, to, f"{label}{number}")
            for to, label in ((cp_a, "a"), (cp_b, "b"))
            for number in range(2)
        ]
        try:
            assert enough.wait(60)
            cp_a.kill()
            wait_until(lambda: holders(cp_b) == [of_b, of_b], START_S, "both at the one that is left")
            count = len(answered)
            wait_until(lambda: len(answered) > count + 10, START_S, "writes go on")
        finally:
            done.set()
        for writer in writers:
            writer.result(60)
    load.assert_nothing_failed()

    newest = cp_b.expect(200, cp_b.admin.get("/fastgw/history/versions?size=1"))["data"][0]["version"]
    settled = cp_b.expect(200, cp_b.admin.get(f"/fastgw/cluster/wait?version={newest}&timeout=30"))
    assert (settled["applied"], settled["data_planes"]) == (
        True,
        {"connected": 2, "applied": 2, "held_back": 0},
    )
    # Versions count writes, so none was lost and none was made twice.
    routes = {row["name"] for row in cp_b.admin.get("/routes?size=1000").json()["data"]}
    assert set(answered) <= routes
    assert newest == 1 + len(routes)
    digests = {dp.status()["applied"]["digest"] for dp in dps}
    assert len(digests) == 1
    for dp in dps:
        versions = versions_applied(dp)
        assert versions == sorted(set(versions))
        assert versions[-1] == newest
        assert dp.proxy.get(f"/{answered[-1]}").status_code == 200
        assert f"{HOST}:{cp_b.cluster_port}" == dp.status()["link"]["control_plane"]

    cp_a.start()
    cp_a.wait_ready()
    again = cp_a.cluster()["control_plane"]["id"]
    assert again not in (of_a, of_b)
    for seen_by in (cp_a, cp_b):
        wait_until(lambda: holders(seen_by) == [again, of_b], START_S, "each at its first again")  # noqa: B023
    cp_b.wait_line(
        r"is disconnected: the data plane ended the link: the data plane goes to \S+, which it prefers"
    )
    page = dps[0].status_client.get("/metrics").text
    assert f'fastgw_control_plane_linked{{control_plane="{HOST}:{cp_a.cluster_port}"}} 1' in page
    assert f'fastgw_control_plane_linked{{control_plane="{HOST}:{cp_b.cluster_port}"}} 0' in page
    well = stage.ended("health dp", {"status_listen": f"{HOST}:{dps[0].status_client.base_url.port}"})
    assert f"the data plane is well, linked to the control plane {HOST}:{cp_a.cluster_port}" in well.output


def test_a_new_database_replaces_nothing_until_somebody_says_so(
    stage: Stage, pair: Pair, upstream: str, tmp_path: Path
) -> None:
    control_plane, data_plane = with_route(stage, pair, upstream)
    own = stage.ended("cluster id", {"prefix": str(tmp_path / "cp")}).output.strip()
    assert own == data_plane.status()["link"]["cluster_id"]
    assert (data_plane.prefix / "dp/cluster.id").read_text() == f"{own}\n"

    control_plane.stop()
    database = tmp_path / "cp/fastgw.db"
    kept = tmp_path / "kept.db"
    shutil.move(database, kept)
    control_plane.start()
    control_plane.wait_ready()
    strange = control_plane.cluster()["cluster_id"]
    assert strange != own
    control_plane.wait_line(
        rf"refused .*belongs to the cluster {own}, and this control plane is of {strange}"
    )
    data_plane.wait_line(
        rf"no link to \S+: the control plane is of the cluster {strange}, .*belongs to {own}"
    )
    link = data_plane.status()["link"]
    assert f"fastgw cluster adopt {strange}" in link["last_error"]
    assert not link["is_connected"]
    assert data_plane.proxy.get("/steady").text == "steady"
    assert control_plane.data_planes() == {}
    # Nor does a restart forget it.
    data_plane.stop()
    data_plane.start()
    data_plane.wait_ready()
    data_plane.wait_line(rf"no link to \S+: the control plane is of the cluster {strange}")
    assert data_plane.proxy.get("/steady").text == "steady"

    # The one way out: the data plane changes over. An empty configuration still replaces nothing.
    adopted = stage.ended("cluster adopt", {"prefix": str(data_plane.prefix)}, strange)
    assert f"belonged to the cluster {own}; takes configurations of the cluster {strange}" in adopted.output
    data_plane.wait_connected()
    control_plane.add_service("other", upstream + say("other"))
    control_plane.add_route("other", "/other")
    assert data_plane.wait_answer("/other").text == "other"
    assert data_plane.proxy.get("/steady").status_code == 404
    whoever = stage.ended("cluster adopt", {"prefix": str(data_plane.prefix)})
    assert f"belonged to the cluster {strange}; takes configurations of the first cluster" in whoever.output
    assert not (data_plane.prefix / "dp/cluster.id").exists()


def test_a_new_database_takes_the_place_of_one_that_was_lost(
    postgres: Mapping[str, str], stage: Stage, pair: Pair, upstream: str, tmp_path: Path
) -> None:
    control_plane, data_plane = with_route(stage, pair, upstream, **postgres)
    backup = control_plane.admin.get("/config").json()["config"]
    control_plane.add_route("steady", "/late")
    data_plane.wait_answer("/late")
    own = control_plane.cluster()["cluster_id"]
    control_plane.stop()
    assert stage.ended("migrations reset", postgres, "--yes").exit_code() == 0
    refused = stage.ended("migrations bootstrap", postgres, "--cluster-id", "x")
    assert "'x' is not a valid UUID" in refused.log
    assert stage.ended("migrations bootstrap", postgres, "--cluster-id", own).exit_code() == 0
    again = stage.ended("migrations bootstrap", postgres, "--cluster-id", STRANGE)
    assert again.exit_code() == 1
    assert f"the database is that of the cluster {own} already" in again.log
    control_plane.start()
    control_plane.wait_ready()
    data_plane.wait_connected()
    control_plane.wait_line(
        "stays with version 3: version 0 is not sent: nothing has ever been configured here"
    )
    assert data_plane.proxy.get("/late").text == "steady"

    # The backup is older than what was lost: the data plane goes back with it, and both sides say so.
    control_plane.expect(201, control_plane.admin.post("/config", json={"config": backup}))
    control_plane.wait_line(r"runs version 3, and the database stands at version 1: it was put back")
    data_plane.wait_line("goes back from version 3 to version 1, as the control plane wants")
    data_plane.wait_answer("/late", status=404)
    assert data_plane.proxy.get("/steady").text == "steady"
