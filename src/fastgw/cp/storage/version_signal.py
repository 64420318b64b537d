"""The version that this process knows to stand, and those who wait for the next one.

Belongs to one event loop. `advance` is for commits and announcements; `observe` is for what was read from the
database, the only source that may also go back (a database restored from a backup).
"""

from __future__ import annotations

import asyncio


class VersionSignal:
    __slots__ = ("_changed", "_is_closed", "_steps_back", "version")

    def __init__(self) -> None:
        self.version = 0
        self._changed = asyncio.Event()
        self._steps_back = 0
        self._is_closed = False

    def advance(self, version: int) -> None:
        """Note that *version* stands, unless a later one is known; wake who waits."""
        if version > self.version:
            self.version = version
            self._wake()

    def observe(self, version: int, *, known_before: int) -> bool:
        """Note a version that was read; True when the database went back.

        Args:
            known_before: `version` of this object from before the read: a commit may have overtaken it.
        """
        if version >= known_before:
            self.advance(version)
            return False
        self.version = version
        self._steps_back += 1
        self._wake()
        return True

    async def wait_above(self, version: int, timeout_s: float) -> int:
        """Wait for a version above *version*, a step back, `close`, or the timeout; return what stands."""
        steps_back = self._steps_back
        try:
            async with asyncio.timeout(timeout_s):
                while self.version <= version and self._steps_back == steps_back and not self._is_closed:
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
