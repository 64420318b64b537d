"""A data plane whose configuration is a file: no control plane, no key pair, nobody dialled."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

from tests.scenario.harness import Stage
from tests.scenario.process import HOST
from tests.waiting import free_port

_FILE = """
_format_version: "3.0"
services:
- name: echo
  url: {upstream}/anything
  routes:
  - name: first
    paths: [{path}]
"""


def written(stage: Stage, upstream: str, path: str) -> Path:
    file = stage.directory / "kong.yaml"
    file.write_text(_FILE.format(upstream=upstream, path=path))
    return file


def test_a_file_is_served_and_nobody_is_dialled(stage: Stage, upstream: str) -> None:
    file = written(stage, upstream, "/first")
    with socket.create_server((HOST, 0)) as control_plane:
        control_plane.setblocking(False)
        data_plane = stage.data_plane(
            None,
            None,
            declarative_config=str(file),
            cluster_control_plane=f"{HOST}:{control_plane.getsockname()[1]}",
        )
        assert data_plane.proxy.get("/first/x").json()["url"].endswith("/anything/x")
        assert data_plane.status()["link"] is None
        data_plane.wait_line(r"applied version 1, digest [0-9a-f]{32}: routes 1, services 1; \w+; decode")

        written(stage, upstream, "/second")
        data_plane.send(signal.SIGHUP)
        data_plane.wait_answer("/second")
        assert data_plane.proxy.get("/first").status_code == 404

        written(stage, upstream, "no-slash")
        data_plane.send(signal.SIGHUP)
        data_plane.wait_line(r"\[error\] .*the declarative file is refused, what is served stays: .*paths")
        assert data_plane.proxy.get("/second").status_code == 200

        data_plane.stop()
        try:
            connection, _ = control_plane.accept()
        except BlockingIOError:
            return
        connection.close()
        raise AssertionError("the data plane has dialled its control plane")


def test_a_faulty_file_at_the_start(stage: Stage, upstream: str) -> None:
    file = stage.directory / "kong.yaml"
    file.write_text(_FILE.format(upstream=upstream, path="no-slash") + "colours: [red]\n")
    settings = {
        "prefix": str(stage.directory / "dp"), "proxy_error_log": "/dev/stderr",
        "proxy_listen": f"{HOST}:{free_port()}", "status_listen": "off", "declarative_config": str(file),
    }  # fmt: skip
    process = stage.ended("dp", settings)
    assert process.exit_code() == 1
    (line,) = process.log.splitlines()
    assert line.startswith(f"fastgw: {file}: ")
    assert "services[0].routes[0].paths" in line
    assert "colours (line 9): unknown field" in line
    process.wait_gone()
