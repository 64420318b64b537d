"""Both ends of a link as tests need them: in any state, and joined by a channel that can be cut."""

from __future__ import annotations

from typing import Any

from fastgw.model.snapshot import Snapshot
from fastgw.wire import messages as m
from fastgw.wire.events import ControlEvent, DataEvent
from fastgw.wire.link import ControlLink, DataLink
from fastgw.wire.offering import Offering
from fastgw.wire.states import ControlState, DataState

NODE_ID = "6b9a3a3e-6f0e-4d0c-9a39-5b7c0c5f2a11"
NOTHING = ""
ONE, TWO, THREE = ("1" * 64, "2" * 64, "3" * 64)


def hello(*, version: int = 0, digest: str = NOTHING, limit: int = 1 << 24, **more: Any) -> m.Hello:
    return m.Hello(
        node_id=NODE_ID,
        hostname="dp-1",
        version="0.1.0",
        applied_version=version,
        applied_digest=digest,
        max_snapshot_bytes=limit,
        **more,
    )


def ack(version: int, digest: str) -> m.Ack:
    return m.Ack(version=version, digest=digest, decode_ms=1, compile_ms=2, store_ms=3, commit_ms=4)


def offering(version: int, digest: str, size: int = 10) -> Offering:
    return whole_offering(version, digest, bytes(size))


def real_offering(version: int, names: list[str]) -> Offering:
    snapshot = Snapshot.from_rows(version, {"services": [{"id": name} for name in names]})
    return whole_offering(version, snapshot.digest, snapshot.pack())


def whole_offering(version: int, digest: str, packed: bytes) -> Offering:
    """One that is packed already, and that no delta leads to."""
    made = Offering(version, digest, lambda: packed)
    made.make_whole()
    return made


def packed_of(offering: Offering) -> bytes:
    return offering.make_whole().compressed


def control_link(now_s: float = 0.0) -> ControlLink:
    return ControlLink(now_s, cluster_id="cluster", version="0.1.0")


def control_link_in(state: ControlState) -> ControlLink:
    """A control plane's end in *state*; version 2 is on its way where something is."""
    link = control_link()
    if state is ControlState.GREETING:
        return link
    link.receive_message(m.encode(hello()), 0.0)
    assert sent_by(link)
    if state in (ControlState.SENDING, ControlState.AWAITING):
        link.offer(offering(2, TWO))
    if state is ControlState.AWAITING:
        assert len(sent_by(link)) == 2
    if state is ControlState.CLOSED:
        link.close("test")
        assert sent_by(link)
    assert link.state is state
    return link


def data_link_in(state: DataState) -> DataLink:
    """A data plane's end in *state*; version 2, of 10 bytes, is on its way where something is."""
    link = DataLink(0.0, hello(version=1, digest=ONE))
    assert link.next_message()
    if state is DataState.GREETING:
        return link
    link.receive_message(m.encode(welcome()), 0.0)
    if state in (DataState.RECEIVING, DataState.APPLYING):
        link.receive_message(m.encode(m.SnapshotBegin(version=2, digest=TWO, size=10)), 0.0)
    if state is DataState.APPLYING:
        link.receive_message(m.encode(m.SnapshotChunk(data=bytes(10))), 0.0)
    if state is DataState.CLOSED:
        link.close("test")
        assert link.next_message()
    assert link.state is state
    return link


def welcome(**more: Any) -> m.Welcome:
    return m.Welcome(
        **{"cluster_id": "cluster", "version": "0.1.0", "spread_s": 0.0, "heartbeat_s": 30.0, **more}
    )


def sent_by(link: ControlLink | DataLink) -> list[bytes]:
    """Everything that an end has to send now."""
    sent = []
    while (message := link.next_message()) is not None:
        sent.append(message)
    return sent


def exchange(
    control: ControlLink, data: DataLink, now_s: float = 0.0
) -> tuple[list[ControlEvent], list[DataEvent]]:
    """Carry messages both ways until neither end has any; give back the events of both."""
    control_events: list[ControlEvent] = []
    data_events: list[DataEvent] = []
    while True:
        up, down = sent_by(data), sent_by(control)
        if not up and not down:
            return control_events, data_events
        for message in up:
            control_events += control.receive_message(message, now_s)
        for message in down:
            data_events += data.receive_message(message, now_s)
