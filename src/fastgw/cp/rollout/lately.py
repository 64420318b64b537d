"""What a data plane has answered in the last minutes: the newest count, and one from some minutes before."""

from __future__ import annotations

from collections import deque
from typing import Final

from fastgw.wire.messages import Answered

WINDOW_S: Final = 600.0
_SPACING_S: Final = 25.0
"""Counts that come closer together are not kept each: a window has some two dozen."""


class Lately:
    """The counts of one data plane, oldest first."""

    def __init__(self) -> None:
        self.newest: Answered | None = None
        self._kept: deque[tuple[float, Answered]] = deque()

    @property
    def oldest(self) -> Answered | None:
        return self._kept[0][1] if self._kept else None

    def add(self, answered: Answered, now_s: float) -> None:
        """Take the newest count. *now_s* is monotonic."""
        if self.newest is not None and answered.requests < self.newest.requests:
            self._kept.clear()  # it counts anew: another process
        self.newest = answered
        if not self._kept or now_s - self._kept[-1][0] >= _SPACING_S:
            self._kept.append((now_s, answered))
        while len(self._kept) > 1 and now_s - self._kept[0][0] > WINDOW_S:
            self._kept.popleft()


def difference(now: Answered, earlier: Answered) -> Answered:
    """What was answered between two counts of one data plane."""
    if now.requests < earlier.requests:
        return now  # it has begun to count anew
    return Answered(now.requests - earlier.requests, max(0, now.server_errors - earlier.server_errors))
