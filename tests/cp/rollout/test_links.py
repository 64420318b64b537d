"""A rollout on real links: what each data plane is sent, and how soon it tells what it has answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw.cp.rollout.pinning import Pin
from fastgw.cp.rollout.record import Limits
from fastgw.cp.rollout.states import RolloutState
from fastgw.model.snapshot import Snapshot
from fastgw.wire.messages import Answered
from tests.cp.cluster_nodes import Log, Node, cluster_port, eventually, offering_of, run
from tests.cp.rollout.parts import a_rollout
from tests.tls.certificates import gen_cert_pair


@pytest.fixture(autouse=True)
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def test_the_chosen_run_the_newest_and_report_soon_while_the_others_stay(tmp_path: Path) -> None:
    async def scenario() -> None:
        pair = gen_cert_pair()
        async with cluster_port(tmp_path, pair) as port:
            canary = Node(tmp_path, port.address, pair, cluster_dp_labels="zone:canary")
            other = Node(tmp_path, port.address, pair, cluster_dp_labels="zone:main")
            base = offering_of(7, ["a"])
            limits = Limits(hold_s=1.0)  # so Pings come every half second
            rollout = a_rollout(base_digest=base.digest, limits=limits)
            snapshot = Snapshot.unpack(7, base.make_whole().compressed)

            def runs(node: Node, version: int) -> Any:
                return eventually(lambda: node.state.version == version, f"version {version}", 10)

            async with canary.running(), other.running():
                port.hub.publish(base)
                await runs(canary, 7)
                await runs(other, 7)
                port.hub.set_pin(Pin(rollout, base, snapshot))
                tried = offering_of(8, ["a", "b"])
                port.hub.publish(tried)
                await runs(canary, 8)
                assert (await port.shown(canary.id))["rollout"] == "chosen"
                held = await port.shown(other.id)
                assert (held["rollout"], held["wanted_version"], held["applied_version"]) == (
                    "held back",
                    7,
                    7,
                )
                canary.answered = Answered(50, 5)
                counted = next(one for one in port.hub.linked() if one.id == canary.id).lately
                await eventually(lambda: counted.newest == Answered(50, 5), "what was answered", 10)

                # One that comes later, with nothing, begins with the base.
                late = Node(tmp_path, port.address, pair, cluster_dp_labels="zone:main")
                async with late.running():
                    await runs(late, 7)

                given_up = a_rollout(
                    base_digest=base.digest, state=RolloutState.REVERTED, final_version=9, limits=limits
                )
                port.hub.set_pin(Pin(given_up, base, snapshot))
                assert (await port.shown(other.id))["wanted_version"] == 7  # 8 is what was given up
                again = offering_of(9, ["a"])
                port.hub.publish(again)
                # Nobody who comes later begins with what was given up.
                assert tried.whole is not None
                assert tried.newest_whole is not None
                assert tried.newest_whole.version == 7
                await runs(canary, 9)
                await eventually(lambda: other.sync.status.confirmed_version == 9, "told the same", 10)
                assert other.seen == [7]
                assert (port.hub.pin, (await port.shown(other.id))["rollout"]) == (None, None)

    run(scenario())
