"""Both ends of Kong's link: every pair of state and input, each documented quirk, and the recorded bytes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from fastgw.errors import LocalLinkError
from fastgw.wire.kong_v1.frames import FrameReader, KongFrame, Opcode, encode_frame
from fastgw.wire.kong_v1.hashes import ZERO_HASH
from fastgw.wire.kong_v1.link import (
    FIRST_PING_S,
    GREETING_TIMEOUT_S,
    PUSH_SPACING_S,
    Ended,
    Greeted,
    Ignored,
    KongControlLink,
    KongDataLink,
    Pinged,
    Pushed,
    Reported,
    Unapplied,
    cut_frame,
)
from fastgw.wire.kong_v1.messages import PING_INTERVAL_S, SILENCE_S
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
from tests.wire.kong_v1.recorded import BASIC_INFO, PINGS, PUSHED_FRAMES

A, B = "a" * 32, "b" * 32
INFO = json.dumps(BASIC_INFO).encode()
BIG = bytes(600_000)


def from_data_plane(opcode: Opcode, payload: bytes = b"") -> bytes:
    return encode_frame(opcode, payload, is_masked=True)


def from_control_plane(opcode: Opcode, payload: bytes = b"") -> bytes:
    return encode_frame(opcode, payload, is_masked=False)


def written(link: KongControlLink | KongDataLink) -> list[KongFrame]:
    reader = FrameReader(is_masked=isinstance(link, KongDataLink), limit_bytes=1 << 24)
    frames: list[KongFrame] = []
    while (data := link.next_bytes()) is not None:
        frames += reader.feed(data)
    return frames


def control_link(state: KongControlState = KongControlState.LINKED) -> KongControlLink:
    link = KongControlLink(0.0)
    if state is KongControlState.GREETING:
        return link
    assert isinstance(link.receive(from_data_plane(Opcode.BINARY, INFO), 0.0)[0], Greeted)
    if state is KongControlState.PUSHING:
        link.push("one", cut_frame(BIG), A, 0.0)
        assert link.next_bytes()
    if state is KongControlState.CLOSED:
        link.close()
    return link


def data_link(limit_bytes: int = 1 << 24) -> KongDataLink:
    return KongDataLink(0.0, INFO, ZERO_HASH, limit_bytes)


# The tables.

TO_CONTROL_PLANE = {
    KongControlInput.BASIC_INFO: from_data_plane(Opcode.BINARY, INFO),
    KongControlInput.PING: from_data_plane(Opcode.PING, A.encode()),
    KongControlInput.REPORT: from_data_plane(Opcode.BINARY, b'{"type":"error","error":{}}'),
    KongControlInput.PEER_CLOSE: from_data_plane(Opcode.CLOSE),
}
TO_DATA_PLANE = {
    KongDataInput.PUSH: from_control_plane(Opcode.BINARY, PUSHED_FRAMES[0]),
    KongDataInput.PONG: from_control_plane(Opcode.PONG),
    KongDataInput.IGNORED: from_control_plane(Opcode.TEXT, b"x"),
    KongDataInput.PEER_CLOSE: from_control_plane(Opcode.CLOSE),
}


@pytest.mark.parametrize("state", KongControlState)
@pytest.mark.parametrize("signal", sorted(FROM_DATA_PLANE, key=str))
def test_what_a_data_plane_sends(state: KongControlState, signal: KongControlInput) -> None:
    link = control_link(state)
    events = link.receive(TO_CONTROL_PLANE[signal], 1.0)
    target = CONTROL_MOVES.get((state, signal))
    if target is not None:
        assert link.state is target
    elif state is KongControlState.CLOSED:
        assert events == []
    else:
        assert isinstance(events[-1], Ended)
        assert link.is_closed


@pytest.mark.parametrize("state", KongControlState)
@pytest.mark.parametrize(
    ("signal", "act"),
    [
        (KongControlInput.OFFER, lambda link: link.offer("two")),
        (KongControlInput.PUSH, lambda link: link.push("two", cut_frame(b"x"), B, 1.0)),
        (KongControlInput.CLOSE, lambda link: link.close()),
    ],
)
def test_what_a_control_plane_does(
    state: KongControlState, signal: KongControlInput, act: Callable[[KongControlLink], None]
) -> None:
    link = control_link(state)
    target = CONTROL_MOVES.get((state, signal))
    if target is not None:
        act(link)
        assert link.state is target
    elif signal is KongControlInput.CLOSE:
        act(link)  # closing what is closed is nothing
    else:
        with pytest.raises(LocalLinkError, match=f"{signal.value} in state {state.value}"):
            act(link)
        assert link.state is state


@pytest.mark.parametrize("state", KongDataState)
@pytest.mark.parametrize("signal", sorted(FROM_CONTROL_PLANE, key=str))
def test_what_a_control_plane_sends(state: KongDataState, signal: KongDataInput) -> None:
    link = data_link()
    if state is KongDataState.CLOSED:
        link.close()
    link.receive(TO_DATA_PLANE[signal], 1.0)
    assert link.state is DATA_MOVES.get((state, signal), state)


def test_a_data_plane_reports_on_a_live_link_only() -> None:
    link = data_link()
    link.close()
    with pytest.raises(LocalLinkError, match="ping in state closed"):
        link.report(A, 1.0)


# The control plane's end.


def test_the_first_push_follows_the_first_ping() -> None:
    link = control_link()
    link.offer("one")
    assert link.wanted_push(0.0) is None
    assert link.receive(from_data_plane(Opcode.PING, ZERO_HASH.encode()), 0.1) == [Pinged(ZERO_HASH)]
    assert link.wanted_push(0.1) == "one"


def test_a_first_ping_that_does_not_come_is_not_waited_for() -> None:
    link = control_link()
    link.offer("one")
    assert link.next_push_at() == FIRST_PING_S
    assert link.wanted_push(FIRST_PING_S) == "one"


def test_every_ping_is_answered_with_an_empty_pong() -> None:
    link = control_link()
    for _ in range(2):
        link.receive(from_data_plane(Opcode.PING, A.encode()), 0.1)
    assert written(link) == [KongFrame(Opcode.PONG, b"")] * 2


def test_basic_info_and_ping_may_come_in_one_piece() -> None:
    link = KongControlLink(0.0)
    data = from_data_plane(Opcode.BINARY, INFO) + from_data_plane(Opcode.PING, A.encode())
    greeted, pinged = link.receive(data, 0.1)
    assert isinstance(greeted, Greeted)
    assert pinged == Pinged(A)


@pytest.mark.parametrize(
    "payload", [b"", b"hello", b"a" * 31, b"a" * 33, b"\xff" * 32, bytes(32), b"\n" * 32]
)
def test_a_ping_that_is_not_32_characters_ends_the_link(payload: bytes) -> None:
    """As a recorded control plane did: a close frame without a body."""
    link = control_link()
    (ended,) = link.receive(from_data_plane(Opcode.PING, payload), 0.1)
    assert isinstance(ended, Ended)
    assert "invalid hash" in ended.reason
    assert written(link) == [KongFrame(Opcode.CLOSE, b"")]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY, Opcode.PONG])
def test_a_data_plane_sends_pings_only(opcode: Opcode) -> None:
    link = control_link()
    (ended,) = link.receive(from_data_plane(opcode, b"{}"), 0.1)
    assert ended == Ended(f"invalid websocket frame received from data plane: {opcode.name.lower()}")


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PING, Opcode.PONG])
def test_the_first_frame_is_binary(opcode: Opcode) -> None:
    """A TEXT frame crashed the handler of Kong's control plane; here it ends the link."""
    link = KongControlLink(0.0)
    (ended,) = link.receive(from_data_plane(opcode, A.encode()), 0.1)
    assert ended == Ended(f"the first frame is a {opcode.name}, not a basic_info")


def test_a_report_of_an_error_is_taken() -> None:
    link = control_link()
    report = {"name": "generic or unknown error", "message": "no", "config_hash": A}
    data = json.dumps({"type": "error", "error": report}).encode()
    (event,) = link.receive(from_data_plane(Opcode.BINARY, data), 0.1)
    assert isinstance(event, Reported)
    assert event.report.reason == "generic or unknown error: no"
    assert not link.is_closed


def test_an_unmasked_frame_ends_the_link() -> None:
    link = control_link()
    (ended,) = link.receive(from_control_plane(Opcode.PING, A.encode()), 0.1)
    assert ended == Ended("the peer's websocket is broken: incorrect masking")


def test_a_missing_basic_info_ends_the_link() -> None:
    link = KongControlLink(0.0)
    assert link.on_tick(GREETING_TIMEOUT_S - 0.1) == []
    assert link.on_tick(GREETING_TIMEOUT_S) == [
        Ended("failed to receive websocket basic info frame: timeout")
    ]


def test_silence_ends_the_link_and_pings_put_it_off() -> None:
    link = control_link()
    link.receive(from_data_plane(Opcode.PING, A.encode()), 40.0)
    assert link.on_tick(SILENCE_S) == []
    assert link.next_deadline() == 40.0 + SILENCE_S
    assert link.on_tick(40.0 + SILENCE_S) == [
        Ended("did not receive ping frame from data plane within 45 seconds")
    ]


def test_bursts_collapse_and_pushes_are_spaced() -> None:
    link = control_link()
    link.receive(from_data_plane(Opcode.PING, ZERO_HASH.encode()), 0.0)
    link.offer("one")
    assert link.wanted_push(0.0) == "one"
    link.push("one", cut_frame(b"1"), A, 0.0)
    assert len(written(link)) == 2  # the pong, the push
    for name in ("two", "three", "four"):
        link.offer(name)
        assert link.wanted_push(1.0) is None
    link.receive(from_data_plane(Opcode.PING, A.encode()), 2.0)
    assert link.wanted_push(2.0) is None
    assert link.next_push_at() == PUSH_SPACING_S
    assert link.wanted_push(PUSH_SPACING_S) == "four"
    link.push("four", cut_frame(b"4"), B, PUSH_SPACING_S)
    written(link)
    # After a rest a change goes at once.
    link.offer("five")
    assert link.wanted_push(20.0) == "five"


def test_a_first_ping_after_the_first_push_leaves_the_spacing() -> None:
    link = control_link()
    link.push("one", cut_frame(b"1"), A, FIRST_PING_S)
    written(link)
    link.offer("two")
    link.receive(from_data_plane(Opcode.PING, ZERO_HASH.encode()), FIRST_PING_S + 0.1)
    assert link.next_push_at() == FIRST_PING_S + PUSH_SPACING_S


def test_what_is_reported_does_not_stay_while_something_else_is_on_its_way() -> None:
    """A is pushed and runs, B is pushed, A is wanted again: the PING with A says nothing about then."""
    link = control_link()
    link.push("one", cut_frame(b"1"), A, 0.0)
    link.receive(from_data_plane(Opcode.PING, A.encode()), 1.0)
    assert link.runs(A)
    written(link)
    link.push("two", cut_frame(b"2"), B, 6.0)
    assert not link.runs(A)
    link.receive(from_data_plane(Opcode.PING, B.encode()), 7.0)
    assert link.runs(B)


def test_what_was_spared_is_pushed_once_another_hash_is_reported() -> None:
    """The push of a former link was still being applied while this one began."""
    link = control_link()
    link.receive(from_data_plane(Opcode.PING, A.encode()), 0.0)
    link.offer("one")
    assert link.runs(A)
    link.spare("one", A)
    link.receive(from_data_plane(Opcode.PING, A.encode()), 1.0)
    assert link.wanted_push(1.0) is None
    link.receive(from_data_plane(Opcode.PING, B.encode()), 2.0)
    assert link.wanted_push(2.0) == "one"


def test_what_is_settled_is_not_asked_for_again() -> None:
    link = control_link()
    link.receive(from_data_plane(Opcode.PING, A.encode()), 0.0)
    link.offer("one")
    link.settle("one")
    assert link.next_push_at() is None
    link.offer("two")
    assert link.wanted_push(0.0) == "two"
    link.settle("two")
    link.offer("one")
    assert link.wanted_push(0.0) == "one"


def test_pongs_wait_for_the_end_of_a_push_and_a_close_does_too() -> None:
    """PONG bytes inside of a payload were a defect of Kong 2.0."""
    link = control_link()
    link.push("one", cut_frame(BIG), A, 0.0)
    assert len(cut_frame(BIG)) > 3
    first = link.next_bytes()
    assert first is not None
    link.receive(from_data_plane(Opcode.PING, A.encode()), 0.1)
    link.close()
    reader = FrameReader(is_masked=False, limit_bytes=1 << 24)
    frames = reader.feed(first)
    while (data := link.next_bytes()) is not None:
        frames += reader.feed(data)
    assert frames == [KongFrame(Opcode.BINARY, BIG), KongFrame(Opcode.CLOSE, b"")]


def test_a_push_that_did_not_begin_is_dropped_by_a_close() -> None:
    link = control_link()
    link.push("one", cut_frame(BIG), A, 0.0)
    link.close()
    assert written(link) == [KongFrame(Opcode.CLOSE, b"")]


def test_a_push_that_is_not_applied_is_told_once() -> None:
    link = control_link()
    link.push("one", cut_frame(b"1"), A, 0.0)
    written(link)
    assert link.receive(from_data_plane(Opcode.PING, B.encode()), 1.0) == [Pinged(B)]
    late = from_data_plane(Opcode.PING, B.encode())
    assert link.receive(late, PING_INTERVAL_S) == [Pinged(B), Unapplied(A)]
    assert link.receive(late, 2 * PING_INTERVAL_S) == [Pinged(B)]
    assert link.receive(from_data_plane(Opcode.PING, A.encode()), 65.0) == [Pinged(A)]


def test_pings_of_a_peer_that_does_not_read_are_bounded() -> None:
    link = control_link()
    events = link.receive(from_data_plane(Opcode.PING, A.encode()) * 65, 0.1)
    assert events[:-1] == [Pinged(A)] * 64
    assert events[-1] == Ended("the data plane reads none of 64 answers to its pings")


# The data plane's end.


def test_basic_info_then_ping_at_once() -> None:
    """The recorded order: both within the same moment, masked."""
    link = data_link()
    assert written(link) == [
        KongFrame(Opcode.BINARY, INFO),
        KongFrame(Opcode.PING, PINGS[0].encode()),
    ]


def test_a_hash_is_reported_at_once_and_again_every_30_s() -> None:
    link = data_link()
    written(link)
    link.report(A, 4.0)
    assert written(link) == [KongFrame(Opcode.PING, A.encode())]
    assert link.on_tick(4.0 + PING_INTERVAL_S - 0.1) == []
    assert written(link) == []
    link.receive(from_control_plane(Opcode.PONG), 33.0)
    assert link.next_deadline() == 4.0 + PING_INTERVAL_S
    link.on_tick(4.0 + PING_INTERVAL_S)
    assert written(link) == [KongFrame(Opcode.PING, A.encode())]


def test_a_push_is_handed_on_as_it_came() -> None:
    link = data_link()
    assert link.receive(from_control_plane(Opcode.BINARY, PUSHED_FRAMES[0]), 1.0) == [
        Pushed(PUSHED_FRAMES[0])
    ]
    assert link.is_answered


def test_a_push_above_the_limit_ends_the_link() -> None:
    link = data_link(limit_bytes=100)
    (ended,) = link.receive(from_control_plane(Opcode.BINARY, bytes(101)), 1.0)
    assert isinstance(ended, Ended)
    assert ended.reason.startswith("exceeding max payload len")


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.PING])
def test_what_a_control_plane_never_sends_is_ignored_and_not_answered(opcode: Opcode) -> None:
    """A PONG would end the link at Kong's control plane."""
    link = data_link()
    written(link)
    assert link.receive(from_control_plane(opcode, b"x"), 1.0) == [Ignored(opcode.name.lower())]
    assert written(link) == []


def test_any_frame_is_a_sign_of_life() -> None:
    link = data_link()
    link.receive(from_control_plane(Opcode.TEXT, b"x"), 40.0)
    assert link.on_tick(SILENCE_S) == []
    assert link.on_tick(40.0 + SILENCE_S) == [Ended("the control plane is silent for 45 s")]


def test_a_close_frame_ends_the_link() -> None:
    link = data_link()
    assert link.receive(from_control_plane(Opcode.CLOSE), 1.0) == [Ended("the control plane closed the link")]
    assert not link.is_answered
