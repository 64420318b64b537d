"""Who is chosen: by labels, by a share that is the same for everyone who asks, and never nobody."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.cp.rollout.selection import Selection, make_selection, place_of
from fastgw.errors import RolloutError
from tests.cp.rollout.parts import a_canary, a_data_plane, node_id

_ids = st.lists(st.uuids().map(str), min_size=1, max_size=30, unique=True)


def test_all_labels_have_to_be_there() -> None:
    selection = Selection({"zone": "a", "tier": "1"})
    assert selection.holds("r", node_id(1), {"zone": "a", "tier": "1", "more": "x"})
    assert not selection.holds("r", node_id(1), {"zone": "a"})
    assert not selection.holds("r", node_id(1), {"zone": "a", "tier": "2"})
    assert not selection.holds("r", node_id(1), None)


@given(ids=_ids, share=st.floats(0.001, 1), rollout=st.text(max_size=8))
def test_a_share_holds_at_least_one_and_later_ones_by_their_place(
    ids: list[str], share: float, rollout: str
) -> None:
    rows = [a_data_plane(number, 1) for number in range(len(ids))]
    selection = make_selection(rollout, {}, share, rows)
    chosen = [row for row in rows if selection.holds(rollout, row.id, row.labels)]
    assert chosen
    places = sorted(place_of(rollout, row.id) for row in rows)
    assert sorted(place_of(rollout, row.id) for row in chosen) == places[: len(chosen)]
    for id_ in ids:
        expected = place_of(rollout, id_) <= max(share, places[0])
        assert selection.holds(rollout, id_, None) is expected


def test_of_many_about_the_share_is_chosen_and_each_time_others() -> None:
    rows = [a_data_plane(number, 1) for number in range(2000)]
    sets = []
    for rollout in ("one", "two"):
        selection = make_selection(rollout, {}, 0.1, rows)
        sets.append({row.id for row in rows if selection.holds(rollout, row.id, row.labels)})
        assert 120 < len(sets[-1]) < 280
    assert len(sets[0] & sets[1]) < 80
    everybody = make_selection("one", {}, 1.0, rows)
    assert all(everybody.holds("one", row.id, row.labels) for row in rows)


def test_a_share_of_those_with_labels() -> None:
    rows = [a_canary(1, 1), a_canary(2, 1), a_data_plane(3, 1)]
    selection = make_selection("r", {"zone": "canary"}, 0.0001, rows)
    assert sum(selection.holds("r", row.id, row.labels) for row in rows) == 1
    assert not selection.holds("r", rows[2].id, rows[2].labels)
    assert selection.describe() == "0.0001 of those with labels zone=canary"


def test_nobody_is_refused_with_what_there_is() -> None:
    with pytest.raises(RolloutError, match="no data plane is connected"):
        make_selection("r", {"zone": "x"}, None, [])
    with pytest.raises(RolloutError, match=r"zone=x; there are: zone=canary \(1\), zone=main \(2\)"):
        make_selection("r", {"zone": "x"}, None, [a_canary(1, 1), a_data_plane(2, 1), a_data_plane(3, 1)])
    many = [a_data_plane(number, 1, zone=f"{number:02}") for number in range(23)]
    with pytest.raises(RolloutError, match="and 3 more"):
        make_selection("r", {"zone": "x"}, None, many)
