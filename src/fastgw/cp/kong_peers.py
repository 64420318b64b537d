"""Kong data planes on the cluster port: who asked for /v1/outlet is spoken to as Kong's control plane would.

    upgrade ── arguments ──> basic_info ── version ──> joined ── plugins, flavor, size ──> pushed to
       └ 400                     └ close frame, a row that says why     └ withheld, a row that says why

Contract. A Kong data plane never sees anything of ours, and is one data plane among others to the hub: what
it runs follows from the hash that it reports. It is told nothing twice: a hash that says that it runs what is
wanted spares the push.

The one complication is that making a push takes a thread and a while. One is made at a time for each data
plane; what is wanted next waits for it, and is then the newest.

Source: kong/clustering/{control_plane,utils}.lua, 3.9.1, whose words the log repeats.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from cryptography import x509
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from fastgw.cp.hub import DataPlane, Hub
from fastgw.cp.kong_payloads import Applied, Export, KongPayloads
from fastgw.errors import RemoteLinkError
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.obs.logs import get_logger
from fastgw.wire.kong_v1.hashes import ZERO_HASH
from fastgw.wire.kong_v1.link import (
    ControlEvent,
    Ended,
    Greeted,
    KongControlLink,
    Pinged,
    Reported,
    Unapplied,
)
from fastgw.wire.kong_v1.messages import Arguments, BasicInfo, parse_arguments
from fastgw.wire.kong_v1.versions import (
    KONG_VERSION,
    KongVersion,
    Refusal,
    SyncStatus,
    check_plugins,
    check_version,
    default_max_payload_bytes,
    describe_difference,
    has_plugin,
    parse_version,
    plugin_version,
)
from fastgw.wire.messages import Hello
from fastgw.wire.offering import Offering

log = get_logger(__name__)

CLOSE_TIMEOUT_S: Final = 5.0
_HANDSHAKE_STATUS: Final = http.HTTPStatus.SWITCHING_PROTOCOLS


class Port(NamedTuple):
    """What a peer needs of the cluster port."""

    hub: Hub
    payloads: KongPayloads
    clock: Callable[[], float]
    on_lost: Callable[[KongPeer], None]


def answer_upgrade(request: Request) -> tuple[bytes, Arguments | None, str]:
    """Answer to a request for the outlet: the bytes, who asks, and, if that is nobody, why not."""
    connection = ServerProtocol()
    arguments, reason = None, ""
    try:
        arguments = parse_arguments(request.path)
        response = connection.accept(request)
    except RemoteLinkError as exc:
        reason = str(exc)
        response = connection.reject(http.HTTPStatus.BAD_REQUEST, f"{reason}\n")
    if response.status_code != _HANDSHAKE_STATUS:
        reason = reason or f"failed to perform server side websocket handshake: {connection.handshake_exc}"
        arguments = None
    return _serialized(connection, response), arguments, reason


def _serialized(connection: ServerProtocol, response: Response) -> bytes:
    connection.send_response(response)
    return b"".join(connection.data_to_send())


class KongPeer(asyncio.Protocol):
    """One Kong data plane, from its upgrade to the end of its connection.

    Args:
        transport: writes to it; hand it over with `set_protocol`.
    """

    def __init__(
        self,
        port: Port,
        transport: asyncio.Transport,
        arguments: Arguments,
        ip: str,
        certificate: x509.Certificate | None,
    ) -> None:
        self.certificate = certificate
        self._port = port
        self._transport = transport
        self._arguments = arguments
        self._ip = ip
        self._certificate_expiry_s = (
            int(certificate.not_valid_after_utc.timestamp()) if certificate is not None else None
        )
        self._link = KongControlLink(port.clock(), spacing_s=port.payloads.spacing_s)
        self._info: BasicInfo | None = None
        self._release: KongVersion | None = None
        self._data_plane: DataPlane | None = None
        self._offering: Offering | None = None
        self._pushed: Export | None = None
        self._making: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_closing = False

    def __str__(self) -> str:
        """As Kong ends its lines about a data plane."""
        arguments = self._arguments
        return (
            f"[id: {arguments.node_id}, host: {arguments.node_hostname}, ip: {self._ip},"
            f" version: {arguments.node_version}]"
        )

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        if not self._is_closing:
            self._act(self._link.receive(data, self._port.clock()))
            self._flush()

    def eof_received(self) -> None:
        self._end("the data plane closed the connection")

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"the connection broke: {exc}" if exc is not None else "the connection was closed")
        if self._timer is not None:
            self._timer.cancel()
        self._port.on_lost(self)

    # What the hub and the cluster port call.

    def offer(self, offering: Offering | None) -> None:
        """Want this data plane to run *offering*."""
        if offering is not None and not self._is_closing:
            self._offering = offering
            self._link.offer(offering.digest)
            self._consider()

    def pace(self, ping_s: float) -> None:
        """Kong's data planes have a pace of their own, and count nothing that they tell."""

    def close(self, reason: str) -> None:
        self._end(reason)

    def tick(self, now_s: float) -> None:
        """End the connection when something that was due has not come."""
        if now_s >= self._link.next_deadline():
            self._act(self._link.on_tick(now_s))
            self._flush()
        self._consider()

    def _act(self, events: Sequence[ControlEvent]) -> None:
        for event in events:
            if self._is_closing:
                return
            match event:
                case Greeted(info):
                    self._greet(info)
                case Pinged(config_hash):
                    self._pinged(config_hash)
                case Unapplied(config_hash):
                    self._refused(config_hash, "it reports another hash since; its own log says why")
                case Reported(report):
                    self._refused(report.config_hash, report.reason)
                case Ended(reason):
                    self._end(reason)

    def _greet(self, info: BasicInfo) -> None:
        """Kong's first check; who passes it joins."""
        arguments = self._arguments
        self._info = info
        self._release = parse_version(arguments.node_version)
        hello = Hello(
            node_id=arguments.node_id,
            hostname=arguments.node_hostname,
            version=arguments.node_version,
            applied_version=0,
            applied_digest="",
            max_snapshot_bytes=1,
            labels=dict(info.labels),
        )
        data_plane = DataPlane(hello, self, self._ip, self._certificate_expiry_s)
        data_plane.config_hash = ZERO_HASH
        refusal = check_version(arguments.node_version)
        if refusal is not None:
            data_plane.sync_status = refusal.status.value
            self._port.hub.turned_away(data_plane, refusal.reason)
            self._end(refusal.reason)
            return
        difference = describe_difference(arguments.node_version)
        if difference is not None:
            log.info("%s %s", difference, self)
        self._tell_missing_plugins(info)
        self._data_plane = data_plane
        self._port.hub.join(data_plane)

    def _tell_missing_plugins(self, info: BasicInfo) -> None:
        assert self._release is not None
        for name in PLUGIN_SCHEMAS:
            if name not in info.plugins and has_plugin(name, self._release):
                version = plugin_version(name, self._release, KONG_VERSION)
                shown = f"{name} plugin {version}" if version is not None else f"{name} plugin"
                log.info("%s is missing from data plane %s", shown, self)

    def _pinged(self, config_hash: str) -> None:
        if self._data_plane is None:
            return
        data_plane = self._data_plane
        data_plane.config_hash = config_hash
        applied = self._port.payloads.applied_by(config_hash)
        if (
            applied is None
            and self._pushed is not None
            and self._pushed.is_empty
            and config_hash == ZERO_HASH
        ):
            applied = Applied(self._pushed.offering.version, self._pushed.offering.digest)
        if applied is not None and applied.digest != data_plane.applied_digest:
            data_plane.last_error = None
            log.info("%s runs version %d %s", data_plane, applied.version, self)
        self._port.hub.reported(data_plane, *(applied or (0, "")))
        self._consider()

    def _refused(self, config_hash: str, reason: str) -> None:
        applied = self._port.payloads.applied_by(config_hash)
        if self._data_plane is not None:
            self._port.hub.unapplied(self._data_plane, applied.version if applied is not None else 0, reason)

    # Pushing.

    def _consider(self) -> None:
        """Begin to make the push that is due, or see to it that this is asked again when one is."""
        if self._is_closing or self._making is not None:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = self._port.clock()
        due_s = self._link.next_push_at()
        if due_s is None or self._offering is None:
            return
        loop = asyncio.get_running_loop()
        if due_s > now_s:
            self._timer = loop.call_later(due_s - now_s, self._consider)
            return
        self._making = loop.create_task(self._push(self._offering))
        self._making.add_done_callback(self._made)

    def _made(self, making: asyncio.Task[None]) -> None:
        self._making = None
        if not making.cancelled():
            self._consider()

    async def _push(self, offering: Offering) -> None:
        try:
            await self._make_and_push(offering)
        except Exception as exc:
            # A fault of our own: the data plane comes again, and serves meanwhile.
            log.exception("no push could be made %s", self)
            self._end(f"no push could be made: {exc}")

    async def _make_and_push(self, offering: Offering) -> None:
        payloads = self._port.payloads
        assert self._release is not None
        export = await payloads.export(offering)
        refusal = self._refusal(export)
        payload = None
        if refusal is None and not self._link.runs(export.hashes.config):
            payload = await payloads.payload(export, self._release)
            refusal = self._too_large(payload.size)
        if self._is_closing or self._data_plane is None:
            return
        data_plane = self._data_plane
        data_plane.sync_status = (refusal.status if refusal is not None else SyncStatus.NORMAL).value
        if refusal is not None:
            self._link.settle(offering.digest)
            self._port.hub.withheld(data_plane, offering.version, refusal.reason)
        elif self._link.runs(export.hashes.config):
            self._link.spare(offering.digest, export.hashes.config)
            self._pinged(self._link.reported_hash)
        # Without a payload it ran this a moment ago, and does no more: it is asked anew.
        elif payload is not None:
            self._link.push(offering.digest, payload.pieces, export.hashes.config, self._port.clock())
            self._pushed = export
            log.debug("sends version %d, %d bytes, %s", offering.version, payload.size, self)
            self._flush()

    def _refusal(self, export: Export) -> Refusal | None:
        """Kong's second check, and what else stands in the way of a push."""
        assert self._info is not None
        assert self._release is not None
        refusal = check_plugins(export.plugins, self._info.plugins, self._release)
        if refusal is not None:
            return refusal
        reason = export.misfit(self._release, self._info.router_flavor or self._port.payloads.flavor)
        return Refusal(SyncStatus.NORMAL, reason) if reason is not None else None

    def _too_large(self, size: int) -> Refusal | None:
        assert self._info is not None
        assert self._release is not None
        limit = self._info.max_payload_bytes or default_max_payload_bytes(self._release)
        if size <= limit:
            return None
        return Refusal(
            SyncStatus.NORMAL, f"{size} compressed bytes are more than the {limit} of its cluster_max_payload"
        )

    # The end.

    def _end(self, reason: str) -> None:
        """End the connection, once; say what is left to say."""
        if self._is_closing:
            return
        self._is_closing = True
        self._link.close()
        self._flush()
        if self._making is not None:
            self._making.cancel()
        data_plane, self._data_plane = self._data_plane, None
        if data_plane is not None:
            self._port.hub.leave(data_plane, reason)
        else:
            log.warning("refused a Kong data plane: %s %s", reason, self)
        self._transport.close()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def _flush(self) -> None:
        while not self._is_paused and not self._transport.is_closing():
            data = self._link.next_bytes()
            if data is None:
                return
            self._transport.write(data)
