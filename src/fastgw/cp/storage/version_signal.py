"""The version that this process knows to stand, and those who wait for the next one.

Belongs to one event loop. `advance` is for commits and announcements; `observe` is for what was read from the
database, the only source that may also go back (a database restored from a backup). Since a number may be
given a second time after that, a version goes with the time at which it was written, where that is known.
"""

from __future__ import annotations

import asyncio


class VersionSignal:
    __slots__ = ("_changed", "_is_closed", "_steps_back", "at", "version")

    def __init__(self) -> None:
        self.version = 0
        self.at: float | None = None
        self._changed = asyncio.Event()
        self._steps_back = 0
        self._is_closed = False

    def advance(self, version: int, at: float | None = None) -> None:
        """Note that *version* stands, unless a later one is known; wake who waits."""
        if version > self.version or (version == self.version and at not in (None, self.at)):
            self.version, self.at = version, at
            self._wake()

    def observe(
        self, version: int, at: float | None = None, *, known_before: tuple[int, float | None]
    ) -> bool:
        """Note a version that was read; True when the database went back.

        Args:
            known_before: `known` from before the read: a commit may have overtaken it.
        """
        if version >= known_before[0]:
            self.advance(version, at if self.known == known_before else None)
            return False
        self.version, self.at = version, at
        self._steps_back += 1
        self._wake()
        return True

    @property
    def known(self) -> tuple[int, float | None]:
        return self.version, self.at

    def is_replaced(self, version: int, at: float | None) -> bool:
        """Whether another version of this number stands."""
        return version == self.version and at is not None and self.at not in (None, at)

    async def wait_above(self, version: int, timeout_s: float, at: float | None = None) -> int:
        """Wait for a version above *version*, a step back, `close`, or the timeout; return what stands.

        Args:
            at: of *version*; another one of that number ends the wait, too.
        """
        steps_back = self._steps_back
        try:
            async with asyncio.timeout(timeout_s):
                while (
                    self.version <= version
                    and not self.is_replaced(version, at)
                    and self._steps_back == steps_back
                    and not self._is_closed
                ):
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.version

    def close(self) -> None:
        """Let everyone go, now and later."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
