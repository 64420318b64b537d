"""Deltas: from which to which they lead, when one is sent, and what follows when it is of no use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.model.snapshot import Snapshot, unpack_delta
from fastgw.wire import messages as m
from fastgw.wire.events import Confirmed, Received, Rejected, WholeWanted
from fastgw.wire.link import ControlLink, DataLink
from fastgw.wire.offering import Offering
from fastgw.wire.pacing import RETRY_CAP_S, retry_delay
from fastgw.wire.states import ControlState
from fastgw.wire.steps import BETWEEN_LIMIT_BYTES, Steps, changes_of
from tests.wire.ends import ack, control_link, exchange, hello, sent_by

IDS = ["a", "b", "c", "d"]
configurations = st.dictionaries(st.sampled_from(IDS), st.integers(0, 2))


def snapshot_of(version: int, values: dict[str, int], *, padding: str = "") -> Snapshot:
    rows = [{"id": id_, "value": value, "padding": padding} for id_, value in values.items()]
    return Snapshot.from_rows(version, {"services": rows})


class Publication:
    """Versions one after the other, as a publisher makes offerings of them."""

    def __init__(self, **limits: int) -> None:
        self.steps = Steps(**limits)
        self.snapshots: list[Snapshot] = []
        self.offerings: list[Offering] = []

    def publish(self, values: dict[str, int], *, padding: str = "") -> Offering:
        snapshot = snapshot_of(len(self.snapshots) + 1, values, padding=padding)
        if self.snapshots:
            before = self.snapshots[-1]
            if before.digest != snapshot.digest:
                self.steps.add(before.digest, snapshot.digest, changes_of(before, before.delta(snapshot)))
        offering = Offering(snapshot.version, snapshot.digest, snapshot.pack, steps=self.steps)
        if self.offerings and (whole := self.offerings[-1].newest_whole) is not None:
            offering.begin_with(whole)
        self.snapshots.append(snapshot)
        self.offerings.append(offering)
        return offering


def kinds(messages: Sequence[bytes]) -> list[str]:
    return [msgspec.msgpack.decode(message)["type"] for message in messages]


def linked(applied: Snapshot | None = None, **more: Any) -> tuple[ControlLink, DataLink]:
    greeting = hello(version=applied.version, digest=applied.digest, **more) if applied else hello(**more)
    control, data = control_link(), DataLink(0.0, greeting)
    exchange(control, data)
    return control, data


# What leads from one to another.


@given(st.lists(configurations, min_size=2, max_size=8), st.data())
def test_between_any_two_that_are_kept_the_changes_lead_there(
    history: list[dict[str, int]], data: st.DataObject
) -> None:
    publication = Publication(steps_limit=data.draw(st.integers(2, 8)))
    for values in history:
        publication.publish(values)
    place = st.integers(0, len(history) - 1)
    start, end = publication.snapshots[data.draw(place)], publication.snapshots[data.draw(place)]
    net = publication.steps.between(start.digest, end.digest)
    if net is not None:
        assert net == start.delta(end)
        assert start.patch(net, version=end.version) == end
    last, before = publication.snapshots[-1], publication.snapshots[-2]
    if last.digest != before.digest:
        assert publication.steps.between(before.digest, last.digest) is not None


def test_the_oldest_steps_are_forgotten_first() -> None:
    publication = Publication(steps_limit=4)
    for number in range(10):
        publication.publish({"a": number})
    known = [publication.offerings[-1].delta_from(made.digest) is not None for made in publication.snapshots]
    assert known == [False] * 6 + [True] * 4


def test_bytes_that_are_kept_are_bounded() -> None:
    publication = Publication(bytes_limit=50_000)
    for number in range(100):
        publication.publish({"a": number}, padding="x" * 5000)
    known = [publication.steps.between(made.digest, publication.snapshots[-1].digest) is not None
             for made in publication.snapshots]  # fmt: skip
    assert 3 < sum(known) < 10


def test_a_large_step_is_not_kept_and_what_comes_after_it_is() -> None:
    publication = Publication()
    first = publication.publish({"a": 1})
    large = publication.publish({"b": 1}, padding="x" * (3 * BETWEEN_LIMIT_BYTES))
    assert large.delta_from(first.digest) is None
    assert publication.publish({"c": 1}).delta_from(large.digest) is None
    small = publication.publish({"d": 1})
    assert small.delta_from(publication.offerings[-2].digest) is not None
    assert small.delta_from(first.digest) is None


# When one is sent.


def test_one_changed_entity_costs_less_than_two_kibibytes_whatever_there_is() -> None:
    padding = "many bytes that stand in each row " * 8
    values = {f"00000000-0000-4000-8000-{number:012x}": number for number in range(2000)}
    publication = Publication()
    publication.publish(values, padding=padding)
    before = publication.snapshots[0]
    control, data = linked(before)
    control.offer(publication.publish(values | {f"00000000-0000-4000-8000-{7:012x}": -1}, padding=padding))
    sent = sent_by(control)
    assert kinds(sent) == ["delta"]
    assert len(sent[0]) < 2048
    (received,) = data.receive_message(sent[0], 0.0)
    assert isinstance(received, Received)
    assert received.base_digest == before.digest
    assert before.patch(unpack_delta(received.compressed), version=2) == publication.snapshots[1]


def test_links_at_the_same_version_share_one_encoding() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    links = [linked(publication.snapshots[0])[0] for _ in range(2)]
    newest = publication.publish({"a": 2})
    for link in links:
        link.offer(newest)
    (one,), (other,) = sent_by(links[0]), sent_by(links[1])
    assert one is other


def test_a_slow_data_plane_skips_to_the_newest_in_one_delta() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    control, data = linked(publication.snapshots[0])
    control.offer(publication.publish({"a": 2}))
    (delta,) = sent_by(control)
    for number in range(3, 50):
        control.offer(publication.publish({"a": number}))
    assert sent_by(control) == []
    data.receive_message(delta, 0.0)
    data.accept(ack(2, publication.snapshots[1].digest))
    _, events = exchange(control, data)
    (received,) = events
    assert isinstance(received, Received)
    assert (received.version, received.base_digest) == (49, publication.snapshots[1].digest)


def test_what_is_undone_meanwhile_is_not_sent() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    control, data = linked(publication.snapshots[0])
    publication.publish({"a": 1, "b": 1})
    control.offer(publication.publish({"a": 1}))
    assert exchange(control, data)[1] == [Confirmed(3, publication.snapshots[0].digest)]


def test_going_back_to_an_older_version_is_a_delta_too() -> None:
    publication = Publication()
    older = publication.publish({"a": 1, "b": 1})
    publication.publish({"a": 2})
    control, data = linked(publication.snapshots[1])
    control.offer(older)
    (received,) = exchange(control, data)[1]
    assert isinstance(received, Received)
    delta = unpack_delta(received.compressed)
    assert publication.snapshots[1].patch(delta, version=1) == publication.snapshots[0]


def test_who_is_of_an_older_minor_version_gets_the_whole() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    control, _ = linked(publication.snapshots[0], minor=0)
    newest = publication.publish({"a": 2})
    assert control.offer(newest) == [WholeWanted(newest)]
    newest.make_whole()
    assert control.offer(newest) == []
    assert kinds(sent_by(control)) == ["snapshot", "chunk"]


# The whole, when it is needed.


def test_the_whole_is_packed_when_somebody_needs_it_and_then_shared() -> None:
    publication = Publication()
    offering = publication.publish({"a": 1})
    (one, _), (other, _) = linked(), linked()
    assert one.offer(offering) == [WholeWanted(offering)]
    assert one.state is ControlState.IDLE
    assert offering.make_whole() is offering.make_whole()
    for link in (one, other):
        assert link.offer(offering) == []
    assert [a is b for a, b in zip(sent_by(one), sent_by(other), strict=True)] == [True, True]


def test_an_earlier_whole_will_do_where_a_delta_leads_on() -> None:
    publication = Publication()
    publication.publish({"a": 1}).make_whole()
    publication.publish({"a": 2})
    newest = publication.publish({"a": 3})
    control, data = linked()
    assert control.offer(newest) == []
    (received,) = exchange(control, data)[1]
    assert isinstance(received, Received)
    assert (received.version, received.base_digest) == (1, "")
    data.accept(ack(1, received.digest))
    (received,) = exchange(control, data)[1]
    assert isinstance(received, Received)
    assert (received.version, received.base_digest) == (3, publication.snapshots[0].digest)


def test_nobody_is_sent_back_in_time_by_an_earlier_whole() -> None:
    publication = Publication()
    publication.publish({"a": 1}).make_whole()
    newest = publication.publish({"a": 3})
    control, _ = linked(snapshot_of(5, {"x": 1}))
    assert control.offer(newest) == [WholeWanted(newest)]


# Doubts.


def test_a_delta_that_is_of_no_use_is_followed_by_the_whole_and_that_by_deltas() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    control, data = linked(publication.snapshots[0])
    control.offer(publication.publish({"a": 2}))
    exchange(control, data)
    data.reject(2, [{"reason": "the digest is another"}], wants_whole=True)
    events, _ = exchange(control, data)
    assert events == [
        Rejected(m.Nack(version=2, faults=[{"reason": "the digest is another"}], wants_whole=True), 0.0),
        WholeWanted(publication.offerings[1]),
    ]
    publication.offerings[1].make_whole()
    control.offer(publication.offerings[1])
    (received,) = exchange(control, data)[1]
    assert isinstance(received, Received)
    assert received.base_digest == ""
    data.accept(ack(2, received.digest))
    exchange(control, data)
    control.offer(publication.publish({"a": 3}))
    (received,) = exchange(control, data)[1]
    assert isinstance(received, Received)
    assert received.base_digest == publication.snapshots[1].digest


def test_who_has_come_to_run_something_else_meanwhile_gets_a_delta_from_that() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    control, data = linked(publication.snapshots[0])
    publication.publish({"a": 2})
    control.offer(publication.publish({"a": 3}))
    exchange(control, data)
    data.report(2, publication.snapshots[1].digest)
    data.reject(3, [{"reason": "another base"}], wants_whole=True)
    (received,) = exchange(control, data)[1]
    assert isinstance(received, Received)
    assert received.base_digest == publication.snapshots[1].digest


def test_passing_trouble_is_tried_again_after_a_while_with_what_is_newest_then() -> None:
    publication = Publication()
    publication.publish({"a": 1})
    control, data = linked(publication.snapshots[0])
    control.offer(publication.publish({"a": 2}))
    now_s = 1.0
    for failures in range(8):
        exchange(control, data, now_s)
        data.reject(publication.snapshots[-1].version, [{"reason": "disk full"}], is_passing=True)
        (event,) = exchange(control, data, now_s)[0]
        assert isinstance(event, Rejected)
        assert event.retry_s is not None
        ceiling_s = min(RETRY_CAP_S, 2.0**failures)
        assert ceiling_s / 2 <= event.retry_s <= ceiling_s
        # Changes that come meanwhile do not press.
        assert control.offer(publication.publish({"a": 10 + failures})) == []
        assert sent_by(control) == []
        assert control.next_deadline() == now_s + event.retry_s
        now_s += event.retry_s
        control.on_tick(now_s)
        sent = sent_by(control)
        assert kinds(sent) == ["delta"]
        (received,) = data.receive_message(sent[0], now_s)
        assert isinstance(received, Received)
        assert received.version == publication.snapshots[-1].version
    data.accept(ack(publication.snapshots[-1].version, publication.snapshots[-1].digest))
    exchange(control, data, now_s)
    assert control.next_deadline() == now_s + 45


@pytest.mark.parametrize("drawn", [0.0, 0.999])
def test_the_delay_grows_to_its_cap(drawn: float) -> None:
    delays = [retry_delay(failures, lambda: drawn) for failures in range(20)]
    assert delays == sorted(delays)
    assert delays[-1] == pytest.approx(RETRY_CAP_S * (0.5 + drawn / 2))
