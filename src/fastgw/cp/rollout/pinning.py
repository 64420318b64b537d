"""Holding the base for data planes that are not chosen, while a rollout runs.

Contract. While a pin is set, a data plane that is not chosen is wanted to run the base, and one that is
chosen to run the newest. The publisher calls `refresh` after it has read a version and before it publishes
it: a rollout begins in the transaction of its version or before it, so no control plane ever offers a version
under test to all.

The one complication is the end. Who learns of it may not have published what it ended with: what is newest
here may be the version that was just given up. So a pin outlives its rollout until the version is published
that the rollout ended with; and who reads a version and learns only then that it was given up (`is_given_up`)
reads again.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from fastgw.cp.rollout import records
from fastgw.cp.rollout.record import Rollout
from fastgw.cp.rollout.states import RolloutState
from fastgw.cp.storage.base import SqlStorage
from fastgw.errors import SnapshotError, StorageError
from fastgw.model.snapshot import Snapshot
from fastgw.obs.logs import get_logger
from fastgw.wire.offering import Offering

log = get_logger(__name__)

_LOOKED_AT: Final = 5
"""So many rollouts do not end while one version is read."""


class Pin:
    """A rollout, and what those run that are not chosen."""

    def __init__(self, rollout: Rollout, base: Offering, snapshot: Snapshot) -> None:
        self.rollout = rollout
        self.base = base
        self.snapshot = snapshot
        """The base."""

    @property
    def ping_s(self) -> float:
        """How often data planes are to report; 0: as ever."""
        return 0.0 if self.rollout.is_over else self.rollout.ping_s

    def wanted(self, node_id: str, labels: dict[str, str], newest: Offering) -> Offering:
        if newest.version >= self.rollout.base_version and self.rollout.is_chosen(node_id, labels):
            return newest
        return self.base

    def is_held_back(self, node_id: str, labels: dict[str, str] | None, version: int) -> bool:
        """Whether a data plane is not to run this version yet."""
        return version > self.rollout.base_version and not self.rollout.is_chosen(node_id, labels)

    def is_released_by(self, version: int) -> bool:
        """Whether nothing is held any more once this version is the newest."""
        final = self.rollout.final_version
        return self.rollout.is_over and (final is None or version >= final)


class _Hub(Protocol):
    @property
    def newest(self) -> Offering | None: ...
    @property
    def pin(self) -> Pin | None: ...
    def set_pin(self, pin: Pin | None) -> None: ...


class _Publisher(Protocol):
    current: Snapshot | None

    def make_offering(self, snapshot: Snapshot) -> Offering: ...


class Pinning:
    """Keeps the pin of a hub as the database says."""

    def __init__(self, storage: SqlStorage, hub: _Hub, publisher: _Publisher) -> None:
        self._storage = storage
        self._hub = hub
        self._publisher = publisher
        self._turn = asyncio.Lock()
        self.now_s = 0.0
        """Unix seconds by the database's clock, when it was asked last."""
        self._is_any = True
        """Whether there was any rollout then."""

    async def refresh(self) -> Rollout | None:
        """Read which rollout runs, have the hub go by it, and return it.

        Raises:
            StorageError: it cannot be told; the pin stays as it is.
        """
        # One at a time: what was read earlier must not be set later.
        async with self._turn:
            pin = self._hub.pin
            async with self._storage.read_records() as connection:
                running, self.now_s, self._is_any = await records.fetch_standing(
                    connection, self._storage.dialect
                )
                ended = None
                if pin is not None and (running is None or running.id != pin.rollout.id):
                    ended = await records.fetch(connection, pin.rollout.id)
            if running is not None:
                if pin is None or pin.rollout.id != running.id:
                    pin = await self._make_pin(running)
                    log.notice(
                        "rollout %s runs: version %d stays where it is not chosen (%s)",
                        running.id,
                        running.base_version,
                        running.selection.describe(),
                    )
                self._hub.set_pin(None if pin is None else Pin(running, pin.base, pin.snapshot))
            elif pin is not None:
                self._hub.set_pin(Pin(ended, pin.base, pin.snapshot) if ended is not None else None)
            return running

    async def is_given_up(self, version: int) -> bool:
        """Whether a version was under test in a rollout that went back; what it went back to is there, too.

        To be asked after `refresh`.

        Raises:
            StorageError: it cannot be told.
        """
        if not self._is_any:
            return False
        async with self._storage.read_records() as connection:
            newest = await records.list_newest(connection, _LOOKED_AT)
        return any(
            rollout.state in (RolloutState.REVERTED, RolloutState.ABORTED)
            and rollout.base_version < version < (rollout.final_version or 0)
            for rollout in newest
        )

    async def _make_pin(self, rollout: Rollout) -> Pin | None:
        newest, current = self._hub.newest, self._publisher.current
        if (
            newest is not None
            and current is not None
            and newest.version == current.version == rollout.base_version
            and newest.digest == rollout.base_digest
        ):
            return Pin(rollout, newest, current)
        async with self._storage.read_records() as connection:
            packed = await records.load_base(connection, rollout.id)
        if not packed:
            return None  # it has just ended: the next look tells
        try:
            snapshot = await asyncio.to_thread(
                Snapshot.unpack, rollout.base_version, packed, rollout.base_digest
            )
        except SnapshotError as error:
            raise StorageError(f"the base of rollout {rollout.id} is damaged: {error}; abort it") from error
        return Pin(rollout, self._publisher.make_offering(snapshot), snapshot)
