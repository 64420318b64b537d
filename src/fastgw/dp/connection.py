"""One try at a link, as a connection: what our own protocol and Kong's have in common, and our own.

    TLS is done -> certificate -> upgrade -> greeted -> linked -> over

Contract. `greeted` is done once the control plane has answered as one; `over`, with the reason, when nothing
more will come, whatever ends it. A connection ends once, says its goodbye, and is closed within a second.
What it brings it hands to its owner (`Sync`), with itself, since for a moment there may be two of them.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Protocol, cast

from websockets.exceptions import InvalidStatus
from websockets.http11 import Response

from fastgw.dp.incoming import Applied, AppliedState, ApplyResult, IncomingSnapshot
from fastgw.errors import CertificateError, RemoteLinkError
from fastgw.obs.logs import Logger
from fastgw.tls.cluster import LinkTls
from fastgw.tls.handshake import explain_handshake_failure
from fastgw.wire.events import Confirmed, DataEvent, Ended, Paced, Received, TrustTold, Welcomed
from fastgw.wire.link import DataLink
from fastgw.wire.messages import Ack, Answered, Hello, Welcome
from fastgw.wire.pump import Pump, make_client_connection
from fastgw.wire.states import DataState

UPGRADE_TIMEOUT_S: Final = 5.0
_CLOSE_TIMEOUT_S: Final = 1.0


class Owner(Protocol):
    """Who keeps the links, and applies what they bring."""

    clock: Callable[[], float]
    log: Logger

    def applied(self) -> AppliedState: ...
    def received(self, connection: LinkConnection, snapshot: IncomingSnapshot) -> None: ...
    def confirmed(self, connection: LinkConnection, version: int) -> None: ...
    def linked(self, connection: LinkConnection) -> None: ...


class LinkConnection(asyncio.Protocol):
    """One connection to a control plane, from the end of its TLS handshake.

    Args:
        address: of the control plane, `host:port`.
        clock: monotonic seconds, of which the link's deadlines are made.
    """

    wire = "fastgw"
    """The protocol that it speaks."""

    def __init__(self, address: str, tls: LinkTls, clock: Callable[[], float]) -> None:
        loop = asyncio.get_running_loop()
        self.address: Final = address
        self.is_foreign = False
        """The control plane has answered that it does not know our protocol."""
        self.welcome: Welcome | None = None
        """What the control plane said about itself, where its protocol says anything."""
        self.greeted: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[str] = loop.create_future()
        self._tls = tls
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def cluster_id(self) -> str:
        """The cluster that the control plane says it is of; empty before, and of Kong's."""
        return self.welcome.cluster_id if self.welcome is not None else ""

    def __str__(self) -> str:
        """The control plane at the other end, for people."""
        if self.welcome is None or not self.welcome.node_id:
            return self.address
        return f"{self.address} ({self.welcome.hostname}, {self.welcome.node_id})"

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
        self._upgrade()

    def eof_received(self) -> None:
        self._end(self._closed_by_peer())

    def connection_lost(self, exc: Exception | None) -> None:
        if isinstance(exc, ssl.SSLError):
            # TLS 1.3: the control plane's word about our certificate comes after our side of the handshake.
            self._end(explain_handshake_failure(exc, is_shared=self._tls.is_shared))
        elif exc is None or isinstance(exc, ConnectionError):
            self._end(self._closed_by_peer())
        else:
            self._end(f"the connection broke: {exc}")

    # What the owner calls.

    @abstractmethod
    def answer(self, result: ApplyResult) -> None:
        """Take what came of the snapshot that this connection brought."""

    @abstractmethod
    def report(self, state: AppliedState) -> None:
        """Tell what runs now."""

    def close(self, reason: str) -> None:
        """End the link from here."""
        self._end(reason)

    def tick(self) -> None:
        """Do what the link's deadline is for, and set the timer for the next."""
        self._cancel_timer()
        if self.over.done():
            return
        now_s = self._clock()
        next_s = self._on_tick(now_s)
        if not self.over.done():
            self._timer = asyncio.get_running_loop().call_later(max(0.0, next_s - now_s), self.tick)

    # What a protocol has of its own.

    @abstractmethod
    def _upgrade(self) -> None:
        """Ask for the upgrade."""

    @abstractmethod
    def _on_tick(self, now_s: float) -> float:
        """Do what is due; return when something is due again. Only once there is a link."""

    @abstractmethod
    def _say_goodbye(self) -> None:
        """Write what the ended link still has to say."""

    @abstractmethod
    def _closed_by_peer(self) -> str:
        """What it may mean that the control plane closes the connection now."""

    def _end(self, reason: str) -> None:
        if self.over.done():
            return
        self.over.set_result(reason)
        self._cancel_timer()
        self._say_goodbye()
        if self._transport is not None:
            self._transport.close()
            asyncio.get_running_loop().call_later(_CLOSE_TIMEOUT_S, self._transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class OwnOwner(Owner, Protocol):
    """What a connection in our own protocol asks besides."""

    def hello(self) -> Hello: ...
    def welcomed(self, connection: OwnConnection, welcome: Welcome) -> None: ...
    def trust_told(self, trust: str) -> None: ...
    def signed_again(self, signed: IncomingSnapshot) -> None: ...
    def answered(self) -> Answered | None: ...


class OwnConnection(LinkConnection):
    """A connection that speaks our own protocol."""

    def __init__(self, owner: OwnOwner, address: str, tls: LinkTls) -> None:
        super().__init__(address, tls, owner.clock)
        self._owner = owner
        self._pump = Pump(make_client_connection(address), self._write)
        self.link: DataLink | None = None

    def data_received(self, data: bytes) -> None:
        if self.over.done():
            return
        try:
            for item in self._pump.feed(data):
                if isinstance(item, Response):
                    self._upgraded()
                elif isinstance(item, bytes) and self.link is not None:
                    self._act(self.link.receive_message(item, self._clock()))
        except RemoteLinkError as exc:
            refusal = self._pump.connection.handshake_exc
            self.is_foreign = isinstance(refusal, InvalidStatus) and refusal.response.status_code == 404
            self._end(str(exc))
        self._pump.flush()

    def pause_writing(self) -> None:
        self._pump.is_paused = True

    def resume_writing(self) -> None:
        self._pump.is_paused = False
        self._pump.flush()

    def answer(self, result: ApplyResult) -> None:
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
            self.report(self._owner.applied())
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

    def _upgrade(self) -> None:
        self._pump.open()

    def _upgraded(self) -> None:
        self.link = DataLink(self._clock(), self._owner.hello(), answered=self._owner.answered)
        self._pump.link = self.link
        self.tick()

    def _on_tick(self, now_s: float) -> float:
        assert self.link is not None
        self._act(self.link.on_tick(now_s))
        self._pump.flush()
        return self.link.next_deadline()

    def _act(self, events: Sequence[DataEvent]) -> None:
        for event in events:
            match event:
                case Ended(reason):
                    self._end(reason)
                case Welcomed(welcome):
                    self.welcome = welcome
                    self._owner.welcomed(self, welcome)
                    # The heartbeat that it brings may be due before the deadline of the greeting.
                    asyncio.get_running_loop().call_soon(self.tick)
                case Paced():
                    asyncio.get_running_loop().call_soon(self.tick)
                case TrustTold(trust):
                    self._owner.trust_told(trust)
                case Confirmed(version, digest, signatures):
                    self._owner.confirmed(self, version)
                    if signatures:
                        self._owner.signed_again(
                            IncomingSnapshot(version, digest, b"", "", signatures, self.cluster_id)
                        )
                case Received():
                    self._owner.received(self, IncomingSnapshot(*event, self.cluster_id))

    def _closed_by_peer(self) -> str:
        if self.link is not None:
            return "the control plane closed the connection"
        # Its TLS layer may close without a word.
        what = "its cluster_cert is another one" if self._tls.is_shared else "it refuses our certificate"
        return (
            f"the control plane closed the connection at once: {what}, or too many connect to it now; "
            "its log says which"
        )

    def _say_goodbye(self) -> None:
        self._pump.finish()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
