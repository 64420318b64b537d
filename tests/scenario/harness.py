"""Real processes for scenarios: started on ports of their own, waited for by what they say, ended by pid.

    with Stage(directory) as stage:
        control_plane = stage.control_plane(pair)
        data_plane = stage.data_plane(pair, control_plane)
        control_plane.add_service("echo", url)
        ...
        control_plane.kill(); control_plane.start()      # the same settings, ports and prefix

Contract. When the `with` block ends, no process of the stage runs any more, whatever the test did; one that
was still running must end by SIGTERM, in time and with exit code 0. `logs()` shows what all of them wrote.

The one complication is finding every process, since those that we start start others, and some of them in
sessions of their own: all inherit a variable with the stage's token, and /proc tells who has it.
"""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, NamedTuple, Self, TypeVar

import httpx

from tests.cli.running import SOURCE_ROOT, environment
from tests.waiting import wait_until

ROOT: Final = Path(__file__).parent.parent.parent
HOST: Final = "127.0.0.1"
START_S: Final = 25.0
STOP_S: Final = 15.0
SERVED_S: Final = 10.0
"""From a write to the answer by what was written: a bound for busy machines, not a promise."""
_TOKEN: Final = "SCENARIO_PROCESS"
_LOWEST_PORT: Final = 10_240
_given_ports: set[int] = set()
_P = TypeVar("_P", bound="Process")
_T = TypeVar("_T")

STAGES: Final[list[Stage]] = []
"""Those that are open, for the report of a failed test."""


class Pair(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: Path
    key: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"cluster_cert": str(self.certificate), "cluster_cert_key": str(self.key)}


class Process:
    """One command, which may be ended and started again; its log goes on in the same files."""

    end_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """What ends it with the stage."""

    def __init__(
        self, stage: Stage, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> None:
        self.name: Final = name
        self.command: Final = list(command)
        self.token: Final = f"{stage.token}/{name}"
        self._environ = {**environment(**(environ or {})), _TOKEN: self.token}
        self._directory = stage.directory
        self._out_path = stage.directory / f"{name}.out"
        self._log_path = stage.directory / f"{name}.log"
        self._since = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None

    # -- life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it; returns at once."""
        assert not self.is_running, f"{self.name} runs already"
        with self._out_path.open("ab") as out, self._log_path.open("ab") as log:
            self._since = (out.tell(), log.tell())
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=self._environ,
                cwd=self._directory,
                # What a terminal sends on Ctrl-C to the tests must not reach it as well.
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end; it must do so in time, with exit code 0, and leave no process behind."""
        self.send(number)
        self.wait_ended(number)

    def kill(self) -> None:
        """End it as a crash would; what it started must end by itself."""
        self.stop(signal.SIGKILL)

    def wait_ended(self, number: signal.Signals) -> None:
        """Wait for the end that *number* asked for, and for that of all that it started."""
        code = self.exit_code()
        expected = -signal.SIGKILL if number == signal.SIGKILL else 0
        assert code == expected, f"{self.name} ended with {code}:\n{self.log}"
        self.wait_gone()

    def exit_code(self, deadline_s: float = STOP_S) -> int:
        """Wait for its end; negative is a signal."""
        assert self._process is not None
        try:
            return self._process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {deadline_s} s:\n{self.log}") from None

    def wait_gone(self, deadline_s: float = STOP_S) -> None:
        wait_until(lambda: not self.pids(), deadline_s, f"{self.name} and all that it started is gone")

    def pids(self) -> list[int]:
        """All processes that it started and they started, in sessions of their own too, and itself."""
        return pids_with(self.token)

    # -- what it says --------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        """What it wrote to standard error since the last start."""
        return _read_from(self._log_path, self._since[1])

    @property
    def output(self) -> str:
        """What it wrote to standard output since the last start."""
        return _read_from(self._out_path, self._since[0])

    @property
    def warnings(self) -> list[str]:
        """The texts of the warnings in the log."""
        return re.findall(r"^\S+ \S+ \[warn\] [^:]+: (.*)$", self.log, re.MULTILINE)

    def wait_line(self, pattern: str, deadline_s: float = SERVED_S) -> re.Match[str]:
        """Wait for a line of the log that *pattern* finds something in."""
        found = self._wait(
            lambda: re.search(pattern, self.log, re.MULTILINE), deadline_s, f"a line with {pattern!r}"
        )
        assert found is not None
        return found

    def show(self) -> str:
        """All that it ever wrote."""
        parts = [f"$ {' '.join(self.command)}"]
        parts += [
            path.read_text(errors="replace") for path in (self._out_path, self._log_path) if path.exists()
        ]
        return "\n".join(parts)

    def _wait(self, predicate: Callable[[], _T], deadline_s: float, what: str) -> _T:
        def ask() -> _T:
            result = predicate()
            if not result and not self.is_running:
                raise AssertionError(f"{self.name} ended before {what}:\n{self.log}{self.output}")
            return result

        return wait_until(ask, deadline_s, f"{self.name}: {what}")


class Upstream(Process):
    """httpbin; it knows no end in good order."""

    end_signal = signal.SIGKILL

    def __init__(self, stage: Stage) -> None:
        # What other packages are warned of is not ours to fix.
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{SOURCE_ROOT}", "PYTHONWARNINGS": ""}
        super().__init__(stage, "httpbin", [sys.executable, "-m", "tests.scenario.upstream"], paths)

    def wait_port(self) -> int:
        found = self._wait(lambda: re.search(r"listens on (\d+)", self.output), START_S, "its port")
        assert found is not None
        return int(found[1])


class Node(Process):
    """A process that answers HTTP when it is ready."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None,
        *,
        ready: tuple[int, str],
    ) -> None:
        super().__init__(stage, name, command, environ)
        self._ready = ready

    def wait_ready(self, deadline_s: float = START_S) -> None:
        port, path = self._ready
        self._wait(lambda: _answers(port, path), deadline_s, f"200 for http://{HOST}:{port}{path}")


class ControlPlane(Node):
    """`fastgw cp`."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        admin_port: int,
        cluster_port: int,
    ) -> None:
        super().__init__(stage, name, command, environ, ready=(admin_port, "/status"))
        self.admin_port: Final = admin_port
        self.cluster_port: Final = cluster_port
        self.admin: Final = stage.client(admin_port)

    def add_service(self, name: str, url: str) -> None:
        self.expect(201, self.admin.post("/services", data={"name": name, "url": url}))

    def add_route(self, service: str, path: str, **fields: Any) -> str:
        """Add a route for *path*; returns its id."""
        answer = self.admin.post(f"/services/{service}/routes", json={"paths": [path], **fields})
        return str(self.expect(201, answer)["id"])

    def data_planes(self) -> dict[str, dict[str, Any]]:
        """What /clustering/data-planes shows, by id."""
        shown = self.expect(200, self.admin.get("/clustering/data-planes"))
        return {row["id"]: row for row in shown["data"]}

    @staticmethod
    def expect(status: int, answer: httpx.Response) -> Any:
        """The body of an answer that has this status."""
        assert answer.status_code == status, f"{answer.request.url}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


class DataPlane(Node):
    """`fastgw dp`."""

    def __init__(
        self,
        stage: Stage,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        prefix: Path,
        proxy_port: int,
        status_port: int,
    ) -> None:
        super().__init__(stage, name, command, environ, ready=(status_port, "/status/ready"))
        self.prefix: Final = prefix
        self.proxy_port: Final = proxy_port
        self.proxy: Final = stage.client(proxy_port)
        self.status_client: Final = stage.client(status_port)

    def status(self) -> dict[str, Any]:
        """Our own part of /status."""
        shown: dict[str, Any] = self.status_client.get("/status").json()["fastgw"]
        return shown

    @property
    def is_connected(self) -> bool:
        return bool(self.status()["link"]["is_connected"])

    @property
    def node_id(self) -> str:
        return str(self.status()["node_id"])

    def wait_connected(self, deadline_s: float = START_S) -> None:
        self._wait(lambda: self.is_connected, deadline_s, "connected")

    def wait_answer(self, path: str, status: int = 200, deadline_s: float = SERVED_S) -> httpx.Response:
        """Ask until the answer has this status."""
        last: list[httpx.Response] = []

        def ask() -> bool:
            last[:] = [self.proxy.get(path)]
            return last[0].status_code == status

        self._wait(ask, deadline_s, f"{status} for {path}")
        return last[0]


class Stage:
    """A directory, and the processes that run in it."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self.token: Final = uuid.uuid4().hex
        self.processes: list[Process] = []
        self._clients: list[httpx.Client] = []

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
            for client in self._clients:
                client.close()
            left = pids_with(self.token)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not pids_with(self.token), STOP_S, "all processes are gone")
        assert kind is not None or not left, f"still there at the end: {left}\n{self.logs()}"

    def logs(self) -> str:
        return "\n".join(f"---- {process.name}\n{process.show()}" for process in self.processes)

    def client(self, port: int) -> httpx.Client:
        """A client for one port that opens a connection for every request; closed with the stage."""
        client = httpx.Client(
            base_url=f"http://{HOST}:{port}",
            timeout=10,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._clients.append(client)
        return client

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
        self, pair: Pair, storage: Mapping[str, str] | None = None, *, name: str = "cp", **settings: str
    ) -> ControlPlane:
        """Start a control plane and wait until it is ready; *storage* are its settings, SQLite by default."""
        admin_port, cluster_port = free_port(), free_port()
        chosen = {
            "prefix": str(self.directory / name),
            "admin_listen": f"{HOST}:{admin_port}",
            "cluster_listen": f"{HOST}:{cluster_port}",
            "admin_access_log": "/dev/stdout",
            "admin_error_log": "/dev/stderr",
            **pair.settings,
            **(storage or {}),
            **settings,
        }
        control_plane = ControlPlane(
            self, name, fastgw("cp", chosen), admin_port=admin_port, cluster_port=cluster_port
        )
        self._started(control_plane).wait_ready()
        return control_plane

    def data_plane(
        self,
        pair: Pair | None,
        control_plane: ControlPlane | None,
        *,
        name: str = "dp",
        wait: bool = True,
        wrapper: Sequence[str] = (),
        **settings: str,
    ) -> DataPlane:
        """Start a data plane and wait until it is ready.

        Args:
            control_plane: the one to connect to; None without any.
            wait: False for one that is not expected to become ready.
            wrapper: a command that runs the data plane.
        """
        proxy_port, status_port = free_port(), free_port()
        chosen = {
            "prefix": str(self.directory / name),
            "proxy_listen": f"{HOST}:{proxy_port}",
            "status_listen": f"{HOST}:{status_port}",
            "proxy_access_log": "/dev/stdout",
            "proxy_error_log": "/dev/stderr",
            "workers": "1",
            **(pair.settings if pair else {}),
            **({"cluster_control_plane": f"{HOST}:{control_plane.cluster_port}"} if control_plane else {}),
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


def free_port() -> int:
    """A port that nobody has, nor gets by chance: the system gives out others when it chooses itself.

    So that a process that was ended finds its port free when it is started again.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()
    for _ in range(1000):
        port = random.randrange(_LOWEST_PORT, int(limits[0]))
        if port in _given_ports:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
                # Bound is not enough: a listener on all addresses shows itself only here.
                probe.listen(1)
            except OSError:
                continue
        _given_ports.add(port)
        return port
    raise AssertionError("no free port")


def pids_with(token: str) -> list[int]:
    """The processes, zombies not counted, whose environment names a process of the harness that begins so."""
    wanted = f"{_TOKEN}={token}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # gone, or another user's
        if any(variable.startswith(wanted) for variable in variables):
            found.append(int(entry.name))
    return found


def _answers(port: int, path: str) -> bool:
    # Asked so often while a process starts that the cost of httpx's client would slow it down.
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read_from(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
