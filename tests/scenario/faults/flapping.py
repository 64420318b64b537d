"""Data planes that connect and drop at random: `python -m tests.scenario.faults.flapping --help`.

Each is a data plane up to its link (`bench.cluster.data_planes`) and keeps to no pacing: it dials, is gone after a
moment wherever it stands, and dials anew. A line on stdin has them settle: each then keeps one link, by the
product's pacing. Then every line is answered by one of JSON, `{"linked": N, "digests": {digest: count}}`.
"""

from __future__ import annotations

import asyncio
import collections
import json
import random
import sys
from pathlib import Path
from typing import Final

import click
import uvloop

from bench.cluster.data_planes import DataPlane, Fleet, link_settings
from fastgw.obs import logs

_STAYS_S: Final = 2.0
_AWAY_S: Final = 2.0


class _Flapping(Fleet):
    def applied(self, version: int) -> None:
        """Nobody is told: who has applied what is asked for at the end."""


async def _flap(data_plane: DataPlane, settles: asyncio.Event, draw: random.Random) -> None:
    while not settles.is_set():
        await asyncio.sleep(draw.random() * _AWAY_S)
        link = asyncio.create_task(data_plane.sync.run())
        await asyncio.sleep(draw.random() * _STAYS_S)
        link.cancel()
        await asyncio.gather(link, return_exceptions=True)
    await data_plane.sync.run()


async def _run(fleet: Fleet, count: int, seed: int) -> None:
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
    )
    draw, settles = random.Random(seed), asyncio.Event()
    data_planes = [DataPlane(fleet, number) for number in range(count)]
    links = [asyncio.create_task(_flap(data_plane, settles, draw)) for data_plane in data_planes]
    while await commands.readline():
        settles.set()
        linked = [one for one in data_planes if one.sync.status.is_connected]
        state = {"linked": len(linked), "digests": collections.Counter(one.digest for one in linked)}
        sys.stdout.write(f"{json.dumps(state)}\n")
        sys.stdout.flush()
    for link in links:
        link.cancel()
    await asyncio.gather(*links, return_exceptions=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--control-plane", required=True, help="HOST:PORT of the cluster port.")
@click.option("--pair", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
              help="Directory of cluster.crt and cluster.key.")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 1000), default=500, help="So many data planes.")
@click.option("--seed", type=int, default=1, help="Of what is random.")
def main(control_plane: str, pair: Path, count: int, seed: int) -> None:
    """Have data planes connect and drop until the end of stdin."""
    logs.setup("error", "/dev/stderr", process="flapping")
    fleet = _Flapping(*link_settings(control_plane, pair, "flapping"), count, whole_only=False)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(fleet, count, seed))


if __name__ == "__main__":
    main()
