"""Data planes that run a later version than the newest that is known here: late, or put back?

    later than known here ──> the database says
        as late, or later     this control plane is late: nothing is sent, the publisher will come to it
        earlier               the database was put back: it is sent what stands now, with a warning
        nothing ever written  a new database: it keeps what it has
        no answer             it keeps what it has; asked again

Contract. A control plane that has not heard of the newest version, for a moment or because its database is
away, takes no data plane back to an older one; a database that was restored from a backup does, since that is
what it was restored for, and the log names both versions. Versions are compared only with those of data
planes that belong to this cluster: other numbers mean nothing here.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from fastgw.errors import StorageError
from fastgw.obs.logs import get_logger
from fastgw.wire.offering import Offering

log = get_logger(__name__)

ASK_INTERVAL_S: Final = 1.0


class DataPlane(Protocol):
    """What is looked at of a data plane."""

    id: str
    belongs_to: str
    applied_version: int
    applied_digest: str
    is_connected: bool
    may_go_back: bool
    """The database itself was put back."""


D = TypeVar("D", bound=DataPlane)


class Storage(Protocol):
    async def version(self) -> int: ...


class AheadWatch(Generic[D]):
    """Holds back what would take data planes to an older version.

    Args:
        release: offers a data plane anew what is wanted of it.
        withhold: keeps why nothing is sent to one.
    """

    def __init__(
        self,
        storage: Storage,
        cluster_id: str,
        *,
        release: Callable[[D], None],
        withhold: Callable[[D, int, str], None],
    ) -> None:
        self._storage = storage
        self._cluster_id = cluster_id
        self._release = release
        self._withhold = withhold
        self._held: dict[str, D] = {}
        self._asking: asyncio.Task[None] | None = None

    def holds(self, data_plane: D, offering: Offering, newest_version: int) -> bool:
        """Whether *offering* is not to be sent now; if so, it is found out when.

        Args:
            newest_version: the newest that is known here.
        """
        is_same = data_plane.applied_digest in ("", offering.digest)
        if is_same or data_plane.may_go_back:
            return False
        if newest_version == 0 or offering.version == 0:
            self._withhold(data_plane, 0, "nothing has ever been configured here, and it runs something")
            return True
        if data_plane.belongs_to != self._cluster_id or data_plane.applied_version <= newest_version:
            return False
        self._held[data_plane.id] = data_plane
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return True

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        is_told = False
        try:
            while self._held:
                try:
                    version = await self._storage.version()
                except StorageError as exc:
                    if not is_told:
                        is_told = True
                        log.warning(
                            "%d data planes run later versions than is known here, and keep them: %s",
                            len(self._held),
                            exc,
                        )
                    await asyncio.sleep(ASK_INTERVAL_S * (0.5 + random.random()))
                    continue
                held, self._held = self._held, {}
                for data_plane in held.values():
                    if data_plane.is_connected and 0 < version < data_plane.applied_version:
                        log.warning(
                            "%s runs version %d, and the database stands at version %d: it was put back to "
                            "an earlier state, and the data plane goes back with it",
                            data_plane,
                            data_plane.applied_version,
                            version,
                        )
                        data_plane.may_go_back = True
                        self._release(data_plane)
        finally:
            self._asking = None
