"""Configurations applied in two phases on real worker processes, which are stopped and killed on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
from pathlib import Path

import pytest

from fastgw.dp.generation import ImageFile
from fastgw.dp.store import CURRENT, PREVIOUS, Store
from fastgw.dp.supervisor import Supervisor
from fastgw.dp.sync import Applied, IncomingSnapshot, Refused
from fastgw.dp.workers import WorkersCannotStart, WorkerState
from fastgw.errors import ListenError, SettingsError
from fastgw.routing.image import FORMAT_VERSION
from tests.dp.node import (
    IMPATIENT,
    NODE,
    PATIENT,
    ask,
    incoming,
    make_settings,
    routed,
    run,
    running_node,
    until,
)
from tests.routing.snapshots import route, snapshot

MATCHED = 502  # nothing listens where the routes lead
UNMATCHED = 404
EMPTY = incoming(snapshot(version=1))


def test_a_configuration_reaches_all_workers(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path) as node:
            assert await node.statuses("/one") == {UNMATCHED}
            first = await node.apply(routed(1, "/one"))
            assert isinstance(first, Applied)
            assert await node.statuses("/one") == {MATCHED}
            second = await node.apply(routed(2, "/two"))
            assert isinstance(second, Applied)
            assert (second.version, second.digest) == (2, routed(2, "/two").digest)
            assert min(second.decode_ms, second.compile_ms, second.store_ms, second.commit_ms) > 0
            assert await node.statuses("/one") == {UNMATCHED}
            assert await node.statuses("/two") == {MATCHED}
            assert node.supervisor.state() == (2, second.digest)

    run(test())


def test_each_applied_configuration_has_one_log_line_the_empty_one_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            assert node.supervisor.state() == (0, "")
            assert not node.supervisor.is_serving
            await node.apply(EMPTY)
            assert node.supervisor.is_serving
            await node.apply(routed(2, "/one", "/two"))
            lines = [line for line in node.log().splitlines() if "applied version" in line]
            assert len(lines) == 2
            assert f"applied version 1, digest {EMPTY.digest[:32]}: no entities; whole; decode " in lines[0]
            assert "applied version 2" in lines[1]
            assert "services 1" in lines[1]
            assert "routes 2" in lines[1]
            for step in ("decode", "compile", "prepare", "store", "commit"):
                assert f"{step} " in lines[1]

    run(test())


def test_the_same_digest_is_no_work(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await node.apply(routed(1, "/one"))
            written = (tmp_path / "dp" / CURRENT).stat().st_mtime_ns
            again = await node.apply(routed(2, "/one"))
            assert again == Applied(2, routed(1, "/one").digest, 0, 0, 0, 0)
            assert node.supervisor.state().version == 2
            assert (tmp_path / "dp" / CURRENT).stat().st_mtime_ns == written
            assert node.log().count("applied version") == 1

    run(test())


def test_what_does_not_compile_is_refused_with_all_reasons(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await node.apply(routed(1, "/one"))
            orphans = snapshot(route(1, to=8, paths=["/a"]), route(2, to=9, paths=["/b"]), version=2)
            refused = await node.apply(incoming(orphans))
            assert isinstance(refused, Refused)
            assert len(refused.faults) == 2
            assert {fault["entity"] for fault in refused.faults} == {"routes"}
            assert "refused version 2" in node.log()
            assert node.supervisor.state().version == 1
            assert await node.statuses("/one", 2) == {MATCHED}

    run(test())


def test_another_digest_than_promised_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            made = snapshot(route(1, paths=["/a"]), version=3)
            refused = await node.apply(IncomingSnapshot(3, "ab" * 32, made.pack()))
            assert isinstance(refused, Refused)
            assert "digest" in refused.faults[0]["reason"]
            assert node.supervisor.state().version == 0

    run(test())


def test_a_worker_late_at_prepare_refuses_for_all_and_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, deadlines=IMPATIENT) as node:
            await node.apply(routed(1, "/one"))
            stopped = node.workers[0].pid
            node.signal(0, signal.SIGSTOP)
            refused = await node.apply(routed(2, "/two"))
            fault = {"worker": 0, "reason": "worker 0 did not answer Prepare in time"}
            assert refused == Refused(2, [fault], is_passing=True)
            assert node.supervisor.state().version == 1
            stored = node.store.load()
            assert stored is not None
            assert stored.version == 1
            await until(lambda: node.workers[0].pid not in (stopped, None), "the hung worker is replaced")
            await node.all_running()
            assert await node.statuses("/one") == {MATCHED}
            assert isinstance(await node.apply(routed(3, "/three")), Applied)
            assert await node.statuses("/three") == {MATCHED}

    run(test())


def test_a_worker_that_was_late_and_comes_back_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        patient = IMPATIENT.__class__(start_s=15, prepare_s=0.3, abandon_s=15, commit_s=10, drain_s=2)
        async with running_node(tmp_path, deadlines=patient) as node:
            pids = node.pids
            node.signal(1, signal.SIGSTOP)
            assert isinstance(await node.apply(routed(1, "/one")), Refused)
            node.signal(1, signal.SIGCONT)
            # Its late answers belong to the generation that was abandoned, and are not taken for the next.
            await node.supervisor.applier.finish()
            assert isinstance(await node.apply(routed(2, "/two")), Applied)
            assert node.pids == pids
            assert await node.statuses("/two") == {MATCHED}
            assert await node.statuses("/one") == {UNMATCHED}

    run(test())


def test_a_worker_killed_at_prepare_is_replaced_and_asked_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path) as node:
            node.signal(0, signal.SIGSTOP)
            applying = asyncio.create_task(node.apply(routed(1, "/one")))
            await until(
                lambda: "version 1 is compiled, prepares on 2 workers" in node.log(), "prepare begins"
            )
            node.signal(0, signal.SIGKILL)
            assert isinstance(await applying, Applied)
            assert await node.statuses("/one") == {MATCHED}
            assert node.workers[0].restarts_total == 1

    run(test())


class _SignallingStore(Store):
    """Sends a signal to one worker at the moment of decision."""

    target: tuple[int, signal.Signals] | None = None

    def decide(self) -> None:
        super().decide()
        if self.target is not None:
            os.kill(*self.target)
            self.target = None


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL])
def test_a_worker_that_fails_at_commit_starts_again_on_the_decided_generation(
    tmp_path: Path, number: signal.Signals
) -> None:
    async def test() -> None:
        async with running_node(tmp_path, deadlines=IMPATIENT, make_store=_SignallingStore) as node:
            assert isinstance(node.store, _SignallingStore)
            await node.apply(routed(1, "/one"))
            pids = node.pids
            node.store.target = (pids[0], number)
            applied = await node.apply(routed(2, "/two"))
            assert isinstance(applied, Applied)
            await node.all_running()
            assert node.workers[0].pid != pids[0]
            assert node.workers[1].pid == pids[1]
            assert node.workers[0].restarts_total == 1
            assert await node.statuses("/two") == {MATCHED}
            assert await node.statuses("/one") == {UNMATCHED}

    run(test())


def test_connections_wait_while_a_dead_worker_is_replaced(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await node.apply(routed(1, "/one"))
            assert (await ask(node.address, "/one")).status == MATCHED
            node.signal(0, signal.SIGKILL)
            await until(lambda: node.workers[0].state is not WorkerState.RUNNING, "the death is noticed")
            # Nobody accepts now; never an answer without the configuration, never a refused connection.
            statuses = await asyncio.gather(*(ask(node.address, "/one") for _ in range(8)))
            assert {answer.status for answer in statuses} == {MATCHED}
            assert node.workers[0].restarts_total == 1
            assert "was killed by SIGKILL" in node.log()

    run(test())


def test_a_worker_dies_with_an_apply_in_progress_and_comes_back_to_the_newest(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path) as node:
            await node.apply(routed(1, "/one"))
            for version in range(2, 5):
                node.signal(version % 2, signal.SIGKILL)
                results = [
                    await node.apply(routed(version * 10, f"/v{version}")),
                    await node.apply(routed(version * 10 + 1, f"/v{version}")),
                ]
                assert isinstance(results[-1], Applied)
                await node.all_running()
                assert await node.statuses(f"/v{version}") == {MATCHED}

    run(test())


def test_an_apply_goes_on_when_nobody_waits_for_it_any_more(tmp_path: Path) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    class Halting(Store):
        def stage(self, image: ImageFile, overlay: ImageFile | None = None) -> None:
            begun.set()
            assert may_go_on.wait(10.0)
            super().stage(image, overlay)

    async def test() -> None:
        async with running_node(tmp_path, workers=1, make_store=Halting) as node:
            waiting = asyncio.create_task(node.apply(routed(1, "/one")))
            try:
                await until(begun.is_set, "the apply is under way")
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert node.supervisor.state().version == 0
            finally:
                may_go_on.set()
            await node.supervisor.applier.finish()
            assert node.supervisor.state().version == 1
            assert await node.statuses("/one", 2) == {MATCHED}

    run(test())


def test_a_full_disk_is_a_refusal(tmp_path: Path) -> None:
    class Full(Store):
        def stage(self, image: ImageFile, overlay: ImageFile | None = None) -> None:
            raise OSError(28, "No space left on device")

    async def test() -> None:
        async with running_node(tmp_path, workers=1, make_store=Full) as node:
            refused = await node.apply(routed(1, "/one"))
            assert isinstance(refused, Refused)
            assert "No space left on device" in refused.faults[0]["reason"]
            assert refused.is_passing
            assert await node.statuses("/one", 2) == {UNMATCHED}

    run(test())


def test_it_starts_from_disk(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await node.apply(routed(41, "/one"))
        async with running_node(tmp_path, wait=False) as node:
            assert "starts from disk with version 41" in node.log()
            # The sockets are open before the workers are: connections wait, none sees an empty gateway.
            assert await node.statuses("/one") == {MATCHED}
            assert node.supervisor.state() == (41, routed(41, "/one").digest)
            assert node.supervisor.is_serving

    run(test())


def test_it_starts_without_a_damaged_image_and_from_the_one_before(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await node.apply(routed(1, "/one"))
            await node.apply(routed(2, "/two"))
        current = tmp_path / "dp" / CURRENT
        content = bytearray(current.read_bytes())
        content[len(content) // 2] ^= 1
        current.write_bytes(content)
        async with running_node(tmp_path, workers=1) as node:
            assert "current.image cannot be used: " in node.log()
            assert node.supervisor.state().version == 1
            assert await node.statuses("/one", 2) == {MATCHED}
            (tmp_path / "dp" / PREVIOUS).write_bytes(b"nonsense")
        async with running_node(tmp_path, workers=1) as node:
            assert node.supervisor.state().version == 0
            assert not node.supervisor.is_serving
            assert await node.statuses("/one", 2) == {UNMATCHED}
            assert isinstance(await node.apply(routed(3, "/three")), Applied)
        # The generation before was a base under a second name: that was damaged with it.
        assert len(list((tmp_path / "dp").glob("*.damaged-*"))) == 3

    run(test())


def test_an_image_of_another_format_is_compiled_anew(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node:
            await node.apply(routed(5, "/one"))
        current = tmp_path / "dp" / CURRENT
        content = bytearray(current.read_bytes())
        struct.pack_into("<I", content, 8, FORMAT_VERSION + 1)
        current.write_bytes(content)
        async with running_node(tmp_path, workers=1) as node:
            assert node.supervisor.state() == (5, routed(5, "/one").digest)
            assert await node.statuses("/one", 2) == {MATCHED}
        assert struct.unpack_from("<I", current.read_bytes(), 8) == (FORMAT_VERSION,)

    run(test())


def test_workers_that_never_come_up_end_the_data_plane(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store(tmp_path)
        settings = make_settings(tmp_path, workers="1", proxy_access_log="/dev/null/access.log")
        supervisor = Supervisor(settings, node=NODE, store=store, deadlines=PATIENT)
        try:
            await supervisor.start()
            with pytest.raises(WorkersCannotStart, match=r"worker 0 does not start \(3 attempts\)"):
                await supervisor.run()
            await supervisor.stop()
        finally:
            await supervisor.close()
            store.close()

    run(test())


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path / "a", workers=2) as node:
            # SO_REUSEPORT would let a second data plane share the port without a word.
            store = Store(tmp_path / "b")
            settings = make_settings(tmp_path / "b", proxy_listen=node.address)
            supervisor = Supervisor(settings, node=NODE, store=store)
            with pytest.raises(ListenError, match=f"proxy_listen {node.address}: the port is taken"):
                await supervisor.start()
            await supervisor.close()
            store.close()

    run(test())


def test_one_data_plane_per_prefix(tmp_path: Path) -> None:
    store = Store(tmp_path)
    try:
        with pytest.raises(SettingsError, match=rf"another data plane runs there \(process {os.getpid()}\)"):
            Store(tmp_path)
    finally:
        store.close()
    Store(tmp_path).close()
