"""The compile process: real processes, killed, stopped and refused work."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from fastgw.errors import CompileError, DeltaError, SnapshotError
from fastgw.model.snapshot import EntityChange, Snapshot, pack_delta
from fastgw.routing.compile_child import NICENESS
from fastgw.routing.compile_process import CompileProcess, CompileResult
from fastgw.routing.image import Image, read_checksum
from fastgw.routing.layered import LayeredImage
from tests.routing.snapshots import make_id, route, snapshot
from tests.waiting import wait_until

DEADLINE_S = 20.0


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[CompileProcess]:
    process = CompileProcess()
    await process.start()
    try:
        yield process
    finally:
        await process.close()


def run(test: Callable[[CompileProcess], Awaitable[None]]) -> None:
    """Run *test* with a started process, on the event loop that serves."""

    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S), running() as process:
            await test(process)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def compile_(process: CompileProcess, made: Snapshot, deadline_s: float = 60.0) -> Awaitable[CompileResult]:
    return process.compile(made.pack(), version=made.version, digest=made.digest, deadline_s=deadline_s)


def test_it_works_at_a_lower_priority_than_its_parent() -> None:
    async def test(process: CompileProcess) -> None:
        assert process.pid is not None
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, ours + NICENESS)

    run(test)


MADE = snapshot(route(1, paths=["/a"]))


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_gives_a_sealed_image() -> None:
    async def test(process: CompileProcess) -> None:
        result = await compile_(process, MADE)
        try:
            image = Image.open(result.fd)
            assert image.meta.digest == MADE.digest
            assert image.snapshot() == MADE
            assert image.table().match(b"GET", b"", b"/a") == (0, 2)
            assert result.counts == {"routes": 1}
            assert result.decode_ms > 0
            assert result.compile_ms > 0
            assert fcntl.fcntl(result.fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
            assert not os.get_inheritable(result.fd)
        finally:
            os.close(result.fd)

    run(test)


def test_one_process_does_job_after_job_and_leaks_no_descriptor() -> None:
    async def test(process: CompileProcess) -> None:
        os.close((await compile_(process, MADE)).fd)
        pid, fds = process.pid, open_fds()
        results = await asyncio.gather(
            *(compile_(process, snapshot(route(n, paths=["/"]))) for n in range(1, 9))
        )
        for n, result in enumerate(results, 1):
            assert Image.open(result.fd).route(0).id == make_id(n)
            os.close(result.fd)
        with pytest.raises(CompileError):
            await compile_(process, snapshot(route(1, to=8, paths=["/x"])))
        assert process.pid == pid
        assert open_fds() == fds

    run(test)


def test_reasons_come_back_whole() -> None:
    async def test(process: CompileProcess) -> None:
        made = snapshot(*(route(n, to=8, paths=["/" + "x" * 200]) for n in range(1, 1001)))
        with pytest.raises(CompileError) as caught:
            await compile_(process, made)
        assert len(caught.value.faults) == 1000
        assert caught.value.faults[999]["id"] == make_id(1000)

    run(test)


@pytest.mark.parametrize(
    ("packed", "digest", "message"),
    [
        (b"damaged", MADE.digest, "packed document"),
        (MADE.pack(), "0" * 64, "digest"),
        (MADE.pack() + b"x", MADE.digest, "something follows"),
    ],
)
def test_a_document_that_is_none_is_refused(packed: bytes, digest: str, message: str) -> None:
    async def test(process: CompileProcess) -> None:
        with pytest.raises(SnapshotError, match=message):
            await process.compile(packed, version=1, digest=digest)
        os.close((await compile_(process, MADE)).fd)

    run(test)


def test_another_process_takes_the_place_of_a_dead_one() -> None:
    async def test(process: CompileProcess) -> None:
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        os.close((await compile_(process, MADE)).fd)
        assert process.pid not in (pid, None)
        assert not is_alive(pid)

    run(test)


def test_a_job_is_tried_once_more_when_the_process_dies_under_it() -> None:
    async def test(process: CompileProcess) -> None:
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)  # the job waits in the socket
        job = asyncio.ensure_future(compile_(process, MADE))
        while not job.done() and process.pid == pid:
            with contextlib.suppress(ProcessLookupError):  # it was collected just now
                await asyncio.to_thread(os.kill, pid, signal.SIGKILL)
            await asyncio.wait([job], timeout=0.01)
        os.close((await job).fd)
        assert process.pid != pid

    run(test)


def test_a_job_that_takes_too_long_is_refused_and_the_process_replaced() -> None:
    async def test(process: CompileProcess) -> None:
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(CompileError, match=r"within 0\.2 s"):
            await compile_(process, MADE, deadline_s=0.2)
        os.close((await compile_(process, MADE)).fd)
        assert process.pid != pid

    run(test)


def test_close_ends_the_process_and_what_waits_for_it() -> None:
    async def test(process: CompileProcess) -> None:
        pid = process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        jobs = [asyncio.ensure_future(compile_(process, MADE)) for _ in range(2)]
        await asyncio.wait(jobs, timeout=0.05)
        begun = time.monotonic()
        await process.close()
        assert time.monotonic() - begun < 5
        assert not is_alive(pid)
        for job in jobs:
            with pytest.raises(CompileError, match="closed"):
                await job

    run(test)


def test_the_process_ends_with_its_parent() -> None:
    """A parent that is killed closes nothing itself; the kernel does."""
    script = (
        "import asyncio, os, signal\n"
        "from fastgw.routing.compile_process import CompileProcess\n"
        "async def main():\n"
        "    process = CompileProcess()\n"
        "    await process.start()\n"
        "    print(process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )

    async def main() -> None:
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(DEADLINE_S):
            out, _ = await parent.communicate()
            pid = int(out)
        wait_until(lambda: not is_alive(pid), DEADLINE_S, "end of the compile process")

    asyncio.run(main())


def moved(before: Snapshot, number: int) -> Snapshot:
    """*before* with one of its routes elsewhere."""
    row = route(number, paths=[f"/moved-{number}"])
    return before.apply([EntityChange(before.version + 1, "routes", row["id"], row)])


MANY = snapshot(*(route(n, paths=[f"/{n}"]) for n in range(1, 41)), version=1)


async def change(process: CompileProcess, made: Snapshot, base_fd: int) -> CompileResult:
    return await process.compile(
        made.pack(),
        version=made.version,
        digest=made.digest,
        base=read_checksum(base_fd),
        base_fd=base_fd,
    )


def answers_of(base_fd: int, overlay_fd: int) -> LayeredImage:
    return LayeredImage(Image.open(base_fd), Image.open(overlay_fd))


def test_a_change_of_a_named_base_gives_an_overlay_whoever_compiled_the_base() -> None:
    async def test(process: CompileProcess) -> None:
        first = await compile_(process, MANY)
        made = MANY
        for number in range(1, 4):
            made = moved(made, number)
            if number == 2:
                pid = process.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)  # the next process has never seen the base
            result = await change(process, made, first.fd)
            assert (result.fd, result.wants_merge) == (-1, False)
            layered = answers_of(first.fd, result.overlay_fd)
            assert layered.meta.digest == made.digest
            assert layered.table().match(b"GET", b"", b"/moved-1") is not None
            assert layered.table().match(b"GET", b"", b"/1") is None
            assert not os.get_inheritable(result.overlay_fd)
            result.close()
        first.close()

    run(test)


def test_a_delta_needs_no_whole_snapshot_even_when_the_process_was_replaced() -> None:
    async def test(process: CompileProcess) -> None:
        first = await compile_(process, MANY)
        made, overlay_fd = MANY, -1
        for number in range(1, 5):
            before, made = made, moved(made, number)
            if number == 3:
                pid = process.pid
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
            result = await process.compile(
                pack_delta(before.delta(made)),
                version=made.version,
                digest=made.digest,
                since=before.digest,
                base=read_checksum(first.fd),
                base_fd=first.fd,
                overlay_fd=overlay_fd,
            )
            assert answers_of(first.fd, result.overlay_fd).meta.digest == made.digest
            if overlay_fd >= 0:
                os.close(overlay_fd)
            overlay_fd = result.overlay_fd
        with pytest.raises(DeltaError, match="which is not known"):
            await process.compile(
                pack_delta({}), version=9, digest=made.digest, since="ab" * 32, base="", base_fd=-1
            )
        os.close(overlay_fd)
        first.close()

    run(test)


def test_a_merge_gives_a_base_beside_the_jobs() -> None:
    async def test(process: CompileProcess) -> None:
        first = await compile_(process, MANY)
        merged_of = moved(MANY, 1)
        (await change(process, merged_of, first.fd)).close()
        fds = open_fds()
        merging = asyncio.create_task(process.merge(merged_of.digest))
        await asyncio.sleep(0)  # the question goes out before the next job
        later = merged_of
        while not merging.done():
            later = moved(later, later.version % 4 + 2)
            result = await change(process, later, first.fd)
            assert result.fd == -1
            result.close()
        base_fd = await merging
        image = Image.open(base_fd)
        assert image.snapshot() == merged_of
        assert fcntl.fcntl(base_fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        later = moved(later, 9)
        result = await change(process, later, base_fd)
        assert result.fd == -1
        layered = answers_of(base_fd, result.overlay_fd)
        assert layered.meta.digest == later.digest
        assert layered.table().match(b"GET", b"", b"/moved-9") is not None
        result.close()
        os.close(base_fd)
        del image, layered
        assert open_fds() == fds
        first.close()

    run(test)


def test_there_is_no_merge_of_what_was_not_compiled_last() -> None:
    async def test(process: CompileProcess) -> None:
        assert await process.merge(MANY.digest) == -1
        first = await compile_(process, MANY)
        assert await process.merge("0" * 64) == -1
        first.close()

    run(test)


def test_a_merge_ends_with_its_process() -> None:
    async def test(process: CompileProcess) -> None:
        pid = process.pid
        assert pid is not None
        (await compile_(process, MANY)).close()
        os.kill(pid, signal.SIGSTOP)
        merging = asyncio.create_task(process.merge(MANY.digest))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        assert await merging == -1
        (await compile_(process, MANY)).close()

    run(test)
