"""Both ends on a channel that delivers in pieces and can be cut: every history ends with what is wanted running.

The glue between a link and the world (made payloads on the one side, applies on the other) is what `cp.kong_peers`
and `dp.kong_link` do, without their threads.
"""

from __future__ import annotations

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from fastgw.wire.kong_v1.hashes import ZERO_HASH
from fastgw.wire.kong_v1.link import (
    FIRST_PING_S,
    PUSH_SPACING_S,
    Ended,
    KongControlLink,
    KongDataLink,
    Pushed,
    cut_frame,
)

INFO = json.dumps({"type": "basic_info", "plugins": []}).encode()


def hash_of(version: int) -> str:
    return f"{version:032d}"


class Histories(RuleBasedStateMachine):
    """A control plane that publishes, a data plane that applies, and what lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.wanted = 0
        self.runs = 0
        self.received: int | None = None
        self.refuses = 0
        self.connect()

    def connect(self) -> None:
        self.control = KongControlLink(self.now_s)
        self.data = KongDataLink(self.now_s, INFO, hash_of(self.runs), 1 << 20)
        self.up, self.down = b"", b""
        if self.wanted:
            self.control.offer(str(self.wanted))

    def step(self) -> None:
        """What the callers of both links do whenever something happened."""
        if self.control.is_closed or self.data.is_closed:
            return
        wanted = self.control.wanted_push(self.now_s)
        if wanted is not None:
            if self.control.runs(hash_of(int(wanted))):
                self.control.spare(wanted, hash_of(int(wanted)))
            else:
                payload = wanted.encode().rjust(40, b"0")
                self.control.push(wanted, cut_frame(payload), hash_of(int(wanted)), self.now_s)
        while (data := self.control.next_bytes()) is not None:
            self.down += data
        while (data := self.data.next_bytes()) is not None:
            self.up += data

    @rule()
    def publish(self) -> None:
        self.wanted += 1
        if not self.control.is_closed:
            self.control.offer(str(self.wanted))
        self.step()

    @precondition(lambda self: self.wanted > 1)
    @rule()
    def go_back(self) -> None:
        self.wanted -= 1
        if not self.control.is_closed:
            self.control.offer(str(self.wanted))
        self.step()

    @rule(size=st.integers(1, 60))
    def deliver_up(self, size: int) -> None:
        piece, self.up = self.up[:size], self.up[size:]
        events = self.control.receive(piece, self.now_s)
        assert not [event for event in events if isinstance(event, Ended)]
        self.step()

    @rule(size=st.integers(1, 60))
    def deliver_down(self, size: int) -> None:
        piece, self.down = self.down[:size], self.down[size:]
        for event in self.data.receive(piece, self.now_s):
            assert isinstance(event, Pushed)
            self.received = int(event.frame)
        self.step()

    @precondition(lambda self: self.received is not None)
    @rule()
    def apply(self) -> None:
        assert self.received is not None
        self.runs, self.received = self.received, None
        self.data.report(hash_of(self.runs), self.now_s)
        self.step()

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for link in (self.control, self.data):
            if not link.is_closed:
                link.on_tick(self.now_s)
        if self.control.is_closed or self.data.is_closed:
            self.connect()
        self.step()

    @rule()
    def cut(self) -> None:
        self.connect()
        self.step()

    def teardown(self) -> None:
        """With time and no more cuts, what is wanted runs, and the control plane knows."""
        for _ in range(4):
            while self.up or self.down or self.received is not None:
                if self.up:
                    self.deliver_up(1000)
                if self.down:
                    self.deliver_down(1000)
                if self.received is not None:
                    self.apply()
            self.wait(max(PUSH_SPACING_S, FIRST_PING_S))
        if self.wanted:
            assert self.runs == self.wanted
            assert self.control.reported_hash == hash_of(self.wanted)
        else:
            assert self.control.reported_hash == ZERO_HASH


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
