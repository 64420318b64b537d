"""From the storage to the hub: each change becomes a snapshot, is tried, and is published.

    storage: version n committed -> journal since the last -> Snapshot n -> trial compile -> hub

Contract. What is published compiles. A snapshot that does not is refused: it is logged, shown by
`publication`, and the last good one stays published until a later version compiles. The cost of a step is
in proportion to the change: the trial gets the changes, data planes get them too, and a whole snapshot is
packed when one of them needs it. A storage that is away delays; it ends nothing.

The one complication: while one version is tried, others may be committed. They are not queued: the next
step takes the journal from the version that was read last to the newest, so a burst collapses by itself,
and a single change waits for nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, ParamSpec, TypeVar

from fastgw.cp.garbage import no_collection
from fastgw.cp.hub import Hub
from fastgw.cp.recent import recent_steps
from fastgw.cp.storage.contract import Storage
from fastgw.errors import CompileError, DeltaError, FastgwError, StorageError
from fastgw.model.snapshot import Delta, Snapshot, make_delta, pack_delta
from fastgw.obs.logs import get_logger
from fastgw.routing.compile_process import CompileProcess, CompileResult
from fastgw.routing.image import Image, read_checksum
from fastgw.routing.layered import LayeredImage
from fastgw.wire.offering import Offering
from fastgw.wire.pacing import retry_delay
from fastgw.wire.signature import Signature
from fastgw.wire.steps import Steps, changes_of

log = get_logger(__name__)

LOGGED_FAULTS_LIMIT: Final = 20
_CHANGES_ON_LOOP: Final = 100
"""More are applied in a thread: each costs some 30 microseconds."""
_SINCE_LIMIT: Final = 10_000
"""More changed entities than this are no small change."""
_WAIT_S: Final = 60.0
_RETRY_CEILING_S: Final = 10.0
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Overlay:
    """A trial's overlay in memory; it goes when nothing refers to it."""

    def __init__(self, fd: int) -> None:
        """Take over *fd*."""
        weakref.finalize(self, os.close, fd)
        self.fd: Final = fd


class _Base:
    """A whole image in memory; it goes when nothing refers to it."""

    def __init__(self, fd: int) -> None:
        """Take over *fd*."""
        weakref.finalize(self, os.close, fd)
        self.fd: Final = fd
        self.checksum: Final = read_checksum(fd)


class Publisher:
    """Follows one storage for one hub."""

    def __init__(
        self,
        storage: Storage,
        compile_process: CompileProcess,
        hub: Hub,
        *,
        sign: Callable[[int, str], Sequence[Signature]] = lambda _version, _digest: (),
    ) -> None:
        self._sign = sign
        self.may_publish: Callable[[int], Awaitable[bool]] | None = None
        """Is asked of a version that was read, before data planes get it. False: there is a
        later one, and this one is not for all. It may raise StorageError."""
        self.current: Snapshot | None = None
        """What is published; None before the first that compiles."""
        self._storage = storage
        self._compile_process = compile_process
        self._hub = hub
        self._head: Snapshot | None = None
        """What was read last, published or not."""
        self._head_at: float | None = None
        """When that was written, if known: a database that lost versions gives their numbers again."""
        self._since: dict[bytes, bytes | None] | None = None
        """From what is published to what was read last; None: not known, or not worth knowing."""
        self._steps = Steps()
        self._tried: tuple[_Base, _Overlay | None] | None = None
        """What the last trial that went well led to."""
        self._base: _Base | None = None
        """What trials are compiled against, so that they cost in proportion to the change."""
        self._merging: asyncio.Task[None] | None = None
        self._retry_s: float | None = None
        """What was read last is tried again after so long: there was no time, or no room, for its trial."""
        self._failures = 0
        """Of that kind, in a row."""
        self._published_at_s: int | None = None
        self._refused: dict[str, Any] | None = None

    @property
    def last_read(self) -> Snapshot | None:
        """What was read last from the storage, published or not."""
        return self._head

    def publication(self) -> dict[str, Any]:
        """What is published and, if the newest version is not, why."""
        return {
            "version": self.current.version if self.current is not None else None,
            "config_hash": self.current.config_hash if self.current is not None else None,
            "published_at": self._published_at_s,
            "refused": self._refused,
        }

    def refused_for_good(self) -> tuple[int, str] | None:
        """The version that does not compile, and the reason, if the newest is one."""
        if self._refused is None or self._retry_s is not None:
            return None
        faults = self._refused["faults"]
        reason = f": {faults[0].get('reason', '')}" if faults else ""
        return self._refused["version"], f"{self._refused['message']}{reason}"

    def make_offering(self, snapshot: Snapshot) -> Offering:
        return Offering(snapshot.version, snapshot.digest, snapshot.pack, steps=self._steps, sign=self._sign)

    def open_image(self) -> LayeredImage | None:
        """The image that a data plane makes of what is published, opened anew; None before the first.

        Takes time in proportion to its size: call it in a thread.
        """
        tried = self._tried
        if tried is None:
            return None
        base, overlay = tried
        return LayeredImage(Image.open(base.fd), Image.open(overlay.fd) if overlay is not None else None)

    async def run(self) -> None:
        """Publish what stands, and whatever follows, until cancelled."""
        failures = 0
        while True:
            try:
                await self._step()
                failures = 0
            except StorageError as exc:
                delay_s = random.random() * min(_RETRY_CEILING_S, 2.0**failures)
                failures += 1
                log.error("cannot follow the storage, next try in %.1f s: %s", delay_s, exc)
                await asyncio.sleep(delay_s)

    async def _step(self) -> None:
        """Wait for a version other than the one read last, and publish it."""
        if self._head is not None:
            wait_s = _WAIT_S if self._retry_s is None else self._retry_s
            version, at = self._head.version, self._head_at
            stands = await self._storage.wait_version_above(version, wait_s, at=at)
            if stands == version and self._retry_s is None and not self._storage.is_replaced(version, at):
                return
        is_first = self._head is None
        head, at = await self._read(self._head, self._head_at)
        if is_first:
            # Data planes that were linked before a restart may be a few versions behind.
            self._steps = await recent_steps(self._storage, head)
        while self.may_publish is not None and not await self.may_publish(head.version):
            head, at = await self._read(head, at)
        self._head, self._head_at = head, at
        await self._publish(head)

    async def _read(self, head: Snapshot | None, at: float | None) -> tuple[Snapshot, float | None]:
        """The newest snapshot and when it was written, from *head* by the journal if it tells, or else whole.

        Args:
            at: when *head* was written, if known.
        """
        if head is not None:
            while True:
                changes = await self._storage.changes_since(head.version, at=at)
                if changes is None:
                    log.notice("the journal does not go on from version %d: reading everything", head.version)
                    break
                if changes:
                    version, at = changes[-1].version, changes[-1].at
                    delta = await _off_loop(len(changes), make_delta, changes)
                    head = await _off_loop(len(delta), head.patch, delta, version=version)
                    if self._since is not None:
                        self._since = self._since | delta if len(self._since) < _SINCE_LIMIT else None
                if len(changes) <= _CHANGES_ON_LOOP:
                    # These were all. Where there are many, more have come while they were read.
                    return head, at
        with no_collection():
            version, at, rows = await self._storage.load_newest()
            self._since = None
            return await asyncio.to_thread(Snapshot.from_rows, version, rows), at

    async def _publish(self, snapshot: Snapshot) -> None:
        started_at_s = time.monotonic()
        offering = self.make_offering(snapshot)
        before, since = self.current, self._since
        if before is None or snapshot.digest != before.digest:
            try:
                await self._try(snapshot, offering)
            except CompileError as exc:
                self._refuse(snapshot, exc)
                return
            if before is not None:
                if since is None:
                    since = await asyncio.to_thread(before.delta, snapshot)
                changes = await _off_loop(len(since), changes_of, before, since)
                self._steps.add(before.digest, snapshot.digest, changes)
        self.current = snapshot
        self._since = {}
        self._refused = self._retry_s = None
        self._failures = 0
        self._published_at_s = int(time.time())
        # The keys may have changed while it was tried.
        offering.sign_again()
        self._hub.publish(offering)
        delta = offering.delta_from(before.digest) if before is not None else None
        log.notice(
            "published version %d, digest %s, %s: %s, %.1f ms, to %d data planes",
            snapshot.version,
            snapshot.config_hash,
            ", ".join(f"{count} {kind}" for kind, count in snapshot.counts().items()) or "no entities",
            "whole" if delta is None else f"{len(delta)} bytes of changes",
            (time.monotonic() - started_at_s) * 1000,
            len(self._hub),
        )

    async def _try(self, snapshot: Snapshot, offering: Offering) -> None:
        """Compile as a data plane would.

        Raises:
            CompileError: with what speaks against it.
        """
        try:
            result = await self._compile(snapshot, offering)
        except CompileError:
            raise
        except (FastgwError, OSError) as exc:
            faults = [{"reason": f"the trial compile failed: {exc}"}]
            raise CompileError(faults, is_passing=isinstance(exc, OSError)) from exc
        if result.fd >= 0:
            self._base = _Base(result.fd)
        overlay = _Overlay(result.overlay_fd) if result.overlay_fd >= 0 else None
        if self._base is not None:
            self._tried = self._base, overlay
        if result.wants_merge and (self._merging is None or self._merging.done()):
            self._merging = asyncio.create_task(self._merge(offering.digest), name="merge")

    async def _compile(self, snapshot: Snapshot, offering: Offering) -> CompileResult:
        """Have it compiled from the changes since what is published, or else from the whole."""
        base = self._base
        if base is not None and self.current is not None and self._tried is not None and self._since:
            of_current, overlay = self._tried
            delta: Delta = self._since
            with contextlib.suppress(DeltaError):
                return await self._compile_process.compile(
                    await _off_loop(len(delta), pack_delta, delta),
                    version=snapshot.version,
                    digest=snapshot.digest,
                    since=self.current.digest,
                    base=base.checksum,
                    base_fd=base.fd,
                    overlay_fd=overlay.fd if overlay is not None and of_current is base else -1,
                )
        whole = await asyncio.to_thread(offering.make_whole)
        return await self._compile_process.compile(
            whole.compressed,
            version=snapshot.version,
            digest=snapshot.digest,
            base=base.checksum if base is not None else "",
            base_fd=base.fd if base is not None else -1,
        )

    async def _merge(self, digest: str) -> None:
        """Have the trials go on from a newer base."""
        fd = await self._compile_process.merge(digest)
        if fd >= 0:
            self._base = _Base(fd)

    def _refuse(self, snapshot: Snapshot, against: CompileError) -> None:
        faults = against.faults
        stays = f"version {self.current.version} stays" if self.current is not None else "nothing is"
        again = ""
        self._retry_s = None
        if against.is_passing:
            self._retry_s = retry_delay(self._failures)
            self._failures += 1
            again = f"; next try in {self._retry_s:.1f} s"
        log.error("version %d does not compile and is not published; %s%s", snapshot.version, stays, again)
        for fault in faults[:LOGGED_FAULTS_LIMIT]:
            place = " ".join(fault[key] for key in ("entity", "id", "field") if fault.get(key))
            log.error("version %d: %s: %s", snapshot.version, place or "the whole", fault.get("reason", ""))
        if len(faults) > LOGGED_FAULTS_LIMIT:
            log.error("version %d: and %d more", snapshot.version, len(faults) - LOGGED_FAULTS_LIMIT)
        self._refused = {
            "version": snapshot.version,
            "message": f"version {snapshot.version} does not compile and is not published",
            "faults": faults,
        }


async def _off_loop(size: int, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What *work* gives; it is called in a thread if it is about many changes."""
    if size > _CHANGES_ON_LOOP:
        return await asyncio.to_thread(work, *args, **kwargs)
    return work(*args, **kwargs)
