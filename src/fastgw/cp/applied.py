"""Where a version stands: published or refused, which data planes run it, and which do not yet.

Contract. A version counts as applied when every connected data plane of which it is wanted runs it or a later
one; the digest decides, so one that changed nothing for a data plane is run at once. A rollout wants its
version of the chosen only: the others are held back, and counted apart. Nobody waits for a data plane that
has refused it for good, nor for a version that does not compile: `Standing.is_settled` says that nothing
more will come by waiting.

The one complication is data planes of other control planes on the same database. Their rows are read from
the storage, where they arrive once per second.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, NamedTuple, Protocol

from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.errors import StorageError

ELSEWHERE_INTERVAL_S: Final = 0.5
"""How often data planes of other control planes are looked for, while there are any."""
_LOOK_INTERVAL_S: Final = 0.25
"""A version that is refused here changes no data plane, so it is looked for."""
_GATHER_S: Final = 0.003
"""Many data planes answer within a moment; they are counted once."""


class _Hub(Protocol):
    def linked_rows(self) -> list[DataPlaneRow]: ...
    async def rows_elsewhere(self) -> list[DataPlaneRow]: ...
    def is_held_back(self, row: DataPlaneRow, version: int) -> bool: ...
    async def changed(self) -> None: ...


class _Publisher(Protocol):
    def publication(self) -> dict[str, Any]: ...


class Standing(NamedTuple):
    """Where one version stands at a moment."""

    version: int
    is_published: bool
    """This version, or a later one."""
    refusal: str | None
    """Why it is not."""
    applied: int
    """Connected data planes that run it, or a later one."""
    behind: list[DataPlaneRow]
    """Connected data planes that do not."""
    held_back: int = 0
    """Connected data planes that are not to run it as long as a rollout runs; not among those above."""

    @property
    def is_applied(self) -> bool:
        return self.is_published and not self.behind

    @property
    def is_settled(self) -> bool:
        """Whether waiting longer changes nothing."""
        if not self.is_published:
            return self.refusal is not None
        return all(_has_refused(row, self.version) for row in self.behind)

    def shown(self) -> dict[str, Any]:
        """As the Admin API shows it."""
        return {
            "version": self.version,
            "published": self.is_published,
            "refused": self.refusal,
            "applied": self.is_applied,
            "settled": self.is_settled,
            "data_planes": {
                "connected": self.applied + len(self.behind) + self.held_back,
                "applied": self.applied,
                "held_back": self.held_back,
            },
            "not_applied": [
                {
                    "id": row.id,
                    "hostname": row.hostname,
                    "applied_version": row.applied_version,
                    "last_error": row.last_error,
                }
                for row in self.behind
            ],
        }


class AppliedWatch:
    def __init__(self, hub: _Hub, publisher: _Publisher) -> None:
        self._hub = hub
        self._publisher = publisher

    async def wait(self, version: int, timeout_s: float) -> Standing:
        """Return where *version* stands once it is settled, or after *timeout_s*."""
        ends_at_s = time.monotonic() + timeout_s
        elsewhere, looked_at_s = await self._look_elsewhere()
        while True:
            standing = self._standing(version, elsewhere)
            left_s = ends_at_s - time.monotonic()
            if standing.is_settled or left_s <= 0:
                return standing
            try:
                async with asyncio.timeout(min(left_s, _LOOK_INTERVAL_S)):
                    await self._hub.changed()
                    await asyncio.sleep(_GATHER_S)
            except TimeoutError:
                pass
            if elsewhere and time.monotonic() - looked_at_s >= ELSEWHERE_INTERVAL_S:
                elsewhere, looked_at_s = await self._look_elsewhere()

    async def _look_elsewhere(self) -> tuple[list[DataPlaneRow], float]:
        try:
            return await self._hub.rows_elsewhere(), time.monotonic()
        except StorageError:
            return [], time.monotonic()  # those linked here can still be told

    def _standing(self, version: int, elsewhere: list[DataPlaneRow]) -> Standing:
        rows = [*self._hub.linked_rows(), *elsewhere]
        behind = [row for row in rows if (row.applied_version or 0) < version]
        waiting = [row for row in behind if not self._hub.is_held_back(row, version)]
        publication = self._publisher.publication()
        published, refused = publication["version"], publication["refused"]
        is_published = published is not None and published >= version
        is_refused = not is_published and refused is not None and refused["version"] >= version
        return Standing(
            version,
            is_published,
            str(refused["message"]) if is_refused and refused is not None else None,
            len(rows) - len(behind),
            sorted(waiting, key=lambda row: (row.hostname, row.id)),
            len(behind) - len(waiting),
        )


def _has_refused(row: DataPlaneRow, version: int) -> bool:
    return row.refused_version is not None and row.refused_version >= version
