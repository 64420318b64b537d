"""The order in which a data plane dials its control planes, and the rounds through it."""

from __future__ import annotations

import uuid
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from fastgw.dp.dialling import Rounds, preferred_order

ADDRESSES = st.lists(
    st.integers(1, 65535).map(lambda port: f"cp-{port % 7}:{port}"), min_size=1, max_size=16, unique=True
)


@given(st.uuids().map(str), ADDRESSES, st.randoms())
def test_the_order_is_one_of_its_own_and_hangs_on_nothing_else(
    node_id: str, addresses: list[str], random: Random
) -> None:
    order = preferred_order(node_id, addresses)
    assert sorted(order) == sorted(addresses)
    shuffled = random.sample(addresses, len(addresses))
    assert preferred_order(node_id, shuffled) == order


@given(st.uuids().map(str), ADDRESSES)
def test_an_address_that_goes_moves_nobody_else(node_id: str, addresses: list[str]) -> None:
    order = preferred_order(node_id, addresses)
    for gone in addresses:
        left = [one for one in addresses if one != gone]
        assert preferred_order(node_id, left) == tuple(one for one in order if one != gone)


def test_a_fleet_spreads_evenly_also_when_one_is_gone() -> None:
    addresses = ["cp-1:8005", "cp-2:8005", "cp-3:8005"]
    orders = [preferred_order(str(uuid.UUID(int=number)), addresses) for number in range(3000)]
    firsts = Counter(order[0] for order in orders)
    assert all(850 < count < 1150 for count in firsts.values()), firsts
    without = Counter(order[1] for order in orders if order[0] == "cp-1:8005")
    assert all(400 < count < 600 for count in without.values()), without


@given(ADDRESSES, st.lists(st.booleans(), max_size=60))
def test_a_round_tries_each_once(addresses: list[str], lasts: list[bool]) -> None:
    rounds = Rounds(addresses)
    tried: list[str] = []
    failures = 0
    for has_lasted in lasts:
        if has_lasted:
            rounds.lasted()
            tried, failures = [], 0
        address = rounds.next
        assert address == next(one for one in addresses if one not in tried)
        tried.append(address)
        is_over = rounds.failed(address)
        assert is_over == (len(tried) == len(addresses))
        if is_over:
            tried, failures = [], failures + 1
        assert rounds.failures == failures


def test_what_comes_before() -> None:
    rounds = Rounds(["a:1", "b:1", "c:1"])
    assert rounds.before("a:1") == ()
    assert rounds.before("c:1") == ("a:1", "b:1")
    # A link that was at the last one fails: the first is next, and the last one comes no more in this round.
    assert not rounds.failed("c:1")
    assert rounds.next == "a:1"
    assert not rounds.failed("a:1")
    assert rounds.failed("b:1")
