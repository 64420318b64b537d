"""The compile process itself: answers jobs on a socket until it closes.

    python -m fastgw.routing.compile_child --fd N --flavor NAME

The only place where a data plane parses configuration. It imports little, so that it is there soon. It keeps
the last snapshot and its base (`Compiler`), and gives back what else a large job took.

A merge is made by a fork of it, which shares all that is needed and writes to memory that was made before: so
nothing has to be handed over but the exit status. The fork has no thread and no loop to inherit.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import socket
import sys
from typing import Final, NamedTuple, NoReturn

import msgspec

from fastgw.errors import CompileError, DeltaError, SnapshotError
from fastgw.model.snapshot import Snapshot
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.compiler import Compiler
from fastgw.routing.image import Image
from fastgw.routing.jobs import (
    Answer,
    Done,
    Job,
    Merge,
    Merged,
    Question,
    Ready,
    Refusal,
    Refused,
    fill_memfd,
    make_memfd,
    make_sealed_memfd,
    read_memfd,
    receive,
)

_LARGE_BYTES: Final = 1024 * 1024
"""A new base beyond this size left enough behind to be worth giving back."""
NICENESS: Final = 5
"""Above that of its parent: workers and the control plane's requests go first, on a machine that is full."""
_MERGE_NICENESS: Final = 10
_PR_SET_PDEATHSIG: Final = 1

_questions: Final = msgspec.msgpack.Decoder(Question)
_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Fork(NamedTuple):
    """A merge at work."""

    pid: int
    pidfd: int
    fd: int
    """The memory that it fills."""
    snapshot: Snapshot


class _Child:
    def __init__(self, channel: socket.socket, flavor: str) -> None:
        self._channel = channel
        self._compiler = Compiler(flavor)
        self._fork: _Fork | None = None

    def serve(self) -> None:
        """Answer until the parent closes its end, or is gone."""
        self._send(Ready())
        while True:
            waiting = [self._channel.fileno()] + ([self._fork.pidfd] if self._fork is not None else [])
            readable, _, _ = select.select(waiting, [], [])
            if self._fork is not None and self._fork.pidfd in readable:
                self._end_merge(self._fork)
            if self._channel.fileno() in readable:
                packet, fds = receive(self._channel)
                if not packet:
                    return
                match _questions.decode(packet):
                    case Job() as job:
                        self._answer(job, fds)
                    case Merge(digest):
                        self._begin_merge(digest)

    def _answer(self, job: Job, fds: list[int]) -> None:
        packed, more_fds = read_memfd(fds[0]), fds[1:]
        try:
            compiled = self._compiler.compile(
                packed,
                version=job.version,
                digest=job.digest,
                since=job.since,
                base=job.base,
                open_base=lambda: Image.open(more_fds[0]),
                open_overlay=(lambda: Image.open(more_fds[1])) if len(more_fds) > 1 else None,
            )
        except CompileError as exc:
            self._refuse(Refusal(str(exc), exc.faults))
        except SnapshotError as exc:
            self._refuse(Refusal(str(exc), [], wants_whole=isinstance(exc, DeltaError)))
        else:
            done = Done(
                counts=compiled.counts,
                has_base=compiled.base is not None,
                has_overlay=compiled.overlay is not None,
                wants_merge=compiled.wants_merge and self._fork is None,
                decode_ms=compiled.decode_ms,
                compile_ms=compiled.compile_ms,
                warnings=compiled.warnings,
            )
            made = [
                make_sealed_memfd(f"fastgw-{name}", data)
                for name, data in (("base", compiled.base), ("overlay", compiled.overlay))
                if data is not None
            ]
            # Known by the time it is named: a small one is named at once.
            if compiled.base is not None:
                self._compiler.take_base(Image.open(made[0]))
            self._send(done, *made)
            if compiled.base is not None and len(compiled.base) > _LARGE_BYTES:
                del compiled
                _give_memory_back()
        finally:
            for fd in more_fds:
                os.close(fd)

    def _refuse(self, refusal: Refusal) -> None:
        self._send(Refused(), make_sealed_memfd("fastgw-refusal", msgspec.msgpack.encode(refusal)))

    def _begin_merge(self, digest: str) -> None:
        snapshot = self._compiler.last
        if self._fork is not None or snapshot is None or snapshot.digest != digest:
            self._send(Merged())
            return
        fd = make_memfd("fastgw-base")
        pid = os.fork()
        if pid == 0:
            _merge(self._channel, snapshot, self._compiler.flavor, fd)
        self._fork = _Fork(pid, os.pidfd_open(pid), fd, snapshot)

    def _end_merge(self, fork: _Fork) -> None:
        _, status = os.waitpid(fork.pid, 0)
        os.close(fork.pidfd)
        self._fork = None
        if status == 0:
            self._compiler.take_merged(Image.open(fork.fd), fork.snapshot)
            self._send(Merged(), fork.fd)
        else:
            os.close(fork.fd)
            self._send(Merged())

    def _send(self, answer: Answer, *fds: int) -> None:
        """Send it and close *fds*."""
        try:
            packet = msgspec.msgpack.encode(answer)
            if fds:
                socket.send_fds(self._channel, [packet], fds)
            else:
                self._channel.sendall(packet)
        finally:
            for fd in fds:
                os.close(fd)


def _merge(channel: socket.socket, snapshot: Snapshot, flavor: str, fd: int) -> NoReturn:
    """Be the fork: nothing of the parent's may be ended, flushed or answered from here."""
    status = 1
    try:
        channel.close()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.nice(_MERGE_NICENESS - NICENESS)
        fill_memfd(fd, compile_snapshot(snapshot, flavor=flavor))
        status = 0
    finally:
        os._exit(status)


def _give_memory_back() -> None:
    gc.collect()
    if hasattr(_libc, "malloc_trim"):  # glibc's; musl keeps little by itself
        _libc.malloc_trim(0)


def _argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    # What a terminal or a service manager sends to the group is for the parent to obey.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    gc.disable()  # decoded rows make no cycles
    fd, flavor = int(_argument("--fd")), _argument("--flavor")
    try:
        with socket.socket(fileno=fd) as channel:
            _Child(channel, flavor).serve()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, and nobody waits for the answer


if __name__ == "__main__":
    main()
