"""A link to a Kong control plane: this data plane as a Kong data plane would be.

    upgrade ──> basic_info, PING ──> pushed to ── newest only ──> decode ──> apply ──> PING with its hash

Contract. The control plane never sees anything of ours. Its configuration is applied like any other, whole or
not at all; one that is refused is told in our own log, since Kong's protocol has no word for it: the PINGs go
on with the hash of what runs. While one push is decoded or applied, later ones overwrite each other.

The one complication is the names of a configuration: the control plane knows it by its own hash, we by our
digest. `KongNode` outlives the links and remembers which hash belongs to which digest.

Source: kong/clustering/{data_plane,utils}.lua, 3.9.1.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from fastgw.dp.connection import LinkConnection, Owner
from fastgw.dp.incoming import Applied, AppliedState, ApplyResult, IncomingSnapshot
from fastgw.errors import DeclarativeError, RemoteLinkError
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.model.snapshot import Snapshot
from fastgw.settings import Settings
from fastgw.tls.cluster import LinkTls
from fastgw.wire.kong_v1.hashes import ZERO_HASH, hash_b, hash_c
from fastgw.wire.kong_v1.importing import import_table
from fastgw.wire.kong_v1.link import DataEvent, Ended, Ignored, KongDataLink, Pushed
from fastgw.wire.kong_v1.messages import (
    Arguments,
    PluginInfo,
    Push,
    decode_push,
    encode_basic_info,
    outlet_path,
)
from fastgw.wire.kong_v1.versions import has_plugin, parse_version, plugin_version

_HEAD_LIMIT_BYTES: Final = 16 * 1024
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_HASHES_KEPT: Final = 8
_SOURCE: Final = "the control plane's configuration"
LOGGED_FAULTS: Final = 5


def next_kong_delay(draw: Callable[[], float]) -> float:
    """Seconds to wait before the next try: as Kong's data planes do, 5 to 10."""
    return 5.0 + 5.0 * draw()


class Decoded(NamedTuple):
    """A push as it is applied."""

    config_hash: str
    """What the control plane will be told once it runs."""
    snapshot: Snapshot
    packed: bytes
    warnings: Sequence[str]


class KongNode:
    """This data plane as a Kong control plane is to know it; one for all links."""

    def __init__(self, settings: Settings, node_id: str, hostname: str) -> None:
        version = parse_version(settings.cluster_kong_version)
        assert version is not None
        self.arguments: Final = Arguments(node_id, hostname, settings.cluster_kong_version)
        self.limit_bytes: Final = settings.cluster_max_payload
        self._version = version
        self._settings = settings
        self._hashes: OrderedDict[str, str] = OrderedDict()
        self._last_version = 0

    def basic_info(self) -> bytes:
        """The first message. It names every plugin that we know: those without behaviour fail closed."""
        settings = self._settings
        plugins = [
            PluginInfo(name, plugin_version(name, self._version, settings.cluster_kong_version))
            for name in sorted(PLUGIN_SCHEMAS)
            if has_plugin(name, self._version)
        ]
        conf = {
            "role": "data_plane",
            "database": "off",
            "cluster_mtls": settings.cluster_mtls,
            "cluster_max_payload": settings.cluster_max_payload,
            "router_flavor": settings.router_flavor,
        }
        return encode_basic_info(plugins, settings.cluster_dp_labels, conf)

    def hash_of(self, state: AppliedState) -> str:
        """The hash to report while this runs; zeros for what no Kong control plane has sent."""
        return self._hashes.get(state.digest, ZERO_HASH)

    def remember(self, digest: str, config_hash: str) -> None:
        """Know from now on by which hash the control plane knows a digest."""
        self._hashes[digest] = config_hash
        self._hashes.move_to_end(digest)
        while len(self._hashes) > _HASHES_KEPT:
            self._hashes.popitem(last=False)

    def next_version(self, state: AppliedState) -> int:
        """A number for what the control plane has none for: above all that were given or run."""
        self._last_version = max(self._last_version, state.version) + 1
        return self._last_version

    def decode(self, push: Push, version: int) -> Decoded:
        """Make rows of a push. Takes long: for a thread.

        Raises:
            DeclarativeError: it cannot be served, for all these reasons.
        """
        imported = import_table(push.table, _SOURCE, flavor=self._settings.router_flavor)
        snapshot = Snapshot.from_rows(version, imported.rows)
        if imported.is_empty and self._version >= (3, 2):
            config_hash = ZERO_HASH
        else:
            config_hash = push.config_hash or self._computed_hash(push.table)
        return Decoded(config_hash, snapshot, snapshot.pack(), imported.warnings)

    def _computed_hash(self, table: Mapping[str, Any]) -> str:
        return (hash_c if self._version.major >= 3 else hash_b)(table).config


class KongConnection(LinkConnection):
    """A connection that speaks Kong's protocol."""

    wire = "kong"

    def __init__(self, owner: Owner, address: str, tls: LinkTls, node: KongNode) -> None:
        super().__init__(address, tls, owner.clock)
        self._owner = owner
        self._node = node
        self._websocket = ClientProtocol(
            parse_uri(f"wss://{address}{outlet_path(node.arguments)}"), max_size=None
        )
        self._head = b""
        self._link: KongDataLink | None = None
        self._frame: bytes | None = None
        self._taking: asyncio.Task[None] | None = None
        self._has_answer = asyncio.Event()
        self._is_paused = False

    def data_received(self, data: bytes) -> None:
        if self.over.done():
            return
        if self._link is None:
            data = self._take_head(data)
        if self._link is not None:
            self._act(self._link.receive(data, self._clock()))
            self._flush()

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self._flush()

    def answer(self, result: ApplyResult) -> None:
        """Take what came of the snapshot that this connection brought."""
        self._has_answer.set()
        if isinstance(result, Applied):
            self._owner.confirmed(self, result.version)
            self.report(self._owner.applied())
        else:
            self._tell_refused([str(fault.get("reason", fault)) for fault in result.faults])

    def report(self, state: AppliedState) -> None:
        """Tell what runs now."""
        if self._link is not None and not self.over.done():
            self._link.report(self._node.hash_of(state), self._clock())
            self._flush()

    def _upgrade(self) -> None:
        assert self._transport is not None
        self._websocket.send_request(self._websocket.connect())
        for piece in self._websocket.data_to_send():
            self._transport.write(piece)

    def _on_tick(self, now_s: float) -> float:
        assert self._link is not None
        self._act(self._link.on_tick(now_s))
        self._flush()
        return self._link.next_deadline()

    def _take_head(self, data: bytes) -> bytes:
        """Take bytes of the answer to the upgrade; gives back what comes after it."""
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > _HEAD_LIMIT_BYTES:
                self._end("the control plane's answer to the upgrade has no end")
            return b""
        status = _STATUS.match(head)
        if status is None or status[1] != b"101":
            self._end(self._explain_answer(status[1].decode() if status is not None else None))
            return b""
        self._websocket.receive_data(head + end)
        if self._websocket.handshake_exc is not None:
            self._end(f"no websocket was opened: {self._websocket.handshake_exc}")
            return b""
        self._link = KongDataLink(
            self._clock(),
            self._node.basic_info(),
            self._node.hash_of(self._owner.applied()),
            self._node.limit_bytes,
        )
        self._owner.linked(self)
        self.tick()
        return rest

    def _explain_answer(self, status: str | None) -> str:
        if status is None:
            return "the control plane did not answer the upgrade in HTTP/1.1"
        if status == "400":
            return "the control plane answered 400: our certificate, or what we told about us, is refused"
        if status == "404":
            return "the control plane answered 404: it speaks neither fastgw's protocol nor Kong's /v1/outlet"
        return f"the control plane answered {status} to the upgrade"

    def _closed_by_peer(self) -> str:
        if self._link is None:
            return "the control plane closed the connection at once: see its log: it refuses our certificate"
        if not self._link.is_answered:
            return (
                f"the control plane closed the link at once: it takes no data plane of version"
                f" {self._node.arguments.node_version}; set cluster_kong_version to its own version"
            )
        return "the control plane closed the link"

    def _act(self, events: Sequence[DataEvent]) -> None:
        for event in events:
            match event:
                case Pushed(frame):
                    self._frame = frame
                    if self._taking is None:
                        self._taking = asyncio.get_running_loop().create_task(self._take_pushes())
                case Ignored(what):
                    self._owner.log.notice("the control plane sent a %s frame, which means nothing", what)
                case Ended(reason):
                    closed = self._link is not None and not self._link.is_answered
                    self._end(self._closed_by_peer() if closed else reason)

    async def _take_pushes(self) -> None:
        """Decode and hand on the newest push until there is none; never two at once."""
        try:
            while self._frame is not None and not self.over.done():
                frame, self._frame = self._frame, None
                await self._take(frame)
        except RemoteLinkError as exc:
            self._end(str(exc))
        except Exception as exc:
            self._owner.log.exception("a push could not be taken")
            self._end(f"a push could not be taken: {exc!r}")
        finally:
            self._taking = None

    async def _take(self, frame: bytes) -> None:
        push = await asyncio.to_thread(decode_push, frame)
        if push is None:
            return
        state = self._owner.applied()
        if push.config_hash is not None and push.config_hash == self._node.hash_of(state):
            # A control plane pushes twice at a connect, and whatever it pushes, it pushes whole.
            self.report(state)
            return
        version = self._node.next_version(state)
        try:
            decoded = await asyncio.to_thread(self._node.decode, push, version)
        except DeclarativeError as exc:
            self._tell_refused([f"{path}: {text}" for path, text in exc.faults])
            return
        if self.over.done():
            return
        for warning in decoded.warnings:
            self._owner.log.warning("the control plane's configuration: %s", warning)
        self._node.remember(decoded.snapshot.digest, decoded.config_hash)
        self._has_answer.clear()
        self._owner.received(self, IncomingSnapshot(version, decoded.snapshot.digest, decoded.packed))
        await self._has_answer.wait()

    def _tell_refused(self, reasons: Sequence[str]) -> None:
        more = f"; and {len(reasons) - LOGGED_FAULTS} more reasons" if len(reasons) > LOGGED_FAULTS else ""
        self._owner.log.error(
            "refused the control plane's configuration, and stays with what runs: %s%s",
            "; ".join(reasons[:LOGGED_FAULTS]),
            more,
        )

    def _say_goodbye(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
        if self._link is not None:
            self._link.close()
            self._flush()

    def _flush(self) -> None:
        while self._link is not None and self._transport is not None and not self._is_paused:
            data = None if self._transport.is_closing() else self._link.next_bytes()
            if data is None:
                return
            self._transport.write(data)
