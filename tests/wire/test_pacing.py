"""Reconnecting: soon for one, spread out for many."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fastgw.wire.pacing import CONNECT_TIMEOUT_S, next_delay, spread_for

PROMISE_S = 12.0
HANDSHAKE_S = 1.0


@given(st.integers(0, 10**6), st.floats(0, 1, exclude_max=True))
def test_without_a_spread_the_promise_holds_after_any_number_of_failures(failures: int, drawn: float) -> None:
    """The worst case: a try that hangs until its timeout began just before the port accepts."""
    delay_s = next_delay(failures, 0.0, lambda: drawn)
    assert 0 <= delay_s
    assert CONNECT_TIMEOUT_S + delay_s + HANDSHAKE_S <= PROMISE_S


@given(st.integers(0, 100), st.floats(0.1, 600), st.floats(0, 1, exclude_max=True))
def test_with_a_spread_the_delay_is_uniform_up_to_it_or_to_thirty_seconds(
    failures: int, spread_s: float, drawn: float
) -> None:
    assert next_delay(failures, spread_s, lambda: drawn) == drawn * max(spread_s, min(30.0, 2.0**failures))


def test_the_ceiling_doubles_from_one_second() -> None:
    ceilings = [next_delay(failures, 0.0, lambda: 1.0) for failures in range(5)]
    assert ceilings == [1, 2, 4, 6, 6]


def test_a_fleet_gets_the_time_that_its_handshakes_take() -> None:
    assert [spread_for(count) for count in (0, 1, 2, 150)] == [0, 0, 0, 0]
    assert spread_for(500) == 20.0
    spreads = [spread_for(count) for count in range(0, 2000, 50)]
    assert all(a <= b for a, b in itertools.pairwise(spreads))
