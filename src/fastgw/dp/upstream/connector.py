"""Opens upstream connections in tasks, with the service's deadline and number of tries.

The hot path asks (`open`) and goes on; the task reports to the exchange: connected, or why not. An exchange
that no longer waits (its client has gone) cancels the task, and a connection that opened all the same is
closed here. A connection over TLS counts as open once its handshake is done.
"""

from __future__ import annotations

import asyncio
import errno
import ssl
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from fastgw.dp.upstream.dns import ResolveError
from fastgw.dp.upstream.resolver import Resolver
from fastgw.errors import CertificateError
from fastgw.obs.logs import Logger
from fastgw.tls.client import UpstreamContexts, UpstreamTls, explain

if TYPE_CHECKING:
    from fastgw.dp._exchange import Exchange
    from fastgw.dp._runtime import ServiceEntry
    from fastgw.dp._upstream import Pool, UpstreamConnection

#: Pools kept, of configured names and of those that clients choose (preserve_host over TLS); beyond it a
#: new name gets a pool that keeps no connection.
MAX_POOLS: Final = 16384
#: How long closed connections get to give their descriptors back, in seconds.
CLOSING_S: Final = 0.01


class MakePool(Protocol):
    def __call__(self, host: str, port: int, tls: UpstreamTls | None, *, keeps_idle: bool) -> Pool: ...


class Connector:
    """The worker's pools, and the tasks that fill them.

    Args:
        contexts: of TLS towards upstreams.
        verifies: whether services are verified that leave tls_verify null.
        verify_depth: of services that leave tls_verify_depth null.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_pool: MakePool,
        log: Logger,
        *,
        resolver: Resolver,
        contexts: UpstreamContexts,
        verifies: bool,
        verify_depth: int,
    ) -> None:
        self._loop = loop
        self._make_pool = make_pool
        self._log = log
        self._resolver = resolver
        self._contexts = contexts
        self._verifies = verifies
        self._verify_depth = verify_depth
        self._turn = 0
        # A pool lives as long as a generation, an exchange or one of its connections knows it.
        self._pools: weakref.WeakValueDictionary[tuple[str, int, UpstreamTls | None], Pool] = (
            weakref.WeakValueDictionary()
        )

    def pool_for(self, service: ServiceEntry, server_name: bytes | None = None) -> Pool:
        """Return the pool of connections that may serve *service*; it outlives generations.

        Args:
            server_name: what a TLS upstream is called where the client says so; None: the service's host.
        """
        host = service.host.decode()
        tls = None
        if service.is_tls:
            tls = UpstreamTls(
                server_name=host.strip("[]")
                if server_name is None
                else server_name.decode("latin-1").strip("[]"),
                is_verified=self._verifies if service.tls_verify is None else service.tls_verify,
                verify_depth=(
                    self._verify_depth if service.tls_verify_depth is None else service.tls_verify_depth
                ),
                authorities=service.authorities,
                client=service.client_pairs,
            )
        key = (host, service.port, tls)
        pool = self._pools.get(key)
        if pool is None:
            is_kept = server_name is None or len(self._pools) < MAX_POOLS
            pool = self._make_pool(*key, keeps_idle=is_kept)
            if is_kept:
                self._pools[key] = pool
        return pool

    def open(self, pool: Pool, exchange: Exchange) -> asyncio.Task[None]:
        """Open a connection for *exchange* in a task of its own, and return the task."""
        return self._loop.create_task(self._open(pool, exchange))

    def close_idle(self) -> None:
        """Close all idle connections: at the worker's end."""
        for pool in tuple(self._pools.values()):
            pool.close_idle()

    def close_unused(self) -> None:
        """Close idle connections of services that no generation has any more.

        What clients name (preserve_host over TLS) is nobody's from one request to the next: it expires.
        """
        for (host, _, tls), pool in tuple(self._pools.items()):
            is_named = tls is not None and tls.server_name != host.strip("[]")
            if not pool.is_used and not is_named:
                pool.close_idle()

    async def _open(self, pool: Pool, exchange: Exchange) -> None:
        try:
            await self._try_addresses(pool, exchange)
        except Exception:
            # A fault of ours: nobody waits for this task, so the exchange would wait for ever.
            self._log.exception("upstream %s:%d: opening a connection failed", pool.host, pool.port)
            exchange.on_connect_failed("refused")

    async def _try_addresses(self, pool: Pool, exchange: Exchange) -> None:
        try:
            addresses = await self._resolver.addresses(pool.host)
            context = None if pool.tls is None else self._contexts.context_for(pool.tls)
        except ResolveError as error:
            self._log.error("upstream %s:%d: %s", pool.host, pool.port, error)
            exchange.on_connect_failed("resolve")
            return
        except CertificateError as error:
            self._log.error("upstream %s:%d: %s", pool.host, pool.port, error)
            exchange.on_connect_failed("refused")
            return
        timeout_s = exchange.connect_timeout_s
        while True:
            # Round-robin over the addresses, as Kong does without an upstream entity.
            address = addresses[self._turn % len(addresses)]
            self._turn += 1
            try:
                async with asyncio.timeout(timeout_s):
                    connection = await self._connect(pool, address, context)
            except TimeoutError:
                reason = "timeout"
                self._log.error(
                    "upstream %s:%d: no connection to %s in %g s", pool.host, pool.port, address, timeout_s
                )
            # ValueError: the name can be none that TLS knows.
            except (OSError, ssl.CertificateError, ValueError) as error:
                reason = "refused"
                self._log.error("upstream %s:%d: %s: %s", pool.host, pool.port, address, _reason(error))
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

    async def _connect(self, pool: Pool, address: str, context: ssl.SSLContext | None) -> UpstreamConnection:
        make: Callable[[], UpstreamConnection] = lambda: pool.make_connection(context)  # noqa: E731
        try:
            _, connection = await self._loop.create_connection(make, address, pool.port)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            # Idle connections are worth less than this one; the loop closes them in a turn of its own.
            self.close_idle()
            await asyncio.sleep(CLOSING_S)
            _, connection = await self._loop.create_connection(make, address, pool.port)
        handshake = connection.handshake
        if handshake is not None:
            try:
                await handshake
            except BaseException:
                connection.give_up()
                raise
        return connection


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    return explain(error)
