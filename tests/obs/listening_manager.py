"""A service manager's end of the readiness protocol, for tests: a datagram socket that is read with deadlines."""

from __future__ import annotations

import socket
import time
from typing import Final, Self

DEADLINE_S: Final = 20.0


class ListeningManager:
    """Receives what processes tell at *address*: a path, or an abstract name behind `@`."""

    def __init__(self, address: str) -> None:
        self.address: Final = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def environ(self, **extra: str) -> dict[str, str]:
        """What a process is started with that shall tell this one."""
        return {"NOTIFY_SOCKET": self.address, **extra}

    def wait(self, deadline_s: float = DEADLINE_S) -> dict[str, str]:
        """Receive one datagram."""
        self._sock.settimeout(deadline_s)
        lines = self._sock.recv(65536).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_for(self, name: str, deadline_s: float = DEADLINE_S) -> dict[str, str]:
        """Receive until one has *name*; the watchdog's are left out."""
        ends_at = time.monotonic() + deadline_s
        while name not in (told := self.wait(max(ends_at - time.monotonic(), 0.001))):
            assert set(told) == {"WATCHDOG"}, told
        return told

    def is_silent(self) -> bool:
        """Say whether nothing was told that is not read yet."""
        self._sock.settimeout(0)
        try:
            self._sock.recv(65536)
        except BlockingIOError:
            return True
        return False
