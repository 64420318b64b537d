"""The two ends of a link, without sockets, clocks or tasks.

Contract. Feed what arrived to `receive_message` and the time to `on_tick`; act on the events that they
return; then send what `next_message` gives until it gives None. `next_message` is to be called only while the
transport takes more: what is sent is taken from its `Offering` as it is pulled, and what is due besides it is
one place per kind of message, so a peer that does not read holds nothing here but the transport's own buffer.
After an `Ended` event send what is left (a Bye), then close the transport.

The one complication: newest wins, but what has begun is finished. A control plane has one snapshot or delta
on its way to a data plane and waits for its verdict; offers meanwhile overwrite each other. So a slow data
plane under steady changes gets fewer and longer deltas, each to the newest of its moment.

A delta is sent to one who runs what it begins from; after any doubt about it (`Nack.wants_whole`) the whole.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

from fastgw.errors import LocalLinkError, RemoteLinkError
from fastgw.wire.events import (
    Accepted,
    Confirmed,
    ControlEvent,
    DataEvent,
    Ended,
    Joined,
    Paced,
    Received,
    Rejected,
    Reported,
    TrustTold,
    Welcomed,
    WholeWanted,
    Withheld,
)
from fastgw.wire.messages import (
    TEXT_LIMIT,
    Ack,
    Answered,
    Bye,
    Delta,
    Hello,
    Message,
    Nack,
    Ping,
    Pong,
    Same,
    SnapshotBegin,
    SnapshotChunk,
    Welcome,
    bounded_faults,
    bounded_texts,
    decode_to_control_plane,
    decode_to_data_plane,
    encode,
)
from fastgw.wire.offering import Offering, Whole
from fastgw.wire.pacing import retry_delay
from fastgw.wire.signature import Signature
from fastgw.wire.states import (
    CONTROL_MOVES,
    DATA_MOVES,
    FROM_CONTROL_PLANE,
    FROM_DATA_PLANE,
    ControlInput,
    ControlState,
    DataInput,
    DataState,
)

HEARTBEAT_S: Final = 30.0
GREETING_TIMEOUT_S: Final = 10.0
_SILENCE_IN_HEARTBEATS: Final = 1.5
"""Source: Kong's 45 s for its 30 s."""


class ControlLink:
    """The control plane's end of the link to one data plane.

    Args:
        now_s: monotonic seconds, as in all calls.
        node_id: of this control plane; *cluster_id* is of all that share its database.
        spread_s: announced to the data plane: see `pacing.spread_for`.
        draw: gives a number from 0 up to 1 for each delay.
        trust: gives the state of the cluster's authorities, as `Welcome.trust` has it.
    """

    def __init__(
        self,
        now_s: float,
        *,
        cluster_id: str,
        version: str,
        node_id: str = "",
        hostname: str = "",
        spread_s: float = 0.0,
        heartbeat_s: float = HEARTBEAT_S,
        draw: Callable[[], float] = random.random,
        trust: Callable[[], str] = lambda: "",
    ) -> None:
        self.state = ControlState.GREETING
        self.hello: Hello | None = None
        self._trust = trust
        self._welcome = Welcome(
            cluster_id=cluster_id,
            node_id=node_id,
            hostname=hostname,
            version=version,
            spread_s=spread_s,
            heartbeat_s=heartbeat_s,
            trust=trust(),
        )
        self._silence_s = heartbeat_s * _SILENCE_IN_HEARTBEATS
        self._deadline_s = now_s + GREETING_TIMEOUT_S
        self._draw = draw
        self._applied = (0, "")
        """Version and digest of what the data plane runs."""
        self._wanted: Offering | None = None
        self._settled_version: int | None = None
        """The last version told to be the same, or withheld: said once."""
        self._settled_signatures: tuple[Signature, ...] = ()
        """Those that the data plane has of it: other keys may come to sign the same."""
        self._rejected_digest: str | None = None
        self._distrusted_digest: str | None = None
        """A delta from this did not lead where it should: no more of them."""
        self._retry_at_s: float | None = None
        """Nothing is sent before: the data plane is in trouble for the moment."""
        self._failures = 0
        """Verdicts in a row that were `is_passing`."""
        self._transfer: Sequence[bytes] = ()
        self._transfer_place = 0
        self._transfer_version = 0
        self._transfer_digest = ""
        self._transfer_base = ""
        self._transfer_signatures: tuple[Signature, ...] = ()
        self._welcome_due = False
        self._pong_due = False
        self._ping_s = 0.0
        """How often the data plane is to send a Ping; 0: at every heartbeat."""
        self._same_due: Same | None = None
        self._bye_due: Bye | None = None

    @property
    def is_closed(self) -> bool:
        """True once the link is over; a Bye may still be due."""
        return self.state is ControlState.CLOSED

    def next_deadline(self) -> float:
        """When `on_tick` has something to do, in monotonic seconds."""
        return self._deadline_s if self._retry_at_s is None else min(self._deadline_s, self._retry_at_s)

    def on_tick(self, now_s: float) -> list[ControlEvent]:
        """End the link if the peer has been silent for too long; try again what is to be tried again."""
        if self.is_closed:
            return []
        if now_s < self._deadline_s:
            if self._retry_at_s is None or now_s < self._retry_at_s:
                return []
            self._retry_at_s = None
            return self._settle()
        if self.state is ControlState.GREETING:
            return self._end(f"said no Hello within {GREETING_TIMEOUT_S:g} s", is_refusal=True)
        return self._end(f"silent for {self._silence_s:g} s", is_refusal=True)

    def receive_message(self, data: bytes | bytearray, now_s: float) -> list[ControlEvent]:
        """Take one message from the data plane."""
        if self.is_closed:
            return []
        try:
            message = decode_to_control_plane(data)
            events = self._take(message, now_s)
        except RemoteLinkError as exc:
            return self._end(str(exc), is_refusal=True)
        if not self.is_closed:
            self._deadline_s = now_s + self._silence_s
        return events

    def offer(self, offering: Offering | None) -> list[ControlEvent]:
        """Name what is wanted of this data plane from now on (None: nothing), in place of what was."""
        if self.is_closed:
            return []
        self._move(ControlInput.OFFER)
        self._wanted = offering
        return self._settle()

    def pace(self, ping_s: float) -> None:
        """Want a Ping at once and every *ping_s* seconds, or each heartbeat if that is sooner; 0: as ever."""
        ping_s = min(ping_s, self._welcome.heartbeat_s)
        if not self.is_closed and ping_s != self._ping_s:
            self._ping_s = ping_s
            self._pong_due = True

    def close(self, reason: str) -> None:
        """End the link from here; `next_message` still gives the Bye that says so."""
        if not self.is_closed:
            self._end(reason, is_refusal=False)

    def next_message(self) -> bytes | None:
        """What to send next, if anything; call it only while the transport takes more."""
        if self.is_closed:
            bye, self._bye_due = self._bye_due, None
            return encode(bye) if bye is not None else None
        if self._welcome_due:
            self._welcome_due = False
            return encode(self._welcome)
        if self._pong_due and self.state is not ControlState.GREETING:
            self._pong_due = False
            return encode(Pong(trust=self._trust(), ping_s=self._ping_s))
        if self._same_due is not None:
            same, self._same_due = self._same_due, None
            return encode(same)
        if self.state is ControlState.SENDING:
            message = self._transfer[self._transfer_place]
            self._transfer_place += 1
            if self._transfer_place == len(self._transfer):
                self._transfer = ()
                self._move(ControlInput.SENT)
            return message
        return None

    def _take(self, message: Message, now_s: float) -> list[ControlEvent]:
        match message:
            case Hello():
                self._move(ControlInput.HELLO)
                self.hello = message
                self._welcome_due = True
                self._applied = (message.applied_version, message.applied_digest)
                return [Joined(message), *self._settle()]
            case Ping():
                self._move(ControlInput.PING)
                self._pong_due = True
                self._applied = (message.version, message.digest)
                if self._wanted is not None and self._wanted.version < message.version:
                    # It runs more than was known when this was wanted: whoever wants it is to say so anew.
                    self._wanted = None
                return [Reported(message.version, message.digest, message.answered), *self._settle()]
            case Ack():
                self._move(ControlInput.ACK)
                self._check_verdict(message.version)
                self._applied = (message.version, message.digest)
                self._rejected_digest = None  # what spoke against it may have been that moment's
                self._distrusted_digest = None
                self._failures = 0
                self._settled_version = message.version
                self._settled_signatures = self._transfer_signatures
                return [Accepted(message), *self._settle()]
            case Nack():
                self._move(ControlInput.NACK)
                self._check_verdict(message.version)
                return [self._rejected(message, now_s), *self._settle()]
            case Bye():
                self._move(ControlInput.PEER_BYE)
                return [Ended(f"the data plane ended the link: {message.reason}", message.is_refusal)]
        raise AssertionError(message)

    def _rejected(self, nack: Nack, now_s: float) -> Rejected:
        """Draw the consequences of a refusal."""
        if nack.wants_whole and self._transfer_base:
            self._distrusted_digest = self._transfer_base
            return Rejected(nack, 0.0)
        if nack.is_passing:
            delay_s = retry_delay(self._failures, self._draw)
            self._failures += 1
            self._retry_at_s = now_s + delay_s
            return Rejected(nack, delay_s)
        self._rejected_digest = self._transfer_digest
        return Rejected(nack, None)

    def _check_verdict(self, version: int) -> None:
        if version != self._transfer_version:
            raise RemoteLinkError(f"a verdict on version {version} where {self._transfer_version} was due")

    def _settle(self) -> list[ControlEvent]:
        """Begin what brings the data plane from what it runs to what is wanted, if that can begin now."""
        wanted = self._wanted
        if self.state is not ControlState.IDLE or wanted is None:
            return []
        if wanted.digest == self._applied[1]:
            if (wanted.version, wanted.signatures) != (self._settled_version, self._settled_signatures):
                self._settled_version, self._settled_signatures = wanted.version, wanted.signatures
                self._same_due = Same(
                    version=wanted.version, digest=wanted.digest, signatures=wanted.signatures
                )
            return []
        if wanted.digest == self._rejected_digest or self._retry_at_s is not None:
            return []
        delta = self._delta_to(wanted)
        if delta is not None:
            self._begin(wanted.version, wanted.digest, (delta,), base=self._applied[1])
            self._transfer_signatures = wanted.signatures
            return []
        whole = wanted.whole_for(self._applied[0] if self._applied[1] else -1)
        if whole is None or whole.digest == self._rejected_digest:
            return [WholeWanted(wanted)]
        return self._begin_whole(whole, wanted)

    def _delta_to(self, wanted: Offering) -> bytes | None:
        assert self.hello is not None
        applied = self._applied[1]
        if self.hello.minor < 1 or not applied or applied == self._distrusted_digest:
            return None
        delta = wanted.delta_from(applied)
        return delta if delta is not None and len(delta) <= self.hello.max_snapshot_bytes else None

    def _begin_whole(self, whole: Whole, wanted: Offering) -> list[ControlEvent]:
        assert self.hello is not None
        size, limit = len(whole.compressed), self.hello.max_snapshot_bytes
        if size <= limit:
            self._begin(whole.version, whole.digest, whole.messages)
            self._transfer_signatures = whole.signatures
            return []
        if wanted.version == self._settled_version:
            return []
        self._settled_version = wanted.version
        reason = f"{size} compressed bytes are more than the {limit} of its cluster_max_payload"
        return [Withheld(wanted.version, reason)]

    def _begin(self, version: int, digest: str, messages: Sequence[bytes], *, base: str = "") -> None:
        self._move(ControlInput.BEGIN)
        # What was due to be said about an older version is overtaken.
        self._same_due = None
        self._transfer = messages
        self._transfer_place = 0
        self._transfer_version = version
        self._transfer_digest = digest
        self._transfer_base = base

    def _move(self, signal: ControlInput) -> None:
        target = CONTROL_MOVES.get((self.state, signal))
        if target is None:
            complaint = f"{signal.value} in state {self.state.value}"
            raise RemoteLinkError(complaint) if signal in FROM_DATA_PLANE else LocalLinkError(complaint)
        self.state = target

    def _end(self, reason: str, *, is_refusal: bool) -> list[ControlEvent]:
        self._move(ControlInput.CLOSE)
        self._transfer = ()
        self._wanted = None
        self._bye_due = Bye(reason=reason[:TEXT_LIMIT], is_refusal=is_refusal)
        return [Ended(reason, is_refusal)]


class DataLink:
    """The data plane's end of its link.

    Args:
        now_s: monotonic seconds, as in all calls.
        hello: the first message; what it says about what is applied is where this end begins.
        answered: gives what each Ping tells of what was answered; it is called when one is sent.
    """

    def __init__(
        self, now_s: float, hello: Hello, *, answered: Callable[[], Answered | None] = lambda: None
    ) -> None:
        self.state = DataState.GREETING
        self._answered = answered
        self._hello_due: Hello | None = hello
        self._max_snapshot_bytes = hello.max_snapshot_bytes
        self._applied = (hello.applied_version, hello.applied_digest)
        self._heartbeat_s = HEARTBEAT_S
        self._silent_at_s = now_s + GREETING_TIMEOUT_S
        self._ping_at_s = float("inf")
        self._ping_s = 0.0
        """The pace of Pings that was asked for; 0: that of the heartbeat."""
        self._begin: SnapshotBegin | None = None
        self._chunks: list[bytes] = []
        self._missing_bytes = 0
        self._verdict_due: Ack | Nack | None = None
        self._ping_due = False
        self._bye_due: Bye | None = None

    @property
    def is_closed(self) -> bool:
        """True once the link is over; a Bye may still be due."""
        return self.state is DataState.CLOSED

    def next_deadline(self) -> float:
        """When `on_tick` has something to do, in monotonic seconds."""
        return min(self._silent_at_s, self._ping_at_s)

    def on_tick(self, now_s: float) -> list[DataEvent]:
        """Send the Ping that is due; end the link if the peer has been silent for too long."""
        if self.is_closed:
            return []
        if now_s >= self._silent_at_s:
            if self.state is DataState.GREETING:
                return self._end(f"the control plane said no Welcome within {GREETING_TIMEOUT_S:g} s")
            return self._end(f"the control plane is silent for {self._silence_s:g} s")
        if now_s >= self._ping_at_s:
            self._move(DataInput.PING)
            self._ping_due = True
            self._ping_at_s = now_s + (self._ping_s or self._heartbeat_s)
        return []

    def receive_message(self, data: bytes | bytearray, now_s: float) -> list[DataEvent]:
        """Take one message from the control plane."""
        if self.is_closed:
            return []
        try:
            message = decode_to_data_plane(data)
            events = self._take(message, now_s)
        except RemoteLinkError as exc:
            return self._end(str(exc))
        if not self.is_closed:
            self._silent_at_s = now_s + self._silence_s
        return events

    def report(self, version: int, digest: str) -> None:
        """Tell at once what is applied, if it is not what the control plane knows. Not before the Welcome."""
        if self._applied != (version, digest):
            self._move(DataInput.PING)
            self._applied = (version, digest)
            self._ping_due = True

    def accept(self, ack: Ack) -> None:
        """Answer the snapshot received last: it is applied."""
        self._move(DataInput.VERDICT)
        self._applied = (ack.version, ack.digest)
        # The verdict says what a Ping would.
        self._ping_due = False
        self._verdict_due = Ack(
            version=ack.version,
            digest=ack.digest,
            decode_ms=ack.decode_ms,
            compile_ms=ack.compile_ms,
            store_ms=ack.store_ms,
            commit_ms=ack.commit_ms,
            warnings=bounded_texts(ack.warnings),
        )

    def reject(
        self,
        version: int,
        faults: list[dict[str, Any]],
        *,
        wants_whole: bool = False,
        is_passing: bool = False,
    ) -> None:
        """Answer the snapshot received last: it is refused, for these reasons.

        Args:
            wants_whole: it was a delta that is of no use here.
            is_passing: it may be taken when it is sent again later.
        """
        self._move(DataInput.VERDICT)
        self._verdict_due = Nack(
            version=version, faults=bounded_faults(faults), wants_whole=wants_whole, is_passing=is_passing
        )

    def close(self, reason: str) -> None:
        """End the link from here; `next_message` still gives the Bye that says so."""
        if not self.is_closed:
            self._move(DataInput.CLOSE)
            self._bye_due = Bye(reason=reason[:TEXT_LIMIT])

    def next_message(self) -> bytes | None:
        """What to send next, if anything; call it only while the transport takes more."""
        message: Message | None
        if self.is_closed:
            message, self._bye_due = self._bye_due, None
        elif self._hello_due is not None:
            message, self._hello_due = self._hello_due, None
        elif self._ping_due:
            # Before a refusal: what is sent next depends on what runs here.
            self._ping_due = False
            message = Ping(version=self._applied[0], digest=self._applied[1], answered=self._answered())
        elif self._verdict_due is not None:
            message, self._verdict_due = self._verdict_due, None
        else:
            message = None
        return encode(message) if message is not None else None

    @property
    def _silence_s(self) -> float:
        return self._heartbeat_s * _SILENCE_IN_HEARTBEATS

    def _take(self, message: Message, now_s: float) -> list[DataEvent]:
        match message:
            case Welcome():
                self._move(DataInput.WELCOME)
                self._heartbeat_s = message.heartbeat_s
                self._ping_at_s = now_s + self._heartbeat_s
                return [Welcomed(message)]
            case Same():
                self._move(DataInput.SAME)
                if message.digest != self._applied[1]:
                    raise RemoteLinkError(f"told that {message.digest} runs here, which does not")
                return [Confirmed(message.version, message.digest, message.signatures)]
            case SnapshotBegin():
                self._move(DataInput.SNAPSHOT)
                if message.size > self._max_snapshot_bytes:
                    raise RemoteLinkError(
                        f"snapshot {message.version} has {message.size} compressed bytes,"
                        f" more than the {self._max_snapshot_bytes} of cluster_max_payload"
                    )
                self._begin = message
                self._missing_bytes = message.size
                return []
            case Delta():
                self._move(DataInput.DELTA)
                return [
                    Received(
                        message.version,
                        message.digest,
                        message.data,
                        message.base_digest,
                        message.signatures,
                    )
                ]
            case SnapshotChunk():
                return self._take_chunk(message.data)
            case Pong():
                self._move(DataInput.PONG)
                told: list[DataEvent] = [TrustTold(message.trust)] if message.trust else []
                return [*told, *self._take_pace(message.ping_s, now_s)]
            case Bye():
                self._move(DataInput.PEER_BYE)
                return [Ended(f"the control plane ended the link: {message.reason}", message.is_refusal)]
        raise AssertionError(message)

    def _take_pace(self, ping_s: float, now_s: float) -> list[DataEvent]:
        if ping_s == self._ping_s:
            return []
        self._ping_s = ping_s
        # At once, so that what is counted from now on can be told from what was before.
        self._ping_at_s = now_s if ping_s else min(self._ping_at_s, now_s + self._heartbeat_s)
        return [Paced()]

    def _take_chunk(self, data: bytes) -> list[DataEvent]:
        self._move(DataInput.LAST_CHUNK if len(data) >= self._missing_bytes else DataInput.CHUNK)
        if len(data) > self._missing_bytes:
            raise RemoteLinkError(
                f"a snapshot is {len(data) - self._missing_bytes} bytes longer than announced"
            )
        self._chunks.append(data)
        self._missing_bytes -= len(data)
        if self._missing_bytes:
            return []
        assert self._begin is not None
        compressed = b"".join(self._chunks)
        self._chunks.clear()
        begin = self._begin
        return [Received(begin.version, begin.digest, compressed, signatures=begin.signatures)]

    def _move(self, signal: DataInput) -> None:
        target = DATA_MOVES.get((self.state, signal))
        if target is None:
            complaint = f"{signal.value} in state {self.state.value}"
            raise RemoteLinkError(complaint) if signal in FROM_CONTROL_PLANE else LocalLinkError(complaint)
        self.state = target

    def _end(self, reason: str) -> list[DataEvent]:
        self._move(DataInput.CLOSE)
        self._chunks.clear()
        self._bye_due = Bye(reason=reason[:TEXT_LIMIT], is_refusal=True)
        return [Ended(reason, is_refusal=True)]
