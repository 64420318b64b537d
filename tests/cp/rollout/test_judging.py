"""What makes which move due: data planes as rows, and both clocks in the test's hand."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fastgw.cp.rollout.judging import Judge, Published, Verdict
from fastgw.cp.rollout.lately import Lately, difference
from fastgw.cp.rollout.record import Limits, Rollout
from fastgw.cp.rollout.selection import Selection
from fastgw.cp.rollout.states import RolloutInput, RolloutState
from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.wire.messages import Answered
from tests.cp.cluster_nodes import Clock
from tests.cp.rollout.parts import BASE, TRIED, a_canary, a_data_plane, a_rollout, node_id

HOLDING = {"state": RolloutState.HOLDING}


class Case:
    """A rollout, judged again and again; what is judged is done to the record, but for its end."""

    def __init__(self, rollout: Rollout | None = None) -> None:
        self.clock = Clock()
        self.judge = Judge(self.clock)
        self.rollout = rollout or a_rollout()
        self.published = Published(TRIED, "t" * 64)
        self.now_s = 1000.0

    def look(self, *rows: DataPlaneRow) -> Verdict | None:
        return self.judge.judge(self.rollout, rows, self.published, self.now_s)

    def marked(self, *rows: DataPlaneRow, state: RolloutState = RolloutState.HOLDING) -> None:
        """Have what is seen kept, as the conductor does."""
        verdict = self.look(*rows)
        assert verdict is not None
        self.rollout = msgspec.structs.replace(
            self.rollout, marks=verdict.marks, others=verdict.others, state=state
        )

    def restart(self) -> None:
        """Have another control plane go on, which knows the record."""
        self.judge = Judge(self.clock)

    def later(self, seconds: float) -> None:
        self.clock.now_s += seconds
        self.now_s += seconds


def signal_of(verdict: Verdict | None) -> RolloutInput | None:
    return None if verdict is None else verdict.signal


def test_it_holds_once_all_that_are_chosen_and_connected_run_it() -> None:
    case = Case()
    others = [a_data_plane(3, BASE)]
    assert case.look(a_canary(1, BASE), a_canary(2, BASE), *others) is None
    half = case.look(a_canary(1, TRIED), a_canary(2, BASE), *others)
    assert half is not None
    assert (half.signal, set(half.marks)) == (None, {node_id(1)})
    both = case.look(a_canary(1, TRIED), a_canary(2, TRIED), *others)
    assert both is not None
    assert (both.signal, set(both.marks)) == (RolloutInput.APPLIED, {node_id(1), node_id(2)})


def test_it_is_promoted_when_it_has_held_and_all_are_well() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED))
    case.later(99)
    assert case.look(a_canary(1, TRIED)) is None
    case.later(1)
    assert case.look() is None  # the chosen one is away: it may come back
    assert (
        signal_of(case.look(a_canary(1, TRIED), a_canary(2, BASE))) is None
    )  # one that is new has to run it
    held = case.look(a_canary(1, TRIED, answered=(3, 0)))
    assert held is not None
    assert held.signal is RolloutInput.HELD
    assert held.reason == (
        "held for 100 s; 3 requests were answered, 0 of them with 5xx, which is too few to judge by"
    )


def test_a_newer_version_begins_anew_and_one_like_the_base_is_none() -> None:
    case = Case(a_rollout(**HOLDING))
    case.published = Published(TRIED + 1, "n" * 64)
    written = case.look(a_canary(1, TRIED))
    assert written is not None
    assert (written.signal, written.version) == (RolloutInput.WRITTEN, TRIED + 1)
    case.published = Published(TRIED + 1, "b" * 64)
    assert signal_of(case.look(a_canary(1, TRIED))) is RolloutInput.UNDONE
    case.rollout = a_rollout(state=RolloutState.OPEN, version=BASE)
    assert case.look(a_canary(1, BASE)) is None


def test_an_open_one_ends_when_nobody_writes() -> None:
    case = Case(a_rollout(state=RolloutState.OPEN, version=BASE))
    case.published = Published(BASE, "b" * 64)
    case.later(3599)
    assert case.look(a_canary(1, BASE)) is None
    case.later(1)
    case.published = Published(BASE + 2, "b" * 64)  # written and undone between two looks
    expired = case.look(a_canary(1, BASE))
    assert expired is not None
    assert (expired.signal, expired.version) == (RolloutInput.EXPIRED, BASE + 2)


def test_a_refusal_counts_if_it_is_of_this_version_and_of_a_chosen_one() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED))
    old = a_canary(2, BASE, refused_version=TRIED - 1, last_error="old")
    other = a_data_plane(3, BASE, refused_version=TRIED, last_error="not asked")
    assert signal_of(case.look(a_canary(1, TRIED), old, other)) is None
    verdict = case.look(a_canary(1, TRIED), a_canary(2, BASE, refused_version=TRIED, last_error="so bad"))
    assert verdict is not None
    assert verdict.signal is RolloutInput.REFUSED
    assert verdict.reason == f"data plane dp-2 ({node_id(2)}) has refused it: so bad"


def test_what_does_not_compile_counts_as_refused() -> None:
    case = Case()
    case.published = Published(BASE, "b" * 64, (TRIED, "version 8 does not compile"))
    assert signal_of(case.look(a_canary(1, BASE))) is RolloutInput.REFUSED
    case.published = Published(0, "", (TRIED, "after a restart"))
    assert signal_of(case.look()) is RolloutInput.REFUSED


def test_what_does_not_compile_is_seen_by_an_open_one_too() -> None:
    case = Case(a_rollout(state=RolloutState.OPEN, version=BASE))
    case.published = Published(BASE, "b" * 64, (TRIED, "version 8 does not compile"))
    case.later(3600)
    written = case.look(a_canary(1, BASE))
    assert written is not None
    assert (written.signal, written.version) == (RolloutInput.WRITTEN, TRIED)
    case.rollout = a_rollout(version=TRIED)
    assert signal_of(case.look(a_canary(1, BASE))) is RolloutInput.REFUSED
    # What was refused is undone:
    case.rollout = a_rollout(state=RolloutState.OPEN, version=TRIED + 1, since=case.now_s)
    assert case.look(a_canary(1, BASE)) is None


def test_who_does_not_apply_in_time_is_named() -> None:
    case = Case()
    case.look(a_canary(1, BASE, last_error="disk full"))
    case.later(29)
    assert case.look(a_canary(1, BASE, last_error="disk full")) is None
    case.later(1)
    verdict = case.look(a_canary(1, BASE, last_error="disk full"))
    assert verdict is not None
    assert verdict.signal is RolloutInput.LATE
    assert verdict.reason.endswith("does not run it after 30 s: disk full")


def test_who_is_lost_may_come_back_for_a_while() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED), a_canary(2, TRIED))
    case.look(a_canary(1, TRIED))
    case.later(29)
    assert case.look(a_canary(1, TRIED)) is None
    case.look(a_canary(1, TRIED), a_canary(2, TRIED))
    case.later(29)
    assert case.look(a_canary(1, TRIED)) is None  # it was back in between
    case.later(30)
    verdict = case.look(a_canary(1, TRIED))
    assert verdict is not None
    assert verdict.signal is RolloutInput.LOST
    assert node_id(2) in verdict.reason


def test_after_its_start_a_control_plane_gives_data_planes_time_to_dial_again() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED))
    case.rollout = a_rollout(**HOLDING, marks=case.rollout.marks, limits=Limits(hold_s=100, timeout_s=1))
    case.look()
    case.later(14)
    assert case.look() is None
    case.later(1)
    assert signal_of(case.look()) is RolloutInput.LOST


def test_time_in_which_nobody_looked_does_not_count() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED), state=RolloutState.APPLYING)
    case.look(a_canary(2, BASE))  # one is behind, the other missing
    case.later(100)
    case.judge.rest()
    assert case.look(a_canary(2, BASE)) is None
    case.later(29)
    assert case.look(a_canary(2, BASE)) is None
    case.later(1)
    assert signal_of(case.look(a_canary(2, BASE))) is RolloutInput.LATE


def test_without_any_chosen_one_it_goes_back() -> None:
    case = Case()
    assert case.look(a_data_plane(3, BASE)) is None
    case.later(30)
    verdict = case.look(a_data_plane(3, BASE))
    assert verdict is not None
    assert (verdict.signal, verdict.reason) == (
        RolloutInput.LOST,
        "no data plane that is chosen is connected for 30 s",
    )


def rise(
    canary: tuple[int, int],
    others: tuple[int, int] | None = None,
    before: tuple[int, int] | None = (0, 0),
    *,
    counts: bool = True,
) -> Verdict | None:
    """What is said when the chosen have answered *canary* since, the others *others*, and before *before*."""
    case = Case()
    offset = (1000, 10)
    start = (offset[0] - (before or (0, 0))[0], offset[1] - (before or (0, 0))[1])
    other = [a_data_plane(3, BASE, answered=offset)] if others is not None else []
    case.marked(a_canary(1, TRIED, answered=offset if counts else None, before=start), *other)
    if others is not None:
        other = [a_data_plane(3, BASE, answered=(offset[0] + others[0], offset[1] + others[1]))]
    now = (offset[0] + canary[0], offset[1] + canary[1]) if counts else None
    return case.look(a_canary(1, TRIED, answered=now), *other)


def test_a_rise_of_5xx_goes_back() -> None:
    verdict = rise((20, 2), (500, 0), (100, 0))
    assert verdict is not None
    assert verdict.signal is RolloutInput.RISEN
    assert verdict.reason == (
        "10.00% of 20 answers of the chosen are 5xx (the others 0.00%, before 0.00%), which may rise by 5.00%"
    )


def test_no_rise_of_5xx_where_the_rule_says_so() -> None:
    assert rise((19, 19), (500, 0)) is None  # too few
    assert rise((100, 5), (500, 0)) is None  # as much as may be
    assert rise((100, 40), (500, 190)) is None  # the others have it as well
    assert rise((100, 40), (500, 0), (100, 40)) is None  # it was so before
    assert rise((100, 100), counts=False) is None  # one that does not count


def test_what_failed_everywhere_before_a_restart_speaks_against_no_version() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED), a_data_plane(3, BASE))
    case.restart()
    failed = a_canary(1, TRIED, answered=(100, 60)), a_data_plane(3, BASE, answered=(100, 60))
    assert case.look(*failed) is None
    # One that held back may dial again after the chosen, and after that tells its counts.
    case.later(100)
    case.restart()
    assert case.look(failed[0]) is None
    assert case.look(failed[0], a_data_plane(3, BASE, answered=None)) is None
    assert signal_of(case.look(*failed)) is RolloutInput.HELD
    case.later(15)
    assert signal_of(case.look(failed[0])) is RolloutInput.RISEN


def test_after_a_restart_nothing_is_promoted_before_the_chosen_have_told_their_counts() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED), a_canary(2, TRIED, answered=None, before=None))
    case.later(100)
    case.restart()
    silent = a_canary(2, TRIED, answered=None, before=None)  # it never counts
    assert case.look(a_canary(1, TRIED, answered=None), silent) is None
    assert signal_of(case.look(a_canary(1, TRIED, answered=(100, 60)), silent)) is RolloutInput.RISEN
    assert signal_of(case.look(a_canary(1, TRIED, answered=(100, 0)), silent)) is RolloutInput.HELD
    case.later(15)
    assert signal_of(case.look(a_canary(1, TRIED, answered=None), silent)) is RolloutInput.HELD


def test_where_others_stood_is_told_once_and_begins_anew_with_each_version() -> None:
    case = Case()
    assert case.look(a_canary(1, BASE), a_data_plane(3, BASE, answered=(5, 0))) is None
    case.marked(a_canary(1, TRIED), a_data_plane(3, BASE, answered=(9, 0)))
    assert case.rollout.others == {node_id(3): Answered(9, 0)}
    case.marked(a_canary(1, TRIED), *(a_data_plane(number, BASE, answered=(1, 0)) for number in (3, 4)))
    assert case.rollout.others == {node_id(3): Answered(9, 0), node_id(4): Answered(1, 0)}
    many = [a_data_plane(number, BASE) for number in range(5, 2005)]
    case.marked(a_canary(1, TRIED), *many)
    assert len(case.rollout.others) == 1000
    case.published = Published(TRIED + 1, "n" * 64)
    written = case.look(a_canary(1, TRIED), *many)
    assert written is not None
    assert (written.signal, written.others) == (RolloutInput.WRITTEN, {})


def test_what_is_too_small_is_not_compared_to() -> None:
    assert signal_of(rise((100, 40), (19, 19), (19, 19))) is RolloutInput.RISEN
    verdict = rise((100, 40))
    assert verdict is not None
    assert "(with nothing to compare to)" in verdict.reason


def test_each_version_is_judged_by_itself_and_before_is_before_the_rollout() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED, answered=(100, 1), before=(40, 0)))
    case.rollout = msgspec.structs.replace(case.rollout, version=TRIED + 1, state=RolloutState.APPLYING)
    case.published = Published(TRIED + 1, "n" * 64)
    case.marked(a_canary(1, TRIED + 1, answered=(200, 5), before=(40, 0)))
    mark = case.rollout.marks[node_id(1)]
    assert mark.since == Answered(200, 5)
    assert mark.before == Answered(60, 1)


def test_counts_that_come_later_are_taken_from_then_on() -> None:
    case = Case()
    case.marked(a_canary(1, TRIED, answered=None, before=None))
    assert case.rollout.marks[node_id(1)].since is None
    case.marked(a_canary(1, TRIED, answered=(50, 0)))
    assert case.rollout.marks[node_id(1)].since == Answered(50, 0)
    assert case.look(a_canary(1, TRIED, answered=(60, 0))) is None


def test_all_may_be_chosen() -> None:
    case = Case(a_rollout(selection=Selection({}, 1.0, 1.0)))
    assert signal_of(case.look(a_data_plane(1, TRIED), a_data_plane(2, TRIED))) is RolloutInput.APPLIED


_counts = st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda pair: (max(pair), min(pair)))


@given(canary=_counts, others=_counts, before=_counts)
def test_the_rule_is_what_is_written(
    canary: tuple[int, int], others: tuple[int, int], before: tuple[int, int]
) -> None:
    offset = 1000
    case = Case()
    start = Answered(offset - before[0], offset - before[1])

    def at(answered: tuple[int, int]) -> tuple[int, int]:
        return offset + answered[0], offset + answered[1]

    case.marked(
        a_canary(1, TRIED, answered=(offset, offset), before=(start.requests, start.server_errors)),
        a_data_plane(3, BASE, answered=(offset, offset)),
    )
    verdict = case.look(a_canary(1, TRIED, answered=at(canary)), a_data_plane(3, BASE, answered=at(others)))
    bar = max((errors / number for number, errors in (others, before) if number >= 20), default=0.0)
    is_risen = canary[0] >= 20 and canary[1] / canary[0] > bar + 0.05
    assert (signal_of(verdict) is RolloutInput.RISEN) is is_risen


def test_lately_reaches_back_some_minutes() -> None:
    lately = Lately()
    assert (lately.newest, lately.oldest) == (None, None)
    for number in range(61):
        lately.add(Answered(number, 0), number * 30.0)
    assert (lately.newest, lately.oldest) == (Answered(60, 0), Answered(40, 0))
    for number in range(61, 200):  # as often as while a rollout runs
        lately.add(Answered(number, 0), 1800.0 + number - 60)
    assert lately.oldest == Answered(45, 0)
    lately.add(Answered(3, 0), 2000.0)  # another process counts anew
    assert lately.oldest == Answered(3, 0)


def test_a_process_that_counts_anew_has_answered_what_it_says() -> None:
    assert difference(Answered(5, 1), Answered(3, 1)) == Answered(2, 0)
    assert difference(Answered(2, 1), Answered(3, 1)) == Answered(2, 1)
