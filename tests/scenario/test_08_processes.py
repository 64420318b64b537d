"""Processes that die or are asked to end: what is replaced, what is finished first, what is left."""

from __future__ import annotations

import os
import re
import signal

import httpx

from tests.scenario.harness import Pair, Stage, fastgw
from tests.scenario.nodes import DataPlane
from tests.scenario.process import HOST
from tests.waiting import free_port, is_listening, wait_until


def serving(stage: Stage, pair: Pair, upstream: str, workers: int) -> DataPlane:
    """A data plane that leads /up to httpbin."""
    control_plane = stage.control_plane(pair)
    control_plane.add_service("up", upstream)
    control_plane.add_route("up", "/up")
    data_plane = stage.data_plane(pair, control_plane, workers=str(workers))
    data_plane.wait_answer("/up/get")
    return data_plane


def test_a_worker_that_was_killed_is_replaced(stage: Stage, pair: Pair, upstream: str) -> None:
    """Its listening socket stays: whoever connects meanwhile waits, and is not refused."""
    data_plane = serving(stage, pair, upstream, workers=2)
    victim = data_plane.status()["workers"][1]["pid"]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in data_plane.pids(), 10, "it is gone")
    assert {data_plane.proxy.get("/up/get").status_code for _ in range(30)} == {200}

    def replaced() -> bool:
        worker = data_plane.status()["workers"][1]
        shown = worker["state"], worker["pid"] != victim, worker["restarts_total"]
        return shown == ("running", True, 1)

    wait_until(replaced, 10, "another process is in its place")
    data_plane.wait_line(rf"\[error\] dp supervisor: worker 1 \(process {victim}\) .*SIGKILL")
    assert {data_plane.proxy.get("/up/get").status_code for _ in range(30)} == {200}
    metrics = data_plane.status_client.get("/metrics").text
    # 61 requests and what the killed process had counted: counters never run backwards.
    counted = re.findall(
        r'^kong_http_requests_total\{service="up",[^}]*code="200"[^}]*\} (\d+)', metrics, re.MULTILINE
    )
    assert sum(map(int, counted)) >= 61


def test_a_data_plane_finishes_what_it_has_begun(stage: Stage, pair: Pair, upstream: str) -> None:
    data_plane = serving(stage, pair, upstream, workers=1)
    with data_plane.proxy.stream("GET", "/up/drip?duration=1&numbytes=10&delay=0") as answer:
        pieces = answer.iter_raw()
        body = next(pieces)
        data_plane.send(signal.SIGTERM)
        data_plane.wait_line("drains")
        assert len(body) < 10
        body += b"".join(pieces)
    assert body == b"*" * 10
    assert data_plane.exit_code() == 0
    data_plane.wait_gone()
    assert not is_listening(data_plane.proxy_port)


def test_a_control_plane_ends_in_good_order(stage: Stage, pair: Pair) -> None:
    """And says goodbye, so that data planes know that it did not crash."""
    control_plane = stage.control_plane(pair)
    data_plane = stage.data_plane(pair, control_plane)
    data_plane.wait_connected()
    control_plane.stop(signal.SIGINT)
    data_plane.wait_line(r"no link to \S+: .*the control plane is shutting down; next try in")
    assert not is_listening(control_plane.admin_port)


def started_quickstart(stage: Stage) -> tuple[int, int]:
    """Start `quickstart --demo` and wait for its banner; returns the proxy's and the Admin API's port."""
    proxy, admin, cluster, status = (free_port() for _ in range(4))
    ports = {"--proxy-port": proxy, "--admin-port": admin, "--cluster-port": cluster, "--status-port": status}
    words = [word for option, port in ports.items() for word in (option, str(port))]
    settings = {"prefix": str(stage.directory / "quickstart"), "workers": "1"}
    process = stage.run("quickstart", *fastgw("quickstart", settings, "--demo", *words))
    wait_until(lambda: "Ctrl-C stops all of it" in process.output or not process.is_running, 30, "the banner")
    assert process.is_running, process.show()
    return proxy, admin


def test_ctrl_c_ends_all_of_a_quickstart(stage: Stage) -> None:
    proxy, admin = started_quickstart(stage)
    (process,) = stage.processes
    assert httpx.get(f"http://{HOST}:{proxy}/demo", trust_env=False).status_code == 200
    assert httpx.get(f"http://{HOST}:{admin}/services/demo", trust_env=False).json()["name"] == "demo"
    assert len(process.pids()) >= 6  # itself, both nodes, two compile processes, a worker
    process.stop(signal.SIGINT)  # which sees that nothing is left
    assert process.output.endswith("stopped\n")
    assert not re.search("Traceback|Error", process.output + process.log)
    assert not is_listening(proxy)
    assert not is_listening(admin)


def test_a_quickstart_that_is_killed_leaves_nothing(stage: Stage) -> None:
    proxy, _ = started_quickstart(stage)
    (process,) = stage.processes
    process.kill()
    assert not is_listening(proxy)
