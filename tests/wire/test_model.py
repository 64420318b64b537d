"""Both ends of a link over a channel that cuts, loses what was on its way, and stalls: all ends in equal digests.

The channel keeps the order, as TCP does: what is lost is the tail of what was sent, together with the link.
What happens in all histories together is counted, since a model in which little happens proves little.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fastgw.errors import SnapshotError
from fastgw.model.snapshot import Snapshot, unpack_delta
from fastgw.wire.events import ControlEvent, DataEvent, Ended, Received, Rejected, WholeWanted
from fastgw.wire.link import ControlLink, DataLink
from fastgw.wire.offering import Offering
from fastgw.wire.states import DataState
from fastgw.wire.steps import Steps, changes_of
from tests.wire.ends import ack, hello

IDS = ["a", "b", "c", "d", "e"]
POISON = 9
"""A value that the data plane refuses for good."""
VALUES = st.dictionaries(st.sampled_from(IDS), st.sampled_from([0, 1, 2, 3, 0, 1, 2, 3, POISON]))


class Links(RuleBasedStateMachine):
    """One control plane with a few versions, one data plane, and links between them one after another."""

    seen: ClassVar[Counter[str]] = Counter()
    """What happened in all histories."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.steps = Steps(steps_limit=4)
        self.published: list[Snapshot] = []
        self.offering: Offering | None = None
        self.packing: Offering | None = None
        # The data plane, which outlives links.
        self.applied: Snapshot | None = None
        self.applying: tuple[DataLink, Received] | None = None
        self.is_full = False
        self.forgets = False
        # The link.
        self.control: ControlLink | None = None
        self.data: DataLink | None = None
        self.up: deque[bytes] = deque()
        self.down: deque[bytes] = deque()

    @initialize()
    def begin(self) -> None:
        self._publish({})

    # What happens at the control plane.

    @rule(values=VALUES)
    def publish(self, values: dict[str, int]) -> None:
        self._publish(values)

    def restart_control_plane(self) -> None:
        """Steps and packed snapshots are gone, and so is the link."""
        self.cut()
        self.steps = Steps(steps_limit=4)
        newest = self.published[-1]
        self.offering = Offering(newest.version, newest.digest, newest.pack, steps=self.steps)

    @precondition(lambda self: self.packing is not None)
    @rule()
    def finish_packing(self) -> None:
        assert self.packing is not None
        assert self.offering is not None
        whole = self.packing.make_whole()
        if self.packing is not self.offering:
            self.offering.begin_with(whole)
        self.packing = None
        self._offer()

    # What happens at the data plane.

    @precondition(lambda self: self.applying is not None)
    @rule()
    def finish_applying(self) -> None:
        assert self.applying is not None
        (link, received), self.applying = self.applying, None
        if self.is_full:
            self._answer(link, received, is_passing=True)
            return
        try:
            made = self._made(received)
        except SnapshotError:
            self._answer(link, received, wants_whole=True)
            return
        if any(row["value"] == POISON for row in made.rows("services").values()):
            self._answer(link, received)
            return
        self.applied = made
        if link is self.data and link.state is DataState.APPLYING:
            link.accept(ack(received.version, received.digest))
        else:
            self._report()

    @rule(is_full=st.booleans())
    def fill_the_disk(self, is_full: bool) -> None:
        self.is_full = is_full

    def restart_data_plane(self) -> None:
        self.cut()
        self.applying = None

    @rule()
    def forget_what_runs(self) -> None:
        """The compile process was replaced, and cannot read what runs: deltas are of no use for once."""
        self.forgets = True

    # What happens between them.

    @precondition(lambda self: self.control is None)
    @rule(minor=st.sampled_from([0, 1, 1, 1]))
    def connect(self, minor: int) -> None:
        version, digest = (self.applied.version, self.applied.digest) if self.applied else (0, "")
        self.control = ControlLink(self.now_s, cluster_id="cluster", version="0.1.0", draw=lambda: 0.5)
        self.data = DataLink(self.now_s, hello(version=version, digest=digest, minor=minor))

    @rule(values=VALUES, lag=st.integers(0, 2), applies=st.booleans(), trouble=st.sampled_from("   fF"))
    def change(self, values: dict[str, int], lag: int, applies: bool, trouble: str) -> None:
        """Something new, and time for it to get somewhere, or to meet a full disk or a new compile process."""
        self._publish(values)
        self.is_full = self.is_full or trouble == "F"
        self.forgets = self.forgets or trouble == "f"
        self.converse(8, lag, packs=True, applies=applies)

    @rule(rounds=st.integers(1, 8), lag=st.integers(0, 2), packs=st.booleans(), applies=st.booleans())
    def converse(self, rounds: int, lag: int, packs: bool, applies: bool) -> None:
        """Messages are sent, and up to *lag* stay on their way in either direction."""
        if self.control is None:
            self.connect(minor=1)
        for _ in range(rounds):
            self._carry_up(lag)
            self._carry_down(lag)
            if packs and self.packing is not None:
                self.finish_packing()
            if applies and self.applying is not None:
                self.finish_applying()

    @precondition(lambda self: self.control is not None)
    @rule(messages=st.integers(1, 6))
    def stall(self, messages: int) -> None:
        """Both send, and nothing arrives."""
        for _ in range(messages):
            self._carry_up(lag=1000)
            self._carry_down(lag=1000)

    @precondition(lambda self: self.control is not None)
    @rule(kind=st.sampled_from(["cut", "restart_control_plane", "restart_data_plane"]))
    def break_down(self, kind: str) -> None:
        getattr(self, kind)()

    def cut(self) -> None:
        """Whatever is on its way is lost."""
        self.seen["a cut while something was on its way"] += bool(self.up or self.down)
        self.control = self.data = None
        self.up.clear()
        self.down.clear()

    @rule(seconds=st.sampled_from([0.5, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self._wait(seconds)

    # What holds at all times, and in the end.

    @invariant()
    def nobody_holds_a_queue(self) -> None:
        assert len(self.up) <= 40
        assert len(self.down) <= 40

    @rule()
    def calm_down(self) -> None:
        """The trouble is over: the disk has room, the newest version is a good one, the link holds."""
        self.is_full = False
        if any(row["value"] == POISON for row in self.published[-1].rows("services").values()):
            self._publish({"a": 1})
        newest = self.published[-1]
        for _ in range(200):
            if self.control is None:
                self.connect(minor=1)
            for _ in range(4):
                self._carry_up()
                self._carry_down()
            if self.applying is not None:
                self.finish_applying()
            if self.packing is not None:
                self.finish_packing()
            if self._is_settled(newest):
                break
            self._wait(1.0)
        assert self._is_settled(newest), (self.applied, newest, self.control and self.control.state)

    def teardown(self) -> None:
        if self.published:
            self.calm_down()

    def _is_settled(self, newest: Snapshot) -> bool:
        if self.applied is None or self.control is None or self.data is None or self.applying is not None:
            return False
        return self.applied.digest == newest.digest and self.control._applied[1] == newest.digest

    def _publish(self, values: dict[str, int]) -> None:
        rows = [{"id": id_, "value": value} for id_, value in values.items()]
        snapshot = Snapshot.from_rows(len(self.published) + 1, {"services": rows})
        if self.published and (before := self.published[-1]).digest != snapshot.digest:
            self.steps.add(before.digest, snapshot.digest, changes_of(before, before.delta(snapshot)))
        offering = Offering(snapshot.version, snapshot.digest, snapshot.pack, steps=self.steps)
        if self.offering is not None and (whole := self.offering.newest_whole) is not None:
            offering.begin_with(whole)
        self.published.append(snapshot)
        self.offering = offering
        self._offer()

    def _offer(self) -> None:
        if self.control is not None and self.control.hello is not None:
            self._on_control(self.control.offer(self.offering))

    def _made(self, received: Received) -> Snapshot:
        """What was received, as the data plane makes it."""
        if not received.base_digest:
            return Snapshot.unpack(received.version, received.compressed, received.digest)
        forgot, self.forgets = self.forgets, False
        if forgot or self.applied is None or self.applied.digest != received.base_digest:
            raise SnapshotError("another base")
        made = self.applied.patch(unpack_delta(received.compressed), version=received.version)
        # A delta from what runs leads where it says: else this is found here, not by a Nack.
        assert made.digest == received.digest
        return made

    def _answer(self, link: DataLink, received: Received, **why: bool) -> None:
        self._report()
        if link is self.data and link.state is DataState.APPLYING:
            link.reject(received.version, [{"reason": "test"}], **why)

    def _report(self) -> None:
        if self.data is not None and self.applied is not None and self.data.state is not DataState.GREETING:
            self.data.report(self.applied.version, self.applied.digest)

    def _carry_up(self, lag: int = 0) -> None:
        if self.data is None or self.control is None:
            return
        if (message := self.data.next_message()) is not None:
            self.up.append(message)
        if len(self.up) > lag:
            was_greeted = self.control.hello is not None
            self._on_control(self.control.receive_message(self.up.popleft(), self.now_s))
            if not was_greeted:
                self._offer()

    def _carry_down(self, lag: int = 0) -> None:
        if self.data is None or self.control is None:
            return
        if (message := self.control.next_message()) is not None:
            self.down.append(message)
        if len(self.down) > lag:
            self._on_data(self.data.receive_message(self.down.popleft(), self.now_s))

    def _on_control(self, events: list[ControlEvent]) -> None:
        for event in events:
            self.seen[type(event).__name__] += 1
            match event:
                case WholeWanted(offering):
                    self.packing = offering
                case Rejected(nack, retry_s):
                    assert (retry_s is not None) == (nack.is_passing or nack.wants_whole)
                    self.seen["refused for the moment"] += nack.is_passing
                    self.seen["asked for whole"] += nack.wants_whole
                    self.seen["refused for good"] += retry_s is None
                case Ended(reason):
                    assert _is_silence(reason), reason  # neither end breaks a rule
                    self.cut()

    def _on_data(self, events: list[DataEvent]) -> None:
        link = self.data
        assert link is not None
        for event in events:
            self.seen[type(event).__name__] += 1
            match event:
                case Received():
                    self.seen["a delta" if event.base_digest else "a whole"] += 1
                    self.applying = link, event
                case Ended(reason):
                    assert _is_silence(reason), reason
                    self.cut()
                case _:
                    self._report()

    def _wait(self, seconds: float) -> None:
        self.now_s += seconds
        for end in (self.control, self.data):
            # The one may have cut the link of the other.
            is_linked = end is self.control or end is self.data
            if end is not None and is_linked and self.now_s >= end.next_deadline():
                events: list[Any] = end.on_tick(self.now_s)
                if isinstance(end, ControlLink):
                    self._on_control(events)
                else:
                    self._on_data(events)


def _is_silence(reason: str) -> bool:
    return any(words in reason for words in ("silent for", "said no Hello", "said no Welcome"))


def test_every_history_ends_in_equal_digests() -> None:
    Links.TestCase.settings = settings(
        max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
    )
    Links.seen.clear()
    Links.TestCase("runTest").runTest()
    for what in (
        *("Joined", "Accepted", "Confirmed", "WholeWanted"),
        *("a whole", "a delta", "a cut while something was on its way"),
        *("refused for the moment", "asked for whole", "refused for good"),
    ):
        assert Links.seen[what], (what, Links.seen)
