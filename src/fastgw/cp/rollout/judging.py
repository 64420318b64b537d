"""What data planes do while a rollout runs, and which move it makes due.

Contract. `Judge.judge` looks and says; it writes nothing, and every control plane of a cluster may ask its
own. Where the counts stood is part of the record; who is missing since when, and who does not apply since
when, is kept here, by a monotonic clock. A control plane that starts anew, or that had no database for a
while, begins these anew, which delays a move by one time-out at most.

The rule for 5xx. Counted are the answers of the chosen since each had applied the version under test. Once
they are `min_requests`, the share of 5xx among them may be `max_5xx_rise` above the larger of two others:
that of the other data planes since the same moment, and that of the chosen in the minutes before the rollout.
Each of the two counts if it is of `min_requests`, too; without any, it may be `max_5xx_rise`. So what fails
everywhere at once speaks against no version, and neither does what has failed here before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from fastgw.cp.rollout.lately import difference
from fastgw.cp.rollout.record import OPEN_LIMIT_S, Mark, Rollout
from fastgw.cp.rollout.states import RolloutInput, RolloutState
from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.wire.messages import Answered

RECONNECT_S: Final = 15.0
"""So long after the start of a control plane nobody counts as lost: data planes dial again meanwhile."""
_MOST_OTHERS: Final = 1000
"""Of so many the counts are compared to: more would only make the record large."""
_NONE: Final = Answered(0, 0)


class Published(NamedTuple):
    """What this control plane has published, and what it cannot."""

    version: int
    digest: str
    refused: tuple[int, str] | None = None
    """A version that does not compile, and the reason."""


class Verdict(NamedTuple):
    """What is due: a move, or only marks to be kept."""

    signal: RolloutInput | None
    reason: str
    version: int
    """The version under test from now on."""
    marks: dict[str, Mark]
    """All marks, as they are now."""
    others: dict[str, Answered] = {}
    """And where the others stood; each version begins with none."""


class Figures(NamedTuple):
    """What was answered, and where."""

    chosen: Answered
    others: Answered
    before: Answered

    def shown(self) -> dict[str, Any]:
        return {
            name: {"requests": answered.requests, "server_errors": answered.server_errors}
            for name, answered in self._asdict().items()
        }


class Judge:
    """One control plane's eye on the rollout that runs.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._subject = ("", 0)
        """The rollout and version that the rest is about."""
        self._behind: dict[str, float] = {}
        self._missing: dict[str, float] = {}

    def judge(
        self, rollout: Rollout, rows: Sequence[DataPlaneRow], published: Published, now_s: float
    ) -> Verdict | None:
        """Say what is due; None: nothing.

        Args:
            rows: the connected data planes, of all control planes.
            now_s: Unix seconds by the database's clock.
        """
        self._turn_to(rollout)
        if rollout.is_over:
            return None
        written = self._look_at_published(rollout, published)
        if written is not None:
            return written
        if rollout.state is RolloutState.OPEN:
            if now_s - rollout.since < OPEN_LIMIT_S:
                return None
            reason = f"nothing was written within {OPEN_LIMIT_S / 60:g} minutes"
            # What is published holds what the base holds, or it would have been seen as written.
            looked_at = max(rollout.version, published.version)
            return Verdict(RolloutInput.EXPIRED, reason, looked_at, rollout.marks)
        chosen: list[DataPlaneRow] = []
        others: list[DataPlaneRow] = []
        for row in rows:
            (chosen if rollout.is_chosen(row.id, row.labels) else others).append(row)
        marks = _mark(rollout, chosen)
        stood = _others_stood(rollout, marks, others)
        marked = msgspec.structs.replace(rollout, marks=marks, others=stood)
        found = self._find_against(marked, chosen, rows) or self._find_for(marked, rows, now_s)
        if found is None:
            return None if marked == rollout else Verdict(None, "", rollout.version, marks, stood)
        return Verdict(*found, rollout.version, marks, stood)

    def rest(self) -> None:
        """Begin anew with what is remembered: nobody could be looked at, so that time counts for nothing."""
        self._behind.clear()
        self._missing.clear()
        self._began_s = self._clock()

    def _turn_to(self, rollout: Rollout) -> None:
        if self._subject != (rollout.id, rollout.version):
            self._subject = (rollout.id, rollout.version)
            self._behind.clear()
            self._missing.clear()

    def _look_at_published(self, rollout: Rollout, published: Published) -> Verdict | None:
        if published.version > rollout.version:
            is_base = published.digest == rollout.base_digest
            if is_base and rollout.state is RolloutState.OPEN:
                return None
            signal = RolloutInput.UNDONE if is_base else RolloutInput.WRITTEN
            return Verdict(signal, "", published.version, rollout.marks)
        refused = published.refused
        if refused is None:
            return None
        if rollout.state is not RolloutState.OPEN and refused[0] >= rollout.version:
            return Verdict(RolloutInput.REFUSED, refused[1], rollout.version, rollout.marks)
        if rollout.state is RolloutState.OPEN and refused[0] > rollout.version:
            # Written it is, so the rollout has a version to refuse; the next look does.
            return Verdict(RolloutInput.WRITTEN, "", refused[0], rollout.marks)
        return None

    def _find_against(
        self, rollout: Rollout, chosen: Sequence[DataPlaneRow], rows: Sequence[DataPlaneRow]
    ) -> tuple[RolloutInput, str] | None:
        """What speaks for going back."""
        for row in chosen:
            if row.refused_version is not None and row.refused_version >= rollout.version:
                return RolloutInput.REFUSED, f"{_name(row)} has refused it: {row.last_error}"
        risen = _find_rise(rollout, count_answers(rollout, rows))
        if risen is not None and not self._is_gathering(rollout, rows):
            return RolloutInput.RISEN, risen
        timeout_s = rollout.limits.timeout_s
        late = self._since(
            self._behind, {row.id: row for row in chosen if not _runs(row, rollout)}, timeout_s
        )
        if late:
            row = late[0]
            why = f": {row.last_error}" if row.last_error else ""
            return RolloutInput.LATE, f"{_name(row)} does not run it after {timeout_s:g} s{why}"
        connected = {row.id for row in chosen}
        missing: dict[str, str] = {
            id_: f"data plane {mark.hostname} ({id_}) has run it and is not connected"
            for id_, mark in rollout.marks.items()
            if id_ not in connected
        }
        if not chosen:
            missing[""] = "no data plane that is chosen is connected"
        lost = self._since(self._missing, missing, timeout_s)
        if lost and self._clock() - self._began_s >= RECONNECT_S:
            return RolloutInput.LOST, f"{lost[0]} for {timeout_s:g} s"
        return None

    def _find_for(
        self, rollout: Rollout, rows: Sequence[DataPlaneRow], now_s: float
    ) -> tuple[RolloutInput, str] | None:
        """What speaks for going on."""
        if self._behind or self._missing:
            return None
        if rollout.state is RolloutState.APPLYING:
            return RolloutInput.APPLIED, ""
        if now_s - rollout.since < rollout.limits.hold_s or self._is_gathering(rollout, rows):
            return None
        chosen = count_answers(rollout, rows).chosen
        told = f"{chosen.requests} requests were answered, {chosen.server_errors} of them with 5xx"
        if chosen.requests < rollout.limits.min_requests:
            told += ", which is too few to judge by"
        return RolloutInput.HELD, f"held for {rollout.limits.hold_s:g} s; {told}"

    def _is_gathering(self, rollout: Rollout, rows: Iterable[DataPlaneRow]) -> bool:
        """Whether counts are still to come again after a start, without which nothing can be judged."""
        if self._clock() - self._began_s >= RECONNECT_S:
            return False
        told = {row.id for row in rows if row.answered is not None}
        chosen = {id_ for id_, mark in rollout.marks.items() if mark.since is not None}
        return not rollout.others.keys() | chosen <= told

    def _since(self, since: dict[str, float], now: Mapping[str, Any], timeout_s: float) -> list[Any]:
        """Keep since when each is so; return those for which it is so for too long."""
        now_s = self._clock()
        for id_ in since.keys() - now.keys():
            del since[id_]
        for id_ in now:
            since.setdefault(id_, now_s)
        return [now[id_] for id_, began_s in since.items() if now_s - began_s >= timeout_s]


def count_answers(rollout: Rollout, rows: Iterable[DataPlaneRow]) -> Figures:
    """What was answered so far, as the rule for 5xx sees it."""
    chosen, others, before = _NONE, _NONE, _NONE
    for row in rows:
        mark = rollout.marks.get(row.id)
        if row.answered is None:
            continue
        if mark is not None and mark.version == rollout.version and mark.since is not None:
            chosen = _add(chosen, difference(row.answered, mark.since))
        elif mark is None and row.id in rollout.others:
            others = _add(others, difference(row.answered, rollout.others[row.id]))
    for mark in rollout.marks.values():
        before = _add(before, mark.before or _NONE)
    return Figures(chosen, others, before)


def _find_rise(rollout: Rollout, figures: Figures) -> str | None:
    limits = rollout.limits
    if figures.chosen.requests < max(1, limits.min_requests):
        return None
    known = {
        name: _share(answered)
        for name, answered in (("the others", figures.others), ("before", figures.before))
        if answered.requests >= max(1, limits.min_requests)
    }
    share = _share(figures.chosen)
    if share <= max(known.values(), default=0.0) + limits.max_5xx_rise:
        return None
    compared = ", ".join(f"{name} {other:.2%}" for name, other in known.items())
    return (
        f"{share:.2%} of {figures.chosen.requests} answers of the chosen are 5xx"
        f" ({compared or 'with nothing to compare to'}), which may rise by {limits.max_5xx_rise:.2%}"
    )


def _mark(rollout: Rollout, chosen: Iterable[DataPlaneRow]) -> dict[str, Mark]:
    """The marks of *rollout*, with those of data planes that have applied the version since."""
    marks = dict(rollout.marks)
    for row in chosen:
        known = marks.get(row.id)
        if not _runs(row, rollout):
            continue
        # One that is just linked may not have told its counts yet.
        if known is not None and known.version == rollout.version and (known.since or not row.answered):
            continue
        before = None if known is None else known.before
        if before is None and row.answered is not None and row.answered_before is not None:
            before = difference(row.answered, row.answered_before)
        marks[row.id] = Mark(
            hostname=row.hostname, version=rollout.version, since=row.answered, before=before
        )
    return marks


def _others_stood(
    rollout: Rollout, marks: Mapping[str, Mark], others: Iterable[DataPlaneRow]
) -> dict[str, Answered]:
    """Where the others stood, with those that came since a chosen one had applied the version."""
    stood = dict(rollout.others)
    if any(mark.version == rollout.version for mark in marks.values()):
        for row in others:
            if row.answered is not None and len(stood) < _MOST_OTHERS:
                stood.setdefault(row.id, row.answered)
    return stood


def _runs(row: DataPlaneRow, rollout: Rollout) -> bool:
    return (row.applied_version or 0) >= rollout.version


def _share(answered: Answered) -> float:
    return answered.server_errors / answered.requests


def _add(one: Answered, other: Answered) -> Answered:
    return Answered(one.requests + other.requests, one.server_errors + other.server_errors)


def _name(row: DataPlaneRow) -> str:
    return f"data plane {row.hostname} ({row.id})"
