"""Configurations one after another under load: each is served, and no request notices more than that.

The benchmark `bench/load/config_storm.py` does the same with more of everything.
"""

from __future__ import annotations

import re

import httpx

from tests.scenario.harness import Pair, Stage
from tests.scenario.load import Load
from tests.scenario.process import HOST
from tests.scenario.upstream import say
from tests.waiting import wait_until

CHANGES = 40


def test_every_configuration_is_served_and_no_request_fails(stage: Stage, pair: Pair, upstream: str) -> None:
    control_plane = stage.control_plane(pair)
    admin = control_plane.admin
    control_plane.add_service("steady", upstream + say("steady"))
    control_plane.add_route("steady", "/steady")
    control_plane.add_service("storm", upstream + say("body 0"))
    control_plane.add_route("storm", "/storm")
    data_plane = stage.data_plane(pair, control_plane, workers="2")
    data_plane.wait_answer("/storm")
    before = data_plane.status()["applied"]["version"]

    with (
        Load(data_plane.proxy_port, "/steady", expect=b"steady") as load,
        httpx.Client(base_url=f"http://{HOST}:{data_plane.proxy_port}", trust_env=False) as kept_open,
    ):
        for number in range(1, CHANGES + 1):
            old, new = f"body {number - 1}", f"body {number}"
            control_plane.expect(200, admin.patch("/services/storm", json={"path": say(new)}))

            def is_served(old: str = old, new: str = new) -> bool:
                answer = kept_open.get("/storm")
                assert (answer.status_code, answer.text in (old, new)) == (200, True), answer.text
                return answer.text == new

            wait_until(is_served, 10, new)
        served = data_plane.status()["applied"]["version"]
    load.assert_nothing_failed(at_least=CHANGES)
    assert served - before == CHANGES
    wait_until(
        lambda: all(
            row["applied_version"] == row["wanted_version"] == before + CHANGES and row["last_error"] is None
            for row in control_plane.data_planes().values()
        ),
        10,
        "the control plane has heard of the last one",
    )
    applied = [int(version) for version in re.findall(r"applied version (\d+), digest", data_plane.log)]
    assert applied == sorted(set(applied))
    assert applied[-CHANGES:] == list(range(before + 1, before + CHANGES + 1))
