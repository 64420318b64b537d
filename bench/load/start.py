"""How long both roles take to start, and what memory they hold when idle.

python -m bench.load.start [--routes 1000] [--times 5]

Times are from exec to the first answer: of a control plane at its Admin API, of a data plane a request
proxied to an upstream; cold (an empty prefix, the configuration comes from the control plane) and from disk
(the control plane is gone). Memory is PSS (/proc/PID/smaps_rollup): pages that processes share count in part
for each.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from bench.load.contenders import fastgw_command, fastgw_env, start_upstream
from bench.load.gateway import make_key_pair
from bench.load.machine import BenchError
from bench.load.processes import Processes, answers, free_ports, tree
from bench.load.seed import seed_routes

_DEADLINE_S: Final = 60.0
_BETWEEN_QUESTIONS_S: Final = 0.002
_IDLE_S: Final = 3.0
"""Until what happens after a start is over: the first report, the compile process."""


class Start(NamedTuple):
    """One start: its seconds, and whose they were."""

    seconds: float
    pid: int


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--routes", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--times", type=int, default=5, help="starts of each kind; the median is shown")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="fastgw-start-") as directory:
            _measure(Path(directory), arguments.routes, arguments.workers, arguments.times)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def _measure(directory: Path, routes: int, workers: int, times: int) -> None:
    directory.chmod(0o755)
    make_key_pair(directory)
    admin_port, cluster_port, proxy_port = free_ports(3)
    pair = {"cluster_cert": directory / "cluster.crt", "cluster_cert_key": directory / "cluster.key"}
    with Processes(directory) as upstream:
        upstream_port = start_upstream(upstream, core=None)
        seed_routes(directory / "cp", routes, upstream_port=upstream_port)
        cp = fastgw_env(
            prefix=directory / "cp",
            admin_listen=f"127.0.0.1:{admin_port}",
            cluster_listen=f"127.0.0.1:{cluster_port}",
            admin_access_log="off",
            admin_error_log="/dev/stderr",
            **pair,
        )

        def dp(prefix: str) -> Mapping[str, str]:
            return fastgw_env(
                prefix=directory / prefix,
                cluster_control_plane=f"127.0.0.1:{cluster_port}",
                proxy_listen=f"127.0.0.1:{proxy_port} reuseport",
                status_listen="off",
                proxy_access_log="off",
                proxy_error_log="/dev/stderr",
                workers=workers,
                **pair,
            )

        cp_s, cold_s, disk_s = [], [], []
        for _ in range(times):
            with Processes(directory) as processes:
                cp_s.append(_start(processes, "cp", cp, admin_port, "/status", "localhost").seconds)
        with Processes(directory) as processes:
            control_plane = _start(processes, "cp", cp, admin_port, "/status", "localhost")
            # The first publication is the control plane's start, not the data plane's.
            processes.wait_until("cp", lambda: answers(admin_port, "/status/ready"), deadline_s=_DEADLINE_S)
            for number in range(times):
                with Processes(directory) as data_plane:
                    cold_s.append(_start_dp(data_plane, dp(f"dp{number}"), proxy_port).seconds)
            with Processes(directory) as data_plane:
                started = _start_dp(data_plane, dp("dp0"), proxy_port)
                time.sleep(_IDLE_S)
                memory = {"control plane": _memory(control_plane.pid), "data plane": _memory(started.pid)}
        for _ in range(times):
            with Processes(directory) as processes:
                disk_s.append(_start_dp(processes, dp("dp0"), proxy_port).seconds)
    print(f"{routes} routes, {workers} workers; start to first answer, ms: median (least to most) of {times}")
    for name, seconds in (
        ("control plane", cp_s),
        ("data plane, cold", cold_s),
        ("data plane, from disk", disk_s),
    ):
        middle = statistics.median(seconds) * 1000
        print(f"  {name:<22} {middle:6.0f}  ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})")
    print("idle memory (PSS), MiB:")
    for role, processes_of in memory.items():
        for name, pss in processes_of:
            print(f"  {role:<15} {name:<16} {pss / 2**20:6.1f}")


def _start_dp(processes: Processes, env: Mapping[str, str], port: int) -> Start:
    return _start(processes, "dp", env, port, "/seed/0/items", "host-0.example.com")


def _start(processes: Processes, role: str, env: Mapping[str, str], port: int, path: str, host: str) -> Start:
    begun = time.monotonic()
    pid = processes.start(role, fastgw_command(role), env=env)
    while True:
        if _status_of(port, path, host) == 200:
            return Start(time.monotonic() - begun, pid)
        if time.monotonic() - begun > _DEADLINE_S:
            raise BenchError(f"{role} does not answer within {_DEADLINE_S:g} s: {processes.log_path(role)}")
        time.sleep(_BETWEEN_QUESTIONS_S)


def _status_of(port: int, path: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except (TimeoutError, OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _memory(root: int) -> list[tuple[str, int]]:
    """PSS of each process of a tree, with what it is."""
    found = []
    for pid in tree(root):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        name = next((word.rpartition(".")[2] for word in words if word.startswith("fastgw.")), "main")
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        found.append((name, int(text.partition("\nPss:")[2].split()[0]) * 1024))
    return found


if __name__ == "__main__":
    sys.exit(main())
