"""Waiting for what gives no event: other processes, ports, files. Polls a condition up to a deadline."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

POLL_S: Final = 0.01
_LOWEST_PORT: Final = 10_240
_SHARES: Final = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_SHARE: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_given_ports: set[int] = set()

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], deadline_s: float, what: str) -> T:
    """Return the first truthy result of *predicate*, asked every 10 ms.

    Raises:
        AssertionError: *what* did not come within *deadline_s* seconds.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what}: not within {deadline_s} s (last seen: {result!r})")
        time.sleep(POLL_S)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody has, nor gets by chance: the system gives out others when it chooses itself.

    So that a process that was ended finds its port free when it is started again. Test processes that run
    beside each other choose among different ones.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text("ascii").split()
    ports = range(_LOWEST_PORT + _SHARE, int(limits[0]), _SHARES)
    for _ in range(1000):
        port = random.choice(ports)
        if port in _given_ports:
            continue
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
                # Bound is not enough: a listener on all addresses shows itself only here.
                probe.listen(1)
            except OSError:
                continue
        _given_ports.add(port)
        return port
    raise AssertionError("no free port")


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether something accepts connections on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
