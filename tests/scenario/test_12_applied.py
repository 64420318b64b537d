"""Waiting for what was written: by the write itself, and by a command."""

from __future__ import annotations

import signal

from tests.cli.running import fastgw_command
from tests.scenario.harness import Pair, Stage
from tests.scenario.test_06_survival import with_route
from tests.scenario.upstream import say


def test_the_empty_configuration_is_applied_as_any_other(stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair)
    stage.data_plane(pair, control_plane).wait_connected()
    admin = ("--set", f"admin_listen=127.0.0.1:{control_plane.admin_port}")
    assert fastgw_command("cluster", "wait", "--version", "0", "--timeout", "20", *admin).returncode == 0
    (line,) = fastgw_command("cluster", "status", *admin).stdout.splitlines()[2:]
    wanted_and_applied = [part for part in line.split() if part == "0"]
    assert (" up " in line, wanted_and_applied) == (True, ["0", "0"])


def test_a_write_that_waits_serves_when_it_is_answered(stage: Stage, pair: Pair, upstream: str) -> None:
    control_plane, data_plane = with_route(stage, pair, upstream)
    admin = ("--set", f"admin_listen=127.0.0.1:{control_plane.admin_port}")
    for number in range(5):
        answer = control_plane.admin.post(
            "/services/steady/routes?wait=applied", json={"paths": [f"/waited-{number}"]}
        )
        assert answer.status_code == 201, answer.text
        assert answer.headers["x-fastgw-applied"] == "1/1"
        assert data_plane.proxy.get(f"/waited-{number}").status_code == 200
    version = answer.headers["x-fastgw-version"]
    done = fastgw_command("cluster", "wait", "--version", version, *admin)
    assert (done.returncode, done.stdout) == (0, f"version {version} is applied by 1 of 1 data planes\n")
    shown = fastgw_command("cluster", "status", *admin)
    assert shown.returncode == 0, shown.stderr
    assert f"published: version {version}; data planes: 1 known, 1 connected, 1 current" in shown.stdout
    assert data_plane.node_id[:8] in shown.stdout

    data_plane.send(signal.SIGSTOP)
    try:
        answer = control_plane.admin.post(
            "/services", data={"name": "late", "url": upstream + say("late")}, headers={"Prefer": "wait=1"}
        )
        assert answer.status_code == 202
        assert answer.headers["preference-applied"] == "wait=1"
        node_id = next(iter(control_plane.data_planes()))
        assert node_id in answer.headers["x-fastgw-not-applied"]
        late = fastgw_command("cluster", "wait", "--timeout", "0.5", *admin)
        assert late.returncode == 3
        assert node_id in late.stderr
    finally:
        data_plane.send(signal.SIGCONT)
    assert fastgw_command("cluster", "wait", "--timeout", "20", *admin).returncode == 0
    nobody = fastgw_command("cluster", "wait", "--version", "1", "--set", "admin_listen=127.0.0.1:9")
    assert (nobody.returncode, "no control plane answers" in nobody.stderr) == (1, True)
