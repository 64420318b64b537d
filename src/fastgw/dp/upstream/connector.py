"""Opens upstream connections in tasks, with the service's deadline and number of tries.

The hot path asks (`open`) and goes on; the task reports to the exchange: connected, or why not. An exchange
that no longer waits (its client has gone) cancels the task, and a connection that opened all the same is
closed here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastgw.dp.upstream.resolver import ResolveError, Resolver
from fastgw.obs.logs import Logger

if TYPE_CHECKING:
    from fastgw.dp._exchange import Exchange
    from fastgw.dp._upstream import Pool


class Connector:
    """The worker's pools, and the tasks that fill them."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make_pool: Callable[[str, int], Pool], log: Logger
    ) -> None:
        self._loop = loop
        self._make_pool = make_pool
        self._log = log
        self._resolver = Resolver(loop)
        self._turn = 0
        self._pools: dict[tuple[str, int], Pool] = {}

    def pool_for(self, host: bytes, port: int) -> Pool:
        """Return the pool of connections to this address; it outlives the generations that name it."""
        key = (host.decode(), port)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = self._make_pool(*key)
        return pool

    def open(self, pool: Pool, exchange: Exchange) -> asyncio.Task[None]:
        """Open a connection for *exchange* in a task of its own, and return the task."""
        return self._loop.create_task(self._open(pool, exchange))

    def close_idle(self) -> None:
        """Close all idle connections: at the worker's end."""
        for pool in self._pools.values():
            pool.close_idle()

    async def _open(self, pool: Pool, exchange: Exchange) -> None:
        try:
            await self._connect(pool, exchange)
        except Exception:
            # A fault of ours: nobody waits for this task, so the exchange would wait for ever.
            self._log.exception("upstream %s:%d: opening a connection failed", pool.host, pool.port)
            exchange.on_connect_failed("refused")

    async def _connect(self, pool: Pool, exchange: Exchange) -> None:
        try:
            addresses = await self._resolver.addresses(pool.host)
        except ResolveError as error:
            self._log.error("upstream %s:%d: %s", pool.host, pool.port, error)
            exchange.on_connect_failed("resolve")
            return
        timeout_s = exchange.connect_timeout_s
        while True:
            # Round-robin over the addresses, as Kong does without an upstream entity.
            address = addresses[self._turn % len(addresses)]
            self._turn += 1
            try:
                async with asyncio.timeout(timeout_s):
                    _, connection = await self._loop.create_connection(
                        pool.make_connection, address, pool.port
                    )
            except TimeoutError:
                reason = "timeout"
                self._log.error(
                    "upstream %s:%d: no connection to %s in %g s", pool.host, pool.port, address, timeout_s
                )
            except OSError as error:
                reason = "refused"
                self._log.error(
                    "upstream %s:%d: %s: %s", pool.host, pool.port, address, error.strerror or error
                )
            else:
                if not connection.is_closed:
                    exchange.on_connected(connection)
                    return
                # Between its opening and this line: a port forwarder with nothing behind it, a mail server.
                reason = "refused"
                self._log.error(
                    "upstream %s:%d: %s closed the connection, or spoke, before the request",
                    pool.host,
                    pool.port,
                    address,
                )
            if not exchange.try_again():
                exchange.on_connect_failed(reason)
                return
