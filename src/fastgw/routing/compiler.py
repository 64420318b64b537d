"""From one snapshot to the next: what a compile process remembers, and when it compiles what.

    changed since the base     up to a limit    an overlay
                               beyond           everything anew, if the table is small or far too much is
                                                new; else an overlay still, and a wish to have it merged

Contract. The answer to a job depends on the job alone: what is remembered (the last snapshot, the base) only
makes it cheap. A compiler that is asked about a base it does not know, since it was just started, reads it.

The one complication is the merge: a new base of what the last overlay led to. It is made by a fork that
shares our memory, while jobs go on against the old base. Whoever asked for it names the new base in a later
job, once it is where it must be by then, and from that job on the old one is forgotten.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from fastgw.errors import ImageError, SnapshotError
from fastgw.model.snapshot import Snapshot
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

    def compile(
        self,
        packed: bytes,
        *,
        version: int,
        digest: str,
        base: str = "",
        open_base: Callable[[], Image] | None = None,
    ) -> Compiled:
        """Compile a snapshot for one who has the base with this checksum, or none.

        Args:
            open_base: gives that base, should it not be known here.
        Raises:
            CompileError: it cannot be served, with all reasons.
            SnapshotError: it is damaged, or its digest is another.
        """
        begun = time.perf_counter()
        last, snapshot = self.last, Snapshot.unpack(version, packed, digest, like=self.last)
        self.last = snapshot
        if base and open_base is not None:
            self._take_base(base, open_base, last, snapshot)
        else:
            self._base = None
        decoded = time.perf_counter()
        fresh, overlay, wants_merge = self._compile(snapshot)
        return Compiled(
            counts=snapshot.counts(),
            base=fresh,
            overlay=overlay,
            wants_merge=wants_merge,
            decode_ms=(decoded - begun) * 1e3,
            compile_ms=(time.perf_counter() - decoded) * 1e3,
            warnings=Surroundings(snapshot).warnings(),
        )

    def take_base(self, image: Image) -> None:
        """Know the image that came of `compile`, before it is named in a job."""
        assert self.last is not None
        self._base, self._delta = Base(image, self.last), {}

    def take_merged(self, image: Image, snapshot: Snapshot) -> None:
        """Know the image that came of a merge of *snapshot*, before it is named in a job."""
        self._merged = Base(image, snapshot)

    def _compile(self, snapshot: Snapshot) -> tuple[bytes | None, bytes | None, bool]:
        """(new base, overlay, whether a merge is wanted)"""
        if self._base is None:
            return compile_snapshot(snapshot, flavor=self.flavor), None, False
        entities, changed = sum(snapshot.counts().values()), len(self._delta)
        limit = min(max(entities // 8, OVERLAY_LEAST), OVERLAY_LIMIT)
        if changed > (limit if entities <= SMALL_ENTITIES else OVERLAY_OVERFULL * limit):
            return compile_snapshot(snapshot, flavor=self.flavor), None, False
        if any(key.partition(b" ")[0] in KINDS for key in self._delta):
            return compile_snapshot(snapshot, flavor=self.flavor), None, False
        overlay = compile_overlay(self._base, snapshot, self._delta, flavor=self.flavor)
        return None, overlay, changed > limit

    def _take_base(
        self, checksum: str, open_base: Callable[[], Image], last: Snapshot | None, snapshot: Snapshot
    ) -> None:
        """Have `_base` be the one with this checksum, and `_delta` lead from it to *snapshot*."""
        merged, self._merged = self._merged, None
        if self._base is not None and self._base.image.checksum == checksum and last is not None:
            self._merged = merged
            origin = self._base.snapshot
            for key, line in last.delta(snapshot).items():
                if origin.line(key) == line:
                    self._delta.pop(key, None)
                else:
                    self._delta[key] = line
            return
        if merged is not None and merged.image.checksum == checksum:
            self._base = merged
        else:
            self._base = None
            with contextlib.suppress(ImageError, SnapshotError):  # of no use to anybody: a new one is made
                image = open_base()
                if image.table().flavor == FLAVORS[self.flavor]:
                    self._base = Base(image, image.snapshot())
        self._delta = self._base.snapshot.delta(snapshot) if self._base is not None else {}
