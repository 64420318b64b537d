"""Child processes of a benchmark: started on a core, accounted for as a tree, ended by pid.

Contract: whatever a `Processes` has started is gone when its `with` block ends, however it ends.
The one complication is that a proxy is a tree (master and worker, supervisor and workers), and that a
child which ends in the middle takes its processor time along: the kernel adds it to its parent's `cutime`
and `cstime` when that parent waits for it, so all are summed.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from bench.load.machine import BenchError, find_tool

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STOP_DEADLINE_S: Final = 10.0


class Processes:
    """Starts processes and ends them, newest first."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start *command*, pinned to *core* if given, its output in `log_path`; return its pid."""
        pin = ["taskset", "-c", str(core)] if core is not None else []
        program = find_tool(command[0]) or command[0]
        with self.log_path(name).open("ab") as log:
            process = subprocess.Popen(
                [*pin, program, *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=None if env is None else dict(env),
                cwd=self.directory,
                # Its own group: Ctrl-C reaches the benchmark alone, which then ends the others in order.
                start_new_session=True,
            )
        self._running.append((name, process))
        return process.pid

    def kill(self, name: str) -> None:
        """End *name* as a crash would, and what it started."""
        found = next(one for one in self._running if one[0] == name)
        self._running.remove(found)
        os.killpg(found[1].pid, signal.SIGKILL)
        found[1].wait(_STOP_DEADLINE_S)

    def log_path(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def wait_until(self, name: str, ready: Callable[[], bool], *, deadline_s: float) -> None:
        """Poll *ready* until it holds; BenchError with the end of the log if *name* ends or is late."""
        process = next(process for known, process in self._running if known == name)
        until = time.monotonic() + deadline_s
        while not ready():
            code = process.poll()
            if code is not None:
                raise BenchError(f"{name} ended with status {code}: {self._log_tail(name)}")
            if time.monotonic() > until:
                raise BenchError(f"{name} was not ready within {deadline_s:g} s: {self._log_tail(name)}")
            time.sleep(0.02)

    def _log_tail(self, name: str) -> str:
        lines = self.log_path(name).read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-5:]) or "(it logged nothing)"

    def close(self) -> None:
        while self._running:
            _, process = self._running.pop()
            process.terminate()
            try:
                process.wait(_STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_DEADLINE_S)
            # The leader of the group is gone; what it may have left behind goes too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def tree(root: int) -> list[int]:
    """*root* and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found


def cpu_s(root: int) -> float:
    """User and system seconds of a process tree, ended and waited-for children included; steps of 10 ms.

    Source: proc(5), fields utime, stime, cutime, cstime of /proc/PID/stat.
    """
    ticks = 0
    for pid in tree(root):
        if fields := _stat_fields(pid):
            ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def rss_bytes(root: int) -> int:
    """Resident memory of a process tree; pages shared by several processes count for each."""
    return sum(int(fields[21]) * _PAGE_BYTES for pid in tree(root) if (fields := _stat_fields(pid)))


def pss_bytes(root: int) -> int:
    """Resident memory of a process tree; of pages shared by several processes each counts its part.

    Source: proc(5), Pss of /proc/PID/smaps_rollup.
    """
    total = 0
    for pid in tree(root):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    return total


def _stat_fields(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state (index 0) on; empty when the process is gone.

    The command name before them may hold spaces and parentheses, so the last parenthesis ends it.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()


def free_ports(count: int) -> list[int]:
    """Different loopback ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [int(sock.getsockname()[1]) for sock in sockets]


def get(port: int, path: str, *, timeout_s: float = 2.0) -> tuple[int, dict[str, str], bytes]:
    """One GET on a connection of its own: status, headers with lower-case names, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def answers(port: int, path: str) -> bool:
    """Whether a GET is answered by 200 now."""
    try:
        return get(port, path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False
