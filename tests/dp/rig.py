"""A real proxy in a thread, a scripted upstream, and raw client sockets: for tests of the byte path.

Everything waits on sockets with a deadline; the proxy is the one that workers run (`ProxyServer` on uvloop).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import uvloop

from fastgw.dp._metrics import SEGMENT_BYTES, read_segment
from fastgw.dp.control import ListenerKind
from fastgw.dp.plugins.base import Plugin
from fastgw.dp.server import ProxyOptions, ProxyServer
from fastgw.model.entities import ENTITIES
from fastgw.model.snapshot import Snapshot
from fastgw.model.validate import make_row
from fastgw.obs.accesslog import AccessLog
from fastgw.routing.compile import compile_snapshot
from fastgw.tls.server import CertificateStore
from tests.routing.snapshots import Row, kind_of

DEADLINE_S = 10.0
ALL_HEADERS = frozenset(
    {
        "server",
        "via",
        "x-kong-proxy-latency",
        "x-kong-upstream-latency",
        "x-kong-response-latency",
        "x-kong-request-id",
    }
)
T = TypeVar("T")


class Peer:
    """One end of a TCP connection, read with a deadline and up to a mark."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE_S)
        self.sock = sock
        self.unread = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.unread:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"closed before {mark!r}; got {self.unread!r}")
            self.unread += data
        end = self.unread.index(mark) + len(mark)
        taken, self.unread = self.unread[:end], self.unread[end:]
        return taken

    def read_exactly(self, size: int) -> bytes:
        while len(self.unread) < size:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"closed after {len(self.unread)} of {size} bytes")
            self.unread += data
        taken, self.unread = self.unread[:size], self.unread[size:]
        return taken

    def read_head(self) -> bytes:
        return self.read_until(b"\r\n\r\n")

    def read_answer(self) -> tuple[int, dict[str, str], bytes]:
        """Read one answer with Content-Length, chunks or neither; returns status, fields, body."""
        head = self.read_head().decode("latin-1")
        status_line, *lines = head[:-4].split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(self.read_until(b"\r\n"), 16):
                body += self.read_exactly(size)
                assert self.read_exactly(2) == b"\r\n"
            assert self.read_exactly(2) == b"\r\n"
        else:
            body = self.read_exactly(int(fields.get("content-length", "0")))
        return int(status_line.split(" ")[1]), fields, body

    def read_to_end(self) -> bytes:
        """Read until the other side closes; a reset counts as a close."""
        try:
            while data := self.sock.recv(65536):
                self.unread += data
        except ConnectionResetError:
            pass
        taken, self.unread = self.unread, b""
        return taken

    def is_closed(self) -> bool:
        return self.read_to_end() == b""

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()


class Upstream:
    """A listening socket whose connections the test plays by hand."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(DEADLINE_S)
        self.port: int = self.listener.getsockname()[1]
        self.peers: list[Peer] = []

    def accept(self) -> Peer:
        sock, _ = self.listener.accept()
        peer = Peer(sock)
        self.peers.append(peer)
        return peer

    def close(self) -> None:
        for peer in self.peers:
            peer.close()
        self.listener.close()


def image_of(
    services: list[dict[str, Any]],
    routes: list[dict[str, Any]],
    version: int = 1,
    plugins: list[dict[str, Any]] | None = None,
    served_plugins: frozenset[str] = frozenset(),
    others: Sequence[Row] = (),
) -> bytes:
    """Compile rows given as Admin API bodies; `service` and `route` of others are names.

    Args:
        others: whole rows of `tests.routing.snapshots`: certificates and what belongs to them.
    """
    now_s = int(time.time())
    rows = {
        "services": [make_row(ENTITIES["services"], body, now_s=now_s) for body in services],
        "routes": [],
        "plugins": [],
    }
    for other in others:
        rows.setdefault(kind_of(other), []).append(other)
    ids = {row["name"]: row["id"] for row in rows["services"]}
    for body in routes:
        linked = dict(body)
        if "service" in body:
            linked["service"] = {"id": ids[body["service"]]}
        rows["routes"].append(make_row(ENTITIES["routes"], linked, now_s=now_s))
    ids |= {row["name"]: row["id"] for row in rows["routes"]}
    for body in plugins or ():
        links: dict[str, Any] = {
            kind: {"id": ids[body[kind]]} for kind in ("service", "route") if kind in body
        }
        if body["name"] in served_plugins:
            # A test's own plugin has no schema.
            unset: dict[str, Any] = dict.fromkeys(("instance_name", "route", "service", "consumer"))
            rows["plugins"].append({**unset, "id": str(uuid.uuid4()), "enabled": True, **body, **links})
        else:
            rows["plugins"].append(make_row(ENTITIES["plugins"], body | links, now_s=now_s))
    snapshot = Snapshot.from_rows(version, rows)
    return compile_snapshot(snapshot, served_plugins=served_plugins)


class Proxy:
    """A `ProxyServer` on an event loop of its own."""

    def __init__(
        self,
        options: ProxyOptions,
        access_log: AccessLog | None = None,
        certificates: CertificateStore | None = None,
        *,
        takes_proxy_header: bool = False,
        plugin_classes: dict[str, type[Plugin]] | None = None,
    ) -> None:
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.metrics_fd = os.memfd_create("metrics")
        os.ftruncate(self.metrics_fd, SEGMENT_BYTES)
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        listeners = [(listener, ListenerKind(takes_proxy_header=takes_proxy_header))]
        if certificates is not None:
            listener = socket.create_server(("127.0.0.1", 0))
            self.tls_port: int = listener.getsockname()[1]
            listeners.append((listener, ListenerKind(True, takes_proxy_header)))

        async def start() -> ProxyServer:
            server = ProxyServer(
                self.loop, options, self.metrics_fd, access_log, certificates, plugin_classes or {}
            )
            await server.listen(listeners)
            return server

        self.server = self.call(start())
        self.clients: list[Peer] = []

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(DEADLINE_S)

    def on_loop(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        result: T = self.call(run())
        return result

    def apply(self, image: bytes) -> None:
        fd = os.memfd_create("image")
        os.write(fd, image)
        try:
            self.on_loop(lambda: self.server.commit(self.server.prepare(fd)))
        finally:
            os.close(fd)

    def client(self) -> Peer:
        peer = Peer(socket.create_connection(("127.0.0.1", self.port)))
        self.clients.append(peer)
        return peer

    def tls_client(self, context: ssl.SSLContext, name: str | None = None, **how: Any) -> Peer:
        """Connect to the ssl listener and shake hands, asking for *name*."""
        sock = socket.create_connection(("127.0.0.1", self.tls_port), timeout=DEADLINE_S)
        try:
            peer = Peer(context.wrap_socket(sock, server_hostname=name, **how))
        except BaseException:
            sock.close()
            raise
        self.clients.append(peer)
        return peer

    def totals(self) -> dict[str, int]:
        with open(self.metrics_fd, "rb", closefd=False) as file:
            file.seek(0)
            return read_segment(file.read(1 << 16))["totals"]

    def routes(self) -> list[Any]:
        with open(self.metrics_fd, "rb", closefd=False) as file:
            file.seek(0)
            return list(read_segment(file.read(1 << 16))["routes"])

    def close(self) -> None:
        for peer in self.clients:
            peer.close()
        self.call(self.server.drain(0.5))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(DEADLINE_S)
        self.loop.close()
        os.close(self.metrics_fd)


@contextmanager
def running(
    services: list[dict[str, Any]] | None = None,
    routes: list[dict[str, Any]] | None = None,
    access_log: AccessLog | None = None,
    plugins: list[dict[str, Any]] | None = None,
    certificates: CertificateStore | None = None,
    takes_proxy_header: bool = False,
    plugin_classes: dict[str, type[Plugin]] | None = None,
    **options: Any,
) -> Iterator[tuple[Proxy, Upstream]]:
    """A proxy with one service `svc` on a scripted upstream and a route on `/`, unless told otherwise."""
    upstream = Upstream()
    proxy = Proxy(
        ProxyOptions(**({"headers": ALL_HEADERS} | options)),
        access_log,
        certificates,
        takes_proxy_header=takes_proxy_header,
        plugin_classes=plugin_classes,
    )
    try:
        if services is None:
            services = [{"name": "svc", "host": "127.0.0.1"}]
        for service in services:
            service.setdefault("port", upstream.port)
        if routes is None:
            routes = [{"name": "rt", "paths": ["/"], "service": "svc"}]
        served = frozenset(plugin_classes or ())
        proxy.apply(image_of(services, routes, plugins=plugins, served_plugins=served))
        yield proxy, upstream
    finally:
        proxy.close()
        upstream.close()
