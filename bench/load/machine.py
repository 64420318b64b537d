"""What the machine is, what it lacks, and how busy it is with work that is not ours."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

#: Each tool and the Debian or Ubuntu package that holds it.
PACKAGES: Final = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "taskset": "util-linux",
}

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A benchmark cannot go on; `str()` says why and what to do in one line."""


class Machine(msgspec.Struct, frozen=True):
    """The facts that a figure means nothing without."""

    cpu: str
    cores: int
    memory_mib: int
    kernel: str
    python: str
    versions: dict[str, str]
    loadavg_1min: float


def require_tools(names: Iterable[str]) -> None:
    """Raise BenchError that names every missing tool and the one command that installs them."""
    missing = [name for name in names if find_tool(name) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[name] for name in missing}))
        raise BenchError(f"missing: {', '.join(missing)}; install with: apt-get install -y {packages}")


def find_tool(name: str) -> str | None:
    """Path of a tool, also where Debian keeps daemons and a plain user's PATH does not look."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def describe(tools: Iterable[str]) -> Machine:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return Machine(
        cpu=model[1] if model else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_mib=int(memory[1]) // 1024 if memory else 0,
        kernel=platform.release().split("-")[0],
        python=platform.python_version(),
        versions={name: _version(name) for name in tools if name != "taskset"},
        loadavg_1min=loadavg(),
    )


def loadavg() -> float:
    """Runnable tasks, averaged over the last minute."""
    return float(Path("/proc/loadavg").read_text().split()[0])


def core_busy_s(core: int) -> float:
    """Seconds that *core* has worked since boot, for anybody, interrupts and stolen time included."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S
    raise BenchError(f"core {core} does not exist here; choose others with --proxy-core and --load-core")


def _version(name: str) -> str:
    path = find_tool(name)
    if path is None:
        return "missing"
    flag = {"h2load": "--version"}.get(name, "-v")
    done = subprocess.run([path, flag], capture_output=True, text=True, timeout=10, check=False)
    found = re.search(r"(\d+\.\d+(\.\d+)?)", done.stdout + done.stderr)
    return found[1] if found else "unknown"
