"""Both ends of a link that speaks Kong's protocol, after the upgrade: frames in, frames out, events for the
caller.

Contract. No sockets, no tasks, no clock: the caller feeds bytes, passes the time, takes bytes as the
transport has room, and acts on events. `states` says what is allowed when.

The control plane's end pushes by level: there is what is wanted, and what was pushed last; while they differ
it asks for a payload (`wanted_push`), at most one per *spacing*, the first at once. What came in between is
skipped. A PING with the hash that is wanted says that nothing need be pushed, also the first one of a link.

The one complication is that a push that was refused looks like one that is still being applied. A PING with
another hash, a whole interval after the push was written, is taken for a refusal (`Unapplied`), once per
push.

Source: kong/clustering/{control_plane,data_plane}.lua, 3.9.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from fastgw.errors import LocalLinkError, RemoteLinkError
from fastgw.wire.kong_v1.frames import FrameReader, KongFrame, Opcode, encode_frame
from fastgw.wire.kong_v1.hashes import HASH_LENGTH, ZERO_HASH
from fastgw.wire.kong_v1.messages import (
    HELLO_LIMIT_BYTES,
    PING_INTERVAL_S,
    SILENCE_S,
    BasicInfo,
    ErrorReport,
    decode_basic_info,
    decode_error,
)
from fastgw.wire.kong_v1.states import (
    CONTROL_MOVES,
    DATA_MOVES,
    FROM_CONTROL_PLANE,
    FROM_DATA_PLANE,
    KongControlInput,
    KongControlState,
    KongDataInput,
    KongDataState,
)
from fastgw.wire.messages import CHUNK_BYTES

GREETING_TIMEOUT_S: Final = 5.0
PUSH_SPACING_S: Final = 5.0
"""Kong's db_update_frequency: at most one push in this time."""
FIRST_PING_S: Final = 1.0
"""So long a first push waits for the first PING, which may say that none is needed."""
_PONGS_LIMIT: Final = 64
_REPORTED: Final = re.compile(rb"[ -~]{%d}" % HASH_LENGTH)


class Greeted(NamedTuple):
    """The data plane told what it has; the caller checks it, and closes the link or goes on."""

    info: BasicInfo


class Pinged(NamedTuple):
    """What the data plane runs."""

    config_hash: str


class Unapplied(NamedTuple):
    """The data plane does not run what was pushed, and has had the time."""

    config_hash: str


class Reported(NamedTuple):
    """The data plane said why it refused a push."""

    report: ErrorReport


class Pushed(NamedTuple):
    """The control plane sent a message: decode it in a thread."""

    frame: bytes


class Ignored(NamedTuple):
    """The control plane sent what a data plane takes no notice of."""

    what: str


class Ended(NamedTuple):
    """The link is over."""

    reason: str


ControlEvent = Greeted | Pinged | Unapplied | Reported | Ended
DataEvent = Pushed | Ignored | Ended


def cut_frame(payload: bytes) -> tuple[bytes, ...]:
    """The frame of a push in pieces, so that no transport buffers the whole of it for a slow data plane."""
    frame = memoryview(encode_frame(Opcode.BINARY, payload, is_masked=False))
    return tuple(bytes(frame[at : at + CHUNK_BYTES]) for at in range(0, len(frame), CHUNK_BYTES))


class KongControlLink:
    """The control plane's end.

    Args:
        now_s: monotonic seconds, as in all calls.
        spacing_s: the least time between two pushes.
    """

    def __init__(self, now_s: float, *, spacing_s: float = PUSH_SPACING_S) -> None:
        self.state = KongControlState.GREETING
        self.reported_hash = ZERO_HASH
        """As the last PING said."""
        self._spacing_s = spacing_s
        self._reader = FrameReader(is_masked=True, limit_bytes=HELLO_LIMIT_BYTES)
        self._silent_at_s = now_s + GREETING_TIMEOUT_S
        self._push_at_s = now_s
        self._wanted: str | None = None
        self._settled: str | None = None
        """What was wanted when the last push, or the decision against one, was made."""
        self._pushed_hash: str | None = None
        self._spared_hash: str | None = None
        self._judge_at_s = float("inf")
        self._has_pinged = False
        self._pongs_due = 0
        self._push: Sequence[bytes] = ()
        self._place = 0
        self._close_due = False

    @property
    def is_closed(self) -> bool:
        """True once the link is over; a close frame may still be due."""
        return self.state is KongControlState.CLOSED

    def next_deadline(self) -> float:
        """When `on_tick` has something to do, in monotonic seconds."""
        return self._silent_at_s

    def on_tick(self, now_s: float) -> list[ControlEvent]:
        """End the link if the peer has been silent for too long."""
        if self.is_closed or now_s < self._silent_at_s:
            return []
        if self.state is KongControlState.GREETING:
            return self._end("failed to receive websocket basic info frame: timeout")
        return self._end(f"did not receive ping frame from data plane within {SILENCE_S:g} seconds")

    def receive(self, data: bytes, now_s: float) -> list[ControlEvent]:
        """Take bytes from the data plane."""
        if self.is_closed:
            return []
        events: list[ControlEvent] = []
        try:
            for frame in self._reader.feed(data):
                if self.is_closed:
                    break
                events += self._take(frame, now_s)
        except RemoteLinkError as exc:
            events += self._end(str(exc))
        return events

    def offer(self, wanted: str) -> None:
        """Say what is wanted of this data plane, by its digest."""
        self._move(KongControlInput.OFFER)
        self._wanted = wanted

    def wanted_push(self, now_s: float) -> str | None:
        """The digest of what is to be pushed now; answer with `push`, `spare` or `settle`, now or later."""
        push_at_s = self.next_push_at()
        return self._wanted if push_at_s is not None and now_s >= push_at_s else None

    def next_push_at(self) -> float | None:
        """When `wanted_push` will name something, in monotonic seconds; None: not by time alone."""
        is_due = self.state is KongControlState.LINKED and self._wanted not in (None, self._settled)
        return self._push_at_s if is_due else None

    def push(self, wanted: str, frame: Sequence[bytes], config_hash: str, now_s: float) -> None:
        """Write a push, a whole frame in pieces as `cut_frame` makes them; links share them."""
        self._move(KongControlInput.PUSH)
        self._push = frame
        self._place = 0
        self._settled = wanted
        self._spared_hash = None
        self._pushed_hash = config_hash
        self._push_at_s = now_s + self._spacing_s
        self._judge_at_s = now_s + PING_INTERVAL_S - 1

    def runs(self, config_hash: str) -> bool:
        """Whether what bears this hash runs and stays: it is reported, and nothing else is under way."""
        return self.reported_hash == config_hash and self._pushed_hash in (None, config_hash)

    def spare(self, wanted: str, config_hash: str) -> None:
        """Push nothing for what is wanted as long as this hash is reported, since it runs.

        A push of a former link may still be applied, and then another one will be.
        """
        self.settle(wanted)
        self._spared_hash = config_hash

    def settle(self, wanted: str) -> None:
        """Push nothing for what is wanted: it cannot be sent."""
        self._settled = wanted
        self._spared_hash = None
        self._judge_at_s = float("inf")

    def close(self) -> None:
        """End the link from here; `next_bytes` still gives the close frame."""
        if not self.is_closed:
            self._move(KongControlInput.CLOSE)
            self._close_due = True

    def next_bytes(self) -> bytes | None:
        """What to write next, if anything; call it only while the transport takes more."""
        if self._push and (self.state is KongControlState.PUSHING or self._place):
            piece = self._push[self._place]
            self._place += 1
            if self._place == len(self._push):
                self._push = ()
                self._place = 0
                if self.state is KongControlState.PUSHING:
                    self._move(KongControlInput.PUSHED)
            return piece
        if self.is_closed:
            is_due, self._close_due = self._close_due, False
            return encode_frame(Opcode.CLOSE, is_masked=False) if is_due else None
        if self._pongs_due:
            self._pongs_due -= 1
            return encode_frame(Opcode.PONG, is_masked=False)
        return None

    def _take(self, frame: KongFrame, now_s: float) -> list[ControlEvent]:
        if frame.opcode is Opcode.CLOSE:
            self._move(KongControlInput.PEER_CLOSE)
            return [Ended("received close frame from data plane")]
        if self.state is KongControlState.GREETING:
            if frame.opcode is not Opcode.BINARY:
                raise RemoteLinkError(f"the first frame is a {frame.opcode.name}, not a basic_info")
            info = decode_basic_info(frame.payload)
            self._move(KongControlInput.BASIC_INFO)
            self._silent_at_s = now_s + SILENCE_S
            self._push_at_s = now_s + FIRST_PING_S
            return [Greeted(info)]
        if frame.opcode is Opcode.BINARY and (report := decode_error(frame.payload)) is not None:
            self._move(KongControlInput.REPORT)
            return [Reported(report)]
        if frame.opcode is not Opcode.PING:
            raise RemoteLinkError(
                f"invalid websocket frame received from data plane: {frame.opcode.name.lower()}"
            )
        return self._take_ping(frame.payload, now_s)

    def _take_ping(self, payload: bytes, now_s: float) -> list[ControlEvent]:
        self._move(KongControlInput.PING)
        if _REPORTED.fullmatch(payload) is None:
            raise RemoteLinkError(
                f"received a ping frame from the data plane with an invalid hash: {payload[:64]!r}"
            )
        if self._pongs_due == _PONGS_LIMIT:
            raise RemoteLinkError(f"the data plane reads none of {_PONGS_LIMIT} answers to its pings")
        self._pongs_due += 1
        self._silent_at_s = now_s + SILENCE_S
        self.reported_hash = payload.decode()
        if not self._has_pinged:
            self._has_pinged = True
            if self._pushed_hash is None:
                self._push_at_s = min(self._push_at_s, now_s)
        if self._spared_hash not in (None, self.reported_hash):
            self._settled = self._spared_hash = None
        events: list[ControlEvent] = [Pinged(self.reported_hash)]
        if self.reported_hash == self._pushed_hash:
            self._judge_at_s = float("inf")
        elif now_s >= self._judge_at_s and self._pushed_hash is not None:
            self._judge_at_s = float("inf")
            events.append(Unapplied(self._pushed_hash))
        return events

    def _move(self, signal: KongControlInput) -> None:
        target = CONTROL_MOVES.get((self.state, signal))
        if target is None:
            complaint = f"{signal.value} in state {self.state.value}"
            raise RemoteLinkError(complaint) if signal in FROM_DATA_PLANE else LocalLinkError(complaint)
        self.state = target

    def _end(self, reason: str) -> list[ControlEvent]:
        self.close()
        return [Ended(reason)]


class KongDataLink:
    """The data plane's end.

    Args:
        now_s: monotonic seconds, as in all calls.
        basic_info: the encoded first message.
        config_hash: what runs; zeros for nothing.
        limit_bytes: the largest push that is taken, compressed.
    """

    def __init__(self, now_s: float, basic_info: bytes, config_hash: str, limit_bytes: int) -> None:
        self.state = KongDataState.LINKED
        self.is_answered = False
        """The control plane has sent anything at all."""
        self._reader = FrameReader(is_masked=False, limit_bytes=limit_bytes)
        self._basic_info_due: bytes | None = basic_info
        self._hash = config_hash
        self._ping_due = True
        self._ping_at_s = now_s + PING_INTERVAL_S
        self._silent_at_s = now_s + SILENCE_S
        self._close_due = False

    @property
    def is_closed(self) -> bool:
        """True once the link is over; a close frame may still be due."""
        return self.state is KongDataState.CLOSED

    def next_deadline(self) -> float:
        """When `on_tick` has something to do, in monotonic seconds."""
        return min(self._silent_at_s, self._ping_at_s)

    def on_tick(self, now_s: float) -> list[DataEvent]:
        """Send the PING that is due; end the link if the peer has been silent for too long."""
        if self.is_closed:
            return []
        if now_s >= self._silent_at_s:
            self.close()
            return [Ended(f"the control plane is silent for {SILENCE_S:g} s")]
        if now_s >= self._ping_at_s:
            self._ping(now_s)
        return []

    def report(self, config_hash: str, now_s: float) -> None:
        """Tell at once what runs: after each push that was applied, also one that changed nothing."""
        self._hash = config_hash
        self._ping(now_s)

    def receive(self, data: bytes, now_s: float) -> list[DataEvent]:
        """Take bytes from the control plane."""
        if self.is_closed:
            return []
        events: list[DataEvent] = []
        try:
            for frame in self._reader.feed(data):
                if self.is_closed:
                    break
                self._silent_at_s = now_s + SILENCE_S
                events += self._take(frame)
        except RemoteLinkError as exc:
            self.close()
            events.append(Ended(str(exc)))
        return events

    def close(self) -> None:
        """End the link from here; `next_bytes` still gives the close frame."""
        if not self.is_closed:
            self._move(KongDataInput.CLOSE)
            self._close_due = True

    def next_bytes(self) -> bytes | None:
        """What to write next, if anything; call it only while the transport takes more."""
        if self.is_closed:
            is_due, self._close_due = self._close_due, False
            return encode_frame(Opcode.CLOSE, is_masked=True) if is_due else None
        if self._basic_info_due is not None:
            message, self._basic_info_due = self._basic_info_due, None
            return encode_frame(Opcode.BINARY, message, is_masked=True)
        if self._ping_due:
            self._ping_due = False
            return encode_frame(Opcode.PING, self._hash.encode(), is_masked=True)
        return None

    def _ping(self, now_s: float) -> None:
        self._move(KongDataInput.PING)
        self._ping_due = True
        self._ping_at_s = now_s + PING_INTERVAL_S

    def _take(self, frame: KongFrame) -> list[DataEvent]:
        if frame.opcode is Opcode.CLOSE:
            self._move(KongDataInput.PEER_CLOSE)
            return [Ended("the control plane closed the link")]
        self.is_answered = True
        if frame.opcode is Opcode.BINARY:
            self._move(KongDataInput.PUSH)
            return [Pushed(frame.payload)]
        if frame.opcode is Opcode.PONG:
            self._move(KongDataInput.PONG)
            return []
        # Kong's data planes do not answer a PING either: a PONG would end their link.
        self._move(KongDataInput.IGNORED)
        return [Ignored(frame.opcode.name.lower())]

    def _move(self, signal: KongDataInput) -> None:
        target = DATA_MOVES.get((self.state, signal))
        if target is None:
            complaint = f"{signal.value} in state {self.state.value}"
            raise RemoteLinkError(complaint) if signal in FROM_CONTROL_PLANE else LocalLinkError(complaint)
        self.state = target
