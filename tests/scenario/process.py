"""One real process: started with files for what it says, waited for, ended by pid, and found with its children.

The one complication is finding all that it started, since some of them make sessions of their own: all
inherit a variable with the process's token, and /proc tells who has it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final, TypeVar

import httpx

from tests.cli.running import environment
from tests.waiting import wait_until

HOST: Final = "127.0.0.1"
START_S: Final = 25.0
STOP_S: Final = 15.0
SERVED_S: Final = 10.0
"""From a write to the answer by what was written: a bound for busy machines, not a promise."""

_TOKEN: Final = "SCENARIO_PROCESS"
_SHOWN_LINES: Final = 100
_T = TypeVar("_T")


class Place:
    """Where processes run: a directory, a token that all their children inherit, and clients to close."""

    def __init__(self, directory: Path) -> None:
        self.directory: Final = directory
        self.token: Final = uuid.uuid4().hex
        self.clients: Final[list[httpx.Client]] = []

    def client(self, port: int) -> httpx.Client:
        """A client for one port that opens a connection for every request; closed with the place."""
        client = httpx.Client(
            base_url=f"http://{HOST}:{port}",
            timeout=10,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self.clients.append(client)
        return client


class Process:
    """One command, which may be ended and started again; its log goes on in the same files."""

    end_signal: ClassVar[signal.Signals] = signal.SIGTERM
    """What ends it with the stage."""

    def __init__(
        self, place: Place, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None
    ) -> None:
        self.name: Final = name
        self.command: Final = list(command)
        self.token: Final = f"{place.token}/{name}/"
        self._environ = {**environment(**(environ or {})), _TOKEN: self.token}
        self._directory = place.directory
        self._out_path = place.directory / f"{name}.out"
        self._log_path = place.directory / f"{name}.log"
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
    def all_logs(self) -> str:
        """The same since its first start."""
        return _read_from(self._log_path, 0)

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
        found = self.wait_for(
            lambda: re.search(pattern, self.log, re.MULTILINE), deadline_s, f"a line with {pattern!r}"
        )
        assert found is not None
        return found

    def show(self) -> str:
        """The end of what it wrote, all starts together."""
        parts = [f"$ {' '.join(self.command)}"]
        for path in (self._out_path, self._log_path):
            if path.exists():
                parts += path.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        return "\n".join(parts)

    def wait_for(self, predicate: Callable[[], _T], deadline_s: float, what: str) -> _T:
        """Wait for the first truthy result of *predicate*; the end of the process is the end of the wait."""

        def ask() -> _T:
            result = predicate()
            if not result and not self.is_running:
                raise AssertionError(f"{self.name} ended before {what}:\n{self.log}{self.output}")
            return result

        return wait_until(ask, deadline_s, f"{self.name}: {what}")


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


def _read_from(path: Path, offset: int) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read().decode(errors="replace")
