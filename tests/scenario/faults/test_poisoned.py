"""A snapshot that is well signed, and that one worker of one data plane cannot take."""

from __future__ import annotations

import resource

from tests.scenario.faults.cluster import running_cluster
from tests.scenario.harness import Pair, Stage
from tests.scenario.test_15_pki import pki


def test_one_worker_has_no_room_for_it(stage: Stage, pair: Pair, upstream: str) -> None:
    """The whole node stays where it is and says which worker it was; with room it comes along by itself."""
    pki(stage, "init")
    keys = {"cluster_signing_keys": pki(stage, "signing list")}
    each = [{**keys, "workers": "2"}, keys]
    with running_cluster(stage, pair, upstream, data_plane_settings=each) as cluster:
        data_plane, other = cluster.data_planes
        pid = data_plane.status()["workers"][0]["pid"]
        limits = resource.prlimit(
            pid, resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        )
        stays = data_plane.wait_line(
            r"refused version \d+, .* and stays with version (\d+): worker 0 refused: "
        )[1]
        told = r"stays with version {}: version \d+ is refused: worker 0 refused: no room for the descriptors"
        cluster.control_plane.wait_line(told.format(stays))
        row = cluster.control_plane.data_planes()[data_plane.node_id]
        assert "worker 0 refused: no room for the descriptors of Prepare" in row["last_error"]
        assert data_plane.status()["applied"]["version"] == int(stays) < cluster.wait_current(other)
        # Not even the worker that could: a node serves one configuration.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        cluster.check()
        assert data_plane.status()["workers"][0]["pid"] == pid
