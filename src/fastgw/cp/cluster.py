"""The cluster port: where data planes connect, over TLS with client certificates, by websocket.

    accept -> admission -> TLS handshake -> certificate -> upgrade -> Hello -> linked

Contract. Each step has a deadline, and each refusal is one line in the log that says which check failed.
Nothing that a peer sent is looked at before its certificate is. A linked data plane is the hub's from its
Hello to the end of its link.

The one complication is admission: after a restart a whole fleet dials at once, and each handshake costs a
signature on the loop that also pushes configuration. So connections are accepted here rather than by
asyncio's server, and those beyond the rate (`pacing.ADMITTED_PER_SECOND`) are closed before their
handshake; to a data plane that is one more failed try, and the next is later.

Kong data planes ask for /v1/outlet and are handed over to `kong_peers`.

Source: Kong's cluster listener, for what answers where (404 on /v1/wrpc, on which its data planes rely).
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Final, NamedTuple, Protocol, cast

from cryptography import x509
from websockets.http11 import Request
from websockets.server import ServerProtocol

from fastgw import __version__
from fastgw.cp import kong_peers
from fastgw.cp.hub import DataPlane, Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.kong_payloads import KongPayloads
from fastgw.errors import CertificateError, RemoteLinkError
from fastgw.listening import address_of, open_listeners
from fastgw.obs.logs import get_logger
from fastgw.settings import Listen
from fastgw.tls.authority import node_id_of, serial_of
from fastgw.tls.cluster import Credentials, LinkTls
from fastgw.tls.handshake import alert_of, explain_handshake_failure
from fastgw.wire.enrolment import ENROL_LIMIT_BYTES, ENROL_PATH
from fastgw.wire.events import (
    Accepted,
    ControlEvent,
    Ended,
    Joined,
    Rejected,
    Reported,
    WholeWanted,
    Withheld,
)
from fastgw.wire.kong_v1.messages import OUTLET_PATH
from fastgw.wire.link import HEARTBEAT_S, ControlLink
from fastgw.wire.messages import CHUNK_BYTES, LINK_PATH, Hello
from fastgw.wire.offering import Offering
from fastgw.wire.pacing import ADMITTED_PER_SECOND, spread_for
from fastgw.wire.pump import Pump, make_server_connection, refusal

log = get_logger(__name__)

HANDSHAKE_TIMEOUT_S: Final = 5.0
UPGRADE_TIMEOUT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 5.0
HANDSHAKES_LIMIT: Final = 64
"""So many TLS handshakes are in progress at once at most."""
ADMISSION_BURST: Final = 50
STRANGER_LIMIT_BYTES: Final = ENROL_LIMIT_BYTES + 16 * 1024
"""Who has no certificate may send so much: a question and what is around it."""
TICK_S: Final = 1.0
_ACCEPT_PAUSE_S: Final = 1.0
_WRITE_HIGH_BYTES: Final = 2 * CHUNK_BYTES
"""Above this nothing more is written to one data plane: what waits below is held once for each of them."""


class Admission:
    """Lets in so many per second, and a burst after a rest."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._left = float(burst)
        self._counted_at_s = clock()

    def admit(self) -> bool:
        now_s = self._clock()
        self._left = min(self._burst, self._left + (now_s - self._counted_at_s) * self._per_second)
        self._counted_at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class _Identity(NamedTuple):
    """What this control plane says about itself, and its time."""

    control_plane: ControlPlaneIdentity
    heartbeat_s: float
    clock: Callable[[], float]


class _Session(asyncio.Protocol):
    """One connection, from the end of its TLS handshake."""

    def __init__(self, server: ClusterServer, tls: LinkTls, peer: str, ip: str) -> None:
        self._server = server
        self._tls = tls
        self._certificate: x509.Certificate | None = None
        self._is_asking = False
        """Whether this is a node that wants a certificate, not a link."""
        self._received_bytes = 0
        self._peer = peer
        self._ip = ip
        self._transport: asyncio.Transport | None = None
        self._upgrade_deadline_s = server.identity.clock() + UPGRADE_TIMEOUT_S
        self._connection: ServerProtocol = make_server_connection()
        self._pump = Pump(self._connection, self._write)
        self._link: ControlLink | None = None
        self._data_plane: DataPlane | None = None
        self._is_closing = False
        self._abort_timer: asyncio.TimerHandle | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's TLS transport is one in all but its bases.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        try:
            certificate = self._tls.check_data_plane(transport.get_extra_info("ssl_object"))
        except CertificateError as exc:
            # The handshake was well, so OpenSSL has told it nothing.
            self._write(refusal(b"403 Forbidden", str(exc)))
            self._refuse(str(exc))
            return
        self._certificate = certificate
        self._server.sessions.add(self)

    def data_received(self, data: bytes) -> None:
        if self._is_closing:
            return
        self._received_bytes += len(data)
        if self._certificate is None and self._received_bytes > STRANGER_LIMIT_BYTES:
            self._refuse(f"more than {STRANGER_LIMIT_BYTES} bytes without a certificate")
            return
        try:
            for item in self._pump.feed(data):
                if isinstance(item, Request):
                    self._upgrade(item)
                elif isinstance(item, bytes) and self._link is not None:
                    self._act(self._link.receive_message(item, self._server.identity.clock()))
                elif isinstance(item, bytes) and self._is_asking:
                    self._is_asking = False
                    self._server.answer(self, item)
        except RemoteLinkError as exc:
            self._end(str(exc))
        self._pump.flush()

    def eof_received(self) -> None:
        self._end("the data plane closed the connection")

    def pause_writing(self) -> None:
        self._pump.is_paused = True

    def resume_writing(self) -> None:
        self._pump.is_paused = False
        self._pump.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection broke: {exc}" if exc is not None else "the connection was closed")
        self._server.sessions.discard(self)
        if self._abort_timer is not None:
            self._abort_timer.cancel()

    # What the server calls.

    @property
    def certificate(self) -> x509.Certificate | None:
        """The data plane's; None for a node that has none yet."""
        return self._certificate

    @property
    def peer(self) -> str:
        return self._peer

    def reply(self, answer: bytes) -> None:
        """Answer a node that wants a certificate, and close."""
        if not self._is_closing:
            self._connection.send_binary(answer)
            self._pump.finish()
            self._close_transport()

    # What the hub calls.

    def offer(self, offering: Offering | None) -> None:
        if self._link is not None and not self._is_closing:
            self._act(self._link.offer(offering))
            self._pump.flush()

    def pace(self, ping_s: float) -> None:
        if self._link is not None and not self._is_closing:
            self._link.pace(ping_s)
            self._pump.flush()

    def close(self, reason: str) -> None:
        if self._link is not None:
            self._link.close(reason)
        self._end(reason)

    def tick(self, now_s: float) -> None:
        """End the session when something that was due has not come."""
        if self._link is not None:
            if now_s >= self._link.next_deadline():
                self._act(self._link.on_tick(now_s))
                self._pump.flush()
        elif now_s >= self._upgrade_deadline_s:
            self._refuse(f"no upgrade to websocket within {UPGRADE_TIMEOUT_S:g} s")

    def _upgrade(self, request: Request) -> None:
        path = request.path.partition("?")[0]
        is_enrolment = path == ENROL_PATH and self._server.office is not None
        if self._certificate is None and not is_enrolment:
            reason = "without a certificate nodes may only join: 'fastgw pki join'"
            self._write(refusal(b"403 Forbidden", reason))
            self._refuse(reason)
            return
        if path == OUTLET_PATH and self._server.kong is not None:
            self._hand_over(self._server.kong, request)
            return
        if path != self._server.link_path and not is_enrolment:
            response = self._connection.reject(http.HTTPStatus.NOT_FOUND, "no such path on this port\n")
        else:
            response = self._connection.accept(request)
        self._connection.send_response(response)
        for piece in self._connection.data_to_send():
            self._write(piece)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            why = self._connection.handshake_exc or f"nothing is served at {path!r}"
            self._refuse(f"answered {response.status_code}: {why}")
            return
        if is_enrolment:
            self._is_asking = True
            return
        identity = self._server.identity
        self._link = ControlLink(
            identity.clock(),
            cluster_id=identity.control_plane.cluster_id,
            node_id=identity.control_plane.id,
            hostname=identity.control_plane.hostname,
            version=__version__,
            spread_s=spread_for(len(self._server.hub) + 1),
            heartbeat_s=identity.heartbeat_s,
            trust=self._server.trust,
        )
        self._pump.link = self._link

    def _hand_over(self, port: kong_peers.Port, request: Request) -> None:
        """Leave the connection to the end that speaks Kong's protocol."""
        assert self._transport is not None
        answer, arguments, reason = kong_peers.answer_upgrade(request)
        self._write(answer)
        if arguments is None:
            self._refuse(f"a Kong data plane: {reason}")
            return
        mismatch = self._mismatch(arguments.node_id)
        if mismatch:
            self._refuse(f"a Kong data plane: {mismatch}")
            return
        peer = kong_peers.KongPeer(port, self._transport, arguments, self._ip, self._certificate)
        self._is_closing = True
        self._server.sessions.discard(self)
        self._server.sessions.add(peer)
        self._transport.set_protocol(peer)

    def _act(self, events: Sequence[ControlEvent]) -> None:
        hub = self._server.hub
        for event in events:
            match event:
                case Joined(hello):
                    self._join(hello)
                case Ended(reason):
                    self._end(reason)
                case _ if self._data_plane is None:
                    raise AssertionError(event)
                case Reported(version, digest, answered):
                    hub.reported(self._data_plane, version, digest, answered)
                case Accepted(ack):
                    hub.accepted(self._data_plane, ack)
                case Rejected():
                    hub.rejected(self._data_plane, event)
                case WholeWanted(offering):
                    hub.whole_wanted(self._data_plane, offering)
                case Withheld(version, reason):
                    hub.withheld(self._data_plane, version, reason)

    def _join(self, hello: Hello) -> None:
        mismatch = self._mismatch(hello.node_id)
        if mismatch:
            self.close(mismatch)
            return
        own = self._server.identity.control_plane.cluster_id
        if hello.cluster_id and hello.cluster_id != own:
            # It is told who we are, so that it can say so itself.
            self._pump.flush()
            self.close(
                f"data plane {hello.hostname} ({hello.node_id}) belongs to the cluster {hello.cluster_id}, "
                f"and this control plane is of {own}: 'fastgw cluster adopt --help' says how it changes "
                "over, 'fastgw migrations bootstrap --help' how a new database takes the place of an old one"
            )
            return
        assert self._certificate is not None
        expiry_s = int(self._certificate.not_valid_after_utc.timestamp())
        self._data_plane = DataPlane(hello, self, self._ip, expiry_s)
        self._server.hub.join(self._data_plane)

    def _mismatch(self, node_id: str) -> str:
        """Why the certificate speaks against this id; empty if it does not."""
        proved = node_id_of(self._certificate) if self._certificate is not None else None
        if proved is None or proved == node_id:
            return ""
        return f"its certificate is that of node {proved}, and it says that it is {node_id}"

    def _refuse(self, reason: str) -> None:
        """End what never became a link."""
        if not self._is_closing:
            log.warning("refused %s: %s", self._peer, reason)
            if self._link is not None:
                self._pump.finish()
            self._close_transport()

    def _end(self, reason: str) -> None:
        """End the session, once; say what is left to say."""
        if self._is_closing:
            return
        if self._data_plane is None:
            self._refuse(reason)
            return
        data_plane, self._data_plane = self._data_plane, None
        self._pump.finish()
        self._close_transport()
        self._server.hub.leave(data_plane, reason)

    def _close_transport(self) -> None:
        self._is_closing = True
        if self._transport is not None:
            self._transport.close()
            # A peer that does not read would keep what is buffered, and the connection, for ever.
            self._abort_timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def _write(self, data: bytes) -> None:
        if self._transport is not None and data and not self._transport.is_closing():
            self._transport.write(data)


class Registrar(Protocol):
    """What the cluster port asks of the built-in authority."""

    @property
    def trust(self) -> str: ...

    async def answer(self, question: bytes, certificate: x509.Certificate | None, peer: str) -> bytes: ...


class ClusterServer:
    """Listens, admits and keeps the sessions.

    Args:
        office: answers nodes that want a certificate; None where that is somebody else's business.
        takes_own: False answers 404 to data planes that speak our protocol.
        kong_payloads: what Kong data planes are pushed; None: they are answered 404.
        clock: monotonic seconds, of which all deadlines after the TLS handshake are made.
    """

    def __init__(
        self,
        listens: Sequence[Listen],
        credentials: Credentials,
        hub: Hub,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        office: Registrar | None = None,
        takes_own: bool = True,
        kong_payloads: KongPayloads | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.office = office
        self.hub = hub
        self.identity = _Identity(hub.identity, heartbeat_s, clock)
        self.sessions: set[_Session | kong_peers.KongPeer] = set()
        self.link_path = LINK_PATH if takes_own else None
        self.kong = (
            kong_peers.Port(hub, kong_payloads, clock, self.sessions.discard)
            if kong_payloads is not None
            else None
        )
        self._listens = listens
        self._credentials = credentials
        self._admission = Admission(ADMITTED_PER_SECOND, ADMISSION_BURST, clock)
        self._listeners: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._handshakes = 0

    @property
    def addresses(self) -> list[str]:
        """What it listens on, once started, with the real ports."""
        return [address_of(listener) for listener in self._listeners]

    async def start(self) -> None:
        """Listen on every address.

        Raises:
            ListenError: one of them cannot be listened on; then none is.
        """
        self._listeners = open_listeners(self._listens, name="cluster_listen")
        for listener in self._listeners:
            self._spawn(self._accept(listener))
        self._spawn(self._tick())

    async def close(self) -> None:
        """Stop listening and say goodbye to every data plane."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for session in list(self.sessions):
            session.close("the control plane is shutting down")

    def trust(self) -> str:
        """The state of the cluster's authorities, for `Welcome.trust`."""
        return "" if self.office is None else self.office.trust

    def answer(self, session: _Session, question: bytes) -> None:
        """Have the office answer a node that wants a certificate."""
        assert self.office is not None
        self._spawn(self._answer(self.office, session, question))

    def drop_revoked(self) -> None:
        """End the links of those whose certificates have been revoked."""
        revoked = self._credentials.current().revoked
        for session in list(self.sessions):
            certificate = session.certificate
            if certificate is not None and serial_of(certificate) in revoked:
                session.close(f"its certificate {serial_of(certificate)} is revoked")

    def tick(self) -> None:
        """Look after every session's deadline."""
        now_s = self.identity.clock()
        for session in list(self.sessions):
            session.tick(now_s)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except ConnectionError:
                continue
            except OSError as exc:
                log.error("%s accepts nothing for %g s: %s", address_of(listener), _ACCEPT_PAUSE_S, exc)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            host, port = address[:2]
            peer = f"{host}:{port}"
            if self._handshakes >= HANDSHAKES_LIMIT or not self._admission.admit():
                log.info("refused %s before its handshake: too many at once; it will come again", peer)
                connection.close()
                continue
            self._handshakes += 1
            self._spawn(self._shake_hands(connection, peer, host))

    async def _shake_hands(self, connection: socket.socket, peer: str, ip: str) -> None:
        loop = asyncio.get_running_loop()
        tls = self._credentials.current()
        # The event loop closes what it was given without the alert that tells the peer why.
        second = connection.dup()
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: _Session(self, tls, peer, ip),
                connection,
                ssl=tls.server_context,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S,
            )
        except (OSError, EOFError) as exc:
            log.warning("refused %s: %s", peer, explain_handshake_failure(exc, is_shared=tls.is_shared))
            with contextlib.suppress(OSError):
                second.send(alert_of(exc))
            connection.close()
        finally:
            second.close()
            self._handshakes -= 1

    async def _answer(self, office: Registrar, session: _Session, question: bytes) -> None:
        session.reply(await office.answer(question, session.certificate, session.peer))

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
