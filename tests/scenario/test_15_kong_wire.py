"""Kong's nodes as peers of real processes: a Kong data plane on `fastgw cp`, by its recorded bytes."""

from __future__ import annotations

import asyncio
import time

from fastgw.tls.cluster import LinkTls
from fastgw.tls.keypair import load_key_pair
from tests.cp.kong_data_plane import NODE_ID, ZERO, KongDataPlane, check_hashes
from tests.scenario.harness import Pair, Stage
from tests.scenario.nodes import ControlPlane
from tests.scenario.process import HOST
from tests.waiting import wait_until

_DEADLINE_S = 20.0


async def _follow_two_changes(control_plane: ControlPlane, pair: Pair) -> list[float]:
    """Play a Kong data plane; returns the seconds from its greeting, and from a change, to the push."""
    context = LinkTls.shared(load_key_pair(str(pair.certificate), str(pair.key))).client_context
    async with asyncio.timeout(_DEADLINE_S):
        begun = time.monotonic()
        node = await KongDataPlane.connect(f"{HOST}:{control_plane.cluster_port}", context)
        first = await node.push()
        took = [time.monotonic() - begun]
        check_hashes(first)
        (route,) = first["config_table"]["routes"]
        assert (route["paths"], route["methods"]) == (["/kong"], ["GET"])
        (service,) = first["config_table"]["services"]
        assert (route["service"], service["retries"]) == (service["id"], 5)
        node.ping(first["config_hash"])

        await asyncio.to_thread(control_plane.admin.patch, "/services/kong", json={"retries": 9})
        second = await node.push()
        took.append(time.monotonic() - begun)
        check_hashes(second)
        assert second["config_table"]["services"][0]["retries"] == 9
        assert second["hashes"]["routes"] == first["hashes"]["routes"]
        assert second["hashes"]["services"] != first["hashes"]["services"]
        node.ping(second["config_hash"])
        await asyncio.to_thread(wait_until, lambda: _is_applied(control_plane), 5, "shown as applied")
        row = control_plane.data_planes()[NODE_ID]
        assert row["config_hash"] == second["config_hash"] != ZERO
        node.close()
    return took


def _is_applied(control_plane: ControlPlane) -> bool:
    row = control_plane.data_planes().get(NODE_ID)
    return row is not None and row["applied_version"] == row["wanted_version"] and row["config_hash"] != ZERO


def test_a_kong_data_plane_follows_a_control_plane(stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair, db_update_frequency="1")
    control_plane.add_service("kong", "http://127.0.0.1:9901")
    control_plane.add_route("kong", "/kong", methods=["GET"])
    first_s, second_s = asyncio.run(_follow_two_changes(control_plane, pair))
    assert second_s - first_s > 0.9
    wait_until(lambda: not control_plane.data_planes()[NODE_ID]["connected"], 5, "shown as gone")
