"""One worker's life as the supervisor sees it: started, asked, watched, replaced.

`Worker` stands for a place, not a process: its listening sockets (so that connections wait while a
process is replaced) and its metrics segment (so that counters never run backwards) outlive each process.

    STARTING ──> RUNNING ──> BROKEN ──(delay)──> STARTING
        └──────────────────────^   any ──> STOPPED

RUNNING means: accepts, and serves the decided generation (or there is none yet). That is the one
complication: a generation may be decided while a process starts, so it catches up until nothing is newer.
"""

from __future__ import annotations

import asyncio
import enum
import fcntl
import mmap
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from fastgw.dp import control
from fastgw.dp._metrics import SEGMENT_BYTES
from fastgw.dp.generation import Generation, ImageFile
from fastgw.dp.spares import Spares
from fastgw.errors import FastgwError
from fastgw.obs import logs

_log: Final = logs.get_logger("supervisor")

RESTART_FIRST_S: Final = 0.05
RESTART_LIMIT_S: Final = 30.0
STEADY_AFTER_S: Final = 10.0
"""A process that ran this long was well: its death is the first of a new series."""
START_ATTEMPTS: Final = 3
"""Deaths in a row before any process of this place ran; then the data plane gives up."""
EXIT_DEADLINE_S: Final = 2.0
"""From the last word on the channel to the end of the process: it flushes its logs."""

_Reply = TypeVar("_Reply", control.Ready, control.Staged, control.Prepared, control.Committed,
                 control.Abandoned, control.Listening, control.Drained, control.Reopened,
                 control.Certified, control.Adjusted)  # fmt: skip


class SharedFile:
    """Bytes for all workers, in memory; replaced whole, read by descriptor."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        self.fd = -1
        self.revision = 0
        """Grows with each content."""
        self.replace(content)

    def replace(self, content: bytes) -> None:
        """Have `fd` lead to *content*; who was handed the one before keeps that."""
        fd = os.memfd_create(self._name, os.MFD_CLOEXEC)
        with open(fd, "wb", closefd=False) as file:
            file.write(content)
        self.close()
        self.fd = fd
        self.revision += 1

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class WorkerState(enum.Enum):
    STARTING = "starting"
    RUNNING = "running"
    BROKEN = "broken"
    STOPPED = "stopped"


class WorkerFailed(Exception):
    """A worker died, refused or is late; `str()` completes the sentence "worker 0 ..."."""


class WorkerLate(WorkerFailed):
    """It did not answer in time, which may be the machine's fault."""


class WorkerShort(WorkerFailed):
    """It lacks memory or descriptors for the moment."""


class WorkerDied(WorkerFailed):
    """Its process ended before it answered: what the question was about may not be the reason."""


class WorkersCannotStart(FastgwError):
    code = "workers"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds that the supervisor waits for a worker."""

    start_s: float = 20.0
    """From exec to accepting, the decided generation included."""
    prepare_s: float = 10.0
    abandon_s: float = 10.0
    """After it was late at prepare: a worker that still does not answer is hung."""
    commit_s: float = 5.0
    drain_s: float = 10.0
    drain_idle_s: float = 1.0
    """Of these: how long idle connections are kept for one more request. It may be on its way already, and is
    told to close by its answer; a client that takes longer is closed as by any idle time-out."""


@dataclass(slots=True)
class WorkerSettings:
    """What is the same for all workers of a data plane; `options` and `log_level` may be replaced."""

    node_id: str
    options: msgspec.Raw
    log_level: str
    error_log: str | None
    access_log: str | None
    tls_file: SharedFile
    """`ProxyTls` in msgpack; empty without ssl listeners."""
    spares: Spares


class Worker:
    """The place of one worker, and the process that is in it now."""

    def __init__(
        self,
        index: int,
        listeners: Sequence[tuple[socket.socket, control.ListenerKind]],
        settings: WorkerSettings,
        *,
        decided: Callable[[], Generation | None],
        deadlines: Deadlines,
    ) -> None:
        """Make the place; no process is started before `run`.

        Args:
            listeners: bound and listening, with what is spoken there; owned by this object from now on.
            decided: tells the generation that a process must serve before it accepts.
        """
        self.index: Final = index
        self.state = WorkerState.STARTING
        self.pid: int | None = None
        self.restarts_total = 0
        self.generation = 0
        """Number of the generation that the process serves; 0 for none."""
        self._listeners = list(listeners)
        self._settings = settings
        self._decided = decided
        self._deadlines = deadlines
        self.metrics_fd, self.metrics = _make_metrics_segment(index)
        self._channel: control.Channel[control.ToSupervisor, control.ToWorker] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._exited = asyncio.Event()
        self._asking = asyncio.Lock()
        self._prepared = 0
        self._deaths_in_row = 0
        self._has_run = False
        self._stop = asyncio.Event()
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Keep a process in this place until `stop`.

        Raises:
            WorkersCannotStart: no process ever came up, in START_ATTEMPTS attempts.
        """
        try:
            while not self._stop.is_set():
                await self._live()
                if self._stop.is_set():
                    break
                if not self._has_run and self._deaths_in_row >= START_ATTEMPTS:
                    raise WorkersCannotStart(
                        f"worker {self.index} does not start ({START_ATTEMPTS} attempts): see the log above"
                    )
                self.restarts_total += 1
                await self._pause(self._restart_delay_s())
        finally:
            await self._set_state(WorkerState.STOPPED)

    async def wait_started(self, deadline_s: float) -> bool:
        """Wait until the process runs, breaks or stops; say whether it runs."""
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(lambda: self.state is not WorkerState.STARTING)
        except TimeoutError:
            pass
        return self.state is WorkerState.RUNNING

    async def wait_serving(self, generation: int, deadline_s: float | None) -> bool:
        """Wait until a process serves *generation* or a later one; say whether one does.

        It gives up when the place is stopped, or after *deadline_s*.
        """
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(
                    lambda: self.state is WorkerState.STOPPED or self._serves(generation)
                )
        except TimeoutError:
            pass
        return self._serves(generation)

    async def wait_replaced(self, pid: int | None, deadline_s: float) -> bool:
        """Wait until a process other than *pid* runs here; say whether one does."""
        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(
                    lambda: (
                        self.state is WorkerState.STOPPED
                        or (self.state is WorkerState.RUNNING and self.pid != pid)
                    )
                )
        except TimeoutError:
            pass
        return self.state is WorkerState.RUNNING and self.pid != pid

    async def stage(self, base: ImageFile) -> None:
        """Have the process begin to map *base*, so that the first generation on it need not wait for that.

        Raises:
            WorkerFailed: it is late, or died.
        """
        await self._ask(
            control.Stage(base.checksum), control.Staged, [base.fd], deadline_s=self._deadlines.prepare_s
        )

    async def prepare(self, generation: Generation) -> None:
        """Have the process map and check *generation* beside the live one.

        Raises:
            WorkerFailed: it refused, is late, or died.
        """
        overlay = generation.overlay
        message = control.Prepare(
            generation.number,
            generation.version,
            generation.digest,
            generation.image.checksum,
            overlay is not None,
        )
        fds = [file.fd for file in (generation.image, overlay) if file is not None]
        await self._ask(message, control.Prepared, fds, deadline_s=self._deadlines.prepare_s)
        self._prepared = generation.number

    async def commit(self, generation: Generation) -> None:
        """Have the process serve *generation*, prepared or not.

        Raises:
            WorkerFailed: it is late, or died.
        """
        if self._prepared != generation.number:  # it started while the others prepared
            await self.prepare(generation)
        await self._ask(
            control.Commit(generation.number), control.Committed, deadline_s=self._deadlines.commit_s
        )
        self.generation = generation.number
        async with self._changed:
            self._changed.notify_all()

    async def abandon(self, generation: Generation) -> None:
        """Have the process forget *generation*; one that does not answer is hung, and is killed."""
        try:
            await self._ask(
                control.Abandon(generation.number), control.Abandoned, deadline_s=self._deadlines.abandon_s
            )
        except WorkerFailed as error:
            _log.error("worker %d %s: killed, to be replaced", self.index, error)
            self.kill()

    async def reopen(self) -> None:
        """Have the process open its logs anew."""
        try:
            await self._ask(control.Reopen(), control.Reopened, deadline_s=self._deadlines.commit_s)
        except WorkerFailed as error:
            _log.error("worker %d %s: its logs are not opened anew", self.index, error)

    async def adjust(self) -> None:
        """Have the process go by the settings that its place has now."""
        message = control.Adjust(self._settings.options, self._settings.log_level)
        try:
            await self._ask(message, control.Adjusted, deadline_s=self._deadlines.commit_s)
        except WorkerFailed as error:
            _log.error("worker %d %s: it goes on with the settings before", self.index, error)

    async def certify(self) -> None:
        """Have the process present the certificates that `tls_file` holds now."""
        try:
            await self._ask(
                control.Certify(),
                control.Certified,
                [self._settings.tls_file.fd],
                deadline_s=self._deadlines.commit_s,
            )
        except WorkerFailed as error:
            _log.error("worker %d %s: it goes on with the certificates before", self.index, error)

    def kill(self) -> None:
        """End the process at once; `run` starts another."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def stop(self, drain: control.Drain | None = None) -> None:
        """Drain the process within the deadline, then end it; `run` returns.

        Args:
            drain: None: by the deadlines.
        """
        drain = drain or control.Drain(self._deadlines.drain_s, self._deadlines.drain_idle_s)
        self._stop.set()
        # Connections that arrive from now on belong to whoever else listens on the address.
        for sock, _ in self._listeners:
            sock.close()
        if self.state is WorkerState.RUNNING:
            try:
                await self._ask(drain, control.Drained, deadline_s=drain.deadline_s + 1)
            except WorkerFailed as error:
                _log.warning("worker %d %s while draining", self.index, error)
            else:
                await self._wait_exited(EXIT_DEADLINE_S)
        self.kill()

    def close(self) -> None:
        """Give up what outlives processes. After `run` has returned."""
        for sock, _ in self._listeners:
            sock.close()
        self.metrics.close()
        os.close(self.metrics_fd)

    async def _live(self) -> None:
        """One process from exec to its end."""
        await self._set_state(WorkerState.STARTING)
        begun = time.monotonic()
        self._spawn()
        try:
            try:
                async with asyncio.timeout(self._deadlines.start_s):
                    await self._start()
            except (WorkerFailed, TimeoutError) as error:
                if not self._stop.is_set():
                    why = str(error) or f"took over {self._deadlines.start_s} s"
                    _log.error("worker %d %s while starting", self.index, why)
                await self._wait_exited(EXIT_DEADLINE_S)  # what it has to say is worth more than haste
                self.kill()
            else:
                if self._has_run:
                    _log.notice("worker %d is replaced by process %d", self.index, self.pid)
                self._has_run = True
                await self._set_state(WorkerState.RUNNING)
            await self._exited.wait()
        finally:
            self._bury()
        self._deaths_in_row = 1 if time.monotonic() - begun >= STEADY_AFTER_S else self._deaths_in_row + 1
        await self._set_state(WorkerState.BROKEN)

    def _serves(self, generation: int) -> bool:
        return self.state is WorkerState.RUNNING and self.generation >= generation

    def _spawn(self) -> None:
        process, ours = self._settings.spares.take()
        self._process, self.pid = process, process.pid
        self._channel = control.make_supervisor_end(ours)
        self._prepared = self.generation = 0
        self._exited.clear()
        self._pidfd = os.pidfd_open(process.pid)  # readable when the process has ended
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited.set)

    async def _start(self) -> None:
        """Bring a new process up to the decided generation and have it accept."""
        configure = control.Configure(
            node_id=self._settings.node_id,
            worker=self.index,
            options=self._settings.options,
            listeners=tuple(kind for _, kind in self._listeners),
            log_level=self._settings.log_level,
            error_log=self._settings.error_log,
            access_log=self._settings.access_log,
        )
        tls_file = self._settings.tls_file
        presented = tls_file.revision
        fds = [*(sock.fileno() for sock, _ in self._listeners), self.metrics_fd, tls_file.fd]
        await self._ask(configure, control.Ready, fds)
        accepts = False
        while True:
            decided = self._decided()
            if decided is not None and decided.number != self.generation:
                await self.commit(decided)
            elif not accepts:
                await self._ask(control.Listen(), control.Listening)
                accepts = True
            # Replaced while this process started: it was not among those that were told.
            elif tls_file.revision != presented:
                presented = tls_file.revision
                await self.certify()
            elif self._settings.options is not configure.options:
                await self.adjust()
                return
            else:
                return

    async def _ask(
        self,
        message: control.ToWorker,
        reply_type: type[_Reply],
        fds: Sequence[int] = (),
        *,
        deadline_s: float | None = None,
    ) -> _Reply:
        """Send *message* and wait for its answer; answers to questions that were given up are skipped."""
        channel = self._channel
        if channel is None:
            raise WorkerFailed("is not running")
        generation = getattr(message, "generation", 0)
        try:
            async with asyncio.timeout(deadline_s), self._asking:
                await channel.send(message, fds)
                while True:
                    reply, _ = await channel.receive()
                    if getattr(reply, "generation", 0) != generation:
                        continue
                    if isinstance(reply, reply_type):
                        return reply
                    if isinstance(reply, control.Refused) and not isinstance(message, control.Abandon):
                        failure = WorkerShort if reply.is_passing else WorkerFailed
                        raise failure(f"refused: {reply.reason}")
        except TimeoutError:
            raise WorkerLate(f"did not answer {type(message).__name__} in time") from None
        except control.ChannelClosed:
            raise WorkerDied(f"died at {type(message).__name__}") from None
        except control.ChannelError as error:
            raise WorkerFailed(f"broke the control protocol: {error}") from None

    def _bury(self) -> None:
        """Say how the process ended, and let go of what was its own."""
        assert self._process is not None
        assert self._channel is not None
        self.kill()
        code = self._process.wait()  # does not block: it has ended, or was killed just now
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        if not self._stop.is_set():
            how = f"was killed by {_signal_name(-code)}" if code < 0 else f"exited with code {code}"
            _log.error("worker %d (process %d) %s", self.index, self._process.pid, how)
        self._channel.close()
        self._channel = self._process = self.pid = None
        self.state = WorkerState.BROKEN

    def _restart_delay_s(self) -> float:
        """Return how long to wait before the next process: doubled for each death in a row, jittered."""
        limit = min(RESTART_LIMIT_S, RESTART_FIRST_S * 2 ** min(self._deaths_in_row - 1, 16))
        delay_s = random.uniform(limit / 2, limit)
        _log.notice("worker %d: another process starts in %.2f s", self.index, delay_s)
        return delay_s

    async def _wait_exited(self, deadline_s: float) -> None:
        try:
            await asyncio.wait_for(self._exited.wait(), deadline_s)
        except TimeoutError:
            return

    async def _pause(self, delay_s: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), delay_s)
        except TimeoutError:
            return

    async def _set_state(self, state: WorkerState) -> None:
        self.state = state
        async with self._changed:
            self._changed.notify_all()


def _make_metrics_segment(index: int) -> tuple[int, mmap.mmap]:
    """Make the memory in which the workers of one place count; only pages that are used take memory."""
    fd = os.memfd_create(f"fastgw-metrics-{index}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, SEGMENT_BYTES)
    # A mapping beyond the end of a shrunk file would kill its reader.
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return fd, mmap.mmap(fd, SEGMENT_BYTES, prot=mmap.PROT_READ)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
