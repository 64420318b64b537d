"""The steps that led to what stands, from the journal: for data planes that were linked before a restart.

Contract. What `recent_steps` gives leads to the snapshot that it was asked about, digest for digest, or is
empty. It goes back over as many of the last versions as `Steps` keeps, as long as they are small; the cost is
in proportion to their changes, and most of it is paid in a thread.

The one complication: the journal says what rows became. What they were is told by their entries before, so
the oldest of these versions is made first, and the others from it, forwards. Where the journal was trimmed
an entry before may be missing; then it is tried with fewer versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final

from fastgw.cp.storage.contract import CHANGES_LIMIT, Change, Row, Storage
from fastgw.model.snapshot import EntityChange, Snapshot, make_delta
from fastgw.wire.steps import STEPS_LIMIT, Steps, changes_of

MOST_CHANGES: Final = CHANGES_LIMIT // 2
"""More than this would keep a control plane from publishing for longer than the whole costs."""


async def recent_steps(storage: Storage, stands: Snapshot) -> Steps:
    """The steps from the last versions before *stands* to it.

    Raises:
        StorageError: as all reading does.
    """
    versions = await _small_versions(storage, stands.version)
    while versions:
        oldest = versions[-1] - 1
        async with storage.read() as reader:
            touched = await reader.touched_since(oldest)
        if touched is not None:
            changes = await storage.changes_since(oldest)
            return await asyncio.to_thread(_steps_of, oldest, touched, changes or (), stands)
        versions = versions[: len(versions) // 4]
    return Steps()


async def _small_versions(storage: Storage, newest: int) -> list[int]:
    """The last versions, newest first, as long as all of their changes are few."""
    versions, left = [], MOST_CHANGES
    for one in await storage.versions(before=newest + 1, size=STEPS_LIMIT - 1):
        left -= one.created + one.updated + one.deleted
        if left < 0:
            break
        versions.append(one.version)
    return versions


def _steps_of(
    oldest: int,
    touched: Mapping[str, Mapping[str, Row | None]],
    changes: Sequence[Change],
    stands: Snapshot,
) -> Steps:
    before = stands.patch(make_delta(_as_changes(oldest, touched)), version=oldest)
    steps = Steps()
    for version, of_version in groupby(changes, lambda change: change.version):
        if version > stands.version:
            break
        delta = make_delta(of_version)
        after = before.patch(delta, version=version)
        if after.digest != before.digest:
            steps.add(before.digest, after.digest, changes_of(before, delta))
        before = after
    return steps if before.digest == stands.digest else Steps()


def _as_changes(version: int, rows: Mapping[str, Mapping[str, Row | None]]) -> Iterable[EntityChange]:
    for kind, of_kind in rows.items():
        for id_, row in of_kind.items():
            yield EntityChange(version, kind, id_, row)
