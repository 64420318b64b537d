"""The stage of a scenario: real processes, each on ports of its own, which end with it.

    with Stage(directory) as stage:
        control_plane = stage.control_plane(pair)
        data_plane = stage.data_plane(pair, control_plane)
        control_plane.add_service("echo", url)
        ...
        control_plane.kill(); control_plane.start()      # the same settings, ports and prefix

Contract. When the `with` block ends, no process of the stage runs any more, whatever the test did; one that
was still running must end by SIGTERM, in time and with exit code 0. `logs()` shows what all of them wrote.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self, TypeVar

from tests.scenario.nodes import ControlPlane, DataPlane, Upstream
from tests.scenario.process import HOST, START_S, STOP_S, Place, Process, pids_with
from tests.waiting import free_port, wait_until

_P = TypeVar("_P", bound=Process)

STAGES: Final[list[Stage]] = []
"""Those that are open, for the report of a failed test."""


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"cluster_cert": str(self.certificate), "cluster_cert_key": str(self.key)}


class Stage(Place):
    """A place, and the processes that run in it."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.processes: list[Process] = []

    def __enter__(self) -> Self:
        STAGES.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        STAGES.remove(self)
        try:
            running = [process for process in self.processes if process.is_running]
            if kind is None:
                for process in running:
                    process.send(process.end_signal)
                for process in running:
                    process.wait_ended(process.end_signal)
        finally:
            for client in self.clients:
                client.close()
            left = pids_with(self.token)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not pids_with(self.token), STOP_S, "all processes are gone")
        assert kind is not None or not left, f"still there at the end: {left}\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(f"---- {process.name}\n{process.show()}" for process in self.processes)

    def run(self, name: str, *command: str, environ: Mapping[str, str] | None = None) -> Process:
        """Start any command of this machine."""
        return self._started(Process(self, name, command, environ))

    def ended(
        self,
        command: str,
        settings: Mapping[str, str] | None = None,
        *args: str,
        environ: Mapping[str, str] | None = None,
    ) -> Process:
        """Run `fastgw COMMAND` to its end."""
        number = len(self.processes)
        process = self.run(f"{number}-{command}", *fastgw(command, settings, *args), environ=environ)
        process.exit_code(START_S)
        return process

    def control_plane(
        self,
        pair: Pair | None,
        storage: Mapping[str, str] | None = None,
        *,
        name: str = "cp",
        wrapper: Sequence[str] = (),
        **settings: str,
    ) -> ControlPlane:
        """Start a control plane and wait until it is ready; *storage* are its settings, SQLite by default.

        Args:
            wrapper: a command that runs the control plane.
        """
        admin_port, cluster_port = free_port(), free_port()
        chosen = {
            "prefix": str(self.directory / name),
            "admin_listen": f"{HOST}:{admin_port}",
            "cluster_listen": f"{HOST}:{cluster_port}",
            "admin_access_log": "/dev/stdout",
            "admin_error_log": "/dev/stderr",
            **(pair.settings if pair else {}),
            **(storage or {}),
            **settings,
        }
        control_plane = ControlPlane(
            self,
            name,
            [*wrapper, *fastgw("cp", chosen)],
            admin_port=admin_port,
            cluster_port=cluster_port,
        )
        self._started(control_plane).wait_ready()
        return control_plane

    def data_plane(
        self,
        pair: Pair | None,
        control_plane: ControlPlane | Sequence[ControlPlane] | None,
        *,
        name: str = "dp",
        wait: bool = True,
        wrapper: Sequence[str] = (),
        **settings: str,
    ) -> DataPlane:
        """Start a data plane and wait until it is ready.

        Args:
            control_plane: the one to connect to, or several; None without any.
            wait: False for one that is not expected to become ready.
            wrapper: a command that runs the data plane.
        """
        proxy_port, status_port = free_port(), free_port()
        control_planes = [control_plane] if isinstance(control_plane, ControlPlane) else control_plane or ()
        named = ", ".join(f"{HOST}:{one.cluster_port}" for one in control_planes)
        chosen = {
            "prefix": str(self.directory / name),
            "proxy_listen": f"{HOST}:{proxy_port}",
            "status_listen": f"{HOST}:{status_port}",
            "proxy_access_log": "/dev/stdout",
            "proxy_error_log": "/dev/stderr",
            "workers": "1",
            **(pair.settings if pair else {}),
            **({"cluster_control_plane": named} if named else {}),
            **settings,
        }
        data_plane = DataPlane(
            self,
            name,
            [*wrapper, *fastgw("dp", chosen)],
            prefix=Path(chosen["prefix"]),
            proxy_port=proxy_port,
            status_port=status_port,
        )
        self._started(data_plane)
        if wait:
            data_plane.wait_ready()
        return data_plane

    def take(self, process: Process) -> None:
        """Start a process that a test has made itself."""
        self._started(process)

    def upstream(self) -> str:
        """Start httpbin; returns its URL."""
        upstream = self._started(Upstream(self))
        return f"http://{HOST}:{upstream.wait_port()}"

    def _started(self, process: _P) -> _P:
        self.processes.append(process)
        process.start()
        return process


def fastgw(command: str, settings: Mapping[str, str] | None = None, *args: str) -> list[str]:
    """The command line of `fastgw COMMAND` with these settings, without those of the machine."""
    flags = [word for name, value in (settings or {}).items() for word in ("--set", f"{name}={value}")]
    conf = ["--conf", os.devnull] if flags else []
    return [sys.executable, "-m", "fastgw", *command.split(), *conf, *flags, *args]
