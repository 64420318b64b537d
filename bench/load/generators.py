"""wrk and h2load: their command lines, and what they print turned into a LoadResult.

wrk asks again as soon as it is answered, so it finds the cost and the peak; its latencies are those of
a saturated proxy. h2load with a rate asks by the clock, so its latencies are those that users of a
half-loaded proxy see.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from bench.load.machine import BenchError, find_tool

_HERE: Final = Path(__file__).parent


class LoadResult(msgspec.Struct, frozen=True):
    """What one run of a generator counted."""

    requests: int
    """Answered with 2xx."""
    failed: int
    """Answered otherwise, or not at all."""
    duration_s: float
    p50_us: float
    p99_us: float


class _WrkReport(msgspec.Struct):
    requests: int
    bytes: int
    duration_us: int
    p50_us: int
    p99_us: int
    status_errors: int
    socket_errors: int


def run_wrk(
    url: str, *, connections: int, seconds: int, core: int, script: str = "wrk_report.lua"
) -> LoadResult:
    """Ask *url* as fast as it answers."""
    options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s", "-s", str(_HERE / script)]
    return parse_wrk(_run(["wrk", *options, url], core=core, deadline_s=seconds + 20))


class _Background:
    """A generator while something else happens."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [find_tool(command[0]) or command[0], *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class BackgroundWrk(_Background):
    """wrk; `stop` ends it and says what it counted."""

    def __init__(self, url: str, *, connections: int, limit_s: int, script: str = "wrk_report.lua") -> None:
        options = ["-t1", f"-c{connections}", f"-d{limit_s}s", "--timeout", "5s"]
        super().__init__(["wrk", *options, "-s", str(_HERE / script), url])

    def stop(self) -> LoadResult:
        """wrk reports when it is interrupted, too."""
        self._process.send_signal(signal.SIGINT)
        return parse_wrk(self._process.communicate(timeout=20)[0])


class BackgroundH2load(_Background):
    """h2load at a fixed rate; `stop` ends it and says what its log holds."""

    def __init__(self, url: str, *, connections: int, limit_s: int, rate: float, log: Path) -> None:
        log.unlink(missing_ok=True)
        options = [f"-c{connections}", "-t1", f"-D{limit_s}", f"--rps={rate / connections:.3f}"]
        self._log = log
        self._began_s = time.time()
        super().__init__(["h2load", "--h1", *options, f"--log-file={log}", url])

    def stop(self) -> LoadResult:
        return self.stop_and_part([(self._began_s, time.time())])[0]

    def stop_and_part(self, *parts: Sequence[tuple[float, float]]) -> list[LoadResult]:
        """End it; a result for each of *parts*, of the requests that began in one of its stretches.

        Interrupted it reports nothing, but each answer has had its line in the log.

        Args:
            parts: stretches from and to, in Unix seconds.
        """
        self._process.send_signal(signal.SIGINT)
        self._process.communicate(timeout=20)
        lines = [line.split("\t") for line in self._log.read_text().splitlines()]
        requests = sorted((int(line[0]), line[1], int(line[2])) for line in lines if len(line) == 3)
        begins_us = [begin_us for begin_us, _, _ in requests]
        results = []
        for stretches in parts:
            places = [[bisect_left(begins_us, edge_s * 1e6) for edge_s in stretch] for stretch in stretches]
            found = [request for low, high in places for request in requests[low:high]]
            failed = sum(not status.startswith("2") for _, status, _ in found)
            durations_us = sorted(duration_us for _, _, duration_us in found)
            results.append(
                LoadResult(
                    requests=len(found) - failed,
                    failed=failed,
                    duration_s=sum(end_s - begin_s for begin_s, end_s in stretches),
                    p50_us=percentile(durations_us, 50),
                    p99_us=percentile(durations_us, 99),
                )
            )
        return results


def parse_wrk(output: str) -> LoadResult:
    """Read the line that wrk_report.lua adds to wrk's own report."""
    found = re.search(r"^wrk-report (\{.*\})$", output, re.MULTILINE)
    if found is None:
        raise BenchError(f"wrk reported nothing: {output.strip() or '(no output)'}")
    report = msgspec.json.decode(found[1], type=_WrkReport)
    return LoadResult(
        requests=report.requests - report.status_errors,
        failed=report.status_errors + report.socket_errors,
        duration_s=report.duration_us / 1e6,
        p50_us=report.p50_us,
        p99_us=report.p99_us,
    )


def run_h2load_rate(
    url: str, *, connections: int, seconds: int, rate: float, core: int, log: Path
) -> LoadResult:
    """Ask *url* at *rate* requests per second in all, spread evenly over the connections."""
    log.unlink(missing_ok=True)
    options = [
        f"-c{connections}",
        "-t1",
        f"-D{seconds}",
        f"--rps={rate / connections:.3f}",
        f"--log-file={log}",
    ]
    output = _run(["h2load", "--h1", *options, url], core=core, deadline_s=seconds + 20)
    return parse_h2load(output, log.read_text())


def run_h2load_count(
    url: str, *, connections: int, requests: int, core: int, log: Path, body: Path | None = None
) -> LoadResult:
    """Ask *url* a fixed number of times; each request carries the file *body*, if given."""
    log.unlink(missing_ok=True)
    options = [f"-c{connections}", "-t1", f"-n{requests}", f"--log-file={log}"]
    if body is not None:
        options += ["-d", str(body)]
    output = _run(["h2load", "--h1", *options, url], core=core, deadline_s=120)
    return parse_h2load(output, log.read_text())


def parse_h2load(output: str, log: str) -> LoadResult:
    """Read h2load's report and its log, where each line is: start, status, duration, in microseconds.

    Percentiles come from the log since the report has none.
    """
    finished = re.search(r"^finished in ([\d.]+)(us|ms|s|m|h)?,", output, re.MULTILINE)
    counts = re.search(
        r"^requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed,",
        output,
        re.MULTILINE,
    )
    status = re.search(r"^status codes: (\d+) 2xx", output, re.MULTILINE)
    if finished is None or counts is None or status is None:
        raise BenchError(f"h2load reported nothing: {output.strip()[-500:] or '(no output)'}")
    unit_s = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}[finished[2] or "s"]
    # "failed" holds refused connections, time-outs, 4xx and 5xx; a 3xx counts as succeeded there.
    succeeded, failed = int(counts[1]), int(counts[2])
    answered = int(status[1])
    durations_us = sorted(int(line.split("\t")[2]) for line in log.splitlines() if line)
    return LoadResult(
        requests=answered,
        failed=failed + max(0, succeeded - answered),
        duration_s=float(finished[1]) * unit_s,
        p50_us=percentile(durations_us, 50),
        p99_us=percentile(durations_us, 99),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest value that at least *percent* of the *ordered* values do not exceed (nearest rank)."""
    if not ordered:
        raise BenchError("no request was answered")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def _run(command: Sequence[str], *, core: int, deadline_s: float) -> str:
    program = find_tool(command[0]) or command[0]
    try:
        done = subprocess.run(
            ["taskset", "-c", str(core), program, *command[1:]],
            capture_output=True,
            text=True,
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]} did not end within {deadline_s:g} s") from None
    if done.returncode != 0:
        raise BenchError(
            f"{command[0]} ended with status {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout
