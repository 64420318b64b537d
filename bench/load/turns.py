"""What the event loops of the workers spend per turn: building turns.c, and reading what it counted.

Contract. A turn is what lies between one return of epoll and its next call, in the main thread of a process
that was started with `preloaded`. Its processor time is the thread's own; its wall time also holds what it
waited for. Histograms are exact to 10 µs; a turn of a millisecond or more is known to the nanosecond.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, NamedTuple

from bench.load.machine import BenchError
from bench.load.processes import tree

_SOURCE: Final = Path(__file__).parent / "turns.c"
_BUCKET_NS: Final = 10_000
_BUCKETS: Final = 2048
_LONG_TURNS: Final = 65536
_COUNTS: Final = struct.Struct(f"<QQ{_BUCKETS}Q{_BUCKETS}Q")
_TURN: Final = struct.Struct("<QQQ")
BAR_MS: Final = 5.0


class Mark(NamedTuple):
    """The counts at one moment, by process."""

    counts: Mapping[int, tuple[int, ...]]


class Turns(NamedTuple):
    """What the loops of some processes spent between two marks; milliseconds of processor time."""

    turns: int
    p99_ms: float
    p999_ms: float
    longest_ms: float
    above_bar: int
    """Turns of more than BAR_MS."""
    longest_wall_ms: float
    """The longest turn by the clock: waiting for the processor, or a lock, is in it."""


class TurnCounter:
    """The turns of processes that are started with `preloaded`."""

    def __init__(self, directory: Path) -> None:
        """Build what is preloaded, in *directory*.

        Raises:
            BenchError: there is no C compiler, or it fails.
        """
        self._directory = directory
        compiler = shutil.which("cc")
        if compiler is None:
            raise BenchError("missing: cc; install with: apt-get install -y gcc libc6-dev")
        self._library = directory / "turns.so"
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(_SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise BenchError(f"cc cannot build {_SOURCE.name}: {done.stderr.strip()}")

    def preloaded(self) -> dict[str, str]:
        """The environment in which a process and its children are measured."""
        return {"LD_PRELOAD": str(self._library), "TURNS_DIRECTORY": str(self._directory)}

    def mark(self, pids: Iterable[int]) -> Mark:
        """The counts of these processes now."""
        return Mark({pid: _COUNTS.unpack_from(self._map(pid)) for pid in pids})

    def between(self, before: Mark, after: Mark) -> Turns:
        """What came to pass from *before* to *after*, of the processes that were there at the end."""
        cpu = [0] * _BUCKETS
        longest: list[tuple[int, int, int]] = []
        nothing = (0,) * (2 + 2 * _BUCKETS)
        for pid, counts in after.counts.items():
            old = before.counts.get(pid, nothing)
            for bucket in range(_BUCKETS):
                cpu[bucket] += counts[2 + bucket] - old[2 + bucket]
            if counts[1] - old[1] > _LONG_TURNS:
                raise BenchError("more long turns than can be remembered")
            data = self._map(pid)
            longest += [
                _TURN.unpack_from(data, _COUNTS.size + _TURN.size * (number % _LONG_TURNS))
                for number in range(old[1], counts[1])
            ]
        total = sum(cpu)
        if total == 0:
            raise BenchError("no worker took a turn: it does not use epoll, or was not preloaded")
        by_cpu = sorted((turn[1] for turn in longest), reverse=True)
        return Turns(
            turns=total,
            p99_ms=_percentile_ms(cpu, total, 0.99),
            p999_ms=_percentile_ms(cpu, total, 0.999),
            longest_ms=by_cpu[0] / 1e6 if by_cpu and by_cpu[0] >= 1e6 else _percentile_ms(cpu, total, 1.0),
            above_bar=sum(ns > BAR_MS * 1e6 for ns in by_cpu),
            longest_wall_ms=max((turn[2] for turn in longest), default=0) / 1e6,
        )

    def _map(self, pid: int) -> mmap.mmap:
        with (self._directory / f"{pid}.turns").open("rb") as file:
            return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def workers_of(dp_pid: int) -> list[int]:
    """The processes of a data plane that carry traffic."""
    return [pid for pid in tree(dp_pid) if b"fastgw.dp.worker" in _command_line(pid).split(b"\0")]


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _percentile_ms(histogram: Sequence[int], total: int, share: float) -> float:
    """The upper end of the bucket that the turn at this *share* lies in."""
    bucket = bisect_left(list(accumulate(histogram)), share * total)
    return (bucket + 1) * _BUCKET_NS / 1e6
