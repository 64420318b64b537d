"""The data plane's link to its control plane: dialled, kept, and dialled again.

    resolve -> connect -> TLS, certificate -> upgrade -> Hello, Welcome -> linked -> broken -> wait ->
    resolve ...

Contract. `Sync.run` never gives up and never stops the data plane from serving: whatever breaks is logged
with its reason and the seconds until the next try. Snapshots are applied one at a time by the *apply* that
was given, and each is answered with what came of it. What is being applied when a link breaks goes on being
applied; the next link is told the result by its Hello or a Ping.

The one complication: the newest snapshot that waits is the only one that waits. The control plane sends the
next only after the verdict on the last, but a new link may bring one while the old link's is still being
applied.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from fastgw import __version__
from fastgw.dp.incoming import Applied, AppliedState, ApplyResult, IncomingSnapshot, NodeIdentity, Refused
from fastgw.dp.kong_link import KongConnection, KongNode, next_kong_delay
from fastgw.errors import CertificateError, CompileError, DeltaError, FastgwError, RemoteLinkError
from fastgw.model.served import SERVED_PLUGINS
from fastgw.obs.logs import Logger
from fastgw.settings import Settings
from fastgw.tls.cluster import Credentials, LinkTls
from fastgw.tls.handshake import alert_of, explain_handshake_failure
from fastgw.wire.link import Confirmed, DataEvent, DataLink, Ended, Received, TrustTold, Welcomed
from fastgw.wire.messages import Ack, Hello, Welcome
from fastgw.wire.pacing import CONNECT_TIMEOUT_S, HEALTHY_AFTER_S, next_delay
from fastgw.wire.pump import Pump, make_client_connection
from fastgw.wire.states import DataState

__all__ = [
    "Applied",
    "AppliedState",
    "ApplyResult",
    "IncomingSnapshot",
    "NodeIdentity",
    "Refused",
    "Sync",
    "SyncStatus",
]

UPGRADE_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0


@dataclass(slots=True)
class SyncStatus:
    """The link as /status shows it."""

    control_plane: str
    is_connected: bool = False
    since_s: float = field(default_factory=time.time)
    """Unix seconds since when it is so."""
    last_error: str | None = None
    """Why the last link broke or the last try failed."""
    retry_at_s: float | None = None
    """Unix seconds of the next try, while there is one to come."""
    received_version: int | None = None
    """The version of the last snapshot that has arrived whole, applied or not."""
    confirmed_version: int | None = None
    """The version that the control plane last said is wanted here and runs here."""
    wire: str = "fastgw"
    """The protocol of the last link; the versions of Kong's are counted here."""

    def tell_error(self, reason: str) -> None:
        """Take why there is no link yet."""
        self.last_error = reason


class _Connection(asyncio.Protocol):
    """One try: from the end of the TLS handshake until the link is over."""

    def __init__(self, sync: Sync, tls: LinkTls) -> None:
        self._sync = sync
        self._tls = tls
        self._transport: asyncio.Transport | None = None
        self._pump = Pump(make_client_connection(sync.authority), self._write)
        self._timer: asyncio.TimerHandle | None = None
        self.link: DataLink | None = None
        self.is_foreign = False
        """The control plane has answered that it does not know our protocol."""
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done, with the reason, when the link is over."""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's TLS transport is one in all but its bases.
        self._transport = cast(asyncio.Transport, transport)
        try:
            self._tls.check_control_plane(transport.get_extra_info("ssl_object"))
        except CertificateError as exc:
            self._end(str(exc))
            return
        self._timer = asyncio.get_running_loop().call_later(
            UPGRADE_TIMEOUT_S, self._end, f"the control plane did not upgrade within {UPGRADE_TIMEOUT_S:g} s"
        )
        self._pump.open()

    def data_received(self, data: bytes) -> None:
        if self.over.done():
            return
        try:
            for item in self._pump.feed(data):
                if isinstance(item, Response):
                    self._upgraded()
                elif isinstance(item, bytes) and self.link is not None:
                    self._act(self.link.receive_message(item, self._sync.clock()))
        except RemoteLinkError as exc:
            refusal = self._pump.connection.handshake_exc
            self.is_foreign = isinstance(refusal, InvalidStatus) and refusal.response.status_code == 404
            self._end(str(exc))
        self._pump.flush()

    def eof_received(self) -> None:
        self._end(self._closed_by_peer())

    def pause_writing(self) -> None:
        self._pump.is_paused = True

    def resume_writing(self) -> None:
        self._pump.is_paused = False
        self._pump.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):
            # TLS 1.3: the control plane's word about our certificate comes after our side of the handshake.
            self._end(explain_handshake_failure(exc, is_shared=self._tls.is_shared))
        elif exc is None or isinstance(exc, ConnectionError):
            self._end(self._closed_by_peer())
        else:
            self._end(f"the connection broke: {exc}")

    # What Sync calls.

    def answer(self, result: ApplyResult) -> None:
        """Tell what came of the snapshot that this connection brought."""
        if self.over.done() or self.link is None:
            return
        if isinstance(result, Applied):
            self.link.accept(
                Ack(
                    version=result.version,
                    digest=result.digest,
                    decode_ms=result.decode_ms,
                    compile_ms=result.compile_ms,
                    store_ms=result.store_ms,
                    commit_ms=result.commit_ms,
                    warnings=list(result.warnings),
                )
            )
        else:
            self.report(self._sync.applied())
            self.link.reject(
                result.version,
                result.faults,
                wants_whole=result.wants_whole,
                is_passing=result.is_passing,
            )
        self._pump.flush()

    def report(self, state: AppliedState) -> None:
        """Tell what runs now, if this link has greeted; if not, its greeting tells."""
        if self.over.done() or self.link is None or self.link.state is DataState.GREETING:
            return
        self.link.report(state.version, state.digest)
        self._pump.flush()

    def close(self, reason: str) -> None:
        if self.link is not None:
            self.link.close(reason)
        self._end(reason)

    def tick(self) -> None:
        """Do what the link's deadline is for, and set the timer for the next."""
        if self.link is None or self.over.done():
            return
        now_s = self._sync.clock()
        self._act(self.link.on_tick(now_s))
        self._pump.flush()
        if not self.over.done():
            self._timer = asyncio.get_running_loop().call_later(
                max(0.0, self.link.next_deadline() - now_s), self.tick
            )

    def _closed_by_peer(self) -> str:
        if self.link is not None:
            return "the control plane closed the connection"
        # Its TLS layer may close without a word.
        what = "its cluster_cert is another one" if self._tls.is_shared else "it refuses our certificate"
        return (
            f"the control plane closed the connection at once: {what}, or too many connect to it now; "
            "its log says which"
        )

    def _upgraded(self) -> None:
        self.link = DataLink(self._sync.clock(), self._sync.hello())
        self._pump.link = self.link
        self._cancel_timer()
        self.tick()

    def _act(self, events: Sequence[DataEvent]) -> None:
        assert self.link is not None
        for event in events:
            match event:
                case Ended(reason):
                    self._end(reason)
                case Welcomed(welcome):
                    self._sync.welcomed(self.link, welcome)
                    # The heartbeat that it brings may be due before the deadline of the greeting.
                    self._cancel_timer()
                    asyncio.get_running_loop().call_soon(self.tick)
                case TrustTold(trust):
                    self._sync.trust_told(trust)
                case Confirmed(version, digest, signatures):
                    self._sync.confirmed(version)
                    if signatures:
                        self._sync.signed_again(
                            IncomingSnapshot(version, digest, b"", "", signatures, self._sync.cluster_id)
                        )
                case Received():
                    self._sync.received(self, IncomingSnapshot(*event, self._sync.cluster_id))

    def _end(self, reason: str) -> None:
        if self.over.done():
            return
        self.over.set_result(reason)
        self._cancel_timer()
        self._pump.finish()
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self._transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


_AnyConnection = _Connection | KongConnection


class Sync:
    """Keeps one link to the control plane.

    Args:
        credentials: what each connection is made with.
        apply: applies one snapshot, which costs nothing when its digest is what runs; a FastgwError of it
            is answered as a refusal.
        applied: what runs now.
        draw: a number from 0 up to 1 for each delay.
        clock: monotonic seconds, of which the link's deadlines are made.
        trust_told: is called with the state of the cluster's authorities whenever the control plane names it.
        signed_again: takes the signatures that what runs has now, without its content.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        *,
        node: NodeIdentity,
        apply: Callable[[IncomingSnapshot], Awaitable[ApplyResult]],
        applied: Callable[[], AppliedState],
        log: Logger,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        trust_told: Callable[[str], None] = lambda _: None,
        signed_again: Callable[[IncomingSnapshot], None] = lambda _: None,
    ) -> None:
        self.trust_told = trust_told
        self.signed_again = signed_again
        self.cluster_id = ""
        """As the last Welcome told it."""
        self.authority = settings.cluster_control_plane
        self.clock = clock
        self.status = SyncStatus(self.authority)
        self._settings = settings
        self._node = node
        self._apply = apply
        self.applied = applied
        self.log = log
        self._credentials = credentials
        self._draw = draw
        self._kong = KongNode(settings, node.id, node.hostname)
        self._speaks_kong = settings.cluster_wire == "kong"
        self._spread_s = 0.0
        self._linked_at_s: float | None = None
        self._connection: _AnyConnection | None = None
        self._waiting: tuple[_AnyConnection, IncomingSnapshot] | None = None
        self._has_waiting = asyncio.Event()

    async def run(self) -> None:
        """Keep the link until cancelled; then say goodbye on it."""
        applier = asyncio.create_task(self._apply_each())
        try:
            await self._dial_for_ever()
        finally:
            self.status.is_connected = False
            applier.cancel()
            await asyncio.gather(applier, return_exceptions=True)

    # What the connection tells.

    def hello(self) -> Hello:
        state = self.applied()
        return Hello(
            node_id=self._node.id,
            hostname=self._node.hostname,
            version=__version__,
            applied_version=state.version,
            applied_digest=state.digest,
            max_snapshot_bytes=self._settings.cluster_max_payload,
            labels=dict(self._settings.cluster_dp_labels),
            plugins=sorted(SERVED_PLUGINS),
        )

    def welcomed(self, link: DataLink, welcome: Welcome) -> None:
        self._spread_s = welcome.spread_s
        self.cluster_id = welcome.control_plane_id
        self.trust_told(welcome.trust)
        self._linked(wire="fastgw")
        self.log.notice("connected to the control plane %s (%s)", self.authority, welcome.control_plane_id)
        # An apply begun on the former link may have ended since the Hello.
        link.report(*self.applied())

    def kong_linked(self, connection: KongConnection) -> None:
        """A link to a Kong control plane is there."""
        self._linked(wire="kong")
        self.log.notice("connected to the control plane %s, by Kong's protocol", self.authority)

    def confirmed(self, version: int) -> None:
        """The control plane says that what runs here is what it wants."""
        self.status.confirmed_version = version

    def received(self, connection: _AnyConnection, snapshot: IncomingSnapshot) -> None:
        self.status.received_version = snapshot.version
        self._waiting = (connection, snapshot)
        self._has_waiting.set()

    def _linked(self, *, wire: str) -> None:
        self._linked_at_s = self.clock()
        self.status.is_connected = True
        self.status.since_s = time.time()
        self.status.retry_at_s = None
        self.status.wire = wire

    async def _dial_for_ever(self) -> None:
        failures = 0
        while True:
            self._linked_at_s = None
            try:
                self._connection = await self._connect()
                try:
                    reason = await asyncio.shield(self._connection.over)
                finally:
                    self._connection.close("the data plane is shutting down")
                if self._connection.is_foreign and self._settings.cluster_wire == "auto":
                    self.log.notice("%s does not speak fastgw's protocol: trying Kong's", self.authority)
                    self._connection = None
                    self._speaks_kong = True
                    continue
            except RemoteLinkError as exc:
                reason = str(exc)
            self._connection = None
            if self._linked_at_s is not None and self.clock() - self._linked_at_s >= HEALTHY_AFTER_S:
                failures = 0
            if self._speaks_kong:
                delay_s = next_kong_delay(self._draw)
            else:
                delay_s = next_delay(failures, self._spread_s, self._draw)
            # Where both are spoken, each try begins with our own: a control plane may have been replaced.
            self._speaks_kong = self._settings.cluster_wire == "kong"
            failures += 1
            self._broken(reason, delay_s)
            await asyncio.sleep(delay_s)

    def _broken(self, reason: str, delay_s: float) -> None:
        now_s = time.time()
        if self.status.is_connected:
            self.status.is_connected = False
            self.status.since_s = now_s
        self.status.last_error = reason
        self.status.retry_at_s = now_s + delay_s
        self.log.warning("no link to %s: %s; next try in %.1f s", self.authority, reason, delay_s)

    async def _connect(self) -> _AnyConnection:
        """Resolve the name, connect to the first address that takes us, and finish the TLS handshake."""
        host, _, port = self.authority.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                return await self._connect_to_any(host.strip("[]"), int(port))
        except ssl.SSLError as exc:
            is_shared = self._credentials.current().is_shared
            raise RemoteLinkError(explain_handshake_failure(exc, is_shared=is_shared)) from exc
        except TimeoutError:
            raise RemoteLinkError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
        except socket.gaierror as exc:
            raise RemoteLinkError(f"the name {host} does not resolve: {exc.strerror}") from exc
        except OSError as exc:
            raise RemoteLinkError(f"cannot connect: {os.strerror(exc.errno) if exc.errno else exc}") from exc

    async def _connect_to_any(self, host: str, port: int) -> _AnyConnection:
        loop = asyncio.get_running_loop()
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(
            reversed(range(len(addresses))), addresses, strict=True
        ):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                # One address that swallows packets must leave time for the others.
                async with asyncio.timeout(CONNECT_TIMEOUT_S / len(addresses)):
                    await loop.sock_connect(connection, address)
            except OSError:
                connection.close()
                if left == 0:
                    raise
                continue
            except BaseException:
                connection.close()
                raise
            return await self._shake_hands(connection)
        raise RemoteLinkError(f"the name {host} has no address")

    async def _shake_hands(self, connection: socket.socket) -> _AnyConnection:
        tls = self._credentials.current()
        context = tls.client_context
        # The event loop closes what it was given without the alert that tells the peer why.
        with connection.dup() as second:
            try:
                _, made = await asyncio.get_running_loop().create_connection(
                    lambda: (
                        KongConnection(self, self._kong, tls) if self._speaks_kong else _Connection(self, tls)
                    ),
                    sock=connection,
                    ssl=context,
                    server_hostname=tls.server_name,
                )
            except BaseException as exc:
                # The loop has closed the descriptor, or will. Where the first write failed, this object does
                # not know, and would close the number once more, when it is another connection's.
                connection.detach()
                if isinstance(exc, ssl.SSLError):
                    with contextlib.suppress(OSError):
                        second.send(alert_of(exc))
                raise
        return made

    async def _apply_each(self) -> None:
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            if self._waiting is None:
                continue
            (connection, snapshot), self._waiting = self._waiting, None
            result = await self._apply_one(snapshot)
            if connection is self._connection:
                connection.answer(result)
            elif self._connection is not None:
                self._connection.report(self.applied())

    async def _apply_one(self, snapshot: IncomingSnapshot) -> ApplyResult:
        try:
            return await self._apply(snapshot)
        except CompileError as exc:
            return Refused(snapshot.version, list(exc.faults), is_passing=exc.is_passing)
        except DeltaError as exc:
            return Refused(snapshot.version, [{"reason": str(exc)}], wants_whole=True)
        except FastgwError as exc:
            return Refused(snapshot.version, [{"reason": str(exc)}])
        except Exception as exc:
            self.log.exception("version %d could not be applied", snapshot.version)
            return Refused(snapshot.version, [{"reason": f"a fault of the data plane's own: {exc!r}"}])
