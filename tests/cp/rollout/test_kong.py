"""Kong data planes and rollouts: chosen as ours are, held back as ours are, and told nothing of either."""

from __future__ import annotations

from pathlib import Path

from fastgw.cp.rollout.judging import Judge, Published
from fastgw.cp.rollout.pinning import Pin
from fastgw.cp.rollout.states import RolloutInput, RolloutState
from fastgw.model.snapshot import Snapshot
from fastgw.wire.kong_v1.link import PUSH_SPACING_S
from tests.cp.cluster_nodes import Clock, Log, eventually, run
from tests.cp.kong_data_plane import CLOSE, NODE_ID, PONG
from tests.cp.rollout.parts import a_rollout
from tests.cp.test_kong_peers import connected, kong_port, routes


def test_one_that_is_held_back_is_pushed_nothing_and_the_new_version_in_the_end(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def scenario() -> None:
        spacing = Clock()
        async with kong_port(tmp_path, clock=spacing) as port:
            base = routes(7, "/old")
            port.hub.publish(base)
            node = await connected(port, labels={"zone": "main"})
            node.ping((await node.push())["config_hash"])
            await log.shows("runs version 7 [id")
            rollout = a_rollout(base_digest=base.digest)
            snapshot = Snapshot.unpack(7, base.make_whole().compressed)
            port.hub.set_pin(Pin(rollout, base, snapshot))
            port.hub.publish(routes(8, "/new"))
            shown = await port.shown(NODE_ID)
            assert (shown["wanted_version"], shown["rollout"]) == (7, "held back")
            promoted = a_rollout(base_digest=base.digest, state=RolloutState.PROMOTED, final_version=8)
            spacing.now_s += PUSH_SPACING_S
            port.hub.set_pin(Pin(promoted, base, snapshot))
            assert (await node.push())["config_table"]["routes"][0]["paths"] == ["/new"]
            node.send(CLOSE)
            assert set(await node.until_close()) <= {PONG, CLOSE}

    run(scenario())


def test_one_that_is_chosen_counts_nothing_and_is_judged_by_what_it_applies(tmp_path: Path) -> None:
    log = Log(tmp_path)

    async def scenario() -> None:
        async with kong_port(tmp_path) as port:
            clock = Clock()
            base = routes(7, "/old")
            rollout = a_rollout(base_digest=base.digest)
            snapshot = Snapshot.unpack(7, base.make_whole().compressed)
            port.hub.publish(base)
            port.hub.set_pin(Pin(rollout, base, snapshot))
            port.hub.publish(routes(8, "/new"))
            node = await connected(port, labels={"zone": "canary"})
            push = await node.push()
            assert push["config_table"]["routes"][0]["paths"] == ["/new"]
            judge, published = Judge(clock), Published(8, "t" * 64)
            assert judge.judge(rollout, port.hub.linked_rows(), published, 1000.0) is None
            clock.now_s += 30
            late = judge.judge(rollout, port.hub.linked_rows(), published, 1000.0)
            assert late is not None
            assert late.signal is RolloutInput.LATE
            node.ping(push["config_hash"])
            await log.shows("runs version 8 [id")

            def applied() -> bool:
                verdict = judge.judge(rollout, port.hub.linked_rows(), published, 1000.0)
                assert verdict is not None
                return verdict.signal is RolloutInput.APPLIED and verdict.marks[NODE_ID].since is None

            await eventually(applied, "it runs on all that are chosen")
            node.close()

    run(scenario())
