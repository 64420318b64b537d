"""Names to addresses, without blocking the loop.

The system's resolver runs in the loop's thread pool. An answer is kept for a few seconds, since it comes
without a time to live; lookups of one name at the same moment share one query. IP literals need none.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Final

#: How long an answer is used without asking again, in seconds.
ANSWER_TTL_S: Final = 5.0
#: How long one query may take.
QUERY_DEADLINE_S: Final = 10.0
#: Names kept; beyond it the oldest go.
MAX_NAMES: Final = 4096


class ResolveError(Exception):
    """The name has no address, or the resolver gave none in time."""


class Resolver:
    """Addresses by name, for one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        self._loop = loop
        self._clock = clock
        self._answers: dict[str, tuple[float, tuple[str, ...]]] = {}
        self._queries: dict[str, asyncio.Task[tuple[str, ...]]] = {}

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of *name* (at least one), in the resolver's order.

        Raises:
            ResolveError: no address, or no answer in time.
        """
        try:
            return (str(ipaddress.ip_address(name.strip("[]"))),)
        except ValueError:
            pass
        known = self._answers.get(name)
        if known is not None and known[0] > self._clock():
            return known[1]
        query = self._queries.get(name)
        if query is None:
            query = self._loop.create_task(self._query(name))
            self._queries[name] = query
            query.add_done_callback(lambda _: self._queries.pop(name, None))
        # One waiter that gives up must not take the answer from the others.
        return await asyncio.shield(query)

    async def _query(self, name: str) -> tuple[str, ...]:
        try:
            async with asyncio.timeout(QUERY_DEADLINE_S):
                found = await self._loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except TimeoutError:
            raise ResolveError(f"{name}: the resolver gave no answer in {QUERY_DEADLINE_S:g} s") from None
        except OSError as error:
            raise ResolveError(f"{name}: {error.strerror or error}") from None
        except UnicodeError as error:  # a label that is empty or longer than 63 bytes
            raise ResolveError(f"{name}: {error}") from None
        # Duplicates come once per socket type and family; the order is the resolver's preference.
        addresses = tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        if not addresses:
            raise ResolveError(f"{name}: no address")
        while len(self._answers) >= MAX_NAMES:
            self._answers.pop(next(iter(self._answers)))
        self._answers[name] = (self._clock() + ANSWER_TTL_S, addresses)
        return addresses
