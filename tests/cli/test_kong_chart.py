"""Kong's own Helm chart with another image: its variables, commands and probes, by the order in which they come."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from fastgw.settings import find_role, load_settings
from fastgw.settings.kong_names import is_kong_name
from fastgw.settings.sources import gather
from tests.cli.running import environment
from tests.postgres import PgDatabase
from tests.scenario.process import HOST
from tests.waiting import free_port, wait_until

VECTOR: Final = Path(__file__).with_name("kong_chart_3_4_1.yaml")
RELEASES: Final[dict[str, Any]] = yaml.safe_load(VECTOR.read_text("utf-8"))
READY_S: Final = 30.0


class Release:
    """One release of the chart on this machine: its ports, files and database are others, all else is the chart's."""

    def __init__(self, role: str, directory: Path, ports: dict[str, int], **environ: str) -> None:
        self.containers = RELEASES[role]["containers"]
        self._ports = ports
        self._directory = directory
        (directory / "bin").mkdir(parents=True, exist_ok=True)
        kong = directory / "bin" / "kong"
        kong.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m fastgw.cli.kong "$@"\n')
        kong.chmod(0o755)
        told = {name: self._local(value) for name, value in RELEASES[role]["environment"].items()}
        self.environ = environment(**{**told, "KONG_PREFIX": str(directory / role), **environ})
        self.environ["PATH"] = f"{directory / 'bin'}:{self.environ['PATH']}"
        self.log = directory / f"{role}.log"

    def container(self, name: str) -> dict[str, Any]:
        [found] = [container for container in self.containers if container["name"] == name]
        assert isinstance(found, dict)
        return found

    def run(self, words: list[str]) -> None:
        """Run a command of the chart to its end, which must be a good one."""
        with self.log.open("ab") as log:
            filled = [re.sub(r"\$\((\w+)\)", lambda found: self.environ[found[1]], word) for word in words]
            code = subprocess.run(
                filled, env=self.environ, stdout=log, stderr=log, timeout=60, check=False
            ).returncode
        assert code == 0, f"{words}: {self.log.read_text()}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the container `proxy`: it has no command, so it is the image's."""
        container = self.container("proxy")
        assert "command" not in container
        assert "args" not in container
        further = container.get("further_environment", {})
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["kong", "docker-start"], env=self.environ | further, stdout=log, stderr=log
            )

    def is_well(self) -> bool:
        """Whether both probes are answered by 200."""
        container = self.container("proxy")
        probes = [container[name]["httpGet"] for name in ("readinessProbe", "livenessProbe")]
        assert {probe["port"] for probe in probes} == {"status"}
        try:
            return all(
                httpx.get(f"http://{HOST}:{self._ports['8100']}{probe['path']}", trust_env=False).status_code
                == 200
                for probe in probes
            )
        except httpx.TransportError:
            return False

    def _local(self, value: str) -> str:
        return re.sub(
            r"(?<=:)(\d{4})\b", lambda found: str(self._ports.setdefault(found[1], free_port())), value
        )


@pytest.mark.parametrize("role", RELEASES)
def test_every_variable_is_a_property_or_one_that_has_no_meaning_here(role: str) -> None:
    for container in RELEASES[role]["containers"]:
        environ = RELEASES[role]["environment"] | container.get("further_environment", {})
        gathered = gather(None, environ, {})
        assert gathered.faults == []
        assert gathered.likely_typos == []
        for name in environ:
            name = name.removeprefix("KONG_").lower()
            assert name in gathered.values or is_kong_name(name) or name == "nginx_daemon", name
        assert find_role(environ=environ) == role
        assert load_settings(find_role(environ=environ) or "data_plane", environ=environ).role == role


def test_every_command_is_one_that_the_walk_below_runs() -> None:
    commands = {
        " ".join(container.get("command", container.get("args", ["kong", "docker-start"]))[:3])
        for release in RELEASES.values()
        for container in release["containers"]
    }
    assert {command for command in commands if not command.startswith("/bin/bash -c export")} == {
        "kong docker-start", "kong migrations bootstrap", "kong migrations up", "kong migrations finish",
        "rm -vrf $(KONG_PREFIX)/pids", "bash /wait_postgres/wait.sh",
    }  # fmt: skip


@pytest.fixture
def pair(tmp_path: Path) -> dict[str, str]:
    cert, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    command = [sys.executable, "-m", "fastgw", "hybrid", "gen-cert", str(cert), str(key)]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=30)
    return {"KONG_CLUSTER_CERT": str(cert), "KONG_CLUSTER_CERT_KEY": str(key)}


def test_both_releases_come_up_and_end_as_the_chart_has_them(
    tmp_path: Path, pair: dict[str, str], pg_database: PgDatabase
) -> None:
    ports: dict[str, int] = {}
    database = {f"KONG_{name.upper()}": value for name, value in pg_database.properties.items()}
    control = Release("control_plane", tmp_path, ports, **pair, **database)
    for job in ("kong-migrations", "kong-upgrade-migrations", "kong-post-upgrade-migrations"):
        control.run(control.container(job)["args"])
    control.run(control.container("wait-for-db")["args"])
    # The data plane's own ports; that of the cluster is the control plane's.
    data = Release(
        "data_plane",
        tmp_path,
        {"8005": ports["8005"]},
        **pair,
        KONG_CLUSTER_CONTROL_PLANE=f"{HOST}:{ports['8005']}",
    )
    for release in (control, data):
        release.run(release.container("clear-stale-pid")["command"])
    running = [(release, release.start()) for release in (control, data)]
    try:
        for release, _ in running:
            wait_until(release.is_well, READY_S, f"the probes are answered: {release.log}")
        status = f"http://{HOST}:{ports['8100']}"
        assert httpx.get(f"{status}/services", trust_env=False).status_code == 404
        assert httpx.post(f"{status}/status", trust_env=False).status_code == 405
        for release, process in reversed(running):
            stop = release.container("proxy")["lifecycle"]["preStop"]["exec"]["command"]
            assert stop == ["kong", "quit", "--wait=15"]
            release.run([*stop[:2], "--wait=0.1"])
            assert process.wait(10) == 0
    finally:
        for _, process in running:
            process.kill()
            process.wait()
