"""A cluster port with the built-in authority behind it, and data planes that are members."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from fastgw.cp.cluster import ClusterServer
from fastgw.cp.hub import Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.pki import management
from fastgw.cp.pki.office import Office
from fastgw.cp.storage import make_storage
from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.contract import Connection
from fastgw.dp.membership import Membership
from fastgw.dp.sync import NodeIdentity
from fastgw.obs import logs
from fastgw.settings import Listen, Settings, load_settings
from fastgw.wire.enrolment import Token
from tests.cp.cluster_nodes import Node

T = TypeVar("T")


class Clock:
    """Wall time that moves when a test says so."""

    def __init__(self) -> None:
        self.ahead = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.ahead


class Cluster:
    """One control plane of a cluster with an authority."""

    def __init__(
        self, directory: Path, settings: Settings, storage: SqlStorage, office: Office, server: ClusterServer
    ) -> None:
        self.directory = directory
        self.settings = settings
        self.storage = storage
        self.office = office
        self.server = server

    @property
    def address(self) -> str:
        return self.server.addresses[0]

    @property
    def hub(self) -> Hub:
        return self.server.hub

    async def manage(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `fastgw pki` does beside the running control plane, and the control plane's next look."""
        async with self.storage.beside() as connection:
            result = await work(connection)
        await self.office.look()
        return result

    async def token(self, name: str | None = None, valid_s: float = 60.0) -> Token:
        return await self.manage(
            lambda connection: management.make_token(
                connection, "", name=name, valid_s=valid_s, now=dt.datetime.now(dt.UTC)
            )
        )

    def member(self, name: str, token: Token | None, node_id: str | None = None, **flags: str) -> Member:
        return Member(self.directory / name, self.address, name, token, node_id or str(uuid.uuid4()), **flags)


class Member:
    """A data plane that joins and links."""

    def __init__(
        self, directory: Path, address: str, name: str, token: Token | None, node_id: str, **flags: str
    ) -> None:
        self.settings = load_settings(
            "data_plane",
            environ={},
            flags={
                "prefix": str(directory),
                "cluster_mtls": "pki",
                "cluster_control_plane": address,
                **({"cluster_token": str(token)} if token is not None else {}),
                **flags,
            },
        )
        self.id = node_id
        self.membership = Membership(
            self.settings, node_id=node_id, hostname=name, log=logs.get_logger("link"), draw=lambda: 0.0
        )
        self.node: Node

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Member]:
        """Join if need be, keep the link, renew in time."""
        await self.membership.ready()
        self.node = Node(
            self.settings.prefix,
            self.settings.cluster_control_plane[0],
            credentials=self.membership,
            trust_told=self.membership.told,
            identity=NodeIdentity(self.id, "dp-1"),
        )
        renewing = asyncio.create_task(self.membership.run())
        try:
            async with self.node.running():
                yield self
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)


@asynccontextmanager
async def cluster(
    directory: Path, *, clock: Clock | None = None, heartbeat_s: float = 0.2, **flags: str
) -> AsyncIterator[Cluster]:
    """A control plane on SQLite with an authority just made."""
    settings = load_settings(
        "control_plane",
        environ={},
        flags={"prefix": str(directory), "cluster_mtls": "pki", **flags},
    )
    storage = make_storage(settings)
    await storage.open()
    async with storage.beside() as connection:
        await management.make_authority(connection, settings.pki_secret, dt.datetime.now(dt.UTC))
    office = Office(
        settings, read=storage.read_records, write=storage.write_records, wall_clock=clock or Clock()
    )
    await office.open()
    identity = ControlPlaneIdentity.make(await storage.cluster_id())
    hub = Hub(storage, identity=identity, purge_delay_s=1000)
    server = ClusterServer(
        Listen.parse("127.0.0.1:0"),
        office,
        hub,
        heartbeat_s=heartbeat_s,
        office=office,
    )
    office.on_change = server.drop_revoked
    office.on_issued = hub.certified
    try:
        await server.start()
        yield Cluster(directory, settings, storage, office, server)
    finally:
        await server.close()
        await hub.close()
        await storage.close()
