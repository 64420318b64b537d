"""The way between what was published lately: the net changes from one of these snapshots to another.

Contract. What `between` gives, applied to the snapshot with the first digest, gives that with the second.
Both may be any of those that are kept, in either order: a step knows the lines before it and after it.

What is kept is bounded by its number and its bytes; the oldest steps go first. A step that is large by itself
is not kept, nor is anything before it: who is behind it gets the whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from fastgw.model.snapshot import Delta, Snapshot

STEPS_LIMIT: Final = 1000
BYTES_LIMIT: Final = 16 * 1024 * 1024
BETWEEN_LIMIT_BYTES: Final = 512 * 1024
"""More lines than this do not make a delta: packing them would hold the loop, and the whole is no dearer."""


Changes = Mapping[bytes, tuple[bytes | None, bytes | None]]
"""The lines before and after, by key; None: there is none."""


class _Step(NamedTuple):
    digest: str
    """Of the snapshot that it leads to."""
    changes: Changes
    size: int


def changes_of(before: Snapshot, delta: Delta) -> Changes:
    """What *delta* changes of *before*; some ten microseconds for each line."""
    return {key: (old, line) for key, line in delta.items() if (old := before.line(key)) != line}


class Steps:
    def __init__(self, *, steps_limit: int = STEPS_LIMIT, bytes_limit: int = BYTES_LIMIT) -> None:
        self._steps_limit = steps_limit
        self._bytes_limit = bytes_limit
        self._steps: deque[_Step] = deque()
        """The first one stands for where the second begins, and has no changes."""
        self._gone = 0
        """Steps that were kept once: the place of the first one that still is."""
        self._places: dict[str, int] = {}
        """Where each digest stands, counted from the first step ever; the newest, if it stands twice."""
        self._size = 0

    def add(self, before: str, after: str, changes: Changes) -> None:
        """Keep the step from the digest *before*, where the last one led, to *after*."""
        if not self._steps or self._steps[-1].digest != before:
            self._begin(before)
        size = sum([len(key) + len(old or b"") + len(new or b"") for key, (old, new) in changes.items()])
        if size > min(2 * BETWEEN_LIMIT_BYTES, self._bytes_limit):
            self._begin(after)
            return
        self._append(_Step(after, changes, size))
        while len(self._steps) > self._steps_limit or self._size > self._bytes_limit:
            self._forget_first()

    def between(self, base: str, digest: str) -> dict[bytes, bytes | None] | None:
        """The net changes from the snapshot *base* to the snapshot *digest*.

        None: one of them is not kept, or they are too far apart to be worth it.
        """
        start, end = self._places.get(base), self._places.get(digest)
        if start is None or end is None:
            return None
        net: dict[bytes, tuple[bytes | None, bytes | None]] = {}
        size = 0
        for changes in self._walk(start, end):
            for key, (old, new) in changes.items():
                known = net.get(key)
                net[key] = (old if known is None else known[0], new)
                size += len(new or b"") - (len(known[1] or b"") if known is not None else 0)
            if size > 2 * BETWEEN_LIMIT_BYTES:  # what cancels out may still come, but not for ever
                return None
        delta = {key: new for key, (old, new) in net.items() if old != new}
        if sum([len(key) + len(line or b"") for key, line in delta.items()]) > BETWEEN_LIMIT_BYTES:
            return None
        return delta

    def _walk(self, start: int, end: int) -> Iterator[Changes]:
        if start <= end:
            for place in range(start + 1, end + 1):
                yield self._steps[place - self._gone].changes
        else:
            for place in range(start, end, -1):
                changes = self._steps[place - self._gone].changes
                yield {key: (new, old) for key, (old, new) in changes.items()}

    def _begin(self, digest: str) -> None:
        """Forget everything; steps go on from *digest*."""
        self._gone += len(self._steps)
        self._steps.clear()
        self._places.clear()
        self._size = 0
        self._append(_Step(digest, {}, 0))

    def _append(self, step: _Step) -> None:
        self._places[step.digest] = self._gone + len(self._steps)
        self._steps.append(step)
        self._size += step.size

    def _forget_first(self) -> None:
        first = self._steps.popleft()
        if self._places[first.digest] == self._gone:
            del self._places[first.digest]
        self._gone += 1
        self._size -= first.size
        if self._steps:
            # What led to the first one cannot be walked any more.
            second = self._steps[0]
            self._size -= second.size
            self._steps[0] = _Step(second.digest, {}, 0)
