"""Starts rollouts, makes the moves that are due, and ends them: each move is one transaction.

Contract. A move is made under the lock of the version row, and only on the record that it was judged by: of
several control planes one makes it, and the others see it made. Going back, the rows that were written since
the base are made what they were, and the rollout is over, both or neither. While the database is away
nothing is decided, and what is held back stays so.

The one complication is a version that was written a moment ago, which nobody has looked at yet. By time
nothing is promoted, and nothing expires, while there is one; a person's word counts for all that is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from fastgw.cp.garbage import no_collection
from fastgw.cp.rollout import records
from fastgw.cp.rollout.judging import Judge, Published, Verdict, count_answers
from fastgw.cp.rollout.pinning import Pin, Pinning
from fastgw.cp.rollout.record import Limits, Rollout, show_data_planes
from fastgw.cp.rollout.selection import make_selection
from fastgw.cp.rollout.states import RolloutInput, RolloutState, next_state
from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.contract import DataPlaneRow, Row, Writer
from fastgw.errors import FastgwError, RolloutError, StorageError
from fastgw.model.entities import ENTITIES
from fastgw.model.snapshot import Snapshot
from fastgw.obs.logs import get_logger
from fastgw.wire.offering import Offering

log = get_logger(__name__)

LOOK_S: Final = 0.5
"""How often a rollout that runs is looked at."""
_IDLE_S: Final = 1.0
"""How often it is asked whether another control plane has started one."""
_AWAY_S: Final = 2.0
_SETTLE_S: Final = 10.0
"""How long a start waits until what is written is published."""
_TRIES: Final = 5
_HERE: Final = "rollout"
_BY_TIME: Final = frozenset({RolloutInput.HELD, RolloutInput.EXPIRED})


class _Hub(Protocol):
    @property
    def newest(self) -> Offering | None: ...
    @property
    def pin(self) -> Pin | None: ...
    def set_pin(self, pin: Pin | None) -> None: ...
    def linked_rows(self) -> list[DataPlaneRow]: ...
    async def rows_elsewhere(self) -> list[DataPlaneRow]: ...


class _Publisher(Protocol):
    current: Snapshot | None

    def refused_for_good(self) -> tuple[int, str] | None: ...
    def make_offering(self, snapshot: Snapshot) -> Offering: ...


class Order(NamedTuple):
    """What a rollout is asked to be."""

    labels: dict[str, str]
    share: float | None
    limits: Limits


class Contents(NamedTuple):
    """What is written with its start."""

    rows: Mapping[str, Sequence[Row]]
    replace: bool
    """Whether rows go that are not among them."""


class Conductor:
    """The rollouts of one control plane."""

    def __init__(
        self,
        storage: SqlStorage,
        hub: _Hub,
        publisher: _Publisher,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._hub = hub
        self._publisher = publisher
        self._pinning = Pinning(storage, hub, publisher)
        self._judge = Judge(clock)
        self._woken = asyncio.Event()

    @property
    def running(self) -> Rollout | None:
        """The rollout that runs, as far as is known here; it is asked for every second."""
        pin = self._hub.pin
        return None if pin is None or pin.rollout.is_over else pin.rollout

    async def may_publish(self, version: int) -> bool:
        """Have the hub go by what the database says, and say whether it may be given a version then.

        For the publisher, which asks between reading and publishing; False has it read again.
        """
        return await self._pinning.refresh() is not None or not await self._pinning.is_given_up(version)

    async def run(self) -> None:
        """Look, and make the moves that are due, until cancelled."""
        is_away = False
        while True:
            try:
                runs = await self.look()
                pause_s = LOOK_S if runs else _IDLE_S
                is_away = False
            except FastgwError as error:
                self._judge.rest()
                if not is_away:
                    log.error("nothing is decided about rollouts: %s", error)
                is_away, pause_s = True, _AWAY_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    async def look(self) -> bool:
        """Look once, and make the move that is due; say whether a rollout runs."""
        rollout = await self._pinning.refresh()
        if rollout is None:
            return False
        verdict = self._judge.judge(rollout, await self._rows(), self._published(), self._pinning.now_s)
        if verdict is not None:
            await self._move(rollout, verdict, f"{_HERE} {rollout.id}")
        return True

    async def check(self, order: Order) -> None:
        """See whether a rollout could be started now.

        Raises:
            RolloutError: another one runs, or nobody is chosen.
        """
        async with self._storage.read_records() as connection:
            _insist_on_none(await records.fetch_running(connection))
        make_selection("", order.labels, order.share, await self._rows())

    async def start(
        self,
        order: Order,
        actor: str,
        *,
        contents: Contents | None = None,
        check: Callable[[int], None] = lambda version: None,
    ) -> Rollout:
        """Start a rollout, with *contents* in the same transaction if there are any.

        Args:
            check: is called with the version that stands; what it raises ends the start.
        Raises:
            RolloutError: another one runs, nobody is chosen, nothing would change or was ever written, or the
                configuration does not stand still.
        """
        await self.check(order)
        for _ in range(_TRIES):
            base = await self._settled()
            if base.version == 0:
                raise RolloutError(
                    "nothing has ever been written here, so there is no version to go back to: write it first"
                )
            packed = await asyncio.to_thread(base.pack)
            connected = await self._rows()
            id_ = secrets.token_hex(4)
            selection = make_selection(id_, order.labels, order.share, connected)
            async with self._storage.write(f"{actor} ({_HERE} {id_})") as writer:
                _insist_on_none(await records.fetch_running(writer.records))
                stands = writer.version - 1
                check(stands)
                if stands != base.version:
                    continue
                if contents is not None:
                    with no_collection():
                        await writer.import_rows(contents.rows, replace=contents.replace)
                    if not writer.changed:
                        raise RolloutError(
                            f"nothing would change: version {stands} holds what the document says"
                        )
                rollout = Rollout(
                    id=id_,
                    state=RolloutState.OPEN if contents is None else RolloutState.APPLYING,
                    started_at=writer.at,
                    started_by=actor,
                    selection=selection,
                    limits=order.limits,
                    base_version=base.version,
                    base_digest=base.digest,
                    version=stands if contents is None else writer.version,
                    since=writer.at,
                )
                await records.insert(writer.records, rollout, packed)
            log.notice(
                "%s starts rollout %s of %s to %s",
                actor,
                id_,
                "what is written next" if contents is None else f"version {rollout.version}",
                selection.describe(),
            )
            await self._after_move()
            return rollout
        raise RolloutError("others write all the time: try again when the configuration stands still")

    async def end(self, signal: RolloutInput, actor: str, id_: str | None = None) -> Rollout:
        """Promote or abort the rollout that runs; with *id_*, only if it is that one.

        Raises:
            RolloutError: there is none.
        """
        for _ in range(_TRIES):
            async with self._storage.read_records() as connection:
                rollout = await records.fetch_running(connection)
            if rollout is None or id_ not in (None, rollout.id):
                raise RolloutError("no rollout runs" if id_ is None else f"rollout {id_} does not run")
            verdict = Verdict(signal, f"by {actor}", rollout.version, rollout.marks)
            moved = await self._move(rollout, verdict, f"{actor} ({signal.value} {_HERE} {rollout.id})")
            if moved is not None:
                return moved
        raise RolloutError("the rollout changes all the time: try again")

    async def find(self, id_: str | None = None) -> Rollout | None:
        """The rollout with this id; without one that which runs, or else ended last."""
        async with self._storage.read_records() as connection:
            if id_ is not None:
                return await records.fetch(connection, id_)
            running = await records.fetch_running(connection)
            newest = await records.list_newest(connection, 1)
        return running or (newest[0] if newest else None)

    async def list_newest(self, size: int) -> list[Rollout]:
        async with self._storage.read_records() as connection:
            return await records.list_newest(connection, size)

    async def wait_over(self, id_: str, timeout_s: float) -> Rollout | None:
        """The rollout once it is over, or as it is after *timeout_s*; None: there is none of this id."""
        ends_at_s = time.monotonic() + timeout_s
        while True:
            rollout = await self.find(id_)
            left_s = ends_at_s - time.monotonic()
            if rollout is None or rollout.is_over or left_s <= 0:
                return rollout
            await asyncio.sleep(min(left_s, LOOK_S))

    async def shown(self, rollout: Rollout) -> dict[str, Any]:
        """As the Admin API shows it: while it runs, with its data planes and what they have answered."""
        shown = rollout.shown()
        if rollout.is_over:
            return shown
        rows = await self._rows()
        return {**shown, **show_data_planes(rollout, rows), **count_answers(rollout, rows).shown()}

    async def _rows(self) -> list[DataPlaneRow]:
        return [*self._hub.linked_rows(), *await self._hub.rows_elsewhere()]

    def _published(self) -> Published:
        current, refused = self._publisher.current, self._publisher.refused_for_good()
        if current is None:
            return Published(0, "", refused)
        return Published(current.version, current.digest, refused)

    async def _settled(self) -> Snapshot:
        """What is published, once that is what the database holds."""
        ends_at_s = time.monotonic() + _SETTLE_S
        while True:
            stands = await self._storage.version()
            current = self._publisher.current
            if current is not None and current.version >= stands:
                return current
            refused = self._publisher.refused_for_good()
            if refused is not None and refused[0] >= stands:
                raise RolloutError(f"{refused[1]}; put that right first, or roll back")
            if time.monotonic() >= ends_at_s:
                raise RolloutError(f"version {stands} is not published yet: try again")
            await asyncio.sleep(LOOK_S / 10)

    async def _move(self, rollout: Rollout, verdict: Verdict, actor: str) -> Rollout | None:
        """Make a move on *rollout*; None: it is not as it was any more, or not the time."""
        async with self._storage.write(actor) as writer:
            stored = await records.fetch_running(writer.records)
            if stored is None or (stored.id, stored.revision) != (rollout.id, rollout.revision):
                return None
            looked_at = max(stored.version, verdict.version)
            if verdict.signal in _BY_TIME and writer.version - 1 > looked_at:
                return None
            moved = await self._moved(writer, stored, verdict)
            await records.replace(writer.records, moved)
        if verdict.signal is not None:
            _tell(moved, verdict)
        await self._after_move()
        return moved

    async def _after_move(self) -> None:
        """Go by what is committed; if the database is away just now, the next look does."""
        self._woken.set()
        with contextlib.suppress(StorageError):
            await self._pinning.refresh()

    async def _moved(self, writer: Writer, stored: Rollout, verdict: Verdict) -> Rollout:
        """What follows on *stored*; of a way back, the rows are restored."""
        if verdict.signal is None:
            return msgspec.structs.replace(
                stored, revision=stored.revision + 1, marks=verdict.marks, others=verdict.others
            )
        state = next_state(stored.state, verdict.signal)
        final: int | None = None
        if state is RolloutState.PROMOTED:
            final = stored.version
        elif state.is_over:
            await self._restore(writer, stored)
            final = writer.version if writer.changed else writer.version - 1
        return msgspec.structs.replace(
            stored,
            state=state,
            revision=stored.revision + 1,
            version=verdict.version,
            since=writer.at,
            marks=verdict.marks,
            others={} if state.is_over else verdict.others,
            ended_at=writer.at if state.is_over else None,
            reason=verdict.reason or None,
            final_version=final,
        )

    async def _restore(self, writer: Writer, stored: Rollout) -> None:
        """Make what was written since the base what it was there, but for rows whose time is over."""
        rows = await writer.touched_since(stored.base_version)
        if rows is None:
            # The journal knows of some row only that it was there before.
            base = await self._base(writer, stored)
            changed = await records.changed_since(writer.records, stored.base_version)
            rows = {
                kind: {id_: _in_order(kind, base.rows(kind).get(id_)) for id_ in ids}
                for kind, ids in changed.items()
            }
        wanted = {
            kind: {id_: _unless_over(kind, row, writer.at) for id_, row in of_kind.items()}
            for kind, of_kind in rows.items()
        }
        with no_collection():
            await writer.restore_rows(wanted)

    async def _base(self, writer: Writer, stored: Rollout) -> Snapshot:
        pin = self._hub.pin
        if pin is not None and pin.rollout.id == stored.id:
            return pin.snapshot
        packed = await records.load_base(writer.records, stored.id)
        return await asyncio.to_thread(Snapshot.unpack, stored.base_version, packed, stored.base_digest)


def _insist_on_none(running: Rollout | None) -> None:
    if running is not None:
        raise RolloutError(
            f"rollout {running.id}, started by {running.started_by}, is {running.state.value};"
            " one runs at a time: promote or abort it first"
        )


def _in_order(kind: str, row: Row | None) -> Row | None:
    """A row of a snapshot with its fields in the order of rows that are stored."""
    if row is None:
        return None
    return {name: row[name] for name in dict.fromkeys([*ENTITIES[kind].fields, *row]) if name in row}


def _unless_over(kind: str, row: Row | None, now_s: float) -> Row | None:
    if row is None or not ENTITIES[kind].ttl or row.get("ttl") is None:
        return row
    return row if row["ttl"] > now_s else None


def _tell(moved: Rollout, verdict: Verdict) -> None:
    """One line for each move."""
    tell = log.error if moved.state is RolloutState.REVERTED else log.notice
    match moved.state:
        case RolloutState.PROMOTED:
            what = f"version {moved.version} is promoted to all"
        case RolloutState.REVERTED | RolloutState.ABORTED:
            what = f"back to version {moved.base_version} as version {moved.final_version}"
        case RolloutState.HOLDING:
            what = f"version {moved.version} runs on all that are chosen, for {moved.limits.hold_s:g} s"
        case RolloutState.APPLYING:
            what = f"version {moved.version} goes to those that are chosen"
        case RolloutState.OPEN:
            what = f"version {moved.version} holds what version {moved.base_version} holds"
    why = f": {verdict.reason}" if verdict.reason else ""
    tell("rollout %s is %s: %s%s", moved.id, moved.state.value, what, why)
