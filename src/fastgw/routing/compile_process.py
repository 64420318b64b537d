"""Compiling in a process of its own, so that no event loop ever parses configuration.

Contract. The process is there from `start` to `close` and waits between jobs. Should it die, another takes
its place, after a delay that doubles up to `RESTART_DELAY_LIMIT_S` and is spread by chance; a job that it
died of is tried once more, then refused. It ends with its parent, whose end of the socket closes then. It
remembers nothing that a job does not bring along: whoever compiles names the base that is in force.

The one complication: a job cannot be called back. Whoever stops waiting for one ends the process with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from typing import Final, NamedTuple

import msgspec

from fastgw.errors import CompileError, DeltaError, SnapshotError
from fastgw.obs.logs import get_logger
from fastgw.routing.jobs import (
    Answer,
    Done,
    Job,
    Merge,
    Merged,
    Ready,
    Refusal,
    make_sealed_memfd,
    read_memfd,
    receive,
)

JOB_DEADLINE_S: Final = 60.0
MERGE_DEADLINE_S: Final = 120.0
START_DEADLINE_S: Final = 15.0
END_DEADLINE_S: Final = 2.0
RESTART_DELAY_S: Final = 0.1
RESTART_DELAY_LIMIT_S: Final = 5.0
ATTEMPTS: Final = 2

_SMALL_BYTES: Final = 64 * 1024
"""So much is copied on the loop sooner than a thread is woken."""
_LONG_LIVED_S: Final = 60.0
"""A process that lived this long did not die of what its predecessor died of."""

_log: Final = get_logger("compile")
_answers: Final = msgspec.msgpack.Decoder(Answer)
_refusals: Final = msgspec.msgpack.Decoder(Refusal)


class CompileResult(NamedTuple):
    """Descriptors are of sealed memory, and the receiver's to close."""

    fd: int
    """A whole image: the new base. -1: the base that was named stays."""
    overlay_fd: int
    """What changes the base that was named. -1: nothing does."""
    counts: dict[str, int]
    """Entities of the snapshot by kind."""
    wants_merge: bool
    """The overlay has grown: call `merge` once this is in force."""
    decode_ms: float
    compile_ms: float
    warnings: tuple[str, ...] = ()
    """What is served otherwise than the snapshot says, one line each."""

    def close(self) -> None:
        """Close both descriptors, where there are any."""
        for fd in (self.fd, self.overlay_fd):
            if fd >= 0:
                os.close(fd)


_Received = tuple[Answer, list[int]]


class _Gone(Exception):
    """The process ended before it answered."""


class _Child:
    """One compile process and our end of its socket."""

    def __init__(self, process: Process, channel: socket.socket) -> None:
        self.process = process
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._answer: asyncio.Future[_Received] = self._loop.create_future()
        self._merged: asyncio.Future[_Received] | None = None
        self._loop.add_reader(channel, self._on_readable)

    async def answer(self) -> _Received:
        """The next answer to a job and its descriptors, which are the caller's to close.

        Raises:
            _Gone: there will be none.
        """
        try:
            return await self._answer
        finally:
            self._answer = self._loop.create_future()

    async def _make_memfd(self, data: bytes) -> int:
        """The same as `make_sealed_memfd`, in a thread if it is many megabytes."""
        if len(data) <= _SMALL_BYTES:
            return make_sealed_memfd("fastgw-snapshot", data)
        made = self._loop.run_in_executor(None, make_sealed_memfd, "fastgw-snapshot", data)
        try:
            return await asyncio.shield(made)
        except asyncio.CancelledError:
            made.add_done_callback(lambda made: os.close(made.result()))
            raise

    async def run(self, job: Job, packed: bytes, *more_fds: int) -> _Received:
        """Hand over a job and wait for its answer, as `answer` does; negative descriptors are left out."""
        fd = await self._make_memfd(packed)
        try:
            fds = [fd, *(more for more in more_fds if more >= 0)]
            socket.send_fds(self._channel, [msgspec.msgpack.encode(job)], fds)
        except OSError as exc:
            raise _Gone from exc
        finally:
            os.close(fd)
        return await self.answer()

    async def merge(self, question: Merge) -> list[int]:
        """Have a base made, beside the jobs, and wait for its descriptor; none: it was not made."""
        self._merged = self._loop.create_future()
        try:
            self._channel.sendall(msgspec.msgpack.encode(question))
            return (await self._merged)[1]
        except (OSError, _Gone):
            return []
        finally:
            self._merged = None

    def close(self) -> None:
        """Hang up, which ends the process once it is idle."""
        if self._channel.fileno() >= 0:
            self._loop.remove_reader(self._channel)
            self._channel.close()
        for waited in (self._answer, self._merged):
            if waited is not None and not waited.done():
                waited.set_exception(_Gone())
                waited.exception()  # nobody may be waiting for it

    def _on_readable(self) -> None:
        try:
            packet, fds = receive(self._channel)
        except OSError:
            packet, fds = b"", []
        if not packet:
            self.close()
            return
        answer = _answers.decode(packet)
        waited = self._merged if isinstance(answer, Merged) else self._answer
        if waited is not None and not waited.done():
            waited.set_result((answer, fds))
        else:
            _close_all(fds)  # whoever asked has stopped waiting


class CompileProcess:
    def __init__(self, *, flavor: str = "traditional_compatible") -> None:
        """*flavor* is Kong's `router_flavor`."""
        self._flavor = flavor
        self._keeper: asyncio.Task[None] | None = None
        self._child: _Child | None = None
        self._is_ready = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self._is_closed = False

    async def start(self) -> None:
        """Start the process; returns when it can take a job.

        Raises:
            OSError: it does not start.
        """
        self._keeper = asyncio.create_task(self._keep(), name="compile process")
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                await self._is_ready.wait()
        except TimeoutError:
            await self.close()
            raise OSError(f"the compile process did not start within {START_DEADLINE_S:g} s") from None

    async def close(self) -> None:
        """End the process, at the latest after `END_DEADLINE_S`; a job that runs is given up."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        self._is_closed = True
        self._is_ready.set()  # wakes whoever waits for a process

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        return self._child.process.pid if self._child is not None else None

    async def compile(
        self,
        packed: bytes,
        *,
        version: int,
        digest: str,
        since: str = "",
        base: str = "",
        base_fd: int = -1,
        overlay_fd: int = -1,
        deadline_s: float = JOB_DEADLINE_S,
    ) -> CompileResult:
        """Compile a snapshot; jobs wait for one another.

        Args:
            packed: it, from `Snapshot.pack`; with *since*, from `pack_delta`.
            since: the digest of the snapshot that the delta begins from.
            base: the checksum of the whole image behind *base_fd*, which the result is to change; it stays
                the caller's. Without one, the result is whole.
            overlay_fd: the overlay that, on this base, the snapshot *since* was compiled to. A process that
                does not remember that snapshot reads it from the two.
            deadline_s: for all of it, waiting included.
        Raises:
            CompileError: it cannot be served, with all reasons; or could not be compiled in time.
            DeltaError: the delta leads elsewhere, or *since* is not known: give the whole.
            SnapshotError: it is damaged, or its digest is another.
        """
        job = Job(version, digest, base, since)
        try:
            async with asyncio.timeout(deadline_s), self._one_at_a_time:
                for _ in range(ATTEMPTS):
                    child = await self._ready_child()
                    try:
                        return _result_of(*await child.run(job, packed, base_fd, overlay_fd))
                    except _Gone:
                        self._is_ready.clear()
                    except asyncio.CancelledError:
                        self._is_ready.clear()
                        _kill(child.process)
                        raise
        except TimeoutError:
            raise _failed(f"it was not compiled within {deadline_s:g} s", is_passing=True) from None
        raise _failed(f"the compile process died of it, {ATTEMPTS} times")

    async def merge(self, digest: str, *, deadline_s: float = MERGE_DEADLINE_S) -> int:
        """Make a new base of what the last job led to, beside the jobs that come meanwhile.

        Args:
            digest: which that was; nothing is made if another has come since.
        Returns:
            Its descriptor, the caller's to close; -1: there is none, and it may be tried again later.
        """
        child = self._child
        if child is None or not self._is_ready.is_set():
            return -1
        try:
            async with asyncio.timeout(deadline_s):
                fds = await child.merge(Merge(digest))
        except TimeoutError:
            return -1
        return fds[0] if fds else -1

    async def _ready_child(self) -> _Child:
        while not self._is_closed:
            if self._child is not None and self._is_ready.is_set():
                return self._child
            await self._is_ready.wait()
        raise _failed("the compile process is closed", is_passing=True)

    async def _keep(self) -> None:
        """See to it that there is a process, until cancelled."""
        failures = 0
        while True:
            started_s = time.monotonic()
            status = await self._run_one()
            failures = 0 if time.monotonic() - started_s > _LONG_LIVED_S else failures + 1
            delay_s = min(RESTART_DELAY_LIMIT_S, RESTART_DELAY_S * 2 ** min(failures, 10))
            delay_s *= random.uniform(0.5, 1.0)
            _log.error("the compile process ended (%s); the next one starts in %.1f s", status, delay_s)
            await asyncio.sleep(delay_s)

    async def _run_one(self) -> str:
        """Start a process and stay with it to its end; returns how it ended."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-P",  # whatever lies in the working directory is not ours
                    "-m",
                    "fastgw.routing.compile_child",
                    "--fd",
                    str(theirs.fileno()),
                    "--flavor",
                    self._flavor,
                    stdin=DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except OSError as exc:
                ours.close()
                return f"it cannot be started: {exc.strerror}"
        child = self._child = _Child(process, ours)
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                answer, _ = await child.answer()
            assert isinstance(answer, Ready)
            self._is_ready.set()
            status = await process.wait()
            return f"signal {-status}" if status < 0 else f"status {status}"
        except (TimeoutError, _Gone):
            return "it did not get ready"
        finally:
            self._is_ready.clear()
            self._child = None
            child.close()
            if self._one_at_a_time.locked():
                _kill(process)  # it is at work, and would notice only afterwards
            await _end(process)


async def _end(process: Process) -> None:
    """Wait for the end of a process that was hung up on; kill it when that takes too long."""
    try:
        async with asyncio.timeout(END_DEADLINE_S):
            await process.wait()
    except TimeoutError:
        _kill(process)
        await process.wait()


def _kill(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _result_of(answer: Answer, fds: list[int]) -> CompileResult:
    if isinstance(answer, Done):
        return CompileResult(
            fd=fds[0] if answer.has_base else -1,
            overlay_fd=fds[-1] if answer.has_overlay else -1,
            counts=answer.counts,
            wants_merge=answer.wants_merge,
            decode_ms=answer.decode_ms,
            compile_ms=answer.compile_ms,
            warnings=tuple(answer.warnings),
        )
    refusal = _refusals.decode(read_memfd(fds[0]))
    if refusal.faults:
        raise CompileError(refusal.faults)
    raise DeltaError(refusal.reason) if refusal.wants_whole else SnapshotError(refusal.reason)


def _failed(reason: str, *, is_passing: bool = False) -> CompileError:
    return CompileError([{"entity": "", "id": "", "field": "", "reason": reason}], is_passing=is_passing)
