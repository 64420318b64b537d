"""Names to addresses, from memory wherever an answer lives: nothing here waits that need not.

An answer is fresh for its time to live, and stale for some time after that: it is still given, while one
question in the background asks for a newer one. So only the first use of a name waits. A failed question
leaves a stale answer in its place, unless it says that the name is gone. That a name has no address is
remembered, too. Questions for one name at the same moment are one. IP literals need none.

Source: proxying reference §3.4 (Kong's rules and defaults); RFC 8767 (stale answers), RFC 2308 (negative).
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

import msgspec

from fastgw.dp.upstream.dns import Found, ResolveError

#: An answer with a shorter life (entries of /etc/hosts have none) is used for this long, in seconds.
LEAST_TTL_S: Final = 1.0


class ResolverOptions(msgspec.Struct, frozen=True):
    """How long answers are used, in seconds."""

    servers: tuple[str, ...] = ()
    """Empty: those of resolv.conf."""
    valid_ttl_s: float | None = None
    """In place of every answer's own time to live."""
    stale_ttl_s: float = 3600
    not_found_ttl_s: float = 30
    """Of "no such name" and "no address"."""
    error_ttl_s: float = 1
    """Of any other failure; also how long a stale answer is used before the next attempt."""
    names: int = 10_000
    """Names kept; the one that was not used for longest goes."""


class _Answer(NamedTuple):
    addresses: tuple[str, ...]
    """Empty for a failure."""
    error: ResolveError | None
    fresh_until_s: float
    stale_until_s: float


class Resolver:
    """Addresses by name, for one event loop.

    Args:
        ask: one question to the name servers (`dns.NameServers.ask`).
        clock: monotonic seconds.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Callable[[str], Awaitable[Found]],
        options: ResolverOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._options = options
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._questions: dict[str, asyncio.Task[_Answer]] = {}

    async def addresses(self, name: str) -> tuple[str, ...]:
        """Return the addresses of *name* (at least one), in the server's order.

        Raises:
            ResolveError: no address, or no answer in time.
        """
        try:
            return (str(ipaddress.ip_address(name.strip("[]"))),)
        except ValueError:
            pass
        name = name.lower()
        answer = self._answers.pop(name, None)
        now_s = self._clock()
        if answer is not None:
            self._answers[name] = answer  # the newest use stands last
        if answer is None or now_s >= max(answer.fresh_until_s, answer.stale_until_s):
            # One waiter that gives up must not take the answer from the others.
            answer = await asyncio.shield(self._question(name))
        elif now_s >= answer.fresh_until_s:
            self._question(name)
        if answer.error is not None:
            # A new one: an exception that is raised again and again grows by each traceback.
            error = answer.error
            raise ResolveError(str(error), is_name_error=error.is_name_error, is_not_found=error.is_not_found)
        return answer.addresses

    async def close(self) -> None:
        """Give up questions in progress."""
        questions = tuple(self._questions.values())
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)

    def _question(self, name: str) -> asyncio.Task[_Answer]:
        """The question that is being asked about *name*, begun if there is none."""
        question = self._questions.get(name)
        if question is None:
            question = self._questions[name] = self._loop.create_task(self._renew(name))
            question.add_done_callback(lambda _: self._questions.pop(name, None))
        return question

    async def _renew(self, name: str) -> _Answer:
        options = self._options
        try:
            found = await self._ask(name)
        except ResolveError as error:
            answer = self._failed(name, error)
        else:
            ttl_s = found.ttl_s if options.valid_ttl_s is None else options.valid_ttl_s
            fresh_until_s = self._clock() + max(ttl_s, LEAST_TTL_S)
            answer = _Answer(found.addresses, None, fresh_until_s, fresh_until_s + options.stale_ttl_s)
        self._answers.pop(name, None)
        while len(self._answers) >= options.names:
            self._answers.pop(next(iter(self._answers)))
        self._answers[name] = answer
        return answer

    def _failed(self, name: str, error: ResolveError) -> _Answer:
        now_s = self._clock()
        known = self._answers.get(name)
        if (
            known is not None
            and known.error is None
            and now_s < known.stale_until_s
            and not error.is_name_error
        ):
            return known._replace(fresh_until_s=now_s + self._options.error_ttl_s)
        ttl_s = self._options.not_found_ttl_s if error.is_not_found else self._options.error_ttl_s
        return _Answer((), error, now_s + ttl_s, 0)
