"""A data plane takes over from another under load: nothing is refused, and nothing long is cut."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bench.load.steady import Load, Upstream, Websocket, cancelled_at_end, download
from tests.cli.running import environment
from tests.dp.node import until
from tests.dp.test_main import DEADLINE_S, ask
from tests.waiting import free_port, is_listening, wait_until

CONFIG = """
_format_version: "3.0"
services:
- {name: s, host: 127.0.0.1, port: %d, routes: [{name: r, paths: [/], strip_path: false}]}
"""


class Node:
    """One prefix, and the processes that serve it one after another."""

    def __init__(self, directory: Path, upstream_port: int, **properties: str) -> None:
        self.prefix = directory / "prefix"
        self.config = directory / "kong.yml"
        self.config.write_text(CONFIG % upstream_port)
        self.port, self.status_port = free_port(), free_port()
        self.properties = {
            "declarative_config": str(self.config),
            "proxy_listen": f"127.0.0.1:{self.port}",
            "status_listen": f"127.0.0.1:{self.status_port}",
            "proxy_access_log": "off",
            "workers": "2",
        } | properties
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *more: str, **properties: str) -> subprocess.Popen[str]:
        sets = [f"--set={name}={value}" for name, value in (self.properties | properties).items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "fastgw", "dp", "-p", str(self.prefix), *sets, *more],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def log(self) -> str:
        path = self.prefix / "logs" / "error.log"
        return path.read_text() if path.exists() else ""

    async def ready(self) -> None:
        def is_ready() -> bool:
            return is_listening(self.status_port) and ask(self.status_port, "/status/ready")[0] == 200

        await asyncio.to_thread(wait_until, is_ready, DEADLINE_S, "the data plane is ready")

    async def status(self, path: str) -> int:
        return (await asyncio.to_thread(ask, self.port, path))[0]

    async def take_over(self, **properties: str) -> subprocess.Popen[str]:
        """Have a new process take over, and see it done."""
        before = [process.pid for process in self.processes if process.poll() is None][-1]
        process = self.start("--takeover", **properties)
        await until(
            lambda: f"has taken over from process {before}" in self.log() or process.poll() is not None,
            "the take-over",
        )
        assert process.poll() is None, process.communicate()[0]
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()


@contextlib.asynccontextmanager
async def serving(directory: Path, *more: str, **properties: str) -> AsyncIterator[Node]:
    async with Upstream() as upstream:
        node = Node(directory, upstream.port, **properties)
        try:
            node.start(*more)
            await node.ready()
            yield node
        finally:
            node.close()


async def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a process without holding the loop; its exit code and what it printed."""
    output = (await asyncio.to_thread(process.communicate, timeout=DEADLINE_S))[0]
    return process.returncode, output


def test_three_restarts_under_load_cut_and_refuse_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as node:
            tunnel = await Websocket.open(node.port)
            echoing = asyncio.create_task(tunnel.run())
            slow = asyncio.create_task(download(node.port, 1.0))
            with cancelled_at_end(echoing):
                async with Load(node.port, rate=300, clients=8) as load:
                    for workers in ("1", "3", "2"):
                        await node.take_over(workers=workers)
                        await node.ready()
                        goal = load.report.answers + 30
                        await until(lambda goal=goal: load.report.answers > goal, "answers go on")  # type: ignore[misc]
                assert await slow >= 4
                goal = tunnel.echoes + 2
                await until(lambda: tunnel.echoes > goal, "the tunnel goes on")
                assert node.processes[0].poll() is None
            assert load.report.failures == {}
            tunnel.close()
            node.processes[-1].send_signal(signal.SIGTERM)
            assert [await ended(process) for process in node.processes] == [(0, "")] * 4

    asyncio.run(test())


def test_one_that_fails_leaves_all_to_the_one_before_and_grace_has_an_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path, "--takeover", workers="1") as node:
            old = node.processes[0]
            assert "nothing to take over" in node.log()
            door = node.prefix / "dp" / "takeover.socket"
            assert stat.S_IMODE(os.stat(door).st_mode) == 0o600
            tunnel = await Websocket.open(node.port)
            async with Load(node.port, rate=100, clients=4) as load:
                # The last two have asked for the sockets when they find that they cannot serve.
                failing = [
                    node.start(),
                    node.start("--takeover", declarative_config=str(tmp_path / "nowhere.yml")),
                ]
                outputs = [await ended(process) for process in failing]
                failing.append(node.start("--takeover", proxy_access_log="/dev/null/access.log"))
                outputs.append(await ended(failing[-1]))
                assert [code for code, _ in outputs] == [1, 1, 1]
                assert "another data plane runs there" in outputs[0][1]
                assert "--takeover" in outputs[0][1]
                assert "nowhere.yml" in outputs[1][1]
                assert "worker 0 does not start" in outputs[2][1]
                await until(lambda: node.log().count("the take-over failed") == 2, "the old goes on")
            assert load.report.failures == {}
            assert old.poll() is None
            # It applies configurations as before,
            node.config.write_text(node.config.read_text().replace("[/]", "[/new]"))
            old.send_signal(signal.SIGHUP)
            await until(lambda: "applied version 2" in node.log(), "the new configuration")
            assert (node.prefix / "dp" / "lock").read_text() == f"{old.pid}\n"
            # and can still be taken over.
            await tunnel.echo()
            await node.take_over(takeover_timeout="300ms")
            assert await ended(old) == (0, "")
            with contextlib.closing(tunnel), pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await tunnel.echo()
            assert await node.status("/new") == 200
            node.processes[-1].send_signal(signal.SIGTERM)
            assert await ended(node.processes[-1]) == (0, "")
            assert not door.exists()

    asyncio.run(test())
