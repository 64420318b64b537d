"""The compiled router against the reference, for as long as it takes: `python -m tests.fuzz_router`.

make fuzz                             a million (routes, request) pairs
make fuzz ROUTES_ARGS="--seed 17"  from another seed on; a failure names the one to repeat it with

Tables are spread over the processors. Expressions, regexes and ports are in them, in both flavours.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.routes import FLAVORS, check_agreement

REQUESTS_PER_TABLE = 200


class Difference(NamedTuple):
    seed: int
    text: str


def check(seed: int) -> Difference | None:
    """Make the table of *seed* and ask both routers the same."""
    draw = random.Random(seed)
    flavor = FLAVORS[seed % len(FLAVORS)]
    routes = draw.choice([3, 8, 20, 60])
    try:
        check_agreement(draw, flavor, routes=routes, requests=REQUESTS_PER_TABLE)
    except Exception as error:  # whatever it is, its seed must be told
        return Difference(seed, f"{flavor}, {routes} routes: {type(error).__name__} {error}")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--pairs", type=int, default=1_000_000, help="of a table and a request (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the first table (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (default: %(default)s)"
    )
    options = parser.parse_args()
    tables = -(-options.pairs // REQUESTS_PER_TABLE)
    seeds = range(options.seed, options.seed + tables)
    started_s = time.monotonic()
    console = Console(stderr=True)
    columns = (
        TextColumn("tables"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        multiprocessing.get_context("spawn").Pool(options.jobs) as pool,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("", total=tables)
        for difference in pool.imap_unordered(check, seeds, chunksize=4):
            if difference is not None:
                pool.terminate()
                sys.exit(
                    f"the routers differ: repeat it with --seed {difference.seed} --pairs 1"
                    f" ({difference.text})"
                )
            progress.advance(bar)
    print(  # noqa: T201
        f"{tables * REQUESTS_PER_TABLE} pairs in {tables} tables agree, seeds {seeds[0]} to {seeds[-1]},"
        f" {time.monotonic() - started_s:.0f} s"
    )


if __name__ == "__main__":
    main()
