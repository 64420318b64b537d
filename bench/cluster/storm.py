"""How a fleet comes back when its control plane is killed: `python -m bench.cluster.storm --help`.

Control planes on one PostgreSQL, real processes; simulated data planes in a few more
(`bench.cluster.data_planes`), which keep the product's own links and pacing. One control plane is killed
(SIGKILL). `restart`: it is the only one, and started again at once. `failover`: there is another one, which
half of the fleet is linked to already. Measured is until each data plane is linked and has been told that it
runs what is wanted; what came to the control plane that they go to meanwhile is counted in its log.
"""

from __future__ import annotations

import http.client
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import click
import msgspec
from rich.console import Console

from bench.cluster.fleet import LINK_DEADLINE_S, started_fleet
from bench.load.contenders import fastgw_command, fastgw_env
from bench.load.gateway import Client, make_key_pair
from bench.load.generators import percentile
from bench.load.machine import BenchError, Machine, describe
from bench.load.processes import Processes, answers, cpu_s, free_ports, pss_bytes
from bench.load.report import describe_machine, write_json
from bench.load.seed import seed_routes
from tests.postgres import PgServer, make_directory

_START_DEADLINE_S: Final = 60.0
_STORM_DEADLINE_S: Final = 180.0
_ASK_EVERY_S: Final = 0.01
_CONNECTED: Final = re.compile(r"^(\S+ \S+) .* is connected and runs ", re.MULTILINE)
_TURNED_AWAY: Final = "before its handshake"

How = Literal["restart", "failover"]


class StormReport(msgspec.Struct, frozen=True):
    """One run."""

    machine: Machine
    how: How
    data_planes: int
    routes: int
    ready_s: float
    """From the kill until the control plane that they go to answers; 0 where it was there."""
    linked_s: list[float]
    """For each data plane that had to come back, from the kill until it was linked."""
    confirmed_s: list[float]
    """The same until it was told that it runs what is wanted."""
    handshakes: list[int]
    """Links made in each second of the control plane's log, from the first to the last."""
    turned_away: int
    """Connections closed before their handshake."""
    received_bytes: float
    """By one data plane on its new link, TLS handshake included."""
    control_plane_cpu_s: float
    """Of the control plane that they go to, its start included."""
    control_plane_mib: float
    """Its PSS at the end."""
    admin_ms: list[float]
    """What reads of the Admin API took meanwhile."""


class _ControlPlane:
    def __init__(self, processes: Processes, name: str, storage: dict[str, str], directory: Path) -> None:
        self.admin_port, self.cluster_port = free_ports(2)
        self.pid = 0
        self._processes = processes
        self._name = name
        self._log_start = 0
        self._env = fastgw_env(
            prefix=directory / name,
            log_level="info",
            admin_listen=f"127.0.0.1:{self.admin_port}",
            cluster_listen=f"127.0.0.1:{self.cluster_port}",
            admin_access_log="off",
            admin_error_log="/dev/stderr",
            cluster_cert=directory / "cluster.crt",
            cluster_cert_key=directory / "cluster.key",
            **storage,
        )

    def start(self) -> None:
        self.pid = self._processes.start(self._name, fastgw_command("cp"), env=self._env)
        self._processes.wait_until(
            self._name, lambda: answers(self.admin_port, "/status"), deadline_s=_START_DEADLINE_S
        )

    def kill(self) -> None:
        self._processes.kill(self._name)

    def forget_log(self) -> None:
        """Count from here on."""
        self._log_start = len(self.log())

    def log(self) -> str:
        return self._processes.log_path(self._name).read_text(errors="replace")[self._log_start :]


class _Asking(threading.Thread):
    """Asks the Admin API for one entity again and again, and takes the time."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.took_ms: list[float] = []
        self._client = Client(port)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(_ASK_EVERY_S):
            began = time.monotonic()
            try:
                status, _ = self._client.ask("GET", "/services/seed-0")
            except (OSError, http.client.HTTPException):
                status = 0
            self.took_ms.append((time.monotonic() - began) * 1000 if status == 200 else float("inf"))

    def stop(self) -> list[float]:
        self._ended.set()
        self.join()
        self._client.close()
        return self.took_ms


@contextmanager
def _postgres() -> Iterator[dict[str, str]]:
    place = make_directory()
    server = PgServer(place)
    server.start()
    try:
        yield dict(server.create_database().properties)
    finally:
        server.stop()
        shutil.rmtree(place)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.argument("how", type=click.Choice(["restart", "failover"]))
@click.option("--data-planes", type=click.IntRange(10, 5_000), default=1_000, help="Simulated ones.")
@click.option("--processes", type=click.IntRange(1, 16), default=4, help="Processes that they share.")
@click.option("--routes", type=click.IntRange(1, 100_000), default=10_000, help="Routes that are configured.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/storm.json"), help="Where the result goes.")  # fmt: skip
def main(how: How, data_planes: int, processes: int, routes: int, json_path: Path) -> None:
    """Kill a control plane that a fleet is linked to, and measure how the fleet comes back.

    restart: the only control plane, started again at once. failover: one of two on one PostgreSQL.

    All on loopback, in a temporary directory; everything is gone at the end. Connecting a thousand data
    planes takes a minute, and so does their return: both keep to the control plane's pacing.
    """
    console = Console()
    try:
        machine = describe([])
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as name,
            _postgres() as storage,
            Processes(Path(name)) as running,
        ):
            directory = Path(name)
            make_key_pair(directory)
            count = 1 if how == "restart" else 2
            control_planes = [
                _ControlPlane(running, f"cp-{number}", storage, directory) for number in range(count)
            ]
            seed_routes(directory / "seed", routes, upstream_port=1, **storage)
            for one in control_planes:
                one.start()
            report = _measure(
                console, machine, how, control_planes, directory, data_planes, processes, routes
            )
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    _print(console, report)
    write_json(json_path, report)
    console.print(f"written to {json_path}", highlight=False)


def _measure(
    console: Console,
    machine: Machine,
    how: How,
    control_planes: list[_ControlPlane],
    directory: Path,
    data_planes: int,
    processes: int,
    routes: int,
) -> StormReport:
    addresses = [f"127.0.0.1:{one.cluster_port}" for one in control_planes]
    victim, survivor = control_planes[0], control_planes[-1]
    with started_fleet(addresses, directory, data_planes, processes) as fleet:
        with console.status(f"{data_planes} data planes connect"):
            fleet.gather("linked", LINK_DEADLINE_S)
        # The last Acks are on their way.
        time.sleep(2)
        fleet.watch(addresses[0])
        survivor.forget_log()
        received_before = 0 if how == "restart" else fleet.received_bytes(addresses[-1])
        spent_before_s = 0.0 if how == "restart" else cpu_s(survivor.pid)
        killed_at_s = time.monotonic()
        victim.kill()
        if how == "restart":
            victim.start()
        ready_s = time.monotonic() - killed_at_s if how == "restart" else 0.0
        asking = _Asking(survivor.admin_port)
        asking.start()
        with console.status("and come back"):
            facts = fleet.gather("again", _STORM_DEADLINE_S)
        admin_ms = asking.stop()
        confirmed_s = _since(killed_at_s, facts, "confirmed_s")
        received = fleet.received_bytes(addresses[-1]) - received_before
        return StormReport(
            machine,
            how,
            data_planes,
            routes,
            ready_s,
            _since(killed_at_s, facts, "linked_s"),
            confirmed_s,
            _per_second(survivor.log()),
            survivor.log().count(_TURNED_AWAY),
            received / len(confirmed_s),
            cpu_s(survivor.pid) - spent_before_s,
            pss_bytes(survivor.pid) / 2**20,
            admin_ms,
        )


def _since(at_s: float, facts: list[dict[str, Any]], key: str) -> list[float]:
    return sorted(found - at_s for fact in facts for found in fact[key])


def _per_second(log: str) -> list[int]:
    counted = Counter(_CONNECTED.findall(log))
    return [counted[second] for second in sorted(counted)]


def _print(console: Console, report: StormReport) -> None:
    for what, values in (("linked", report.linked_s), ("confirmed", report.confirmed_s)):
        console.print(
            f"{what:>13}: {len(values)}, median {percentile(values, 50):.1f} s,"
            f" p99 {percentile(values, 99):.1f} s, the last {values[-1]:.1f} s after the kill",
            highlight=False,
        )
    admin = sorted(report.admin_ms)
    console.print(
        f"control plane: answers {report.ready_s:.1f} s after the kill\n"
        f"   handshakes: {max(report.handshakes)} in the busiest second,"
        f" {report.turned_away} turned away before theirs\n"
        f"        costs: {report.control_plane_cpu_s:.1f} s of processor time,"
        f" {report.control_plane_mib:.0f} MiB\n"
        f"      sent to: {report.received_bytes:.0f} bytes to each\n"
        f"    Admin API: median {percentile(admin, 50):.1f} ms, p99 {percentile(admin, 99):.1f} ms,"
        f" most {admin[-1]:.1f} ms, of {len(admin)} reads",
        highlight=False,
    )


if __name__ == "__main__":
    main()
