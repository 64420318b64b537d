"""The processes of simulated data planes (`data_planes`), and what they tell."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from bench.load.machine import BenchError

LINK_DEADLINE_S: Final = 300.0
ANSWER_DEADLINE_S: Final = 60.0
_DIALS_PER_SECOND: Final = 20.0
"""Below what a control plane admits, so that the beginning is no storm."""


class Fleet:
    """The processes of the simulated data planes, and what they tell."""

    def __init__(self, children: list[subprocess.Popen[bytes]]) -> None:
        self._children = children
        self._facts: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for child in children:
            assert child.stdout is not None
            threading.Thread(target=self._listen, args=(child.stdout,), daemon=True).start()

    def _listen(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self._facts.put(msgspec.json.decode(line))
        self._facts.put({"ended": True})

    def gather(self, key: str, deadline_s: float) -> list[dict[str, Any]]:
        """One fact that has *key* from each process."""
        until = time.monotonic() + deadline_s
        found: list[dict[str, Any]] = []
        while len(found) < len(self._children):
            try:
                fact = self._facts.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise BenchError(f"the data planes have not said {key!r} within {deadline_s:g} s") from None
            if "ended" in fact:
                raise BenchError("a process of simulated data planes ended: see its log above")
            if key in fact:
                found.append(fact)
        return found

    def received_bytes(self, control_plane: str) -> int:
        """From this control plane, on the links that are open."""
        self._tell(f"bytes {control_plane}\n".encode())
        return sum(fact["received_bytes"] for fact in self.gather("received_bytes", ANSWER_DEADLINE_S))

    def watch(self, control_plane: str) -> None:
        """Have told, as `again`, when all that are linked to it now are linked and confirmed anew."""
        self._tell(f"watch {control_plane}\n".encode())
        self.gather("watching", ANSWER_DEADLINE_S)

    def _tell(self, line: bytes) -> None:
        for child in self._children:
            assert child.stdin is not None
            child.stdin.write(line)
            child.stdin.flush()


@contextmanager
def started_fleet(
    control_planes: Sequence[str], directory: Path, count: int, processes: int, *, whole: bool = False
) -> Iterator[Fleet]:
    """Simulated data planes that connect at a pace that nobody is refused at."""
    children = []
    try:
        for number in range(processes):
            share = count // processes + (number < count % processes)
            command = [
                sys.executable, "-m", "bench.cluster.data_planes",
                "--control-plane", ",".join(control_planes), "--pair", str(directory),
                "--count", str(share), "--first", str(number * 1000),
                "--per-second", str(_DIALS_PER_SECOND / processes), *(["--whole"] if whole else []),
            ]  # fmt: skip
            children.append(
                subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
                )
            )
        yield Fleet(children)
    finally:
        for child in children:
            assert child.stdin is not None
            child.stdin.close()
        for child in children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(10)
