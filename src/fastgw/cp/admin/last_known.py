"""Whether the database is away, and what reads are answered from meanwhile.

Contract. The first request that finds it away pays for that with its wait; those after it are answered at
once, from the last configuration that was read, until the database answers again. That is tried about once
a second, by one task for all, and by every write.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from fastgw.cp.admin.clustering import ClusterView
from fastgw.cp.storage.contract import Storage
from fastgw.cp.storage.snapshot_reader import SnapshotReader
from fastgw.errors import StorageError, StorageUnavailable
from fastgw.obs.logs import get_logger

log = get_logger(__name__)

_PERIOD_S: Final = 1.0


class LastKnown:
    def __init__(self, storage: Storage, cluster_view: ClusterView) -> None:
        self._storage = storage
        self._cluster_view = cluster_view
        self._reader: SnapshotReader | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def is_away(self) -> bool:
        return self._asking is not None

    def reader(self) -> SnapshotReader | None:
        """Give a reader of what was last read from the database; the same one while that is the newest."""
        snapshot = self._cluster_view.last_read()
        if snapshot is None:
            return None
        if self._reader is None or self._reader.snapshot is not snapshot:
            self._reader = SnapshotReader(snapshot)
        return self._reader

    def note_away(self, error: StorageUnavailable) -> None:
        if self._asking is None:
            log.error("reads are answered from what is known: %s", error)
            self._asking = asyncio.create_task(self._ask(), name="database away")

    def note_back(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None
            log.notice("the database answers again, and so reads are answered from it")

    async def close(self) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(_PERIOD_S * random.uniform(0.5, 1.0))
            try:
                await self._storage.ping()
            except StorageError:
                continue
            self.note_back()
            return
