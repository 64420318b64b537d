"""A data plane that serves a declarative file: read at the start and at SIGHUP, applied like any snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from fastgw.dp.sync import Applied, IncomingSnapshot, Refused
from fastgw.errors import DeclarativeError
from fastgw.model.declarative import load_declarative
from fastgw.model.snapshot import Snapshot
from fastgw.obs import logs

_log: Final = logs.get_logger("supervisor")


class DeclaredSource:
    """Takes the place of the link: its snapshots come from *path*, and their versions count the readings."""

    def __init__(
        self,
        path: Path,
        apply: Callable[[IncomingSnapshot], Awaitable[Applied | Refused]],
        *,
        flavor: str,
    ) -> None:
        self._path = path
        self._apply = apply
        self._flavor = flavor
        self._version = 0
        self._again = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    async def read(self) -> IncomingSnapshot:
        """Read the file, whole.

        Raises:
            DeclarativeError: with all faults of the file.
        """
        incoming = await asyncio.to_thread(_read, self._path, self._version + 1, self._flavor)
        self._version += 1
        return incoming

    async def begin(self, first: IncomingSnapshot) -> None:
        """Apply what was read at the start.

        Raises:
            DeclarativeError: it is refused: nothing could be served.
        """
        result = await self._apply(first)
        if isinstance(result, Refused):
            reasons = [("the whole file", str(fault.get("reason", fault))) for fault in result.faults]
            raise DeclarativeError(str(self._path), reasons)

    async def run(self) -> None:
        """Apply what each further reading gives; a file with faults changes nothing."""
        while True:
            await self._again.wait()
            self._again.clear()
            waiting, self._waiting = self._waiting, []
            try:
                await self._apply(await self.read())
            except DeclarativeError as error:
                _log.error("the declarative file is refused, what is served stays: %s", error)
            finally:
                for done in waiting:
                    if not done.done():
                        done.set_result(None)

    async def read_again(self) -> None:
        """Have `run` read the file anew; return when that is applied or refused."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self._again.set()
        await done


def _read(path: Path, version: int, flavor: str) -> IncomingSnapshot:
    snapshot = Snapshot.from_rows(version, load_declarative(path, flavor=flavor))
    return IncomingSnapshot(version, snapshot.digest, snapshot.pack())
