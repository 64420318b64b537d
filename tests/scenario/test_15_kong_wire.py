"""Kong's nodes as peers of real processes, by their recorded bytes: on `fastgw cp`, and of `fastgw dp`."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Self
from urllib.parse import urlsplit

from fastgw.tls.cluster import LinkTls
from fastgw.tls.keypair import load_key_pair
from tests.cp.kong_data_plane import NODE_ID, ZERO, KongDataPlane, check_hashes
from tests.dp.kong_control_plane import KongControlPlane
from tests.scenario.harness import Pair, Stage
from tests.scenario.nodes import ControlPlane
from tests.scenario.process import HOST
from tests.waiting import wait_until
from tests.wire.kong_v1.recorded import GIVEN

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
        await node.closed()
    return took


def _is_applied(control_plane: ControlPlane) -> bool:
    row = control_plane.data_planes().get(NODE_ID)
    return row is not None and row["applied_version"] == row["wanted_version"] and row["config_hash"] != ZERO


def test_a_kong_data_plane_follows_a_control_plane(stage: Stage, pair: Pair) -> None:
    control_plane = stage.control_plane(pair, db_update_frequency="1")
    control_plane.add_service("kong", "http://127.0.0.1:9901")
    control_plane.add_route("kong", "/kong", methods=["GET"])
    control_plane.wait_line("published version 2")
    first_s, second_s = asyncio.run(_follow_two_changes(control_plane, pair))
    assert second_s - first_s > 0.9
    wait_until(lambda: not control_plane.data_planes()[NODE_ID]["connected"], 5, "shown as gone")


class _InThread:
    """A Kong control plane on a loop of its own."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.control_plane = KongControlPlane()
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(_DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stopped.set)
        self._thread.join(_DEADLINE_S)
        self._loop.close()

    def call(self, act: Callable[..., object], *args: Any) -> None:
        self._loop.call_soon_threadsafe(act, *args)

    def push(self, envelope: dict[str, Any]) -> None:
        self.call(self.control_plane.link.push, envelope)

    def wait_ping(self, config_hash: str) -> None:
        link = self.control_plane.link
        wait_until(lambda: link.pings[-1:] == [config_hash], 10, f"a ping with {config_hash}")
        assert not link.complaint

    async def _run(self) -> None:
        async with self.control_plane.listening(self._context):
            self._started.set()
            await self._stopped.wait()
        # What serves the links ends with them.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)


def test_a_data_plane_follows_a_kong_control_plane(stage: Stage, pair: Pair, upstream: str) -> None:
    context = LinkTls.shared(load_key_pair(str(pair.certificate), str(pair.key))).server_context
    good, changed, invalid = GIVEN[0], GIVEN[2], GIVEN[3]
    target = urlsplit(upstream)
    locked = {
        "id": "7e4b1e0a-8f0c-4c58-9a7e-000000000003",
        "name": "ldap-auth",
        "route": good["config_table"]["routes"][0]["id"],
        "config": {"ldap_host": "l.example", "ldap_port": 389, "base_dn": "dc=x", "attribute": "cn"},
    }

    def served(envelope: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The recorded configuration, with our upstream behind it."""
        table = envelope["config_table"]
        services = [{**row, "host": target.hostname, "port": target.port} for row in table["services"]]
        return {**envelope, "config_table": {**table, "services": services, **more}}

    with _InThread(context) as there:
        flags = {"cluster_control_plane": there.control_plane.address}
        data_plane = stage.data_plane(pair, None, wait=False, **flags)
        wait_until(lambda: there.control_plane.links and there.control_plane.link.pings, 20, "a link")
        there.push(served(good))
        there.wait_ping(good["config_hash"])
        assert data_plane.wait_answer("/one/status/204", 204)
        assert data_plane.status()["link"]["wire"] == "kong"

        there.push(served(changed))
        there.wait_ping(changed["config_hash"])
        assert data_plane.wait_answer("/two/status/204", 204)
        assert data_plane.proxy.get("/one/status/204").status_code == 404

        there.push(served(invalid))
        data_plane.wait_line("refused the control plane's configuration, and stays with what runs")
        assert data_plane.proxy.get("/two/status/204").status_code == 204

        # What has no behaviour here fails closed.
        there.push({**served(good, plugins=[locked]), "config_hash": "f" * 32})
        there.wait_ping("f" * 32)
        assert data_plane.wait_answer("/one/status/204", 503)
        assert "ldap-auth" in data_plane.proxy.get("/one/status/204").text
