"""Nodes that are started with the environment of a Kong user, unchanged, and with no other settings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.scenario.conftest import prepared_storage
from tests.scenario.harness import Pair, Stage, fastgw
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.waiting import free_port, wait_until

_NO_FILE: Final = ("--conf", os.devnull)


def logs_to_the_console() -> Mapping[str, str]:
    """The four lines of Kong's container walk-through."""
    return {
        "KONG_PROXY_ACCESS_LOG": "/dev/stdout",
        "KONG_ADMIN_ACCESS_LOG": "/dev/stdout",
        "KONG_PROXY_ERROR_LOG": "/dev/stderr",
        "KONG_ADMIN_ERROR_LOG": "/dev/stderr",
    }


def pair_of(pair: Pair) -> Mapping[str, str]:
    return {
        "KONG_CLUSTER_CERT": str(pair.certificate),
        "KONG_CLUSTER_CERT_KEY": str(pair.key),
        "KONG_LUA_SSL_TRUSTED_CERTIFICATE": str(pair.certificate),
    }


def names_in(warning: str) -> set[str]:
    """The names after the colon of a warning that lists some."""
    return set(warning.partition(": ")[2].split(", "))


def warnings_by_start(warnings: list[str], *starts: str) -> list[str]:
    """The warnings in the order of *starts*; there must be one for each, and no other."""
    assert len(warnings) == len(starts), warnings
    return [next(warning for warning in warnings if warning.startswith(start)) for start in starts]


def test_both_roles_start_with_kongs_variables(
    request: pytest.FixtureRequest, stage: Stage, pair: Pair, upstream: str, tmp_path: Path
) -> None:
    admin_port, cluster_port, proxy_port, tls_port, status_port = (free_port() for _ in range(5))
    with prepared_storage(request, "postgres") as storage:
        environ = {
            "KONG_ROLE": "control_plane",
            "KONG_PREFIX": str(tmp_path / "cp"),
            "KONG_DATABASE": "postgres",
            **{f"KONG_{name.upper()}": value for name, value in storage.items() if name.startswith("pg_")},
            "KONG_ADMIN_LISTEN": f"0.0.0.0:{admin_port}",
            "KONG_CLUSTER_LISTEN": f"0.0.0.0:{cluster_port}",
            "KONG_CLUSTER_TELEMETRY_LISTEN": "off",
            "KONG_ADMIN_GUI_URL": "http://localhost:8002",
            "KONG_VERSION": "3.9.1",
            "KONG_PG_PASSWORD_FILE": "",
            **pair_of(pair),
            **logs_to_the_console(),
        }
        command = fastgw("cp", None, *_NO_FILE)
        control_plane = ControlPlane(
            stage, "cp", command, environ, admin_port=admin_port, cluster_port=cluster_port
        )
        stage.take(control_plane)
        control_plane.wait_ready()
        taken, without_meaning, _exposed = warnings_by_start(
            control_plane.warnings,
            "taken from KONG_ variables, as no FASTGW_ variable is set: ",
            "properties of Kong without meaning in this version: ",
            f"the Admin API on 0.0.0.0:{admin_port} is reachable from other machines",
        )
        idle = {"KONG_LUA_SSL_TRUSTED_CERTIFICATE", "KONG_ADMIN_GUI_URL", "KONG_CLUSTER_TELEMETRY_LISTEN"}
        no_properties = {"KONG_VERSION", "KONG_PG_PASSWORD_FILE"}  # of the image, and one that is empty
        assert names_in(taken) == set(environ) - idle - no_properties
        assert names_in(without_meaning) == {name.removeprefix("KONG_").lower() for name in idle}
        assert storage["pg_password"] not in control_plane.log

        environ = {
            "KONG_ROLE": "data_plane",
            "KONG_PREFIX": str(tmp_path / "dp"),
            "KONG_DATABASE": "off",
            "KONG_CLUSTER_CONTROL_PLANE": f"127.0.0.1:{cluster_port}",
            "KONG_PROXY_LISTEN": f"0.0.0.0:{proxy_port} reuseport backlog=16384, "
            f"0.0.0.0:{tls_port} http2 ssl reuseport backlog=16384",
            "KONG_STATUS_LISTEN": f"127.0.0.1:{status_port}",
            "KONG_NGINX_WORKER_PROCESSES": "1",
            **pair_of(pair),
            **logs_to_the_console(),
        }
        data_plane = DataPlane(
            stage, "dp", fastgw("dp", None, *_NO_FILE), environ,
            prefix=tmp_path / "dp", proxy_port=proxy_port, status_port=status_port,
        )  # fmt: skip
        stage.take(data_plane)
        data_plane.wait_ready()
        taken, without_meaning, http2 = warnings_by_start(
            data_plane.warnings,
            "taken from KONG_ variables, as no FASTGW_ variable is set: ",
            "properties of Kong without meaning in this version: ",
            "listen flags without effect in this version: ",
        )
        assert names_in(taken) == set(environ) - {"KONG_LUA_SSL_TRUSTED_CERTIFICATE"}
        assert names_in(without_meaning) == {"lua_ssl_trusted_certificate"}
        assert names_in(http2) == {"http2 (proxy_listen)"}

        control_plane.add_service("echo", f"{upstream}/anything")
        control_plane.add_route("echo", "/echo")
        data_plane.wait_answer("/echo/by-kong")
        wait_until(lambda: "GET /echo/by-kong HTTP/1.1" in data_plane.output, 10, "the proxy's access log")
        wait_until(
            lambda: "POST /services HTTP/1.1" in control_plane.output, 10, "the Admin API's access log"
        )
        data_plane.stop()
        control_plane.stop()


def test_our_own_variables_go_first(stage: Stage, pair: Pair, tmp_path: Path) -> None:
    """And are not warned of; KONG_ only fills what they leave open."""
    admin_port = free_port()
    environ = {
        "KONG_ADMIN_LISTEN": "127.0.0.1:1",
        "FASTGW_ADMIN_LISTEN": f"127.0.0.1:{admin_port}",
        "FASTGW_CLUSTER_LISTEN": "127.0.0.1:0",
        "FASTGW_ADMIN_ERROR_LOG": "/dev/stderr",
        "FASTGW_PREFIX": str(tmp_path / "cp"),
        "FASTGW_CLUSTER_CERT": pair.certificate.read_text(),
        "FASTGW_CLUSTER_CERT_KEY_FILE": str(pair.key),
    }
    command = fastgw("cp", None, *_NO_FILE)
    control_plane = ControlPlane(stage, "cp", command, environ, admin_port=admin_port, cluster_port=0)
    stage.take(control_plane)
    control_plane.wait_ready()
    assert control_plane.warnings == []


@pytest.mark.parametrize(
    ("command", "prefix", "role", "reason"),
    [
        ("cp", "KONG", "data_plane", "role data_plane contradicts this command ('fastgw dp' runs it)"),
        (
            "dp",
            "FASTGW",
            "control_plane",
            "role control_plane contradicts this command ('fastgw cp' runs it)",
        ),
        ("dp", "KONG", "traditional", "'fastgw cp' and 'fastgw dp', or 'fastgw quickstart'"),
    ],
)
def test_a_role_that_contradicts_the_command(
    command: str, prefix: str, role: str, reason: str, stage: Stage, pair: Pair
) -> None:
    environ = {f"{prefix}_ROLE": role, f"{prefix}_PREFIX": str(stage.directory / "node"), **pair_of(pair)}
    process = stage.ended(command, None, *_NO_FILE, environ=environ)
    assert process.exit_code() == 1
    (line,) = process.log.splitlines()
    assert line.startswith(f"fastgw: environment variable {prefix}_ROLE: ")
    assert reason in line
    assert not (stage.directory / "node").exists()


def test_a_control_plane_without_a_database(stage: Stage, pair: Pair) -> None:
    environ = {"KONG_ROLE": "control_plane", "KONG_DATABASE": "off", **pair_of(pair)}
    process = stage.ended("cp", None, *_NO_FILE, environ=environ)
    assert process.exit_code() == 1
    assert re.fullmatch(r"fastgw: environment variable KONG_DATABASE: .*: sqlite or postgres\n", process.log)
