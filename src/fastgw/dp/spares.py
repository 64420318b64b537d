"""Worker processes that are started before their supervisor is ready to use them.

What a worker imports takes as long as what the supervisor imports: started first of all, it does so beside
it, and waits for its Configure. Hence nothing is imported here that takes time. A spare that nobody took is
ended by `close`; one whose supervisor died ends by itself.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from typing import Final, NamedTuple


class WorkerProcess(NamedTuple):
    """A worker's process and the supervisor's end of its control channel."""

    process: subprocess.Popen[bytes]
    channel: socket.socket


def start_worker_process() -> WorkerProcess:
    """Start one, which waits to be configured."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # -P: nothing is imported from the directory that the command was started in. A group of its own:
        # Ctrl-C in a terminal is the supervisor's to handle.
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fastgw.dp.worker", "--fd", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                process_group=0,
            )
        except OSError:
            ours.close()
            raise
    return WorkerProcess(process, ours)


class Spares:
    """Processes that wait to be taken; each is taken once."""

    def __init__(self, count: int = 0) -> None:
        """Start *count* of them, or none if that cannot be: why not is told later."""
        self._waiting: Final[list[WorkerProcess]] = []
        with contextlib.suppress(OSError):
            for _ in range(count):
                self._waiting.append(start_worker_process())

    def take(self) -> WorkerProcess:
        """Hand over one that waits and lives, or a new one."""
        while self._waiting:
            spare = self._waiting.pop(0)
            if spare.process.poll() is None:
                return spare
            spare.channel.close()
        return start_worker_process()

    def close(self) -> None:
        """End those that nobody took."""
        for spare in self._waiting:
            spare.channel.close()
            spare.process.kill()
            spare.process.wait()
        self._waiting.clear()
