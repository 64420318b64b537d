"""Every pair of state and input, at both ends: the move of the table, or an error and no other change."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastgw.errors import LocalLinkError
from fastgw.wire import messages as m
from fastgw.wire.events import Ended
from fastgw.wire.link import DataLink
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
from tests.wire.ends import (
    ONE,
    THREE,
    TWO,
    ack,
    control_link_in,
    data_link_in,
    hello,
    offering,
    sent_by,
    welcome,
)

TO_CONTROL_PLANE = {
    ControlInput.HELLO: hello(),
    ControlInput.ACK: ack(2, TWO),
    ControlInput.NACK: m.Nack(version=2, faults=[]),
    ControlInput.PING: m.Ping(version=1, digest=ONE),
    ControlInput.PEER_BYE: m.Bye(reason="test"),
}
TO_DATA_PLANE = {
    DataInput.WELCOME: welcome(),
    DataInput.SAME: m.Same(version=5, digest=ONE),
    DataInput.SNAPSHOT: m.SnapshotBegin(version=2, digest=TWO, size=10),
    DataInput.DELTA: m.Delta(version=2, digest=TWO, base_digest=ONE, data=b"x"),
    DataInput.CHUNK: m.SnapshotChunk(data=bytes(4)),
    DataInput.LAST_CHUNK: m.SnapshotChunk(data=bytes(10)),
    DataInput.PONG: m.Pong(),
    DataInput.PEER_BYE: m.Bye(reason="test"),
}


@pytest.mark.parametrize("state", ControlState)
@pytest.mark.parametrize("signal", sorted(TO_CONTROL_PLANE, key=str))
def test_what_a_data_plane_sends(state: ControlState, signal: ControlInput) -> None:
    link = control_link_in(state)
    events = link.receive_message(m.encode(TO_CONTROL_PLANE[signal]), 1.0)
    target = CONTROL_MOVES.get((state, signal))
    if target is not None:
        assert link.state is target
        assert not any(isinstance(event, Ended) and event.is_refusal for event in events)
    elif state is ControlState.CLOSED:
        assert events == []
        assert sent_by(link) == []
    else:
        assert link.state is ControlState.CLOSED
        assert events == [Ended(f"{signal.value} in state {state.value}", is_refusal=True)]
        (bye,) = sent_by(link)
        said = m.decode_to_data_plane(bye)
        assert isinstance(said, m.Bye)
        assert said.is_refusal


@pytest.mark.parametrize("state", DataState)
@pytest.mark.parametrize("signal", sorted(TO_DATA_PLANE, key=str))
def test_what_a_control_plane_sends(state: DataState, signal: DataInput) -> None:
    link = data_link_in(state)
    events = link.receive_message(m.encode(TO_DATA_PLANE[signal]), 1.0)
    # Outside a transfer nothing is missing, so any chunk would be the last.
    told = DataInput.LAST_CHUNK if signal is DataInput.CHUNK and state is not DataState.RECEIVING else signal
    target = DATA_MOVES.get((state, told))
    if target is not None:
        assert link.state is target
        assert not any(isinstance(event, Ended) and event.is_refusal for event in events)
    elif state is DataState.CLOSED:
        assert events == []
        assert sent_by(link) == []
    else:
        assert link.state is DataState.CLOSED
        assert events == [Ended(f"{told.value} in state {state.value}", is_refusal=True)]


@pytest.mark.parametrize("state", ControlState)
def test_what_the_control_plane_does(state: ControlState) -> None:
    link = control_link_in(state)
    link.offer(offering(3, THREE))
    if state is ControlState.IDLE:
        assert link.state is CONTROL_MOVES[state, ControlInput.BEGIN]
        sent_by(link)
        assert link.state is CONTROL_MOVES[ControlState.SENDING, ControlInput.SENT]
    else:
        assert link.state is CONTROL_MOVES.get((state, ControlInput.OFFER), ControlState.CLOSED)

    link = control_link_in(state)
    link.close("test")
    assert link.state is ControlState.CLOSED
    link.close("again")
    assert len(sent_by(link)) == (state is not ControlState.CLOSED)


@pytest.mark.parametrize("state", DataState)
def test_what_the_data_plane_does(state: DataState) -> None:
    acts: list[tuple[DataInput, Callable[[DataLink], None]]] = [
        (DataInput.VERDICT, lambda link: link.accept(ack(2, TWO))),
        (DataInput.VERDICT, lambda link: link.reject(2, [{"reason": "test"}])),
        (DataInput.PING, lambda link: link.report(3, THREE)),
    ]
    for signal, act in acts:
        link = data_link_in(state)
        target = DATA_MOVES.get((state, signal))
        if target is None:
            with pytest.raises(LocalLinkError, match=f"{signal.value} in state {state.value}"):
                act(link)
            assert link.state is state
            assert sent_by(link) == []
        else:
            act(link)
            assert link.state is target
            assert len(sent_by(link)) == 1

    link = data_link_in(state)
    link.close("test")
    assert link.state is DataState.CLOSED
    assert len(sent_by(link)) == (state is not DataState.CLOSED)


def test_tables_name_every_input_and_reach_every_state() -> None:
    assert {signal for _, signal in CONTROL_MOVES} == set(ControlInput)
    assert {signal for _, signal in DATA_MOVES} == set(DataInput)
    assert {*CONTROL_MOVES.values(), ControlState.GREETING} == set(ControlState)
    assert {*DATA_MOVES.values(), DataState.GREETING} == set(DataState)
    assert set(TO_CONTROL_PLANE) == FROM_DATA_PLANE
    assert set(TO_DATA_PLANE) == FROM_CONTROL_PLANE
