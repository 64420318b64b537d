"""Telling the service manager how this process is: systemd's readiness protocol, and its watchdog.

Who starts a process as `Type=notify` names a datagram socket in NOTIFY_SOCKET and takes lines of `NAME=value`
there: READY, RELOADING, STOPPING, STATUS, WATCHDOG. Without that variable every method does nothing, so
callers need no condition. The variables are taken out of the environment: children do not speak for their
parent.

The watchdog is fed from the event loop, so a loop that hangs is a process that gets killed. A word that
cannot be delivered is logged once and dropped: nobody waits for a service manager.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from fastgw.obs import logs

_log: Final = logs.get_logger(__name__)


class ServiceManager:
    """The service manager that started this process, if one did and wants to be told."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._sock: socket.socket | None = None
        self._address = _take_address(environ)
        self._watchdog_s = _take_watchdog(environ)
        self._beat: asyncio.TimerHandle | None = None
        self._is_broken = False
        if self._address is not None:
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.setblocking(False)

    @property
    def is_told(self) -> bool:
        """Whether anybody listens."""
        return self._sock is not None

    @property
    def watchdog_s(self) -> float | None:
        """Seconds after which a process that said nothing is killed; None where no watchdog is set."""
        return self._watchdog_s if self.is_told else None

    def ready(self, status: str) -> None:
        """Say that what was asked for serves, and one line for `systemctl status`; also ends `reloading`."""
        self._tell("READY=1", _status(status))

    def reloading(self) -> None:
        """Say that settings are read anew; `ready` has to follow."""
        # Which answer belongs to which SIGHUP is told by the clock (Type=notify-reload).
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """Say that the process is about to end, in good order."""
        self._tell("STOPPING=1", _status(status))

    def start_watchdog(self) -> None:
        """Feed the watchdog from the running loop, twice as often as it must be."""
        if self.watchdog_s is not None:
            self._feed(asyncio.get_running_loop(), self.watchdog_s / 2)

    def close(self) -> None:
        """Say no more."""
        if self._beat is not None:
            self._beat.cancel()
            self._beat = None
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _feed(self, loop: asyncio.AbstractEventLoop, interval_s: float) -> None:
        self._tell("WATCHDOG=1")
        self._beat = loop.call_later(interval_s, self._feed, loop, interval_s)

    def _tell(self, *lines: str) -> None:
        if self._sock is None or self._address is None:
            return
        try:
            self._sock.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            if not self._is_broken:
                _log.warning("the service manager cannot be told %s: %s", lines[0], error.strerror or error)
            self._is_broken = True
        else:
            self._is_broken = False


def _status(text: str) -> str:
    return f"STATUS={' '.join(text.split())}"


def _take_address(environ: MutableMapping[str, str]) -> str | None:
    """Take the socket out of *environ*: a path, or a name in the abstract namespace behind `@`."""
    given = environ.pop("NOTIFY_SOCKET", "")
    if given.startswith("@"):
        return "\0" + given[1:]
    if given and not given.startswith("/"):
        _log.warning("NOTIFY_SOCKET is neither a path nor an abstract name: %s", given)
        return None
    return given or None


def _take_watchdog(environ: MutableMapping[str, str]) -> float | None:
    """Take the watchdog's seconds out of *environ*, where they are meant for this process."""
    limit_us, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    return int(limit_us) / 1e6 if limit_us.isdecimal() and int(limit_us) > 0 else None
