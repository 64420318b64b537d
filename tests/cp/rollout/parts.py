"""Rollouts and data planes for tests, as the database and the hub know them."""

from __future__ import annotations

import uuid
from typing import Any

from fastgw.cp.rollout.record import Limits, Rollout
from fastgw.cp.rollout.selection import Selection
from fastgw.cp.rollout.states import RolloutState
from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.wire.messages import Answered

BASE, TRIED = 7, 8


def a_rollout(**more: Any) -> Rollout:
    """One of version 8 over 7, in the zone canary, that began at 1000 s."""
    given: dict[str, Any] = {
        "id": "0123abcd",
        "state": RolloutState.APPLYING,
        "started_at": 1000.0,
        "started_by": "test",
        "selection": Selection({"zone": "canary"}),
        "limits": Limits(hold_s=100, timeout_s=30, max_5xx_rise=0.05, min_requests=20),
        "base_version": BASE,
        "base_digest": "b" * 64,
        "version": TRIED,
        "since": 1000.0,
    }
    return Rollout(**(given | more))


def node_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def a_data_plane(
    number: int,
    version: int,
    *,
    zone: str = "main",
    answered: tuple[int, int] | None = (0, 0),
    before: tuple[int, int] | None = (0, 0),
    **more: Any,
) -> DataPlaneRow:
    return DataPlaneRow(
        id=node_id(number),
        hostname=f"dp-{number}",
        ip="127.0.0.1",
        last_seen=1000,
        applied_version=version,
        wanted_version=version,
        answered=None if answered is None else Answered(*answered),
        answered_before=None if before is None else Answered(*before),
        labels={"zone": zone},
        connected=True,
        **more,
    )


def a_canary(number: int, version: int, **more: Any) -> DataPlaneRow:
    return a_data_plane(number, version, zone="canary", **more)
