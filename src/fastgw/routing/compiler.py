"""From one snapshot to the next: what a compile process remembers, and when it compiles what.

    changed since the base     up to a limit    an overlay
                               beyond           everything anew, if the table is small or far too much is
                                                new; else an overlay still, and a wish to have it merged

Contract. The answer to a job depends on the job alone: what is remembered (the last snapshots, the base) only
makes it cheap. A compiler that is asked about a base it does not know, since it was just started, reads it;
given a delta from a snapshot that it does not know, it reads that from the base and its overlay.

The one complication is the merge: a new base of what the last overlay led to. It is made by a fork that
shares our memory, while jobs go on against the old base. Whoever asked for it names the new base in a later
job, once it is where it must be by then, and from that job on the old one is forgotten.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from fastgw.errors import DeltaError, ImageError, SnapshotError
from fastgw.model.snapshot import Delta, Snapshot, unpack_delta
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.overlay import Base, compile_overlay
from fastgw.routing.routes import FLAVORS
from fastgw.routing.surroundings import KINDS, Surroundings

OVERLAY_LIMIT: Final = 512
"""Changed entities from which an overlay is worth merging."""
OVERLAY_LEAST: Final = 16
"""The same for the smallest table; between the two it is an eighth of its entities."""
OVERLAY_OVERFULL: Final = 4
"""Times the limit: a merge does not keep up, or this is no small change."""
SMALL_ENTITIES: Final = 3000
"""A table of this size is compiled anew in some tens of milliseconds: no need for a merge."""

DELTA_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Of the lines of a delta."""
KNOWN_SNAPSHOTS: Final = 2
"""What runs, and what was compiled last: the latter may have been refused since."""


class Compiled(NamedTuple):
    counts: dict[str, int]
    base: bytes | None
    """A new base; None: the one that the job named stays."""
    overlay: bytes | None
    """None: the base is all."""
    wants_merge: bool
    decode_ms: float
    compile_ms: float
    warnings: list[str]
    """What is served otherwise than the snapshot says, one line each."""


class Compiler:
    def __init__(self, flavor: str = "traditional_compatible") -> None:
        """*flavor* is Kong's `router_flavor`; a base of another is of no use here."""
        self.flavor: Final = flavor
        self.last: Snapshot | None = None
        """The one compiled last, or refused."""
        self._base: Base | None = None
        self._delta: dict[bytes, bytes | None] = {}
        """From the base's snapshot to `last`."""
        self._merged: Base | None = None
        self._known: dict[str, Snapshot] = {}
        """By digest; the one used last comes last."""
        self._around: Surroundings | None = None
        """Those of `last`."""

    def compile(
        self,
        packed: bytes,
        *,
        version: int,
        digest: str,
        since: str = "",
        base: str = "",
        open_base: Callable[[], Image] | None = None,
        open_overlay: Callable[[], Image] | None = None,
    ) -> Compiled:
        """Compile a snapshot for one who has the base with this checksum, or none.

        Args:
            packed: the snapshot; with *since*, the delta that leads there from the one with that digest.
            open_base: gives that base, should it not be known here.
            open_overlay: gives what makes that base the snapshot *since*, should that not be known here.
        Raises:
            CompileError: it cannot be served, with all reasons.
            DeltaError: the delta leads elsewhere, or *since* is not known.
            SnapshotError: it is damaged, or its digest is another.
        """
        begun = time.perf_counter()
        if since:
            origin = self._known.get(since) or self._read_origin(since, base, open_base, open_overlay)
            delta = unpack_delta(packed, DELTA_LIMIT_BYTES)
            snapshot = origin.patch(delta, version=version)
            if snapshot.digest != digest:
                raise DeltaError(f"the changes lead to the digest {snapshot.digest}, not {digest}")
            self._remember(origin)
        else:
            delta, origin = {}, None
            snapshot = Snapshot.unpack(version, packed, digest, like=self.last)
        last, self.last = self.last, snapshot
        self._remember(snapshot)
        step: Delta | None = None
        if last is not None and self._base is not None and self._base.image.checksum == base:
            step = delta if last is origin else last.delta(snapshot)
        if step is None or any(key.partition(b" ")[0] in KINDS for key in step):
            self._around = None
        if base and open_base is not None:
            self._take_base(base, open_base, step, snapshot)
        else:
            self._base = None
        decoded = time.perf_counter()
        self._around = self._around or Surroundings(snapshot)
        fresh, overlay, wants_merge = self._compile(snapshot, self._around)
        return Compiled(
            counts=snapshot.counts(),
            base=fresh,
            overlay=overlay,
            wants_merge=wants_merge,
            decode_ms=(decoded - begun) * 1e3,
            compile_ms=(time.perf_counter() - decoded) * 1e3,
            warnings=self._around.warnings(),
        )

    def take_base(self, image: Image) -> None:
        """Know the image that came of `compile`, before it is named in a job."""
        assert self.last is not None
        self._base, self._delta = Base(image, self.last), {}

    def take_merged(self, image: Image, snapshot: Snapshot) -> None:
        """Know the image that came of a merge of *snapshot*, before it is named in a job."""
        self._merged = Base(image, snapshot)

    def _remember(self, snapshot: Snapshot) -> None:
        self._known.pop(snapshot.digest, None)
        self._known[snapshot.digest] = snapshot
        while len(self._known) > KNOWN_SNAPSHOTS:
            del self._known[next(iter(self._known))]

    def _read_origin(
        self,
        since: str,
        base: str,
        open_base: Callable[[], Image] | None,
        open_overlay: Callable[[], Image] | None,
    ) -> Snapshot:
        """Take `last` from the base and its overlay, if that is the snapshot *since*."""
        if base and open_base is not None:
            self._open_base(open_base)
            if self._base is not None:
                try:
                    origin = self._base.snapshot
                    if open_overlay is not None:
                        origin = open_overlay().snapshot(origin)
                except (ImageError, SnapshotError) as exc:
                    self._base = None
                    raise DeltaError(f"what runs cannot be read: {exc}") from exc
                self._delta = self._base.snapshot.delta(origin)
                self.last, self._around = origin, None
                if origin.digest == since:
                    return origin
        raise DeltaError(f"the changes begin from the digest {since}, which is not known")

    def _compile(self, snapshot: Snapshot, around: Surroundings) -> tuple[bytes | None, bytes | None, bool]:
        """(new base, overlay, whether a merge is wanted)"""
        if self._base is None:
            return compile_snapshot(snapshot, flavor=self.flavor), None, False
        entities, changed = sum(snapshot.counts().values()), len(self._delta)
        limit = min(max(entities // 8, OVERLAY_LEAST), OVERLAY_LIMIT)
        if changed > (limit if entities <= SMALL_ENTITIES else OVERLAY_OVERFULL * limit):
            return compile_snapshot(snapshot, flavor=self.flavor), None, False
        if any(key.partition(b" ")[0] in KINDS for key in self._delta):
            return compile_snapshot(snapshot, flavor=self.flavor), None, False
        overlay = compile_overlay(self._base, snapshot, self._delta, flavor=self.flavor, around=around)
        return None, overlay, changed > limit

    def _take_base(
        self, checksum: str, open_base: Callable[[], Image], step: Delta | None, snapshot: Snapshot
    ) -> None:
        """Have `_base` be the one with this checksum, and `_delta` lead from it to *snapshot*.

        Args:
            step: from the snapshot before, which `_delta` leads to, to this one; None: `_base` is another.
        """
        merged, self._merged = self._merged, None
        if self._base is not None and step is not None:
            self._merged = merged
            origin = self._base.snapshot
            for key, line in step.items():
                if origin.line(key) == line:
                    self._delta.pop(key, None)
                else:
                    self._delta[key] = line
            return
        if merged is not None and merged.image.checksum == checksum:
            self._base = merged
        else:
            self._open_base(open_base)
        self._delta = self._base.snapshot.delta(snapshot) if self._base is not None else {}

    def _open_base(self, open_base: Callable[[], Image]) -> None:
        """Read the base anew, if it is of use here."""
        self._base = None
        with contextlib.suppress(ImageError, SnapshotError):  # of no use to anybody: a new one is made
            image = open_base()
            if image.table().flavor == FLAVORS[self.flavor]:
                self._base = Base(image, image.snapshot())
