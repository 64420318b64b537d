"""One real heartbeat: thirty seconds on the clock of the wall. All other timings have a clock of the tests."""

from __future__ import annotations

import pytest

from fastgw.wire.link import HEARTBEAT_S
from tests.scenario.harness import Pair, Stage
from tests.waiting import wait_until


@pytest.mark.starts_first
def test_last_seen_moves_with_a_heartbeat(stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair)
    control_plane.add_service("beaten", "http://127.0.0.1:1")
    data_plane = stage.data_plane(pair, control_plane)
    node_id = data_plane.node_id
    # The last message before the first heartbeat is the word that version 1 is applied.
    wait_until(
        lambda: control_plane.data_planes()[node_id]["applied_version"] == 1, 10, "version 1 is applied"
    )

    def last_seen_s() -> int:
        shown = control_plane.expect(200, control_plane.admin.get("/clustering/status"))
        return int(shown[node_id]["last_seen"])

    first_s = last_seen_s()
    wait_until(lambda: last_seen_s() > first_s, HEARTBEAT_S + 10, "last_seen moves")
    assert abs(last_seen_s() - first_s - HEARTBEAT_S) <= 2
    (row,) = control_plane.data_planes().values()
    assert row["connected"]
    assert row["last_seen"] == last_seen_s()
    data_plane.stop()
