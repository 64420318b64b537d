"""Every pair of state and input: the stated move, or an error."""

from __future__ import annotations

import pytest

from fastgw.cp.rollout.states import ROLLOUT_MOVES, RolloutInput, RolloutState, next_state
from fastgw.errors import RolloutError


@pytest.mark.parametrize("signal", RolloutInput)
@pytest.mark.parametrize("state", RolloutState)
def test_every_pair(state: RolloutState, signal: RolloutInput) -> None:
    if (state, signal) in ROLLOUT_MOVES:
        assert next_state(state, signal) is ROLLOUT_MOVES[state, signal]
        assert not state.is_over
    else:
        with pytest.raises(RolloutError, match=f"{state.value} takes no '{signal.value}'"):
            next_state(state, signal)


def test_what_is_over_stays_so_and_what_runs_can_always_be_ended_by_a_person() -> None:
    for state in RolloutState:
        moves = {signal: target for (begin, signal), target in ROLLOUT_MOVES.items() if begin is state}
        assert bool(moves) is not state.is_over
        if moves:
            assert moves[RolloutInput.PROMOTE] is RolloutState.PROMOTED
            assert moves[RolloutInput.ABORT] is RolloutState.ABORTED


def test_only_what_has_held_or_a_person_promotes() -> None:
    promoting = {pair for pair, target in ROLLOUT_MOVES.items() if target is RolloutState.PROMOTED}
    assert {signal for _, signal in promoting} == {RolloutInput.HELD, RolloutInput.PROMOTE}
    assert {state for state, signal in promoting if signal is RolloutInput.HELD} == {RolloutState.HOLDING}
