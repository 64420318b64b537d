"""`/debug/node/log-level` and `/cache`: what Kong's operators reach for when something is odd.

A changed level holds for a time and then goes back by itself, so that nobody fills a disk by forgetting.
There is no cache of entities here: every answer of the Admin API is read from the database, so that none is
ever found and purging is done before it is asked for. Source: kong/api/routes/{debug,cache}.lua.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

from starlette.responses import Response

from fastgw.cp.admin.answers import json_response, message, not_found
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.obs import logs

_DEFAULT_S = 60


class _LogLevel:
    def __init__(self) -> None:
        self._configured: str | None = None
        """What to go back to, while another level holds."""
        self._end: asyncio.TimerHandle | None = None

    async def read(self, call: Call) -> Response:
        return json_response({"message": f"log level: {logs.level()}"})

    async def change(self, call: Call) -> Response:
        level, given = call.captured[0], call.arguments.get("timeout", str(_DEFAULT_S))
        if level not in logs.LEVELS:
            raise message(400, f"unknown log level: {level}")
        if not isinstance(given, str) or not re.fullmatch("[0-9]{1,9}", given):
            raise message(400, "timeout must be greater than or equal to 0")
        if level == logs.level():
            return json_response({"message": f"log level is already {level}"})
        if self._configured is None:
            self._configured = logs.level()
        if self._end is not None:
            self._end.cancel()
        # Without a time it holds until the process ends.
        self._end = asyncio.get_running_loop().call_later(int(given), self._go_back) if int(given) else None
        logs.set_level(level)
        logs.get_logger(__name__).notice("%s: the log level is %s for %s s", call.actor, level, given)
        return json_response({"message": "log level changed"})

    def _go_back(self) -> None:
        if self._configured is not None:
            logs.set_level(self._configured)
        self._configured = self._end = None


async def _find(call: Call) -> Response:
    raise not_found()


async def _purge(call: Call) -> Response:
    return Response(status_code=204)


def debug_resources() -> Iterator[Resource]:
    level = _LogLevel()
    yield Resource("/debug/node/log-level", {"GET": level.read})
    yield Resource("/debug/node/log-level/{level}", {"PUT": level.change})
    yield Resource("/cache", {"DELETE": _purge})
    yield Resource("/cache/{key}", {"GET": _find, "DELETE": _purge})
