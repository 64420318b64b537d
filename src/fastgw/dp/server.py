"""One worker's proxy: options in, connections served, generations swapped.

`prepare` maps and checks a generation beside the live one, `commit` swaps one reference; requests in
progress end on the generation that they began with. A base that several generations lie on is mapped once,
and unmapped with the last of them. Everything that is dear to rebuild (pools, counters) lives here, outside
the generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from fastgw.dp._core import Listener, ProxyCore
from fastgw.dp._downstream import Downstream
from fastgw.dp._metrics import MetricsSegment
from fastgw.dp._phases import Phases
from fastgw.dp._runtime import BaseRuntime, Entries, Runtime
from fastgw.dp._upstream import Pool
from fastgw.dp._wheel import TimerWheel
from fastgw.dp.accepting import Acceptor
from fastgw.dp.control import ListenerKind
from fastgw.dp.plugins.base import Plugin
from fastgw.dp.plugins.registry import BUILTIN, Plugins
from fastgw.dp.upstream.connector import Connector
from fastgw.dp.upstream.dns import NameServers
from fastgw.dp.upstream.resolver import Resolver, ResolverOptions
from fastgw.errors import ImageError
from fastgw.obs.accesslog import AccessLog
from fastgw.obs.logs import get_logger
from fastgw.tls.client import SYSTEM, UpstreamContexts
from fastgw.tls.server import CertificateStore

if TYPE_CHECKING:
    from fastgw.settings import Settings

#: Period of the timer wheel, in seconds: `TICK_MS` of `_wheel.pxd`.
TICK_S: Final = 0.1

#: Entries of a base that is gone: all 100,000 of a table at once would hold the loop for 20 ms.
_RELEASED_PER_TURN: Final = 1000

#: Where `struct tcp_info` has that field: eight bytes, then five 32-bit words, before it.
_TCPI_SACKED: Final = struct.Struct("=28xI")

_log = get_logger("dp.worker")


class ProxyOptions(msgspec.Struct, frozen=True):
    """What the proxy needs of the settings; plain data, so that it can travel to a worker."""

    headers: frozenset[str]
    upstream_request_id: bool = True
    access_log_json: bool = False
    debug_fields: bool = False
    head_bytes: int = 32768
    request_line_bytes: int = 8192
    head_fields: int = 100
    field_bytes: int = 8192
    underscores: bool = True
    body_bytes: int = 0
    head_timeout_ms: int = 10_000
    body_timeout_ms: int = 60_000
    body_rate: int = 1024
    send_timeout_ms: int = 60_000
    keepalive_timeout_ms: int = 75_000
    keepalive_requests: int = 10_000
    connections: int = 16_384
    upstream_idle_connections: int = 512
    upstream_keepalive_requests: int = 10_000
    upstream_idle_timeout_ms: int = 60_000
    upstream_retire_ms: int = 10_000
    trusted_ips: tuple[str, ...] = ()
    real_ip_header: str = "X-Real-IP"
    real_ip_recursive: bool = False
    upstream_verify: bool = False
    upstream_verify_depth: int = 1
    upstream_trusted: str = SYSTEM
    resolver: ResolverOptions = ResolverOptions()

    @classmethod
    def from_settings(cls, settings: Settings) -> ProxyOptions:
        return cls(
            headers=settings.headers,
            debug_fields=settings.allow_debug_header,
            access_log_json=settings.proxy_access_log.endswith(" json"),
            upstream_request_id="x-kong-request-id" in settings.headers_upstream,
            head_bytes=settings.proxy_head_bytes,
            request_line_bytes=settings.proxy_request_line_bytes,
            head_fields=settings.proxy_head_fields,
            field_bytes=settings.proxy_field_bytes,
            underscores=settings.nginx_http_underscores_in_headers,
            body_bytes=settings.nginx_http_client_max_body_size,
            head_timeout_ms=int(_ms(settings.nginx_http_client_header_timeout)),
            body_timeout_ms=int(_ms(settings.nginx_http_client_body_timeout)),
            body_rate=settings.proxy_body_rate,
            send_timeout_ms=int(_ms(settings.nginx_http_send_timeout)),
            keepalive_timeout_ms=int(_ms(settings.nginx_http_keepalive_timeout)),
            keepalive_requests=settings.nginx_http_keepalive_requests,
            connections=settings.worker_connections,
            upstream_idle_connections=settings.upstream_keepalive_pool_size,
            upstream_keepalive_requests=settings.upstream_keepalive_max_requests,
            upstream_idle_timeout_ms=int(_ms(settings.upstream_keepalive_idle_timeout)),
            trusted_ips=settings.trusted_ips,
            real_ip_header=settings.real_ip_header,
            real_ip_recursive=settings.real_ip_recursive,
            upstream_verify=settings.nginx_proxy_proxy_ssl_verify,
            upstream_verify_depth=settings.nginx_proxy_proxy_ssl_verify_depth,
            upstream_trusted=settings.nginx_proxy_proxy_ssl_trusted_certificate,
            resolver=ResolverOptions(
                servers=settings.dns_resolver,
                valid_ttl_s=settings.dns_valid_ttl,
                stale_ttl_s=settings.dns_stale_ttl,
                not_found_ttl_s=settings.dns_not_found_ttl,
                error_ttl_s=settings.dns_error_ttl,
                names=settings.dns_cache_size,
            ),
        )


class ProxyServer:
    """The proxy of one worker process.

    Args:
        metrics_fd: the worker's counters (`_metrics.SEGMENT_BYTES` long); stays the caller's.
        access_log: None when it is off, which then costs nothing per request.
        certificates: of the ssl listeners; None when there are none.
        plugins: behaviour by name.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        options: ProxyOptions,
        metrics_fd: int,
        access_log: AccessLog | None,
        certificates: CertificateStore | None = None,
        plugins: Mapping[str, type[Plugin]] = BUILTIN,
    ) -> None:
        self._loop = loop
        self._plugins = Plugins(plugins)
        self._certificates = certificates
        self._access_log = access_log
        self._metrics = MetricsSegment(metrics_fd)
        self._wheel = TimerWheel(_now_ms())
        self._core = ProxyCore(loop, options, self._wheel, self._metrics, access_log, _log)
        self._name_servers = NameServers(loop, options.resolver.servers)
        self._resolver = Resolver(loop, self._name_servers.ask, options.resolver)
        self._connector = Connector(
            loop,
            functools.partial(Pool, self._core),
            _log,
            resolver=self._resolver,
            contexts=UpstreamContexts(options.upstream_trusted),
            verifies=options.upstream_verify,
            verify_depth=options.upstream_verify_depth,
        )
        self._core.set_connector(self._connector)
        self._core.set_phases(Phases(self._core))
        self._bases: weakref.WeakValueDictionary[str, BaseRuntime] = weakref.WeakValueDictionary()
        self._staged: BaseRuntime | None = None
        self._acceptor = Acceptor(loop, _log)
        self._core.set_room_hooks(self._on_full, self._on_room)
        self._tick_handle: asyncio.TimerHandle | None = None
        self._retire_after_s = options.upstream_retire_ms / 1000
        self._sweep_handle: asyncio.TimerHandle | None = None

    def stage(self, base_fd: int, checksum: str) -> None:
        """Map and check a base ahead of the generations on it; *base_fd* stays the caller's.

        It is kept until a generation on it is committed, or another is staged.
        """
        self._staged = self._base(base_fd, checksum)

    def prepare(self, base_fd: int, overlay_fd: int = -1, *, checksum: str = "") -> Runtime:
        """Map and check a generation beside the live one; the descriptors stay the caller's.

        Args:
            overlay_fd: -1: the base is all.
            checksum: of the base: one that is mapped already is used again. Empty: it is not known.
        Raises:
            ImageError: an image is damaged, of another format, or another than was named.
        """
        return Runtime(self._base(base_fd, checksum), overlay_fd)

    def commit(self, runtime: Runtime) -> None:
        """Give *runtime* to all requests that begin from now on."""
        self._core.swap(runtime)
        if self._sweep_handle is None:
            # Not at once: the new generation takes up what it needs of the old one's as requests come.
            self._sweep_handle = self._loop.call_later(self._retire_after_s, self._sweep)
        if self._certificates is not None:
            self._certificates.serve(runtime.certificates)
        if self._staged is runtime.base:
            self._staged = None

    @property
    def current(self) -> Runtime | None:
        """The generation that new requests get."""
        return self._core.current

    @property
    def options(self) -> ProxyOptions:
        """Those in force."""
        options: ProxyOptions = self._core.options
        return options

    def generations_live(self) -> int:
        """How many generations are mapped: the live, the prepared, and those that requests still hold."""
        return self._metrics.generations_live

    def adjust(self, options: ProxyOptions) -> None:
        """Go by those of *options* that can change while connections are served."""
        self._core.adjust(options)

    async def listen(self, sockets: Sequence[tuple[socket.socket, ListenerKind]]) -> None:
        """Accept on listening sockets, each with what clients speak there."""
        self._tick()
        for sock, kind in sockets:
            name = sock.getsockname()
            port = name[1] if isinstance(name, tuple) else 0
            if kind.is_tls and self._certificates is None:
                raise ValueError("an ssl listener needs certificates")
            listener = Listener(
                b"https" if kind.is_tls else b"http",
                port,
                self._certificates if kind.is_tls else None,
                kind.takes_proxy_header,
            )
            factory = functools.partial(Downstream, self._core, listener)
            await self._acceptor.add(sock, factory, _backlog_of(sock))

    async def drain(self, deadline_s: float, idle_s: float = 0.0) -> None:
        """Accept no more, finish what is in progress, close the rest when the deadline has passed.

        Args:
            idle_s: how long idle connections are kept for one more request, whose answer tells them to
                close: closing them first would cut a request that is on its way.
        """
        drained = asyncio.Event()
        self._core.begin_drain(drained.set)
        await self._acceptor.close(self._core.connections_limit - len(self._core.downstreams))
        for _ in range(2):
            await asyncio.sleep(0)  # connections that were just accepted are made in a turn of their own
        if self._core.downstreams:
            drained.clear()
        else:
            drained.set()
        idle_s = min(idle_s, deadline_s)
        if not await _came(drained, idle_s):
            self._core.begin_closing_idle()
            for connection in tuple(self._core.downstreams):
                connection.close_idle()
            await _came(drained, deadline_s - idle_s)
        for connection in tuple(self._core.downstreams):
            connection.end()
        self._connector.close_idle()
        await self._resolver.close()
        await self._name_servers.close()
        for handle in (self._tick_handle, self._sweep_handle):
            if handle is not None:
                handle.cancel()

    def _base(self, fd: int, checksum: str) -> BaseRuntime:
        base = self._bases.get(checksum)
        if base is None:
            base = BaseRuntime(fd, self._metrics, self._plugins)
            if checksum and base.checksum != checksum:
                raise ImageError(f"the base is {base.checksum}, not {checksum}")
            self._bases[base.checksum] = base
            weakref.finalize(base, _take_over, self._loop, base.entries).atexit = False
        return base

    def _on_full(self) -> None:
        """Leave new clients in the backlog, and close what is idle to make room for them."""
        self._acceptor.pause()
        # More than the limit are there where it was lowered.
        beyond = len(self._core.downstreams) - self._core.connections_limit
        shed, wanted = 0, beyond + max(1, self._core.connections_limit // 16)
        for connection in tuple(self._core.downstreams):
            shed += connection.shed()
            if shed == wanted:
                break
        if self._acceptor.pauses_total == 1:
            # Once: a worker that is full for long would say it at every turn.
            _log.warning(
                "%d connections, as many as there may be: new ones wait, idle ones are closed",
                self._core.connections_limit,
            )

    def _on_room(self) -> None:
        self._acceptor.resume()

    def _sweep(self) -> None:
        self._sweep_handle = None
        self._connector.close_unused()

    def _tick(self) -> None:
        self._wheel.run(_now_ms())
        if self._access_log is not None:
            self._metrics.log_lines_dropped = self._access_log.dropped_total
        self._tick_handle = self._loop.call_later(TICK_S, self._tick)


def _take_over(loop: asyncio.AbstractEventLoop, entries: Entries) -> None:
    """Let go of what a base has left, in whatever thread the last one to use it was."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(_release, loop, entries)


def _release(loop: asyncio.AbstractEventLoop, entries: Entries) -> None:
    if not entries.release(_RELEASED_PER_TURN):
        loop.call_soon(_release, loop, entries)


async def _came(event: asyncio.Event, deadline_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            await event.wait()
    return event.is_set()


def _now_ms() -> int:
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000


def _backlog_of(sock: socket.socket) -> int:
    """The backlog of a listening TCP socket: the kernel tells it in the field `tcpi_sacked`."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return socket.SOMAXCONN
    backlog: int = _TCPI_SACKED.unpack_from(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64))[0]
    return backlog


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
