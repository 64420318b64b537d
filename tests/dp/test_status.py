"""The status port of a running node: what it answers before, with and after a configuration."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastgw.dp._metrics import read_segment
from fastgw.dp.status import StatusApp, StatusServer
from fastgw.dp.sync import SyncStatus
from fastgw.dp.workers import WorkerState
from fastgw.errors import ListenError
from fastgw.settings import Listen
from tests.dp.node import NODE, Node, ask, incoming, routed, run, running_node, until
from tests.routing.snapshots import snapshot

EMPTY = incoming(snapshot(version=1))


@contextlib.asynccontextmanager
async def status_of(node: Node, link: SyncStatus | None = None) -> AsyncIterator[str]:
    """Serve the node's status port; gives its address."""
    app = StatusApp(node.supervisor, link=lambda: link, certificate_expires_s=lambda: 1826000000.5)
    server = StatusServer(Listen.parse("127.0.0.1:0"), app.make())
    running = asyncio.create_task(server.run())
    try:
        yield server.addresses[0]
    finally:
        server.stop()
        await running
        server.close()


async def message(address: str, path: str, *, method: str = "GET") -> tuple[int, Any]:
    answer = await ask(address, path, method=method)
    return answer.status, json.loads(answer.body) if answer.body else None


async def metric(address: str, name: str, **labels: str) -> float:
    page = (await ask(address, "/metrics")).body.decode()
    values = [
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(values) == 1, f"{name} {labels}: {values}"
    return values[0]


def active_connections(node: Node) -> int:
    return sum(read_segment(worker.metrics)["totals"]["connections_active"] for worker in node.workers)


def test_ready_turns_with_the_first_configuration_the_empty_one_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node, status_of(node) as address:
            assert await message(address, "/status/ready") == (
                503,
                {"message": "no configuration available"},
            )
            await node.apply(EMPTY)
            assert await message(address, "/status/ready") == (200, {"message": "ready"})
            node.signal(0, signal.SIGSTOP)
            node.signal(0, signal.SIGKILL)
            await until(lambda: node.workers[0].state is not WorkerState.RUNNING, "the death is noticed")
            assert await message(address, "/status/ready") == (503, {"message": "no worker is running"})
            await node.all_running()
            assert await message(address, "/status/ready") == (200, {"message": "ready"})
            assert (await message(address, "/status/ready?status=x", method="POST"))[0] == 400
            assert await message(address, "/status/ready?status=draining", method="POST") == (204, None)
            assert await message(address, "/status/ready") == (503, {"message": "draining"})

    run(test())


def test_status_has_kongs_shape_and_ours(tmp_path: Path) -> None:
    async def test() -> None:
        link = SyncStatus("cp.example:8005", last_error="the name cp.example does not resolve")
        async with running_node(tmp_path) as node, status_of(node, link) as address:
            _, before = await message(address, "/status")
            assert before["configuration_hash"] == "0" * 32
            assert before["fastgw"]["applied"] is None
            applied = routed(7, "/one")
            await node.apply(applied)
            for _ in range(5):
                await ask(node.address, "/one")
            await until(lambda: active_connections(node) == 0, "the workers see the connections end")
            _, status = await message(address, "/status")
            assert status["configuration_hash"] == applied.digest[:32]
            assert status["server"] == {
                "connections_accepted": 5,
                "connections_active": 0,
                "connections_handled": 5,
                "connections_reading": 0,
                "connections_waiting": 0,
                "connections_writing": 0,
                "total_requests": 5,
            }
            assert [vm["pid"] for vm in status["memory"]["workers_lua_vms"]] == node.pids
            assert status["memory"]["workers_lua_vms"][0]["http_allocated_gc"].endswith(" MiB")
            ours = status["fastgw"]
            assert ours["node_id"] == NODE.id
            assert ours["listen"] == [node.address]
            assert (ours["applied"]["version"], ours["applied"]["digest"]) == (7, applied.digest)
            assert ours["applied"]["counts"] == {"routes": 1, "services": 1}
            assert [worker["state"] for worker in ours["workers"]] == ["running", "running"]
            assert ours["link"]["last_error"] == "the name cp.example does not resolve"
            assert ours["link"]["is_connected"] is False

    run(test())


def test_metrics_are_summed_over_workers_and_outlive_them(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path) as node, status_of(node, SyncStatus("cp")) as address:
            await node.apply(routed(3, "/one"))
            labels = {"service": "service-1", "route": "route-100", "code": "502", "source": "kong"}
            for _ in range(12):
                await ask(node.address, "/one")
            for worker in range(2):
                node.signal(worker, signal.SIGKILL)
            await until(lambda: all(worker.restarts_total for worker in node.workers), "both are replaced")
            await node.all_running()
            for _ in range(3):
                await ask(node.address, "/one")
            assert await metric(address, "kong_http_requests_total", **labels) == 15
            assert await metric(address, "kong_nginx_requests_total") == 15
            assert await metric(address, "kong_nginx_connections_total", state="accepted") == 15
            assert await metric(address, "kong_node_info", node_id=NODE.id) == 1
            assert await metric(address, "kong_request_latency_ms_count", route="route-100") == 15
            assert await metric(address, "fastgw_config_version") == 3
            assert await metric(address, "fastgw_config_applied_total") == 1
            assert await metric(address, "fastgw_generations_live") == 1
            assert await metric(address, "fastgw_worker_restarts_total", worker="0") == 1
            assert await metric(address, "fastgw_control_plane_connected") == 0
            assert await metric(address, "kong_data_plane_cluster_cert_expiry_timestamp") == 1826000000
            for pid in node.pids:
                memory = await metric(address, "kong_memory_workers_lua_vms_bytes", pid=str(pid))
                assert memory > 1_000_000

    run(test())


def test_bad_arguments_and_paths_are_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node, status_of(node) as address:
            assert await message(address, "/status?unit=V") == (
                400,
                {"message": "invalid unit 'V' (expected 'k/K', 'm/M', or 'g/G')"},
            )
            assert (await message(address, "/status?scale=-1"))[0] == 400
            _, in_bytes = await message(address, "/status?unit=b")
            assert isinstance(in_bytes["memory"]["workers_lua_vms"][0]["http_allocated_gc"], int)
            assert await message(address, "/nowhere") == (404, {"message": "Not found"})
            assert (await message(address, "/metrics", method="DELETE"))[0] == 405
            assert (await ask(address, "/robots.txt")).body.startswith(b"User-agent: *")

    run(test())


def test_a_taken_status_port_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        async with running_node(tmp_path, workers=1) as node, status_of(node) as address:
            app = StatusApp(node.supervisor, link=lambda: None)
            with pytest.raises(ListenError, match=f"status_listen {address}: the port is taken"):
                StatusServer(Listen.parse(address), app.make())

    run(test())
