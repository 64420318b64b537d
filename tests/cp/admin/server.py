"""The real Admin API for tests: uvicorn on a free port in a thread, over a real storage."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path
from typing import Any, Self

import msgspec
import uvicorn
import uvloop
from starlette.applications import Starlette

from fastgw.cp.admin import make_admin_app
from fastgw.cp.admin.clustering import Capability
from fastgw.cp.applied import Standing
from fastgw.cp.hub import Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.rollout.conductor import Conductor
from fastgw.cp.storage import Storage, make_storage
from fastgw.cp.storage.contract import DataPlaneRow
from fastgw.model.snapshot import Snapshot
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.jobs import make_sealed_memfd
from fastgw.routing.layered import LayeredImage
from fastgw.settings import Settings, load_settings
from fastgw.wire.offering import Offering

NODE_ID = "a08f5bf2-43b8-4f1c-bdf5-0a0ffb421c21"
DEADLINE_S = 20


class StoredDataPlanes:
    """A cluster view of what the storage knows."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._storage_loop = asyncio.get_running_loop()
        self.waited: list[tuple[int, float]] = []
        self.behind: list[DataPlaneRow] = []
        self.capable: list[Capability] = []

    @property
    def identity(self) -> ControlPlaneIdentity:
        return ControlPlaneIdentity(NODE_ID, "cp-1", "the-cluster")

    async def data_planes(self) -> list[dict[str, Any]]:
        rows, _ = await self._storage.list_data_planes(1000)
        return [
            {
                **msgspec.structs.asdict(row),
                "control_plane": {"id": row.control_plane_id, "hostname": row.control_plane_hostname}
                if row.control_plane_id
                else None,
            }
            for row in rows
        ]

    def open_image(self) -> LayeredImage | None:
        """What a publisher would have compiled."""
        version, rows = asyncio.run_coroutine_threadsafe(self._storage.load_all(), self._storage_loop).result(
            DEADLINE_S
        )
        if not any(rows.values()):
            return None
        fd = make_sealed_memfd("image", compile_snapshot(Snapshot.from_rows(version, rows)))
        try:
            return LayeredImage(Image.open(fd))
        finally:
            os.close(fd)

    async def wait_applied(self, version: int, timeout_s: float) -> Standing:
        self.waited.append((version, timeout_s))
        return Standing(version, True, None, 2, self.behind)

    def capabilities(self) -> list[Capability]:
        return self.capable

    def last_read(self) -> Snapshot | None:
        return None

    def publication(self) -> dict[str, Any]:
        return {"version": None, "config_hash": None, "published_at": None, "refused": None}


class NothingPublished:
    """What a conductor asks of a publisher; a test that needs one says what is published."""

    current: Snapshot | None = None
    refused: tuple[int, str] | None = None

    def refused_for_good(self) -> tuple[int, str] | None:
        return self.refused

    def make_offering(self, snapshot: Snapshot) -> Offering:
        return Offering(snapshot.version, snapshot.digest, snapshot.pack)


class AdminServer:
    """Serves between `with` and its end; `storage` may be used through `run`."""

    def __init__(self, prefix: Path, **flags: str) -> None:
        self.settings: Settings = load_settings(
            "control_plane", environ={}, flags={"prefix": str(prefix), **flags}
        )
        self.storage = make_storage(self.settings)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.app = Starlette()
        self.cluster_view: StoredDataPlanes
        self.publisher = NothingPublished()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(DEADLINE_S), "the Admin API did not start"
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *exc: object) -> None:
        if self._server is not None:
            self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the Admin API did not stop"
        self._socket.close()

    def run(self, coroutine: Any) -> Any:
        """Await *coroutine* on the server's loop, for looking into the storage."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(DEADLINE_S)

    async def empty(self) -> None:
        """Delete every row, children first."""
        _, rows = await self.storage.load_all()
        async with self.storage.write("test") as writer:
            for entity in reversed(list(rows)):
                for row in rows[entity]:
                    await writer.delete(entity, row["id"])

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(self._main())
            except BaseException as error:
                self._error = error
                self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self.storage.migrator().bootstrap()
        await self.storage.open()
        try:
            self.cluster_view = StoredDataPlanes(self.storage)
            self.app = make_admin_app(
                storage=self.storage,
                settings=self.settings,
                cluster_view=self.cluster_view,
                rollouts=Conductor(
                    self.storage,
                    Hub(self.storage, identity=self.cluster_view.identity, purge_delay_s=1000),
                    self.publisher,
                ),
                node_id=NODE_ID,
                started_at=1_700_000_000.0,
            )
            config = uvicorn.Config(
                self.app,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                lifespan="on",
            )
            self._server = uvicorn.Server(config)
            self._ready.set()
            # The socket listens already: whoever connects early waits in its queue.
            await self._server.serve([self._socket])
        finally:
            await self.storage.close()
