"""What is preloaded into workers counts their turns by what they cost, and by nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from bench.load.turns import BAR_MS, Mark, TurnCounter

_LOOP = """
import asyncio, threading, time

def work(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass

async def main():
    for _ in range(20):
        await asyncio.sleep(0)
    work(0.02)
    await asyncio.sleep(0)
    time.sleep(0.03)
    await asyncio.sleep(0)
    print("half", flush=True)
    input()
    for _ in range(20):
        await asyncio.sleep(0)
    thread = threading.Thread(target=lambda: asyncio.run(asyncio.sleep(0, work(0.02))))
    thread.start()
    await asyncio.to_thread(thread.join)
    print("done", flush=True)
    input()

import uvloop
uvloop.run(main())
"""


def test_a_turn_is_counted_by_the_processor_time_of_the_main_thread(tmp_path: Path) -> None:
    counter = TurnCounter(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", _LOOP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | counter.preloaded(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        half = counter.mark([process.pid])
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"done\n"
        done = counter.mark([process.pid])
        process.stdin.write(b"\n")
        process.stdin.flush()
    first, second = counter.between(Mark({}), half), counter.between(half, done)
    # The turn that worked, and not the one that slept; what other threads do is theirs.
    assert first.above_bar == 1
    assert first.longest_ms >= 20 > BAR_MS
    assert first.longest_wall_ms >= 30
    assert first.turns >= 20
    assert second.above_bar == 0
    assert second.turns >= 20
