"""Which data planes are chosen: those with some labels, a share of all, or a share of those with some labels.

Contract. Whether one is chosen follows from the rollout and the data plane alone, so every control plane says
the same, at any time, also of one that joins later. A share goes by the hash of both ids: each rollout takes
others, and of many data planes about the share.

The one complication: of few data planes a share may hold nobody. So when a rollout starts, the bar is put as
high as the nearest one that is connected needs it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.errors import RolloutError

_NAMED_LABELS: Final = 20


class Selection(msgspec.Struct, frozen=True):
    labels: dict[str, str] = {}
    """All of these; empty: whatever its labels are."""
    share: float | None = None
    """From above 0 to 1; None: all of those with the labels."""
    bar: float | None = None
    """What a place may be at most, for a share."""

    def holds(self, rollout_id: str, node_id: str, labels: Mapping[str, str] | None) -> bool:
        """Whether this data plane is chosen."""
        if any((labels or {}).get(key) != value for key, value in self.labels.items()):
            return False
        return self.bar is None or place_of(rollout_id, node_id) <= self.bar

    def describe(self) -> str:
        """In words, for people."""
        labels = ", ".join(f"{key}={value}" for key, value in self.labels.items())
        if self.share is None:
            return f"labels {labels}"
        return f"{self.share:.4g} of {f'those with labels {labels}' if labels else 'all'}"


def place_of(rollout_id: str, node_id: str) -> float:
    """Where a data plane stands in this rollout, from 0 up to 1."""
    digest = hashlib.sha256(f"{rollout_id} {node_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_selection(
    rollout_id: str, labels: dict[str, str], share: float | None, connected: Sequence[DataPlaneRow]
) -> Selection:
    """The selection that holds at least one of the data planes that are *connected*.

    Raises:
        RolloutError: there is none that it could hold.
    """
    plain = Selection(labels, share)
    found = [row for row in connected if plain.holds(rollout_id, row.id, row.labels)]
    if not found:
        raise RolloutError(_nobody(plain, connected))
    if share is None:
        return plain
    nearest = min(place_of(rollout_id, row.id) for row in found)
    return Selection(labels, share, max(share, nearest))


def _nobody(selection: Selection, connected: Sequence[DataPlaneRow]) -> str:
    if not connected:
        return "no data plane is connected, so there is none to try a version on"
    wanted = ", ".join(f"{key}={value}" for key, value in selection.labels.items())
    counted = Counter(f"{key}={value}" for row in connected for key, value in (row.labels or {}).items())
    if not counted:
        has = f"the {len(connected)} that are connected have no labels: set cluster_dp_labels there"
    else:
        named = [f"{label} ({number})" for label, number in sorted(counted.items())[:_NAMED_LABELS]]
        more = len(counted) - len(named)
        has = f"there are: {', '.join([*named, *([f'and {more} more'] if more else [])])}"
    return f"no connected data plane has the labels {wanted}; {has}"
