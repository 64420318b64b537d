"""A data plane on a declarative file: one route to one upstream, as real processes of one prefix.

Unlike a `Gateway` it has no control plane, so that what is measured is the data plane alone.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from bench.load.contenders import fastgw_command, fastgw_env
from bench.load.machine import BenchError
from bench.load.processes import free_ports

_DEADLINE_S: Final = 30.0
_POLL_S: Final = 0.01
_CONFIG: Final = """
_format_version: "3.0"
services:
- {name: load, host: 127.0.0.1, port: %d, routes: [{name: load, paths: [/], strip_path: false}]}
"""


class DeclaredNode:
    """The processes that serve a prefix, one after another; all are ended with the block."""

    def __init__(self, directory: Path, upstream_port: int, **properties: object) -> None:
        self.port, self.tls_port, self.status_port = free_ports(3)
        self.prefix = directory / "prefix"
        self._config = directory / "kong.yml"
        self._config.write_text(_CONFIG % upstream_port)
        self._log = directory / "output.log"
        self._properties = {
            "prefix": self.prefix,
            "declarative_config": self._config,
            "proxy_listen": f"127.0.0.1:{self.port}, 127.0.0.1:{self.tls_port} ssl",
            "status_listen": f"127.0.0.1:{self.status_port}",
            "proxy_access_log": "off",
        } | properties
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a process; nothing is waited for."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                fastgw_command("dp", *arguments),
                env=fastgw_env(**self._properties),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def status(self) -> dict[str, Any] | None:
        """What the status port says; None when nothing ready answers there."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=5)
        try:
            connection.request("GET", "/status/ready")
            if connection.getresponse().read() and connection.sock is None:
                return None
            connection.request("GET", "/status")
            status: dict[str, Any] = msgspec.json.decode(connection.getresponse().read())["fastgw"]
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        return status

    def wait_serving(self) -> dict[str, Any]:
        """Wait until a configuration is applied and all workers accept; return the status."""
        ends_at = time.monotonic() + _DEADLINE_S
        while time.monotonic() < ends_at:
            status = self.status()
            if status and status["applied"] and {one["state"] for one in status["workers"]} == {"running"}:
                return status
            self._check()
            time.sleep(_POLL_S)
        raise BenchError(f"the data plane does not serve after {_DEADLINE_S:g} s: {self._tail()}")

    def take_over(self) -> float:
        """Have a new process take over from the newest; return the seconds until it had."""
        old, begun = self.processes[-1], time.monotonic()
        self.start("--takeover")
        mark = f"has taken over from process {old.pid}"
        while mark not in self.log():
            self._check()
            if time.monotonic() - begun > _DEADLINE_S:
                raise BenchError(f"no take-over in {_DEADLINE_S:g} s: {self._tail()}")
            time.sleep(_POLL_S)
        return time.monotonic() - begun

    def log(self) -> str:
        path = self.prefix / "logs" / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _check(self) -> None:
        code = self.processes[-1].poll()
        if code is not None:
            raise BenchError(f"the data plane ended with status {code}: {self._tail()}")

    def _tail(self) -> str:
        lines = (self._log.read_text(errors="replace") + self.log()).strip().splitlines()
        return " | ".join(lines[-5:]) or "(it logged nothing)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)  # its workers end with it
            process.wait()
