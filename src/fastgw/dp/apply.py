"""The two-phase apply: all workers of a node serve a snapshot, or none does and every reason is told.

    compile ──> prepare on all ──> decide ──> commit on all ──> Applied
       │        write to the disk    │            └ late or dead: replaced, by one that serves the new
       └──────────────┴──────────────┴──> abandon on all ──> Refused(faults)

A rename on the disk is the decision: what bears its name was prepared whole, and nothing after it can refuse.
Applies run one at a time; one that has begun goes on to its end even when the link that brought the snapshot
breaks.

A generation is a base and at most one overlay. When the overlay has grown, a new base is made and brought to
disk and workers ahead of need, beside whatever is applied meanwhile: the next generation then lies on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from fastgw.dp.belief import Belief
from fastgw.dp.generation import Generation, ImageFile, describe_counts
from fastgw.dp.pledge import Pledge
from fastgw.dp.store import Store, StoredImage, StoredSnapshot
from fastgw.dp.sync import Applied, AppliedState, IncomingSnapshot, Refused
from fastgw.dp.workers import (
    Deadlines,
    Worker,
    WorkerDied,
    WorkerFailed,
    WorkerLate,
    WorkerShort,
    WorkerState,
)
from fastgw.errors import CompileError, DeltaError, FastgwError, SettingsError, SignatureError
from fastgw.obs import logs
from fastgw.routing.compile_process import CompileProcess, CompileResult

_log: Final = logs.get_logger("supervisor")

MERGE_INTERVAL_S: Final = 10.0
"""At most one merge begins in this time: each writes a whole base to disk."""
LOGGED_FAULTS: Final = 5
"""Reasons of a refusal that the log tells; the control plane is told all."""

Faults = list[dict[str, Any]]
_T = TypeVar("_T")


class _Against(NamedTuple):
    """What speaks against a generation."""

    faults: Faults
    is_passing: bool
    """It may have nothing to do with the generation: worth another try later."""


class Applier:
    """Holds the decided generation of this data plane and replaces it."""

    def __init__(
        self,
        store: Store,
        compiler: CompileProcess,
        deadlines: Deadlines,
        *,
        belief: Belief,
        pledge: Pledge,
    ) -> None:
        self.decided: Generation | None = None
        self.workers: Sequence[Worker] = ()
        """Set once, none before: workers ask for `decided` themselves when they start."""
        self.applied_at: float | None = None
        """Wall time at which `decided` was applied; for /status."""
        self.refused_total = 0
        self.applied_total = 0
        self._store = store
        self._belief = belief
        self._pledge = pledge
        self._compiler = compiler
        self._deadlines = deadlines
        self._number = 0
        self._next_base: ImageFile | None = None
        """Ready for generations to lie on; None: that of `decided` is the newest."""
        self._merged_at = -MERGE_INTERVAL_S
        self._one_at_a_time = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    def state(self) -> AppliedState:
        """Tell what all workers serve; version 0 and no digest before the first configuration."""
        if self.decided is None:
            return AppliedState(0, "")
        return AppliedState(self.decided.version, self.decided.digest)

    def restore(self, stored: StoredImage) -> None:
        """Take a generation from disk as the decided one, before any worker is started."""
        assert self.decided is None
        self._number += 1
        self.decided = Generation(
            self._number, stored.version, stored.digest, stored.counts, stored.image, stored.overlay
        )
        self.applied_at = time.time()

    async def recompile(self, stored: StoredSnapshot) -> None:
        """The same from an image of another format; one that does not compile is set aside."""
        try:
            result = await self._compiler.compile(stored.packed, version=stored.version, digest=stored.digest)
            image = ImageFile(result.fd)
            await asyncio.to_thread(self._store.save, image)
        except (FastgwError, OSError) as error:
            self._store.set_aside_current(f"of another format, and cannot be compiled anew: {error}")
            return
        self.restore(StoredImage(stored.version, stored.digest, dict(result.counts), image))

    async def apply(self, incoming: IncomingSnapshot) -> Applied | Refused:
        """Bring *incoming* to all workers; return when they serve it, or why they do not.

        A snapshot with the digest of the decided generation costs nothing.
        """
        task = asyncio.create_task(self._apply(incoming), name=f"apply version {incoming.version}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    def keep_signatures(self, incoming: IncomingSnapshot) -> None:
        """Keep other signatures of what runs, for the next start: keys change while configurations stay."""
        self._in_background(self._keep_signatures(incoming))

    async def _keep_signatures(self, incoming: IncomingSnapshot) -> None:
        async with self._one_at_a_time:
            if self.decided is None or self.decided.digest != incoming.digest:
                return
            try:
                await asyncio.to_thread(self._belief.keep_more, incoming)
            except OSError as error:
                _log.error(
                    "the signatures of version %d cannot be kept: %s", incoming.version, error.strerror
                )

    async def finish(self) -> None:
        """Wait for the end of what has begun."""
        while self._running:
            await asyncio.wait(self._running)

    async def _apply(self, incoming: IncomingSnapshot) -> Applied | Refused:
        async with self._one_at_a_time:
            try:
                # Once more: the pledge may be younger than the link.
                self._pledge.check(incoming.cluster_id)
            except FastgwError as error:
                return self._refuse(incoming, _Against([{"reason": str(error)}], True))
            if self.decided is not None and self.decided.digest == incoming.digest:
                self.decided = dataclasses.replace(self.decided, version=incoming.version)
                return Applied(incoming.version, incoming.digest, 0.0, 0.0, 0.0, 0.0)
            base = self._base()
            try:
                self._belief.check(incoming)
                result = await self._compile(incoming, base)
            except CompileError as error:
                return self._refuse(incoming, _Against(error.faults, error.is_passing))
            except DeltaError as error:
                _log.info("version %d is asked for whole: %s", incoming.version, error)
                return Refused(incoming.version, [{"reason": str(error)}], wants_whole=True)
            except (FastgwError, OSError) as error:
                # A signature that is missing or wrong may be right the next time it is sent.
                is_passing = isinstance(error, OSError | SignatureError)
                return self._refuse(incoming, _Against([{"reason": str(error)}], is_passing))
            self._number += 1
            generation = _make_generation(self._number, incoming, result, base)
            # The disk and the workers at once; the decision is only the last step of storing.
            staging = asyncio.ensure_future(
                asyncio.to_thread(self._store.stage, generation.image, generation.overlay)
            )
            prepared, against, prepare_ms = await self._prepare(generation)
            against, store_ms = await self._decide(generation, incoming, staging, against)
            if against is not None:
                for worker in prepared:
                    if worker.state is WorkerState.RUNNING:
                        self._in_background(worker.abandon(generation))
                return self._refuse(incoming, against)
            commit_ms = await self._commit(generation)
            if generation.image is not base or base is self._next_base:
                self._next_base = None
            if result.wants_merge:
                self._merge_if_due(generation)
            self.applied_total += 1
            self.applied_at = time.time()
            _log.notice(
                "applied version %d, digest %s: %s; %s; decode %.1f ms, compile %.1f ms, prepare %.1f ms, "
                "store %.1f ms, commit %.1f ms",
                generation.version,
                short_digest(generation.digest),
                describe_counts(generation.counts),
                "whole" if generation.overlay is None else "overlay",
                result.decode_ms,
                result.compile_ms,
                prepare_ms,
                store_ms,
                commit_ms,
            )
            for warning in result.warnings:
                _log.warning("version %d: %s", generation.version, warning)
            return Applied(
                version=generation.version,
                digest=generation.digest,
                decode_ms=result.decode_ms,
                compile_ms=result.compile_ms,
                commit_ms=commit_ms,
                store_ms=store_ms,
                warnings=result.warnings,
            )

    async def _compile(self, incoming: IncomingSnapshot, base: ImageFile | None) -> CompileResult:
        """Compile *incoming*, whole or from what runs.

        Raises:
            DeltaError: it is a delta from something else.
        """
        overlay_fd = -1
        if incoming.base_digest:
            decided = self.decided
            if decided is None or decided.digest != incoming.base_digest:
                raise DeltaError(f"the changes begin from the digest {incoming.base_digest}, not what runs")
            if decided.image is base and decided.overlay is not None:
                overlay_fd = decided.overlay.fd
        return await self._compiler.compile(
            incoming.compressed,
            version=incoming.version,
            digest=incoming.digest,
            since=incoming.base_digest,
            base=base.checksum if base is not None else "",
            base_fd=base.fd if base is not None else -1,
            overlay_fd=overlay_fd,
        )

    async def _prepare(self, generation: Generation) -> tuple[list[Worker], _Against | None, float]:
        """Prepare on every worker that runs; those that start just now are waited for, and the first one."""
        if not self.workers:  # whatever starts later begins with what is decided
            return [], None, 0.0
        await _all(worker.wait_started(self._deadlines.prepare_s) for worker in self.workers)
        participants = self._running_workers()
        if not participants:
            await _any(worker.wait_serving(0, self._deadlines.start_s) for worker in self.workers)
            participants = self._running_workers()
        if not participants:
            return [], _Against([{"reason": "no worker is running"}], True), 0.0
        _log.info("version %d is compiled, prepares on %d workers", generation.version, len(participants))
        begun = time.monotonic()
        pids = {worker: worker.pid for worker in participants}
        failed = await self._on_each(participants, lambda worker: worker.prepare(generation))
        if failed and all(isinstance(error, WorkerDied) for error in failed.values()):
            # A death may have had nothing to do with this generation: once more, with the replacements.
            # Who dies of it a second time speaks against it.
            await _all(worker.wait_replaced(pids[worker], self._deadlines.start_s) for worker in failed)
            participants = self._running_workers()
            failed = await self._on_each(participants, lambda worker: worker.prepare(generation))
        if not failed:
            return participants, None, _ms_since(begun)
        faults = [
            {"worker": worker.index, "reason": f"worker {worker.index} {failed[worker]}"} for worker in failed
        ]
        is_passing = all(isinstance(error, WorkerLate | WorkerShort) for error in failed.values())
        return participants, _Against(faults, is_passing), _ms_since(begun)

    async def _decide(
        self,
        generation: Generation,
        incoming: IncomingSnapshot,
        staging: asyncio.Future[None],
        against: _Against | None,
    ) -> tuple[_Against | None, float]:
        """Make *generation* the decided one, once it is staged and if nothing speaks against it."""
        begun = time.monotonic()
        try:
            await staging
            if against is not None:
                await asyncio.to_thread(self._store.discard)
                return against, 0.0
            await asyncio.to_thread(self._belief.keep, incoming)
            await asyncio.to_thread(self._pledge.keep, incoming.cluster_id)
            await asyncio.to_thread(self._store.decide)
        except (OSError, SettingsError) as error:
            with contextlib.suppress(OSError):
                await asyncio.to_thread(self._store.discard)
            why = error.strerror if isinstance(error, OSError) else error
            reason = f"cannot store the configuration in {self._store.directory}: {why}"
            return against or _Against([{"reason": reason}], True), 0.0
        before, self.decided = self.decided, generation
        if before is not None and generation.version < before.version:
            _log.warning(
                "goes back from version %d to version %d, as the control plane wants",
                before.version,
                generation.version,
            )
        return None, _ms_since(begun)

    def _base(self) -> ImageFile | None:
        """The base that the next generation is to lie on."""
        if self._next_base is not None:
            return self._next_base
        return self.decided.image if self.decided is not None else None

    def _merge_if_due(self, generation: Generation) -> None:
        now = time.monotonic()
        if self._next_base is None and now - self._merged_at >= MERGE_INTERVAL_S:
            self._merged_at = now
            self._in_background(self._merge(generation))

    async def _merge(self, generation: Generation) -> None:
        """Have a base made of what *generation* is, and bring it to where it will be needed."""
        begun = time.monotonic()
        fd = await self._compiler.merge(generation.digest)
        if fd < 0:
            _log.info("version %d was not merged into a new base", generation.version)
            return
        base = ImageFile(fd)
        # One that fails here fails when a generation on it is prepared, and is dealt with there.
        await self._on_each(self._running_workers(), lambda worker: worker.stage(base))
        try:
            await asyncio.to_thread(self._store.save_base, base)
        except OSError as error:
            _log.error("cannot store a new base in %s: %s", self._store.directory, error.strerror)
            return
        self._next_base = base
        _log.info("version %d is merged into a new base, in %.0f ms", generation.version, _ms_since(begun))

    async def _commit(self, generation: Generation) -> float:
        """Commit on every worker that runs; one that fails is replaced, and its replacement waited for."""
        begun = time.monotonic()
        failed = await self._on_each(
            self._running_workers(), lambda worker: _commit_or_kill(worker, generation)
        )
        served = await _all(
            worker.wait_serving(generation.number, self._deadlines.start_s) for worker in failed
        )
        for worker, serves in zip(failed, served, strict=True):
            if not serves:
                _log.error(
                    "worker %d does not serve version %d yet; it will not accept before it does",
                    worker.index,
                    generation.version,
                )
        return _ms_since(begun)

    def _running_workers(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.state is WorkerState.RUNNING]

    async def _on_each(
        self, workers: Sequence[Worker], step: Callable[[Worker], Awaitable[None]]
    ) -> dict[Worker, WorkerFailed]:
        """Run *step* on all *workers* at once; return the error of each that failed."""

        async def attempt(worker: Worker) -> WorkerFailed | None:
            try:
                await step(worker)
            except WorkerFailed as error:
                return error
            return None

        errors = await _all(attempt(worker) for worker in workers)
        return {worker: error for worker, error in zip(workers, errors, strict=True) if error is not None}

    def _refuse(self, incoming: IncomingSnapshot, against: _Against) -> Refused:
        self.refused_total += 1
        faults, is_passing = against
        reasons = [_describe_fault(fault) for fault in faults]
        _log.error(
            "refused version %d, digest %s, and stays with %s: %s%s",
            incoming.version,
            short_digest(incoming.digest),
            f"version {self.decided.version}" if self.decided is not None else "no configuration",
            "; ".join(reasons[:LOGGED_FAULTS]),
            f"; and {len(reasons) - LOGGED_FAULTS} more reasons" if len(reasons) > LOGGED_FAULTS else "",
        )
        return Refused(incoming.version, faults, is_passing=is_passing)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


def short_digest(digest: str) -> str:
    """Return the part of a digest that Kong's tools show as the configuration's hash."""
    return digest[:32]


def _make_generation(
    number: int, incoming: IncomingSnapshot, result: CompileResult, base: ImageFile | None
) -> Generation:
    overlay = ImageFile(result.overlay_fd) if result.overlay_fd >= 0 else None
    image = ImageFile(result.fd) if result.fd >= 0 else base
    assert image is not None
    return Generation(number, incoming.version, incoming.digest, dict(result.counts), image, overlay)


async def _commit_or_kill(worker: Worker, generation: Generation) -> None:
    try:
        await worker.commit(generation)
    except WorkerFailed as error:
        # At once: a moment later another process may be in this place.
        worker.kill()
        _log.error("worker %d %s: killed, to be replaced", worker.index, error)
        raise


async def _all(work: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run all of *work* at once and return the results in their order; an error cancels the rest."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(item) for item in work]
    return [task.result() for task in tasks]


async def _any(work: Iterable[Coroutine[Any, Any, bool]]) -> bool:
    """Run all of *work* at once until one is true, and say whether one is; the rest is cancelled."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        for task in asyncio.as_completed(tasks):
            if await task:
                return True
        return False
    finally:
        for left in tasks:
            left.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _describe_fault(fault: Mapping[str, Any]) -> str:
    where = " ".join(str(fault[key]) for key in ("entity", "id", "field") if fault.get(key))
    return f"{where}: {fault.get('reason', '')}" if where else str(fault.get("reason", ""))


def _ms_since(begun: float) -> float:
    return (time.monotonic() - begun) * 1000
