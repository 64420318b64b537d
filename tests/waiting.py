"""Waiting for what gives no event: other processes, ports, files. Polls a condition up to a deadline."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

POLL_S: Final = 0.01

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
    """Find a TCP port that nobody listens on; another process may take it before the caller does."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    """Say whether something accepts connections on the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0
