"""Both ends together: what is sent, to whom, how often, and when silence ends it."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fastgw.wire import messages as m
from fastgw.wire.events import (
    Accepted,
    Confirmed,
    Ended,
    Joined,
    Paced,
    Received,
    Rejected,
    Reported,
    Welcomed,
    Withheld,
)
from fastgw.wire.link import DataLink
from fastgw.wire.offering import Offering
from fastgw.wire.signature import SigningKey
from fastgw.wire.states import ControlState, DataState
from tests.wire.ends import (
    NOTHING,
    ONE,
    THREE,
    TWO,
    ack,
    control_link,
    control_link_in,
    data_link_in,
    exchange,
    hello,
    offering,
    packed_of,
    real_offering,
    sent_by,
    welcome,
)


def kinds(messages: list[bytes]) -> list[str]:
    return [msgspec.msgpack.decode(message)["type"] for message in messages]


def test_a_fresh_data_plane_gets_even_the_empty_configuration() -> None:
    control, data = control_link(), DataLink(0.0, hello())
    empty = real_offering(0, [])
    control.offer(empty)
    control_events, data_events = exchange(control, data)
    assert control_events == [Joined(hello())]
    welcomed, received = data_events
    assert isinstance(welcomed, Welcomed)
    assert received == Received(0, "0" * 64, packed_of(empty))
    data.accept(ack(0, "0" * 64))
    assert exchange(control, data)[0] == [Accepted(ack(0, "0" * 64))]
    assert control.state is ControlState.IDLE


def test_an_equal_digest_is_told_so_and_costs_no_bytes() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=7, digest=ONE))
    control.offer(offering(9, ONE))
    _, data_events = exchange(control, data)
    assert data_events[1:] == [Confirmed(9, ONE)]
    assert control.state is ControlState.IDLE
    # The same content under a newer number is told once, too.
    control.offer(offering(12, ONE))
    control.offer(offering(12, ONE))
    assert exchange(control, data)[1] == [Confirmed(12, ONE)]


def test_what_runs_is_told_anew_when_other_keys_sign_it() -> None:
    keys = [SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)) for n in (1, 2, 3)]
    signing = keys[:1]
    made = Offering(
        1,
        ONE,
        lambda: b"packed",
        sign=lambda version, digest: [key.sign("cluster", version, digest) for key in signing],
    )
    made.make_whole()
    control, data = control_link(), DataLink(0.0, hello())
    control.offer(made)
    exchange(control, data)
    data.accept(ack(1, ONE))
    assert exchange(control, data)[1] == []  # it came with its signature
    for signing in (keys[:2], keys[1:2]):
        made.sign_again()
        control.offer(made)
        (told,) = exchange(control, data)[1]
        assert isinstance(told, Confirmed)
        assert [one.key_id for one in told.signatures] == [key.id for key in signing]
        control.offer(made)
        assert exchange(control, data)[1] == []


def test_large_snapshots_come_in_bounded_messages() -> None:
    control, data = control_link(), DataLink(0.0, hello())
    large = offering(3, THREE, size=2 * m.CHUNK_BYTES + 1)
    control.offer(large)
    exchange(control, data)
    control, data = control_link(), DataLink(0.0, hello())
    control.offer(large)
    for message in sent_by(data):
        control.receive_message(message, 0.0)
    sent = sent_by(control)
    assert kinds(sent) == ["welcome", "snapshot", "chunk", "chunk", "chunk"]
    assert max(map(len, sent)) < m.MESSAGE_LIMIT_BYTES
    events = [event for message in sent for event in data.receive_message(message, 0.0)]
    assert events[-1] == Received(3, THREE, packed_of(large))


def test_links_share_one_encoding() -> None:
    shared = offering(3, THREE, size=100)
    one, other = control_link_in(ControlState.IDLE), control_link_in(ControlState.IDLE)
    one.offer(shared)
    other.offer(shared)
    assert all(a is b for a, b in zip(sent_by(one), sent_by(other), strict=True))


def test_newest_wins_and_what_has_begun_is_finished() -> None:
    control, data = control_link(), DataLink(0.0, hello())
    exchange(control, data)
    control.offer(offering(1, ONE, size=m.CHUNK_BYTES + 1))
    begin = control.next_message()
    assert begin is not None
    for version, digest in ((2, TWO), (3, THREE), (2, TWO), (3, THREE)):
        control.offer(offering(version, digest))
    rest = sent_by(control)
    assert kinds([begin, *rest]) == ["snapshot", "chunk", "chunk"]
    assert control.state is ControlState.AWAITING
    events = [event for message in (begin, *rest) for event in data.receive_message(message, 0.0)]
    assert [event.version for event in events if isinstance(event, Received)] == [1]
    data.accept(ack(1, ONE))
    _, data_events = exchange(control, data)
    assert [event.version for event in data_events if isinstance(event, Received)] == [3]


def test_a_peer_that_does_not_read_holds_no_queue() -> None:
    control = control_link_in(ControlState.IDLE)
    for number in range(1000):
        control.receive_message(m.encode(m.Ping(version=1, digest=ONE)), 0.0)
        control.offer(offering(number, f"{number:064x}"))
    # One Pong, and the one snapshot that began with the first offer.
    assert kinds(sent_by(control)) == ["pong", "snapshot", "chunk"]


def test_a_refused_snapshot_is_not_sent_again_but_the_next_one_is() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=1, digest=ONE))
    control.offer(offering(2, TWO))
    exchange(control, data)
    faults = [{"entity": "routes", "id": "r", "field": "paths", "reason": "no"}]
    data.reject(2, faults)
    events, data_events = exchange(control, data)
    assert events == [Rejected(m.Nack(version=2, faults=faults), None)]
    assert data_events == []
    control.offer(offering(2, TWO))
    data.report(1, ONE)
    assert exchange(control, data)[1] == []
    control.offer(offering(3, THREE))
    assert [type(event) for event in exchange(control, data)[1]] == [Received]


def test_what_was_refused_once_is_sent_again_when_something_else_has_run_since() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=1, digest=ONE))
    control.offer(offering(2, TWO))
    exchange(control, data)
    data.reject(2, [{"reason": "cannot store the configuration"}])
    exchange(control, data)
    control.offer(offering(3, THREE))
    exchange(control, data)
    data.accept(ack(3, THREE))
    exchange(control, data)
    control.offer(offering(4, TWO))
    assert [type(event) for event in exchange(control, data)[1]] == [Received]


def test_going_back_to_what_the_data_plane_kept_needs_no_bytes() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=1, digest=ONE))
    control.offer(offering(2, TWO))
    exchange(control, data)
    data.reject(2, [])
    exchange(control, data)
    control.offer(offering(3, ONE))
    assert exchange(control, data)[1] == [Confirmed(3, ONE)]


def test_a_data_plane_that_says_it_runs_something_else_is_sent_what_is_wanted() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=2, digest=TWO))
    control.offer(offering(2, TWO))
    exchange(control, data)
    data.report(1, ONE)
    events, data_events = exchange(control, data)
    assert events == [Reported(1, ONE)]
    assert [type(event) for event in data_events] == [Received]


def test_more_than_the_data_plane_takes_is_withheld_and_said_once() -> None:
    control, data = control_link(), DataLink(0.0, hello(limit=50))
    exchange(control, data)
    (event,) = control.offer(offering(2, TWO, size=51))
    assert isinstance(event, Withheld)
    assert "51 compressed bytes are more than the 50" in event.reason
    assert control.offer(offering(2, TWO, size=51)) == []
    assert exchange(control, data) == ([], [])
    control.offer(offering(3, THREE, size=50))
    assert [type(event) for event in exchange(control, data)[1]] == [Received]


def test_a_data_plane_refuses_more_than_it_takes_or_than_was_announced() -> None:
    data = DataLink(0.0, hello(limit=50))
    data.receive_message(m.encode(welcome()), 0.0)
    (event,) = data.receive_message(m.encode(m.SnapshotBegin(version=2, digest=TWO, size=51)), 0.0)
    assert isinstance(event, Ended)
    assert "more than the 50" in event.reason

    data = data_link_in(DataState.RECEIVING)
    (event,) = data.receive_message(m.encode(m.SnapshotChunk(data=bytes(11))), 0.0)
    assert isinstance(event, Ended)
    assert "1 bytes longer than announced" in event.reason


def test_a_verdict_on_another_version_is_a_broken_rule() -> None:
    control = control_link_in(ControlState.AWAITING)
    (event,) = control.receive_message(m.encode(ack(7, TWO)), 0.0)
    assert event == Ended("a verdict on version 7 where 2 was due", is_refusal=True)


def test_being_told_of_something_that_does_not_run_is_a_broken_rule() -> None:
    data = data_link_in(DataState.READY)
    (event,) = data.receive_message(m.encode(m.Same(version=3, digest=THREE)), 0.0)
    assert isinstance(event, Ended)
    assert event.is_refusal


def test_pings_go_out_every_heartbeat_with_what_is_applied() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=1, digest=ONE))
    exchange(control, data)
    assert data.next_deadline() == 30.0
    assert data.on_tick(29.9) == []
    assert sent_by(data) == []
    for beat in (30.0, 60.0, 90.0):
        assert data.on_tick(beat) == []
        events, _ = exchange(control, data, beat)
        assert events == [Reported(1, ONE)]
    assert data.next_deadline() == 120.0
    assert control.next_deadline() == 135.0


def test_pings_come_at_the_pace_that_is_asked_for_and_tell_what_was_answered() -> None:
    total = 0

    def answered() -> m.Answered:
        nonlocal total
        total += 10
        return m.Answered(total, 1)

    control = control_link()
    data = DataLink(0.0, hello(version=1, digest=ONE), answered=answered)
    control.pace(2.0)  # in the greeting: the Welcome goes first
    assert [type(event) for event in exchange(control, data)[1]] == [Welcomed, Paced]
    for beat in (0.0, 2.0, 4.0):
        assert data.next_deadline() == beat
        data.on_tick(beat)
        assert exchange(control, data, beat)[0] == [Reported(1, ONE, m.Answered(total, 1))]
    assert total == 30
    control.pace(2.0)
    assert exchange(control, data, 4.0) == ([], [])  # that was said
    control.pace(0.0)
    assert exchange(control, data, 5.0)[1] == [Paced()]
    data.on_tick(6.0)  # the one that was due already
    assert len(exchange(control, data, 6.0)[0]) == 1
    assert data.next_deadline() == 36.0
    # A slower pace than the heartbeat's is none: silence goes by heartbeats.
    control.pace(300.0)
    exchange(control, data, 7.0)
    data.on_tick(7.0)  # at once, and then by heartbeats
    exchange(control, data, 7.0)
    assert data.next_deadline() == 37.0
    assert control.next_deadline() == 52.0


def test_one_of_the_minor_version_before_takes_a_pace_for_a_pong() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=1, digest=ONE, minor=1))
    exchange(control, data)
    control.pace(2.0)
    (sent,) = sent_by(control)
    fields = msgspec.msgpack.decode(sent)
    assert fields == {"type": "pong", "trust": "", "ping_s": 2.0}
    # And its Pings are what they were.
    old = msgspec.msgpack.encode({"type": "ping", "version": 1, "digest": ONE})
    assert control.receive_message(old, 1.0) == [Reported(1, ONE)]


def test_what_changes_is_reported_at_once_and_only_then() -> None:
    control, data = control_link(), DataLink(0.0, hello(version=1, digest=ONE))
    exchange(control, data)
    data.report(1, ONE)
    assert sent_by(data) == []
    data.report(2, TWO)
    assert exchange(control, data)[0] == [Reported(2, TWO)]


def test_silence_of_45_seconds_ends_the_link_at_either_end() -> None:
    control, data = control_link(), DataLink(0.0, hello())
    exchange(control, data, 100.0)
    assert control.on_tick(144.9) == []
    assert control.on_tick(145.0) == [Ended("silent for 45 s", is_refusal=True)]
    assert kinds(sent_by(control)) == ["bye"]
    assert data.on_tick(144.9) == []
    assert data.on_tick(145.0) == [Ended("the control plane is silent for 45 s", is_refusal=True)]
    assert control.on_tick(1000.0) == data.on_tick(1000.0) == []


def test_any_message_breaks_the_silence() -> None:
    control, data = control_link_in(ControlState.AWAITING), data_link_in(DataState.RECEIVING)
    control.receive_message(m.encode(ack(2, TWO)), 44.0)
    assert control.on_tick(88.9) == []
    assert control.on_tick(89.0) != []
    data.receive_message(m.encode(m.SnapshotChunk(data=b"1")), 44.0)
    assert data.on_tick(88.9) == []
    assert data.on_tick(89.0) != []


def test_greetings_have_a_deadline() -> None:
    control, data = control_link(5.0), DataLink(5.0, hello())
    assert control.next_deadline() == data.next_deadline() == 15.0
    assert [type(event) for event in control.on_tick(15.0)] == [Ended]
    assert [type(event) for event in data.on_tick(15.0)] == [Ended]


def test_the_control_plane_sets_the_heartbeat() -> None:
    data = DataLink(0.0, hello())
    data.receive_message(m.encode(welcome(heartbeat_s=2.0)), 0.0)
    sent_by(data)
    assert data.next_deadline() == 2.0
    assert [type(event) for event in data.on_tick(3.0)] == [Ended]


def test_a_bye_is_told_with_its_reason() -> None:
    control, data = control_link(), DataLink(0.0, hello())
    exchange(control, data)
    control.close("going home")
    assert exchange(control, data)[1] == [Ended("the control plane ended the link: going home", False)]
    assert data.state is DataState.CLOSED

    control, data = control_link(), DataLink(0.0, hello())
    exchange(control, data)
    data.close("going home")
    assert exchange(control, data)[0] == [Ended("the data plane ended the link: going home", False)]


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"GET / HTTP/1.1", m.encode(m.Pong())])
def test_what_is_no_message_ends_the_link(junk: bytes) -> None:
    control = control_link_in(ControlState.IDLE)
    (event,) = control.receive_message(junk, 0.0)
    assert isinstance(event, Ended)
    assert event.is_refusal
    assert "no message of a data plane" in event.reason


steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(1, 5)),
        st.tuples(st.sampled_from(["up", "down"]), st.integers(1, 3)),
        st.tuples(st.sampled_from(["accept", "reject", "cut"]), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
def test_every_history_ends_with_what_is_wanted(history: list[tuple[str, int]]) -> None:
    """Offers, verdicts and cuts in any order; messages that are carried one by one, and never lost in between."""
    applied = (0, "")
    wanted = offering(0, "0" * 64)
    control, data = control_link(), DataLink(0.0, hello())
    received: Received | None = None
    version = 0

    def carry_up(limit: int) -> None:
        for _ in range(limit):
            if (message := data.next_message()) is not None:
                ended = [event for event in control.receive_message(message, 0.0) if isinstance(event, Ended)]
                assert not ended

    def carry_down(limit: int) -> None:
        nonlocal received
        for _ in range(limit):
            if (message := control.next_message()) is not None:
                for event in data.receive_message(message, 0.0):
                    assert not isinstance(event, Ended), event
                    received = event if isinstance(event, Received) else received

    def answer(accepts: bool) -> None:
        nonlocal received, applied
        if received is None:
            return
        if accepts:
            applied = (received.version, received.digest)
            data.accept(ack(*applied))
        else:
            data.reject(received.version, [])
        received = None

    for action, number in history:
        if action == "offer":
            version += 1
            wanted = offering(version, str(number) * 64, size=number)
            control.offer(wanted)
        elif action == "up":
            carry_up(number)
        elif action == "down":
            carry_down(number)
        elif action == "cut":
            received = None
            control, data = control_link(), DataLink(0.0, hello(version=applied[0], digest=applied[1]))
            control.offer(wanted)
        else:
            answer(action == "accept")

    # On the same link: what was refused on it is not tried again, so the last offer is one that never was.
    wanted = offering(version + 1, "f" * 64)
    control.offer(wanted)
    for _ in range(3):
        carry_up(10)
        carry_down(10)
        answer(True)
    assert applied[1] == wanted.digest
    assert control.state is ControlState.IDLE
    assert sent_by(control) == sent_by(data) == []


def test_nothing_applied_is_reported_as_such() -> None:
    control, data = control_link(), DataLink(0.0, hello())
    exchange(control, data)
    data.on_tick(30.0)
    assert exchange(control, data, 30.0)[0] == [Reported(0, NOTHING)]
