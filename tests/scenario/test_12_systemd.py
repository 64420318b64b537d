"""Both roles under a service manager: ready when they serve, reloading, watchdog, stopping; and the unit files."""

from __future__ import annotations

import configparser
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.obs.listening_manager import ListeningManager
from tests.scenario.process import HOST, Place, Process
from tests.waiting import free_port, is_listening

UNITS: Final = Path(__file__).parent.parent.parent / "deploy" / "systemd"
ROLES: Final = ("cp", "dp")
WATCHDOG_S: Final = 0.4


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ListeningManager]:
    with ListeningManager(str(tmp_path / "notify")) as listening:
        yield listening


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for client in found.clients:
        client.close()


def start(place: Place, manager: ListeningManager, role: str, **properties: str) -> Process:
    command = [sys.executable, "-m", "fastgw", role, "-p", str(place.directory / role)]
    command += [word for name, value in properties.items() for word in ("--set", f"{name}={value}")]
    environ = manager.environ(WATCHDOG_USEC=str(int(WATCHDOG_S * 1e6)))
    process = Process(place, role, command, environ)
    process.start()
    return process


def test_a_data_plane_tells_how_it_is(place: Place, manager: ListeningManager) -> None:
    file = place.directory / "gateway.yaml"
    file.write_text('_format_version: "3.0"\n')
    port = free_port()
    node = start(
        place,
        manager,
        "dp",
        declarative_config=str(file),
        proxy_listen=f"{HOST}:{port}",
        status_listen="off",
        proxy_error_log="/dev/stderr",
        workers="1",
    )
    try:
        status = manager.wait_for("READY")["STATUS"]
        assert f"{HOST}:{port}" in status
        assert httpx.get(f"http://{HOST}:{port}/", trust_env=False).status_code == 404

        before = time.monotonic()
        assert manager.wait() == {"WATCHDOG": "1"}
        assert manager.wait() == {"WATCHDOG": "1"}
        assert time.monotonic() - before < WATCHDOG_S + 1

        service = "services: [{name: up, url: 'http://127.0.0.1:9', routes: [{name: r, paths: [/new]}]}]\n"
        file.write_text(f'_format_version: "3.0"\n{service}')
        node.send(signal.SIGHUP)
        manager.wait_for("RELOADING")
        manager.wait_for("READY")
        # Over means over: what was read anew is served.
        assert httpx.get(f"http://{HOST}:{port}/new", trust_env=False).status_code in (502, 503)

        node.send(signal.SIGTERM)
        manager.wait_for("STOPPING")
        node.wait_ended(signal.SIGTERM)
    finally:
        if node.is_running:
            node.kill()


def test_a_control_plane_tells_how_it_is(place: Place, manager: ListeningManager) -> None:
    pair = subprocess.run(
        [sys.executable, "-m", "fastgw", "hybrid", "gen-cert"],
        cwd=place.directory,
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert pair.returncode == 0
    admin, cluster = free_port(), free_port()
    node = start(
        place,
        manager,
        "cp",
        admin_listen=f"{HOST}:{admin}",
        cluster_listen=f"{HOST}:{cluster}",
        cluster_cert="cluster.crt",
        cluster_cert_key="cluster.key",
        admin_error_log="/dev/stderr",
    )
    try:
        assert f"{HOST}:{admin}" in manager.wait_for("READY")["STATUS"]
        assert is_listening(admin)
        assert is_listening(cluster)
        assert manager.wait() == {"WATCHDOG": "1"}
        node.send(signal.SIGHUP)
        manager.wait_for("RELOADING")
        manager.wait_for("READY")
        node.send(signal.SIGTERM)
        manager.wait_for("STOPPING")
        node.wait_ended(signal.SIGTERM)
    finally:
        if node.is_running:
            node.kill()


@pytest.mark.parametrize("role", ROLES)
def test_a_unit_starts_its_role_with_the_file_beside_it(role: str) -> None:
    unit = read_unit(role)["Service"]
    assert unit["Type"] == "notify"
    assert unit["ExecStart"].endswith(f"fastgw {role} -c /etc/fastgw/{role}.conf")
    assert unit["Environment"] == f"FASTGW_PREFIX=/var/lib/{unit['StateDirectory']}"
    # Draining takes up to ten seconds, and the way there and back is not free.
    assert int(unit["TimeoutStopSec"]) >= 20
    conf = (UNITS / f"{role}.conf").read_text()
    expected = {"cp": "control_plane", "dp": "data_plane"}[role]
    done = subprocess.run(
        [sys.executable, "-m", "fastgw", "check", "--role", expected, "-c", "/dev/stdin"],
        input="\n".join(line for line in conf.splitlines() if "cluster_cert" not in line),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    # The key pair of /etc is another machine's; all else must be well.
    assert "cluster_cert and cluster_cert_key must be provided" in done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("role", ROLES)
def test_systemd_understands_the_unit_and_finds_little_exposed(role: str, tmp_path: Path) -> None:
    unit = tmp_path / f"fastgw-{role}.service"
    text = (UNITS / unit.name).read_text()
    unit.write_text(text.replace("/opt/fastgw/bin/fastgw", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (verified.returncode, verified.stderr) == (0, ""), verified.stderr
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert judged.returncode == 0, judged.stdout


def read_unit(role: str) -> configparser.ConfigParser:
    # Names may come twice in a unit; those that this reads come once.
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / f"fastgw-{role}.service")
    return parser
