"""A data plane without its link: the real supervisor in this process, real workers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import uvloop

from fastgw.dp.store import Store
from fastgw.dp.supervisor import Supervisor
from fastgw.dp.sync import Applied, IncomingSnapshot, NodeIdentity, Refused
from fastgw.dp.workers import Deadlines, Worker, WorkerState
from fastgw.model.snapshot import Snapshot, pack_delta
from fastgw.obs import logs
from fastgw.settings import Settings, load_settings
from fastgw.wire.signature import TrustedKeys
from tests.routing.snapshots import route, service, snapshot

DEADLINE_S: Final = 20.0
POLL_S: Final = 0.005
NODE: Final = NodeIdentity("7f2f1b4e-8f3c-4f3e-9d4a-0d7a1f0f5a11", "test-host")
#: Short for workers that are stopped by a test, long for the rest on a busy machine.
IMPATIENT: Final = Deadlines(start_s=15, prepare_s=0.6, abandon_s=0.3, commit_s=0.6, drain_s=2)
PATIENT: Final = Deadlines(start_s=15, prepare_s=10, abandon_s=10, commit_s=10, drain_s=2)


def make_settings(prefix: Path, **flags: str) -> Settings:
    chosen = {
        "prefix": str(prefix),
        "proxy_listen": "127.0.0.1:0",
        "status_listen": "127.0.0.1:0",
        "proxy_access_log": "off",
        "workers": "2",
        "log_level": "info",
    }
    return load_settings("data_plane", environ={}, flags=chosen | flags)


def incoming(made: Snapshot) -> IncomingSnapshot:
    return IncomingSnapshot(made.version, made.digest, made.pack())


def stepped(before: Snapshot, made: Snapshot) -> IncomingSnapshot:
    """*made* as a delta from *before*."""
    return IncomingSnapshot(made.version, made.digest, pack_delta(before.delta(made)), before.digest)


def routed(version: int, *paths: str) -> IncomingSnapshot:
    """A configuration with a route for each path; nothing listens where they lead."""
    routes = (route(100 + place, to=1, paths=[path]) for place, path in enumerate(paths))
    return incoming(snapshot(service(1, host="127.0.0.1", port=9), *routes, version=version))


class Answer(NamedTuple):
    status: int
    body: bytes


async def ask(address: str, path: str = "/", *, method: str = "GET") -> Answer:
    """Send one request on a connection of its own."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
    return Answer(int(head.split()[1]), body)


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait for what gives no event: asks *condition* until it holds."""
    ends_at = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < ends_at, f"{what}: not within {deadline_s} s"
        await asyncio.sleep(POLL_S)


class Node:
    """A running supervisor, its workers and its log."""

    def __init__(self, supervisor: Supervisor, store: Store, log: Path) -> None:
        self.supervisor = supervisor
        self.store = store
        self.log_path = log

    @property
    def address(self) -> str:
        return self.supervisor.addresses[0]

    @property
    def workers(self) -> list[Worker]:
        return self.supervisor.workers

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self.workers if worker.pid is not None]

    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    def signal(self, worker: int, number: signal.Signals) -> None:
        pid = self.workers[worker].pid
        assert pid is not None
        os.kill(pid, number)

    async def all_running(self) -> None:
        await until(
            lambda: all(worker.state is WorkerState.RUNNING for worker in self.workers), "all workers run"
        )

    async def apply(self, snapshot: IncomingSnapshot) -> Applied | Refused:
        async with asyncio.timeout(DEADLINE_S):
            return await self.supervisor.apply(snapshot)

    async def statuses(self, path: str, connections: int = 12) -> set[int]:
        """Ask for *path* on so many connections that every worker gets some."""
        return {(await ask(self.address, path)).status for _ in range(connections)}


@contextlib.asynccontextmanager
async def running_node(
    prefix: Path,
    *,
    workers: int = 2,
    deadlines: Deadlines = PATIENT,
    make_store: Callable[[Path], Store] = Store,
    wait: bool = True,
    flags: Mapping[str, str] = MappingProxyType({}),
    keys: TrustedKeys | None = None,
) -> AsyncIterator[Node]:
    """Start a node on *prefix* and drain it at the end; *flags* are settings, *keys* those that may sign."""
    settings = make_settings(prefix, workers=str(workers), **flags)
    log = settings.log_destination(settings.proxy_error_log)
    assert log is not None
    logs.setup(settings.log_level, log, process="dp supervisor")
    store = make_store(prefix)
    supervisor = Supervisor(settings, node=NODE, store=store, deadlines=deadlines)
    believed = keys or TrustedKeys({})
    supervisor.belief.keys = lambda: believed
    try:
        await supervisor.start()
        running = asyncio.create_task(supervisor.run())
        node = Node(supervisor, store, Path(log))
        try:
            if wait:
                await node.all_running()
            yield node
        finally:
            await supervisor.stop()
            await running
    finally:
        await supervisor.close()
        store.close()
        logs.setup("notice", None, process="fastgw")


def run(test: Awaitable[None]) -> None:
    """Run a test's coroutine on the event loop that serves, within the deadline."""

    async def main() -> None:
        async with asyncio.timeout(3 * DEADLINE_S):
            await test

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
