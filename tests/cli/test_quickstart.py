"""`fastgw quickstart`: its own rules, its children, and the whole of it as a user sees it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from fastgw.cli.quickstart.banner import make_banner
from fastgw.cli.quickstart.children import Child
from fastgw.cli.quickstart.layout import Layout, child_environment
from fastgw.cli.quickstart.run import check_ports
from fastgw.errors import SettingsError
from tests.cli.running import environment, fastgw_command
from tests.waiting import free_port, is_listening, wait_until


def make_layout(prefix: Path, *ports: int, **sets: str) -> Layout:
    proxy, admin, cluster, status = ports or (free_port(), free_port(), free_port(), free_port())
    return Layout.make(
        {"prefix": str(prefix), **sets}, conf=None, proxy=proxy, admin=admin, cluster=cluster, status=status
    )


def port_options(layout: Layout) -> list[str]:
    return [word for _, listen, option in layout.doors for word in (option, str(listen.port))]


@contextlib.contextmanager
def taken_port(host: str = "127.0.0.1") -> Iterator[int]:
    with socket.create_server((host, 0)) as server:
        yield server.getsockname()[1]


# -- layout ----------------------------------------------------------------------------------------


def test_ports_must_differ(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="two of the ports are the same"):
        make_layout(tmp_path, 1, 1, 2, 3)


def test_settings_go_to_both_children_but_not_what_quickstart_decides(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, workers="1")
    assert "workers=1" in layout.arguments("cp")
    assert "workers=1" in layout.arguments("dp")
    assert f"prefix={tmp_path}/quickstart/dp" in layout.arguments("dp")
    with pytest.raises(SettingsError, match="quickstart decides database, proxy_listen itself"):
        make_layout(tmp_path, database="postgres", proxy_listen="off")


def test_children_do_not_see_settings_of_the_environment() -> None:
    made = child_environment({"PATH": "/bin", "FASTGW_PG_HOST": "x", "KONG_ROLE": "y"})
    assert made == {"PATH": "/bin", "PYTHONUNBUFFERED": "1"}


def test_the_banner_says_where_and_what_next(tmp_path: Path) -> None:
    layout = make_layout(tmp_path, 8000, 8001, 8005, 8007)
    for port in (None, 4711):
        banner = make_banner(layout, port)
        assert banner.count("curl ") == 3
        for words in (
            "127.0.0.1:8000",
            "127.0.0.1:8001",
            "127.0.0.1:8005",
            "8007/status",
            "Ctrl-C",
            "--fresh",
        ):
            assert words in banner
        assert str(layout.state) in banner
    assert "curl localhost:8000/demo" in make_banner(layout, 4711)


# -- before anything starts -----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_taken_ports_are_named_with_their_options(host: str, tmp_path: Path) -> None:
    with taken_port(host) as admin, taken_port(host) as status:
        layout = make_layout(tmp_path, free_port(), admin, free_port(), status)
        with pytest.raises(SettingsError) as caught:
            check_ports(layout)
    reason = "chooses another): address already in use"
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1:{admin} (Admin API; --admin-port {reason}"
        f" and on 127.0.0.1:{status} (status; --status-port {reason}"
    )


def test_a_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    layout = make_layout(tmp_path)
    with taken_port() as proxy:
        options = [*port_options(layout), "--proxy-port", str(proxy)]
        done = fastgw_command("quickstart", "-p", str(tmp_path), *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert f"127.0.0.1:{proxy} (proxy; --proxy-port chooses another)" in done.stderr
    assert not layout.state.exists()


def test_one_quickstart_per_state_directory(tmp_path: Path) -> None:
    layout = make_layout(tmp_path)
    with (tmp_path / "quickstart.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = fastgw_command("quickstart", "-p", str(tmp_path), *port_options(layout))
    assert done.returncode == 1
    assert done.stderr == (f"fastgw: another quickstart runs with {layout.state}: stop it, or use --prefix\n")


def test_a_prefix_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fastgw_command(
        "quickstart", "-p", str(tmp_path / "file" / "sub"), *port_options(make_layout(tmp_path))
    )
    assert done.returncode == 1
    assert "not a directory (--prefix chooses another place)" in done.stderr


# -- children ----------------------------------------------------------------------------------------


def waiting_arguments(server: socket.socket) -> list[str]:
    """Arguments of a command that runs until it is stopped: it asks a port that never answers."""
    port = server.getsockname()[1]
    return ["health", "cp", "--timeout", "60", "--set", f"admin_listen=127.0.0.1:{port}"]


async def started(server: socket.socket) -> Child:
    child = await Child.start("cp", "cyan", waiting_arguments(server), environment())
    server.settimeout(20)
    connection, _ = await asyncio.to_thread(server.accept)
    connection.detach()
    return child


def test_a_child_ends_with_sigterm() -> None:
    async def run() -> int | None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            child = await started(server)
            await child.stop(deadline_s=10)
            return child.exit_code

    assert asyncio.run(run()) == -signal.SIGTERM


def test_a_child_that_does_not_end_is_killed(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> int | None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            child = await started(server)
            os.kill(child.pid, signal.SIGSTOP)
            stat = Path(f"/proc/{child.pid}/stat")
            wait_until(lambda: stat.read_text().rpartition(") ")[2][0] == "T", 10, "the stop")
            await child.stop(deadline_s=0.1)
            return child.exit_code

    # The pending SIGTERM may be the one that is noted, once SIGKILL has woken the process.
    assert asyncio.run(run()) in (-signal.SIGKILL, -signal.SIGTERM)
    assert "[cp] still there after 0.1 s: killed" in capsys.readouterr().err


def test_lines_are_labelled_and_the_end_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> int | None:
        child = await Child.start("dp", "cyan", ["health", "dp", "--set", "status_listen=off"], environment())
        async with asyncio.timeout(20):
            await child.ended.wait()
        return child.exit_code

    assert asyncio.run(run()) == 1
    assert capsys.readouterr().out == "[dp] fastgw: status_listen is off, so the data plane cannot be asked\n"


def test_children_end_with_a_quickstart_that_is_killed() -> None:
    code = (
        "import asyncio, sys\n"
        "from fastgw.cli.quickstart.children import Child\n"
        "from tests.cli.running import environment\n"
        "async def run():\n"
        "    child = await Child.start('cp', 'cyan', sys.argv[1:], environment())\n"
        "    print(child.pid, flush=True)\n"
        "    await child.ended.wait()\n"
        "asyncio.run(run())\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        root = Path(__file__).parent.parent.parent
        parent = subprocess.Popen(
            [sys.executable, "-c", code, *waiting_arguments(server)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=root,
        )
        with parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            server.settimeout(20)
            connection, _ = server.accept()
            parent.kill()
        with connection:
            connection.settimeout(20)
            while connection.recv(65536):
                pass  # the request; then the end, when the child is gone
    wait_until(lambda: not Path(f"/proc/{pid}/cmdline").exists(), 10, "the end of the child")


# -- the whole ---------------------------------------------------------------------------------------


class Quickstart:
    """A running `fastgw quickstart`; `text` is all that it has said up to the banner's end."""

    def __init__(self, layout: Layout, *options: str) -> None:
        self.layout = layout
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "fastgw",
                "quickstart",
                "-p",
                str(layout.state.parent),
                "--set",
                "workers=1",
            ]
            + [*port_options(layout), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(FASTGW_PG_HOST="not-used"),
        )
        self.text = ""

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            if line.startswith("To start afresh"):
                return self
        self.process.wait(30)
        self.process.stdout.close()
        raise AssertionError(f"no banner:\n{self.text}")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def stop(self) -> int:
        """Do what Ctrl-C does, and read to the end."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=40)
        self.text += rest
        return self.process.returncode

    def children(self) -> list[str]:
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()


def services(layout: Layout) -> list[str]:
    document: Any = httpx.get(f"http://{layout.admin}/services").json()
    return [service["name"] for service in document["data"]]


def test_demo_answers_stops_cleanly_goes_on_and_starts_afresh(tmp_path: Path) -> None:
    layout = make_layout(tmp_path)
    with Quickstart(layout, "--demo") as quickstart:
        assert "not used by quickstart: FASTGW_PG_HOST" in quickstart.text
        assert "[cp] " in quickstart.text
        assert "[dp] " in quickstart.text
        answer = httpx.get(f"http://{layout.proxy}/demo?x=1")
        assert answer.status_code == 200
        assert answer.json()["path"] == "/?x=1"
        assert "x-kong-proxy-latency" in answer.headers
        # The second command of the banner, and then the third.
        made = httpx.post(f"http://{layout.admin}/services/demo/routes", data={"paths[]": "/hello"})
        assert made.status_code == 201
        wait_until(
            lambda: httpx.get(f"http://{layout.proxy}/hello/w").status_code == 200, 10, "the new route"
        )
        assert layout.key.stat().st_mode & 0o777 == 0o600
        pids = quickstart.children()
        assert len(pids) == 2
        assert quickstart.stop() == 0
        assert "\nstopping …\n" in quickstart.text
        assert quickstart.text.endswith("stopped\n")
        assert not any(is_listening(listen.port) for _, listen, _ in layout.doors)
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    key = layout.key.read_bytes()
    with Quickstart(layout):
        assert services(layout) == ["demo"]
        assert layout.key.read_bytes() == key
    with Quickstart(layout, "--fresh") as quickstart:
        assert f"removed {layout.state}" in quickstart.text
        assert services(layout) == []
        assert layout.key.read_bytes() != key


def test_the_end_of_a_child_ends_all(tmp_path: Path) -> None:
    layout = make_layout(tmp_path)
    with Quickstart(layout) as quickstart:
        os.kill(int(quickstart.children()[0]), signal.SIGKILL)
        rest, _ = quickstart.process.communicate(timeout=30)
    assert quickstart.process.returncode == 1
    assert "fastgw: cp ended by itself with signal 9; its lines above say why" in rest
    assert not any(is_listening(listen.port) for _, listen, _ in layout.doors)
