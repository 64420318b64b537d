"""Questions to the name servers, through c-ares: asynchronous, with the time to live of each answer.

c-ares reads /etc/resolv.conf (servers, search, ndots, timeouts) and notices its changes, looks into
/etc/hosts first, and checks that an answer belongs to its question. IPv4 addresses are asked for first, and
IPv6 ones only for a name that has none of those, as Kong does by default.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

import aiodns
import pycares

#: How long one question may take, whatever resolv.conf allows, in seconds.
QUESTION_DEADLINE_S: Final = 15.0

_NOT_FOUND: Final = (pycares.errno.ARES_ENOTFOUND, pycares.errno.ARES_ENODATA)


class ResolveError(Exception):
    """The name has no address, or no server gave one in time."""

    def __init__(self, message: str, *, is_name_error: bool = False, is_not_found: bool = False) -> None:
        super().__init__(message)
        self.is_name_error = is_name_error
        """The name does not exist."""
        self.is_not_found = is_not_found or is_name_error
        """The servers answered, and there is no address."""


class Found(NamedTuple):
    addresses: tuple[str, ...]
    """At least one, in the server's order."""
    ttl_s: float
    """The least of the records; 0 for an entry of /etc/hosts."""


class NameServers:
    """The name servers of resolv.conf, or given ones.

    Args:
        servers: addresses, each with a port if it is not 53; empty: those of resolv.conf.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, servers: Sequence[str] = ()) -> None:
        self._loop = loop
        self._servers = servers
        # Made with the first question: a data plane whose upstreams are addresses needs none.
        self._resolver: aiodns.DNSResolver | None = None

    async def ask(self, name: str) -> Found:
        """Ask for the addresses of *name*.

        Raises:
            ResolveError: none, or no answer in time.
        """
        resolver = self._resolver
        if resolver is None:
            resolver = self._resolver = aiodns.DNSResolver(self._servers or None, loop=self._loop)
        try:
            async with asyncio.timeout(QUESTION_DEADLINE_S):
                try:
                    return await _addresses(resolver, name, socket.AF_INET)
                except ResolveError as error:
                    if not error.is_not_found or error.is_name_error:
                        raise
                return await _addresses(resolver, name, socket.AF_INET6)
        except TimeoutError:
            raise ResolveError(f"{name}: no answer in {QUESTION_DEADLINE_S:g} s") from None

    async def close(self) -> None:
        """Give up questions in progress."""
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None


async def _addresses(resolver: aiodns.DNSResolver, name: str, family: socket.AddressFamily) -> Found:
    try:
        answer = await resolver.getaddrinfo(name, family=family, type=socket.SOCK_STREAM)
    except aiodns.error.DNSError as error:
        code, reason = error.args
        raise ResolveError(
            f"{name}: {reason}",
            is_name_error=code == pycares.errno.ARES_ENOTFOUND,
            is_not_found=code in _NOT_FOUND,
        ) from None
    except (ValueError, UnicodeError) as error:
        raise ResolveError(f"{name}: {error}", is_name_error=True) from None
    # The same address comes once for each protocol.
    addresses = tuple(dict.fromkeys(_text(node.addr[0]) for node in answer.nodes))
    if not addresses:
        raise ResolveError(f"{name}: no address", is_not_found=True)
    return Found(addresses, float(min(node.ttl for node in answer.nodes)))


def _text(address: str | bytes) -> str:
    return address.decode() if isinstance(address, bytes) else address
