"""Kong's command on fastgw: the commands of its entrypoint, of its chart and of scripts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.cli.running import environment
from tests.scenario.process import HOST
from tests.waiting import free_port, wait_until

EMPTY = '_format_version: "3.0"\n'


class Kong:
    """`kong` with the environment of one node; what it says goes to files, as a background process keeps them."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.prefix = directory / "prefix"
        self.environ = environment(KONG_PREFIX=str(self.prefix), **environ)
        self.said = ""

    def __call__(self, *words: str) -> int:
        out = self.directory / "said"
        with out.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-m", "fastgw.cli.kong", *words],
                env=self.environ, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=60, check=False,
                cwd=self.directory,
            )  # fmt: skip
        self.said = out.read_text()
        return done.returncode

    @property
    def pid(self) -> int | None:
        path = self.prefix / "pids" / "nginx.pid"
        return int(path.read_text()) if path.exists() else None


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Kong]:
    """A data plane with a file, as KONG_DATABASE=off makes one of Kong's traditional role."""
    (tmp_path / "kong.yml").write_text(EMPTY)
    kong = Kong(
        tmp_path,
        KONG_DATABASE="off",
        KONG_DECLARATIVE_CONFIG=str(tmp_path / "kong.yml"),
        KONG_PROXY_LISTEN=f"{HOST}:{free_port()}",
        KONG_STATUS_LISTEN=f"{HOST}:{free_port()}",
        KONG_NGINX_WORKER_PROCESSES="1",
    )
    yield kong
    if kong.pid is not None:  # a test has failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(kong.pid, signal.SIGKILL)


def test_a_node_is_started_asked_reloaded_and_ended(node: Kong) -> None:
    assert node("start") == 0, node.said
    assert "Kong started" in node.said
    pid = node.pid
    assert pid is not None
    url = f"http://{node.environ['KONG_PROXY_LISTEN']}/"
    assert httpx.get(url, trust_env=False).status_code == 404
    assert node("start") == 1
    assert f"already running in {node.prefix}, process {pid}" in node.said
    assert node("health") == 0, node.said
    (node.directory / "kong.yml").write_text(
        f"{EMPTY}services: [{{name: a, url: 'http://127.0.0.1:9/', routes: [{{paths: [/]}}]}}]\n"
    )
    assert node("reload") == 0, node.said
    wait_until(lambda: httpx.get(url, trust_env=False).status_code == 502, 10, "the file is served")
    assert node("quit", "--wait=0.1", "--timeout", "15") == 0, node.said
    assert "gracefully" in node.said
    assert node.pid is None
    assert has_ended(pid)
    assert node("quit") == 1
    assert "not running in" in node.said


def has_ended(pid: int) -> bool:
    """Whether it is gone, or a zombie: burying it is up to whoever is process 1 here."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


def test_docker_start_stays_in_the_foreground_and_is_found_by_stop(node: Kong) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "fastgw.cli.kong", "docker-start"],
        env=node.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_until(lambda: node("health") == 0, 20, "it is well")
        assert node.pid == process.pid
        assert node("stop") == 0, node.said
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_a_stale_process_id_is_nobodys(node: Kong) -> None:
    (node.prefix / "pids").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as other:
        (node.prefix / "pids" / "nginx.pid").write_text(f"{other.pid}\n")
        assert node("stop") == 1
        assert "not running in" in node.said
        assert other.poll() is None
        other.kill()
    (node.prefix / "pids" / "nginx.pid").unlink()


def test_what_cannot_start_says_why_and_leaves_nothing(node: Kong) -> None:
    (node.directory / "kong.yml").write_text("services: 3\n")
    assert node("start") == 1
    assert "_format_version" in node.said
    assert node.pid is None


def test_a_traditional_node_with_a_database_has_no_counterpart(tmp_path: Path) -> None:
    kong = Kong(tmp_path, KONG_DATABASE="postgres")
    assert kong("docker-start") == 1
    assert "set KONG_ROLE to control_plane or data_plane" in kong.said
    kong.environ["KONG_ROLE"] = "traditional"
    assert kong("docker-start") == 1
    assert "set KONG_ROLE to control_plane or data_plane" in kong.said


def test_migrations_take_kongs_options_and_may_run_twice(tmp_path: Path) -> None:
    kong = Kong(tmp_path, KONG_ROLE="control_plane", KONG_DATABASE="sqlite")
    for words in (
        ["bootstrap", "-v"],
        ["bootstrap", "--force"],
        ["up", "--db-timeout", "60"],
        ["finish", "--vv"],
    ):
        assert kong("migrations", *words) == 0, kong.said
    assert kong("migrations", "list") == 0
    assert kong("migrations", "sideways") == 2


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["version"], 0, "fastgw "),
        (["version", "-a"], 0, "Kong interface 3.9"),
        (["config", "parse", "kong.yml"], 0, ""),
        (["check"], 0, "configuration is valid"),
        (["prepare"], 0, "prepared"),
        (["hybrid", "gen_cert"], 0, "cluster.crt"),
        (["--help"], 0, "docker-start"),
        (["roar"], 2, "No such command"),
    ],
)
def test_other_commands(node: Kong, words: list[str], code: int, said: str) -> None:
    assert node(*words) == code, node.said
    assert said in node.said
