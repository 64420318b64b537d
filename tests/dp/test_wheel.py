"""The timer wheel on a clock of our own: never early, at most one tick late, lazily moved."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastgw.dp._wheel import Alarm, TimerWheel

TICK_MS = 100


@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=20), st.integers(0, 10_000))
def test_fires_once_and_in_time(delays: list[int], start_ms: int) -> None:
    wheel = TimerWheel(start_ms)
    fired: dict[int, list[int]] = {number: [] for number in range(len(delays))}
    alarms = []
    for number, delay in enumerate(delays):
        alarm = Alarm(fired[number].append)
        alarm.arm(wheel, start_ms + delay)
        alarms.append(alarm)
    now = start_ms
    while now < start_ms + 300_000 + 2 * TICK_MS:
        now += TICK_MS
        wheel.run(now)
    for number, delay in enumerate(delays):
        assert len(fired[number]) == 1
        assert start_ms + delay <= fired[number][0] <= start_ms + delay + 2 * TICK_MS
    assert wheel.linked == 0


def test_a_later_deadline_is_one_store() -> None:
    wheel = TimerWheel(0)
    fired: list[int] = []
    alarm = Alarm(fired.append)
    alarm.arm(wheel, 500)
    alarm.postpone(2_000)
    for now in range(0, 2_000, TICK_MS):
        wheel.run(now)
    assert fired == []
    wheel.run(2_200)
    assert fired == [2_200]


def test_an_earlier_deadline_is_linked_anew() -> None:
    wheel = TimerWheel(0)
    fired: list[int] = []
    alarm = Alarm(fired.append)
    alarm.arm(wheel, 60_000)
    alarm.arm(wheel, 300)
    wheel.run(500)
    assert fired == [500]


def test_disarmed_entries_stay_silent() -> None:
    wheel = TimerWheel(0)
    fired: list[int] = []
    alarm = Alarm(fired.append)
    alarm.arm(wheel, 300)
    alarm.disarm(wheel)
    wheel.run(1_000)
    assert (fired, wheel.linked) == ([], 0)


def test_a_process_that_was_stopped_for_long_catches_up() -> None:
    wheel = TimerWheel(0)
    fired: list[int] = []
    alarms = [Alarm(fired.append) for _ in range(3)]
    for number, alarm in enumerate(alarms):
        alarm.arm(wheel, 1_000 * (number + 1))
    wheel.run(10_000_000)
    assert len(fired) == 3


def test_an_alarm_may_arm_itself_again() -> None:
    wheel = TimerWheel(0)
    fired: list[int] = []

    def again(now_ms: int) -> None:
        fired.append(now_ms)
        alarm.arm(wheel, now_ms + 1_000)

    alarm = Alarm(again)
    alarm.arm(wheel, 1_000)
    for now in range(0, 5_000, TICK_MS):
        wheel.run(now)
    assert len(fired) == 4
