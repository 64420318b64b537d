"""PostgreSQL is restarted under writes, in good order and by its emergency stop, below one and two control planes."""

from __future__ import annotations

import signal
from typing import Final

import pytest

from tests.postgres import PgServer
from tests.scenario.faults.cluster import prepared_database, running_cluster
from tests.scenario.harness import Pair, Stage

FAST: Final = signal.SIGINT
IMMEDIATE: Final = signal.SIGQUIT


@pytest.mark.parametrize(
    ("control_planes", "stops"),
    [
        (2, [FAST, IMMEDIATE]),
        pytest.param(1, [IMMEDIATE, FAST] * 3, marks=pytest.mark.long),
        pytest.param(2, [FAST, IMMEDIATE] * 3, marks=pytest.mark.long),
    ],
)
def test_restarted_under_writes(
    stage: Stage,
    pair: Pair,
    upstream: str,
    pg_own_server: PgServer,
    control_planes: int,
    stops: list[signal.Signals],
) -> None:
    storage = prepared_database(stage, pg_own_server).properties
    with running_cluster(stage, pair, upstream, storage=storage, control_planes=control_planes) as cluster:
        writer = cluster.writer
        for stop in stops:
            pg_own_server.stop(stop)
            writer.wait_unanswered(1)
            pg_own_server.start()
            writer.wait_answered(5)
        for data_plane in cluster.data_planes:
            assert "no link to" not in data_plane.log
        cluster.check()
