"""Writes to the control plane: none that was answered is lost, and plugins without behaviour fail closed."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Mapping

import httpx

from tests.scenario.harness import Pair, Stage
from tests.scenario.test_06_survival import with_route
from tests.waiting import wait_until

WRITERS = 4
WRITES_BEFORE_THE_END = 40


def test_a_control_plane_killed_amid_writes_loses_nothing_that_it_answered(
    storage: Mapping[str, str], stage: Stage, pair: Pair
) -> None:
    control_plane = stage.control_plane(pair, storage)
    address = str(control_plane.admin.base_url)
    answered: list[str] = []
    enough = threading.Event()

    def write(writer: int) -> None:
        with httpx.Client(base_url=address, timeout=10, trust_env=False) as client:
            for number in range(100_000):
                name = f"written-{writer}-{number}"
                try:
                    answer = client.post("/services", json={"name": name, "host": "h"})
                except httpx.HTTPError:
                    return
                assert answer.status_code == 201, answer.text
                answered.append(name)
                if len(answered) >= WRITES_BEFORE_THE_END:
                    enough.set()

    with concurrent.futures.ThreadPoolExecutor(WRITERS) as pool:
        writers = [pool.submit(write, number) for number in range(WRITERS)]
        assert enough.wait(30)
        control_plane.kill()
        for writer in writers:
            writer.result(30)

    control_plane.start()
    control_plane.wait_ready()
    for name in answered:
        assert control_plane.admin.get(f"/services/{name}").status_code == 200


def test_a_route_with_a_plugin_that_is_not_there_fails_closed(
    stage: Stage, pair: Pair, upstream: str
) -> None:
    control_plane, data_plane = with_route(stage, pair, upstream)
    control_plane.add_route("steady", "/guarded", name="guarded")
    data_plane.wait_answer("/guarded")
    document = control_plane.admin.get("/config").json()["config"]
    planned = control_plane.admin.post(
        "/fastgw/plan", json={"config": f"{document}plugins:\n- name: aws-lambda\n  service: null\n"}
    )
    (asked,) = planned.json()["data_planes"]
    assert asked["lacks"] == ["plugin 'aws-lambda' is not available there: its routes answer 503"]
    made = control_plane.admin.post("/routes/guarded/plugins", json={"name": "key-auth"})
    assert made.status_code == 201

    answer = data_plane.wait_answer("/guarded", status=503)
    assert answer.json()["message"] == "plugin 'key-auth' is not available on this data plane"
    assert data_plane.proxy.get("/steady").status_code == 200
    control_plane.wait_line(r"warns: plugin 'key-auth' is not available here: its routes answer 503")

    assert control_plane.admin.delete(f"/plugins/{made.json()['id']}").status_code == 204
    wait_until(lambda: data_plane.proxy.get("/guarded").status_code == 200, 10, "the route is served again")
