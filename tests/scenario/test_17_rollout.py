"""A version first on some data planes: promoted, and taken back for each of the reasons there are."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest

from tests.cli.running import fastgw_command
from tests.scenario.harness import Pair, Stage
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.scenario.upstream import say
from tests.waiting import wait_until

OVER_S: Final = 25.0
"""From the start of a rollout to its end: a bound for busy machines."""


class Cluster:
    """A control plane, one data plane in the zone canary, and two in the zone main; all serve /tried."""

    def __init__(self, stage: Stage, pair: Pair, upstream: str, directory: Path) -> None:
        self.directory = directory
        self.upstream = upstream
        self.control_plane: ControlPlane = stage.control_plane(pair)
        expect = self.control_plane.expect
        expect(201, self.control_plane.admin.post("/config", json=self.document(say("old"))))
        # The canary knows no wildcards in SNIs: a route with one is what it refuses.
        self.canary = self._data_plane(stage, pair, "canary", "canary", router_flavor="traditional")
        self.others = [self._data_plane(stage, pair, f"main-{n}", "main") for n in (1, 2)]
        for data_plane in (self.canary, *self.others):
            data_plane.wait_answer("/tried")

    def _data_plane(
        self, stage: Stage, pair: Pair, name: str, zone: str, router_flavor: str = "traditional_compatible"
    ) -> DataPlane:
        return stage.data_plane(
            pair,
            self.control_plane,
            name=name,
            cluster_dp_labels=f"zone:{zone}",
            router_flavor=router_flavor,
        )

    def document(self, path: str, **route: Any) -> dict[str, Any]:
        """A configuration whose route /tried leads to *path* of the upstream."""
        tried = {"name": "tried", "paths": ["/tried"]}
        routes = [tried, {"name": "more", **route}] if route else [tried]
        return {
            "_format_version": "3.0",
            "services": [{"name": "tried", "url": self.upstream + path, "routes": routes}],
        }

    def reset(self) -> int:
        """Have all data planes run the configuration that answers "old"; returns its version."""
        self.control_plane.admin.post("/fastgw/rollout/abort", json={})
        if not self.canary.is_running:
            self.canary.start()
        for data_plane in (self.canary, *self.others):
            data_plane.wait_connected()
        answer = self.control_plane.admin.post("/config?wait=applied", json=self.document(say("old")))
        self.control_plane.expect(201, answer)
        return int(answer.headers["x-fastgw-version"])

    def command(self, *words: str) -> tuple[int, str]:
        admin = ("--set", f"admin_listen=127.0.0.1:{self.control_plane.admin_port}")
        done = fastgw_command("rollout", *words, *admin)
        return done.returncode, done.stdout + done.stderr

    def start(self, document: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Start a rollout of *document* in the zone canary."""
        asked = {"config": json.dumps(document), "labels": {"zone": "canary"}, "hold_s": 30, **options}
        started = self.control_plane.expect(201, self.control_plane.admin.post("/fastgw/rollout", json=asked))
        assert started["state"] == "applying"
        return dict(started)

    def wait_over(self, state: str) -> dict[str, Any]:
        """What it says of itself once it is over."""
        path = f"/fastgw/rollout/wait?timeout={OVER_S:g}"
        shown: dict[str, Any] = self.control_plane.admin.get(path, timeout=OVER_S + 10).json()
        assert shown["state"] == state, shown
        return shown

    def wait_state(self, state: str) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            shown: dict[str, Any] = self.control_plane.admin.get("/fastgw/rollout").json()
            return shown if shown["state"] == state else None

        found = wait_until(reached, OVER_S, f"a rollout that is {state}")
        assert found is not None
        return found

    def newest_actor(self) -> str:
        (made,) = self.control_plane.admin.get("/fastgw/history/versions?size=1").json()["data"]
        return str(made["actor"])

    def says(self, data_plane: DataPlane) -> str:
        return data_plane.proxy.get("/tried").text

    def wait_all_say(self, text: str) -> None:
        """Wait until every data plane serves what answers *text*."""
        all_of_them = (self.canary, *self.others)
        wait_until(lambda: {self.says(one) for one in all_of_them} == {text}, 20, f"{text} everywhere")

    def applied(self) -> list[int]:
        """What the canary and the others run."""
        rows = self.control_plane.data_planes()
        return [rows[one.node_id]["applied_version"] for one in (self.canary, *self.others)]


@pytest.fixture(scope="module")
def standing(pair: Pair, upstream: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    directory = tmp_path_factory.mktemp("rollout")
    with Stage(directory) as stage:
        yield Cluster(stage, pair, upstream, directory)


@pytest.fixture
def cluster(standing: Cluster) -> Cluster:
    """One cluster for all tests here; each begins with all data planes at one version, answering "old"."""
    standing.reset()
    return standing


class Requests:
    """Asks every data plane for /tried all the time, and keeps what they answered."""

    def __init__(self, *data_planes: DataPlane) -> None:
        self.statuses: dict[str, list[int]] = {one.name: [] for one in data_planes}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(one,)) for one in data_planes]

    def _ask(self, data_plane: DataPlane) -> None:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{data_plane.proxy_port}", timeout=10, trust_env=False
        ) as client:
            while not self._over.is_set():
                self.statuses[data_plane.name].append(client.get("/tried").status_code)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)


def test_what_holds_is_promoted_and_others_get_it_only_then(cluster: Cluster) -> None:
    base = cluster.applied()[0]
    path = cluster.directory / "document.json"
    path.write_text(json.dumps(cluster.document(say("new"))))
    code, said = cluster.command("start", str(path), "--label", "zone=canary", "--hold", "3s", "--json")
    assert code == 0, said
    started = json.loads(said)
    assert (started["state"], started["base_version"], started["version"]) == ("applying", base, base + 1)
    cluster.wait_state("holding")
    assert cluster.says(cluster.canary) == "new"
    assert [cluster.says(one) for one in cluster.others] == ["old", "old"]
    assert cluster.applied() == [base + 1, base, base]
    rows = cluster.control_plane.data_planes()
    assert [rows[one.node_id]["rollout"] for one in (cluster.canary, *cluster.others)] == [
        *("chosen", "held back", "held back")
    ]
    waited = cluster.control_plane.admin.get(f"/fastgw/cluster/wait?version={base + 1}&timeout=5").json()
    assert waited["applied"]
    assert waited["data_planes"] == {"connected": 3, "applied": 1, "held_back": 2}
    assert cluster.control_plane.admin.get("/fastgw/cluster").json()["rollout"]["id"] == started["id"]

    code, said = cluster.command("wait", "--timeout", f"{OVER_S}s")
    assert code == 0, said
    assert f"rollout {started['id']} of version {base + 1}" in said
    assert "is promoted: held for 3 s" in said
    cluster.wait_all_say("new")
    wait_until(lambda: set(cluster.applied()) == {base + 1}, 10, "one version")
    assert cluster.newest_actor().endswith(f"(rollout {started['id']})")


def test_a_rise_of_5xx_takes_it_back_and_touches_no_other(cluster: Cluster) -> None:
    before = cluster.control_plane.admin.get("/config").json()["config"]
    with Requests(cluster.canary, *cluster.others) as requests:
        wait_until(lambda: all(len(one) >= 30 for one in requests.statuses.values()), 30, "some requests")
        started = cluster.start(cluster.document("/status/500"), min_requests=20, max_5xx_rise=0.1)
        ended = cluster.wait_over("reverted")
        assert "answers of the chosen are 5xx (the others 0.00%" in ended["reason"]
        wait_until(lambda: requests.statuses["canary"][-1] == 200, 10, "the canary serves as before")
    assert 500 in requests.statuses["canary"]
    for data_plane in cluster.others:
        assert set(requests.statuses[data_plane.name]) == {200}
    assert ended["final_version"] == started["version"] + 1
    assert cluster.control_plane.admin.get("/config").json()["config"] == before
    wait_until(lambda: set(cluster.applied()) == {ended["final_version"]}, 10, "one version")
    assert cluster.newest_actor() == f"rollout {started['id']}"


def test_what_a_chosen_one_refuses_is_taken_back(cluster: Cluster) -> None:
    started = cluster.start(cluster.document(say("new"), snis=["*.example.com"], protocols=["https"]))
    code, said = cluster.command("wait", "--timeout", f"{OVER_S}s")
    assert code == 4, said
    assert f"({cluster.canary.node_id}) has refused it: version {started['version']} is refused" in said
    assert {cluster.says(one) for one in (cluster.canary, *cluster.others)} == {"old"}
    wait_until(lambda: set(cluster.applied()) == {started["version"] + 1}, 10, "one version")


def test_a_person_aborts(cluster: Cluster) -> None:
    started = cluster.start(cluster.document(say("aborted")))
    cluster.wait_state("holding")
    assert cluster.says(cluster.canary) == "aborted"
    other = "0" * 8
    assert cluster.command("abort", "--id", other) == (1, f"fastgw: rollout {other} does not run\n")
    code, said = cluster.command("abort")
    assert code == 0
    assert f"is aborted, back to version {started['base_version']} as version" in said
    assert said.endswith(": by 127.0.0.1\n")
    cluster.wait_all_say("old")
    assert cluster.command("list")[1].splitlines()[0].endswith("by 127.0.0.1")


def test_what_is_written_next_goes_to_the_chosen_until_a_person_promotes_it(cluster: Cluster) -> None:
    code, said = cluster.command("start", "--share", "1%", "--hold", "30s", "--json")
    assert (code, json.loads(said)["state"]) == (0, "open")
    chosen = {row["id"] for row in json.loads(said)["data_planes"]}
    assert len(chosen) == 1
    (chosen_one,) = (one for one in (cluster.canary, *cluster.others) if one.node_id in chosen)
    for text in ("by hand", "by hand again"):
        answer = cluster.control_plane.admin.patch(
            "/services/tried?wait=applied", json={"url": cluster.upstream + say(text)}
        )
        assert (answer.status_code, answer.headers["x-fastgw-applied"]) == (200, "1/1")
        assert answer.headers["x-fastgw-held-back"] == "2"
        assert cluster.says(chosen_one) == text
    cluster.wait_state("holding")
    assert sorted(cluster.says(one) for one in (cluster.canary, *cluster.others))[1:] == ["old", "old"]
    assert cluster.command("promote")[0] == 0
    cluster.wait_all_say("by hand again")
    assert cluster.command("promote") == (1, "fastgw: no rollout runs\n")


def test_a_control_plane_killed_while_it_holds_goes_on_where_it_was(cluster: Cluster) -> None:
    started = cluster.start(cluster.document(say("survived")), hold_s=6)
    cluster.wait_state("holding")
    cluster.control_plane.kill()
    cluster.control_plane.start()
    cluster.control_plane.wait_ready()
    for data_plane in (cluster.canary, *cluster.others):
        data_plane.wait_connected()
    said = [cluster.says(one) for one in cluster.others]
    shown = cluster.control_plane.admin.get("/fastgw/rollout").json()
    assert shown["id"] == started["id"]
    if shown["ended_at"] is None:  # as on any machine that is not overrun
        assert said == ["old", "old"]
    assert cluster.wait_over("promoted")["version"] == started["version"]
    cluster.wait_all_say("survived")


def test_a_canary_that_dies_takes_its_version_with_it(cluster: Cluster) -> None:
    cluster.start(cluster.document(say("deadly")), timeout_s=1)
    cluster.wait_state("holding")
    cluster.canary.kill()
    reason = cluster.wait_over("reverted")["reason"]
    assert reason.endswith("has run it and is not connected for 1 s")
    assert cluster.says(cluster.others[0]) == "old"
    cluster.canary.start()
    cluster.canary.wait_ready()
    cluster.wait_all_say("old")


def test_what_cannot_be_started_says_why(cluster: Cluster) -> None:
    path = cluster.directory / "same.json"
    path.write_text(json.dumps(cluster.document(say("old"))))

    def refused(*words: str) -> str:
        code, said = cluster.command("start", *words)
        assert code in (1, 2)
        return said

    assert "nothing would change" in refused(str(path), "--label", "zone=canary")
    assert "no connected data plane has the labels zone=moon; there are: zone=canary (1), zone=main (2)" in (
        refused(str(path), "--label", "zone=moon")
    )
    assert "say which data planes are chosen" in refused(str(path))
    assert "is no part of a whole" in refused("--share", "200%")
    cluster.start(cluster.document(say("new")))
    assert "one runs at a time" in refused(str(path), "--share", "50%")
    assert cluster.command("status")[1].startswith("rollout ")
