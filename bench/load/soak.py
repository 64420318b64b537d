"""Mixed requests and aborts for minutes; what stays in use: `python -m bench.load.soak --help`.

wrk sends a mix as fast as it is answered. Beside it one request in a hundred is broken off: in its head, in
its body, while it waits, in its answer. Memory at the end is compared with memory at a fifth of the time,
when every pool and buffer has been filled once; descriptors with those before the load, once it is over.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from bench.load.gateway import Gateway, ask_until, start_gateway
from bench.load.generators import BackgroundWrk, LoadResult
from bench.load.machine import BenchError, Machine, describe, require_tools
from bench.load.processes import Processes, rss_bytes, tree
from bench.load.report import describe_machine, doubts, write_json

#: How long a connection to the upstream may stay idle in the data plane that is soaked.
_IDLE_S: Final = 5
_SETTLE_S: Final = 30
_ABORTERS: Final = 8
_MOST_GROWTH: Final = 1.05
_ABORTS: Final = (
    b"GET /soak/small HTT",
    b"POST /soak/post HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc",
    b"POST /soak/post HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    b"GET /soak/small HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /soak/small HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET /soak/small HTTP/1.1\r\nHost: a\r\n\r\n" * 20,
)


class Sample(msgspec.Struct, frozen=True):
    at_s: float
    rss_bytes: int
    descriptors: int


class SoakReport(msgspec.Struct, frozen=True):
    machine: Machine
    load: LoadResult
    aborts: int
    samples: list[Sample]
    descriptors_before: int
    descriptors_after: int
    growth: float
    """Memory at the end, as a multiple of memory at a fifth of the time."""


class Aborter:
    """Breaks off requests, *per_s* of them per second if the machine keeps up."""

    def __init__(self, port: int, per_s: float) -> None:
        self._port = port
        self._pause_s = _ABORTERS / per_s
        self._stop = threading.Event()
        self._counts = [0] * _ABORTERS
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(_ABORTERS)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def count(self) -> int:
        return sum(self._counts)

    def _run(self, number: int) -> None:
        dice = random.Random(number)
        while not self._stop.wait(self._pause_s):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 5) as sock:
                sock.sendall(dice.choice(_ABORTS))
                if dice.random() < 0.5:
                    sock.settimeout(0.01)
                    with contextlib.suppress(TimeoutError):
                        sock.recv(100)
                if dice.random() < 0.5:
                    # A reset instead of an end.
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                self._counts[number] += 1


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--seconds", type=click.IntRange(10, 86_400), default=300, help="How long.")
@click.option("--short", is_flag=True, help="30 seconds.")
@click.option("--connections", type=click.IntRange(1, 1024), default=64, help="Connections of the load.")
@click.option("--aborts", type=click.FloatRange(0.1), default=400.0, help="Requests broken off, per second.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path),
              default=Path("build/bench/soak.json"), help="Where the result goes.")  # fmt: skip
def main(seconds: int, short: bool, connections: int, aborts: float, json_path: Path) -> None:
    """Soak a data plane, and see that its memory and descriptors stay.

    Ends with status 1 when memory has grown by more than 5% since a fifth of the time, when descriptors do
    not come back, or when a request failed that nobody broke off.
    """
    seconds = 30 if short else seconds
    console = Console()
    try:
        require_tools(["nginx", "wrk"])
        machine = describe(["nginx", "wrk"])
        console.print(describe_machine(machine), highlight=False, soft_wrap=True)
        with (
            tempfile.TemporaryDirectory(prefix="fastgw-bench-") as directory,
            Processes(Path(directory)) as processes,
        ):
            gateway = start_gateway(processes, workers=1, upstream_keepalive_idle_timeout=_IDLE_S)
            report = _soak(machine, gateway, seconds, connections, aborts)
    except BenchError as error:
        raise click.ClickException(str(error)) from None
    asked = report.load.requests + report.load.failed
    console.print(
        f"{asked} requests in {report.load.duration_s:.0f} s, {report.load.failed} failed,"
        f" {report.aborts} broken off ({100 * report.aborts / max(asked, 1):.1f}%)\n"
        f"memory × {report.growth:.3f} since a fifth of the time,"
        f" {report.samples[-1].rss_bytes / 2**20:.1f} MiB at the end;"
        f" descriptors {report.descriptors_before} before, {report.descriptors_after} after",
        highlight=False,
        soft_wrap=True,
    )
    write_json(json_path, report)
    console.print(f"Written to {json_path}.")
    for doubt in doubts(machine, {}):
        console.print(f"[yellow]Do not keep these figures: {doubt}.[/]", soft_wrap=True)
    is_leaking = report.growth > _MOST_GROWTH or report.descriptors_after > report.descriptors_before
    if report.load.failed or is_leaking:
        sys.exit(1)


def _soak(machine: Machine, gateway: Gateway, seconds: int, connections: int, aborts: float) -> SoakReport:
    with gateway.admin() as admin, gateway.proxy() as proxy:
        url = f"http://127.0.0.1:{gateway.upstream_port}/"
        service = str(admin.call("POST", "/services", {"name": "soak", "url": url})["id"])
        admin.call("POST", f"/services/{service}/routes", {"name": "soak", "paths": ["/soak"]})
        ask_until(proxy, "/soak/small", lambda status, _: status == 200)
    before = _settled(lambda: _descriptors(gateway.dp_pid), None)
    samples: list[Sample] = []
    started = time.monotonic()
    url = f"http://127.0.0.1:{gateway.proxy_port}/soak/small"
    with (
        BackgroundWrk(url, connections=connections, limit_s=seconds + 60, script="wrk_mixed.lua") as wrk,
        _aborting(gateway.proxy_port, aborts) as aborter,
    ):
        while (at_s := time.monotonic() - started) < seconds:
            samples.append(Sample(at_s, rss_bytes(gateway.dp_pid), _descriptors(gateway.dp_pid)))
            time.sleep(1)
        load = wrk.stop()
    after = _settled(lambda: _descriptors(gateway.dp_pid), before)
    growth = samples[-1].rss_bytes / samples[len(samples) // 5].rss_bytes
    return SoakReport(machine, load, aborter.count, samples, before, after, growth)


@contextmanager
def _aborting(port: int, per_s: float) -> Iterator[Aborter]:
    aborter = Aborter(port, per_s)
    try:
        yield aborter
    finally:
        aborter.close()


def _settled(read: Callable[[], int], wanted: int | None) -> int:
    """Read until it is *wanted* or less, or (None) until idle connections have had the time to go."""
    until = time.monotonic() + (_IDLE_S + 2 if wanted is None else _SETTLE_S)
    while (value := read()) and time.monotonic() < until:
        if wanted is not None and value <= wanted:
            break
        time.sleep(0.2)
    return value


def _descriptors(root: int) -> int:
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += len(os.listdir(f"/proc/{pid}/fd"))
    return total


if __name__ == "__main__":
    main()
