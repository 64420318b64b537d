"""A control plane on SQLite and a data plane connected to it, as real processes.

Unlike in a comparison of proxies nothing is pinned: this is what an operator with one small machine sees.
"""

from __future__ import annotations

import http.client
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.load.contenders import fastgw_command, fastgw_env, start_upstream
from bench.load.machine import BenchError
from bench.load.processes import Processes, answers, free_ports
from bench.load.seed import seed_routes

_START_DEADLINE_S: Final = 60.0
_MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
_TIMEOUT_S: Final = 10.0
_ACK_DEADLINE_S: Final = 10.0
_BETWEEN_QUESTIONS_S: Final = 0.0005


class Client:
    """One keep-alive connection to a loopback port, opened anew after an error."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[int, bytes]:
        """Status and body of one exchange; OSError or HTTPException when there was no answer."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(
                method, path, None if body is None else msgspec.json.encode(body), headers
            )
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        self._connection.close()


class Admin(Client):
    """The Admin API; anything but success ends the benchmark."""

    def call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        try:
            status, answer = self.ask(method, path, body)
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"Admin API: {method} {path} was not answered: {error!r}") from None
        if status >= 300:
            raise BenchError(f"Admin API: {method} {path} was answered by {status}: {answer.decode()}")
        return msgspec.json.decode(answer, type=dict[str, Any])


class Gateway(msgspec.Struct, frozen=True):
    """Where the running pair and its upstream listen, and the pids of their roots."""

    admin_port: int
    proxy_port: int
    tls_port: int
    upstream_port: int
    cluster_port: int
    cp_pid: int
    dp_pid: int
    dp_log: Path

    def admin(self) -> AbstractContextManager[Admin]:
        return closing(Admin(self.admin_port))

    def proxy(self) -> AbstractContextManager[Client]:
        return closing(Client(self.proxy_port))


def start_gateway(
    processes: Processes,
    *,
    workers: int,
    routes: int = 0,
    dp_environment: Mapping[str, str] | None = None,
    **settings: object,
) -> Gateway:
    """Start upstream, control plane and data plane; return when the data plane serves *routes* routes.

    Args:
        dp_environment: what the data plane finds in its environment besides its properties.
        settings: further properties of the data plane.
    """
    directory = processes.directory
    # nginx drops its privileges when root starts it, and needs a way to its files.
    directory.chmod(0o755)
    upstream_port = start_upstream(processes, core=None)
    make_key_pair(directory)
    admin_port, cluster_port, proxy_port, tls_port, status_port = free_ports(5)
    pair = {"cluster_cert": directory / "cluster.crt", "cluster_cert_key": directory / "cluster.key"}
    if routes:
        seed_routes(directory / "cp", routes, upstream_port=upstream_port)
    env = fastgw_env(
        prefix=directory / "cp",
        admin_listen=f"127.0.0.1:{admin_port}",
        cluster_listen=f"127.0.0.1:{cluster_port}",
        admin_access_log="off",
        admin_error_log="/dev/stderr",
        **pair,
    )
    cp_pid = processes.start("cp", fastgw_command("cp"), env=env)
    processes.wait_until("cp", lambda: answers(admin_port, "/status"), deadline_s=_START_DEADLINE_S)
    env = fastgw_env(
        prefix=directory / "dp",
        cluster_control_plane=f"127.0.0.1:{cluster_port}",
        cluster_max_payload=_MAX_PAYLOAD_BYTES,
        proxy_listen=f"127.0.0.1:{proxy_port} reuseport, 127.0.0.1:{tls_port} ssl reuseport",
        status_listen=f"127.0.0.1:{status_port}",
        proxy_access_log="off",
        proxy_error_log="/dev/stderr",
        workers=workers,
        **pair,
        **settings,
    )
    dp_pid = processes.start("dp", fastgw_command("dp"), env=env | dict(dp_environment or {}))
    processes.wait_until("dp", lambda: answers(status_port, "/status/ready"), deadline_s=_START_DEADLINE_S)
    return Gateway(
        admin_port,
        proxy_port,
        tls_port,
        upstream_port,
        cluster_port,
        cp_pid,
        dp_pid,
        processes.log_path("dp"),
    )


def settled_version(admin: Admin) -> int:
    """The version that the one data plane has applied, once the control plane has heard of it.

    A route may serve some milliseconds before its version's Ack is in.
    """
    until = time.monotonic() + _ACK_DEADLINE_S
    while True:
        rows = admin.call("GET", "/clustering/data-planes")["data"]
        if len(rows) != 1:
            raise BenchError(f"one data plane was expected at the control plane, not {len(rows)}")
        applied, wanted = int(rows[0]["applied_version"]), int(rows[0]["wanted_version"])
        if applied == wanted:
            return applied
        if time.monotonic() > until:
            error = rows[0]["last_error"] or "it gives no reason"
            raise BenchError(f"the data plane stays at version {applied}, wanted {wanted}: {error}")
        time.sleep(0.02)


def ask_until(
    client: Client,
    path: str,
    is_new: Callable[[int, bytes], bool],
    *,
    deadline_s: float = 5.0,
    pause_s: float = _BETWEEN_QUESTIONS_S,
) -> float:
    """GET *path* again and again until the answer *is_new*; return when that was, in monotonic seconds.

    *pause_s* lies between two requests, so that the question does not slow down the answer.
    """
    until = time.monotonic() + deadline_s
    while True:
        try:
            status, body = client.ask("GET", path)
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"GET {path} was not answered: {error!r}") from None
        now = time.monotonic()
        if is_new(status, body):
            return now
        if now > until:
            raise BenchError(
                f"GET {path} was still answered by {status} {body[:80]!r} after {deadline_s:g} s"
            )
        time.sleep(pause_s)


def make_key_pair(directory: Path) -> None:
    done = subprocess.run(
        fastgw_command("hybrid", "gen-cert"),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"fastgw hybrid gen-cert failed: {(done.stderr or done.stdout).strip()}")
