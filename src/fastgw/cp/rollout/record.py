"""What is known of one rollout, as the database keeps it and the Admin API shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from fastgw.cp.rollout.selection import Selection
from fastgw.cp.rollout.states import RolloutState
from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.wire.messages import Answered

OPEN_LIMIT_S: Final = 3600.0
"""An open rollout to which nobody writes ends after so long."""
LONGEST_HOLD_S: Final = 7 * 86400.0
LONGEST_TIMEOUT_S: Final = 3600.0
_FASTEST_PING_S: Final = 0.5
_SLOWEST_PING_S: Final = 5.0
_PINGS_IN_A_HOLD: Final = 20


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a version has to stand."""

    hold_s: float = 300.0
    """How long it has to run on all that are chosen."""
    timeout_s: float = 60.0
    """How long one of them may take to apply it, or to come back."""
    max_5xx_rise: float = 0.01
    """By how much the share of answers with 5xx may rise: 0.01 is one percentage point."""
    min_requests: int = 100
    """With fewer no share is judged."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Where a chosen data plane stood when it had applied the version under test."""

    hostname: str
    version: int
    since: Answered | None = None
    """What it had answered by then; None from one that does not count."""
    before: Answered | None = None
    """How much it had answered in the minutes before the rollout."""


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: RolloutState
    revision: int = 1
    """Grows with each change of this record."""
    started_at: float
    """Unix seconds by the database's clock, as all times here."""
    started_by: str
    selection: Selection
    limits: Limits
    base_version: int
    base_digest: str
    version: int
    """The version under test; that of the base while it is open."""
    since: float
    """Since when it is in its state; a newer version begins anew."""
    marks: dict[str, Mark] = {}
    """By id, of the data planes that have applied a version of this rollout."""
    others: dict[str, Answered] = {}
    """By id, what data planes that are held back had answered when the first chosen one had applied the
    version under test, or when they came."""
    ended_at: float | None = None
    reason: str | None = None
    """Why it has ended so."""
    final_version: int | None = None
    """Once this is published the base is held no more."""

    @property
    def is_over(self) -> bool:
        return self.state.is_over

    @property
    def ping_s(self) -> float:
        """How often data planes are to report while it runs."""
        return min(_SLOWEST_PING_S, max(_FASTEST_PING_S, self.limits.hold_s / _PINGS_IN_A_HOLD))

    def is_chosen(self, node_id: str, labels: dict[str, str] | None) -> bool:
        return self.selection.holds(self.id, node_id, labels)

    def shown(self) -> dict[str, Any]:
        """As the Admin API shows it, without the data planes."""
        return {
            "id": self.id,
            "state": self.state.value,
            "started_at": self.started_at,
            "started_by": self.started_by,
            "chosen_by": self.selection.describe(),
            "labels": self.selection.labels,
            "share": self.selection.share,
            **msgspec.structs.asdict(self.limits),
            "base_version": self.base_version,
            "version": self.version,
            "since": self.since,
            "ended_at": self.ended_at,
            "final_version": self.final_version,
            "reason": self.reason,
        }


def show_data_planes(rollout: Rollout, connected: Sequence[DataPlaneRow]) -> dict[str, Any]:
    """The data planes of a rollout that runs, as the Admin API shows them: who is chosen, and who stays."""
    chosen = [row for row in connected if rollout.is_chosen(row.id, row.labels)]
    shown: list[dict[str, Any]] = [
        {
            "id": row.id,
            "hostname": row.hostname,
            "connected": True,
            "applied_version": row.applied_version,
            "counts": row.answered is not None,
            "last_error": row.last_error,
        }
        for row in sorted(chosen, key=lambda row: (row.hostname, row.id))
    ]
    here = {row.id for row in chosen}
    shown += [
        {
            "id": id_,
            "hostname": mark.hostname,
            "connected": False,
            "applied_version": mark.version,
            "counts": mark.since is not None,
            "last_error": None,
        }
        for id_, mark in rollout.marks.items()
        if id_ not in here
    ]
    return {"data_planes": shown, "held_back": len(connected) - len(chosen)}
