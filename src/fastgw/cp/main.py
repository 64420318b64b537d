"""The control plane's process: storage, publisher, hub, cluster port and Admin API, in order.

Contract. `ControlPlane.start` either has everything listening or raises one FastgwError with nothing left
behind; `close` ends what serves before what it needs. A part that fails later ends the process: no control
plane goes on half alive. Data planes serve without it, and it is made to be restarted.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import time
from collections.abc import Coroutine
from typing import Any, Final

from starlette.types import ASGIApp

from fastgw import __version__
from fastgw.cp.admin import make_admin_app
from fastgw.cp.admin.access_log import AdminAccessLog
from fastgw.cp.admin.clustering import Capability
from fastgw.cp.admin.serving import AdminDoors
from fastgw.cp.applied import AppliedWatch, Standing
from fastgw.cp.cluster import ClusterServer
from fastgw.cp.hub import Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.kong_payloads import KongPayloads
from fastgw.cp.pki.office import Office
from fastgw.cp.pki.signing import Signer
from fastgw.cp.publisher import Publisher
from fastgw.cp.rollout.conductor import Conductor
from fastgw.cp.status import StatusDoor
from fastgw.cp.storage import SqlStorage, make_storage
from fastgw.errors import FastgwError, SettingsError
from fastgw.listening import address_of
from fastgw.model.snapshot import Snapshot
from fastgw.obs import logs
from fastgw.obs.service_manager import ServiceManager
from fastgw.routing.compile_process import CompileProcess
from fastgw.routing.layered import LayeredImage
from fastgw.settings import Settings
from fastgw.tls.cluster_files import FileCredentials, uses_files

log = logs.get_logger("cp")

_SHUTDOWN_TIMEOUT_S: Final = 15.0


class _ClusterView:
    """What the Admin API sees of the cluster."""

    def __init__(self, hub: Hub, publisher: Publisher) -> None:
        self._hub = hub
        self._publisher = publisher
        self._applied = AppliedWatch(hub, publisher)

    @property
    def identity(self) -> ControlPlaneIdentity:
        return self._hub.identity

    async def wait_applied(self, version: int, timeout_s: float) -> Standing:
        return await self._applied.wait(version, timeout_s)

    async def data_planes(self) -> list[dict[str, Any]]:
        return await self._hub.data_planes()

    def publication(self) -> dict[str, Any]:
        return self._publisher.publication()

    def capabilities(self) -> list[Capability]:
        return [
            Capability(one.id, one.hostname, one.program_version, one.plugins, one.max_snapshot_bytes)
            for one in self._hub.linked()
        ]

    def last_read(self) -> Snapshot | None:
        return self._publisher.last_read

    def open_image(self) -> LayeredImage | None:
        return self._publisher.open_image()


class ControlPlane:
    """One control plane.

    Args:
        heartbeat_s: in place of cluster_heartbeat, for tests that want less than a second.
    """

    def __init__(self, settings: Settings, *, heartbeat_s: float | None = None) -> None:
        self._settings = settings
        self._heartbeat_s = heartbeat_s or settings.cluster_heartbeat
        self._cleanup = contextlib.AsyncExitStack()
        self._background: list[asyncio.Task[Any]] = []
        self._is_closing = False
        self._access_log: AdminAccessLog | None = None
        self._doors: AdminDoors | None = None
        self._credentials: FileCredentials | None = None
        self._failed: asyncio.Future[None] | None = None
        self.admin_addresses: list[str] = []
        """Once started, as `127.0.0.1:8001`, with the real ports."""
        self.cluster_addresses: list[str] = []
        self.status_addresses: list[str] = []

    async def start(self) -> None:
        """Start every part.

        Raises:
            FastgwError: the first part that cannot start; those before it are closed again.
        """
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        settings = self._settings
        for warning in settings.warnings:
            log.warning("%s", warning)
        if uses_files(settings):
            self._credentials = FileCredentials(settings, tell=log.notice, complain=log.warning)
        self._failed = asyncio.get_running_loop().create_future()

        storage = make_storage(settings)
        await storage.open()
        self._cleanup.push_async_callback(storage.close)
        identity = ControlPlaneIdentity.make(await storage.cluster_id())

        compile_process = CompileProcess(flavor=self._settings.router_flavor)
        await compile_process.start()
        self._cleanup.push_async_callback(compile_process.close)

        hub = Hub(storage, identity=identity, purge_delay_s=settings.cluster_data_plane_purge_delay)
        self._cleanup.push_async_callback(hub.close)
        signer = Signer(storage.read_records, settings.pki_secret)
        await signer.open()
        signer.on_change = hub.sign_again
        publisher = Publisher(storage, compile_process, hub, sign=signer.sign)
        rollouts = Conductor(storage, hub, publisher)
        publisher.may_publish = rollouts.may_publish

        office: Office | None = None
        if self._credentials is None:
            office = Office(settings, read=storage.read_records, write=storage.write_records)
            await office.open()
        credentials = self._credentials or office
        assert credentials is not None
        cluster = ClusterServer(
            settings.cluster_listen,
            credentials,
            hub,
            heartbeat_s=self._heartbeat_s,
            office=office,
            takes_own=settings.cluster_wire != "kong",
            kong_payloads=(
                KongPayloads(
                    identity.cluster_id,
                    flavor=settings.router_flavor,
                    spacing_s=settings.db_update_frequency,
                )
                if settings.cluster_wire != "fastgw"
                else None
            ),
        )
        await cluster.start()
        self._cleanup.push_async_callback(cluster.close)
        self.cluster_addresses = cluster.addresses

        await self._start_admin(storage, _ClusterView(hub, publisher), rollouts)
        self._background = [self._run(publisher.run(), "publisher"), self._run(hub.run(), "hub")]
        self._background.append(self._run(signer.run(), "signer"))
        self._background.append(self._run(rollouts.run(), "rollouts"))
        if office is not None:
            office.on_change = cluster.drop_revoked
            office.on_issued = hub.certified
            self._background.append(self._run(office.run(), "authority"))
        for listen, address in zip(settings.admin_listen, self.admin_addresses, strict=True):
            log.notice("the Admin API listens on %s%s", address, ", with TLS" if listen.ssl else "")
        for address in self.cluster_addresses:
            log.notice("the cluster port listens on %s", address)
        for address in self.status_addresses:
            log.notice("the status port listens on %s", address)
        log.notice("this is the control plane %s of the cluster %s", identity.id, identity.cluster_id)
        log.notice("fastgw %s, control plane on %s, is ready", __version__, storage.dialect)

    async def _start_admin(
        self, storage: SqlStorage, cluster_view: _ClusterView, rollouts: Conductor
    ) -> None:
        settings = self._settings
        app = make_admin_app(
            storage=storage,
            settings=settings,
            cluster_view=cluster_view,
            rollouts=rollouts,
            node_id=cluster_view.identity.id,
            started_at=time.time(),
        )
        self._access_log = app.state.access_log
        doors = self._doors = AdminDoors(app, settings)
        self.admin_addresses = [address_of(listener) for listener in doors.listeners]
        serving = self._run(doors.serve(), "Admin API")

        async def stop() -> None:
            doors.stop()
            await asyncio.wait([serving])

        self._cleanup.push_async_callback(stop)
        if settings.status_listen:
            self._start_status(app.router.default)

    def _start_status(self, endpoints: ASGIApp) -> None:
        door = StatusDoor(endpoints, self._settings.status_listen)
        self.status_addresses = door.addresses
        serving = self._run(door.serve(), "status port")

        async def stop() -> None:
            door.stop()
            await asyncio.wait([serving])

        self._cleanup.push_async_callback(stop)

    def reopen_logs(self) -> None:
        """Open the log files anew, after they were moved away."""
        logs.reopen()
        if self._access_log is not None:
            self._access_log.reopen()

    def describe(self) -> str:
        """Say in one line what it does, once started."""
        return (
            f"control plane on {self._settings.database}: Admin API on {', '.join(self.admin_addresses)}, "
            f"cluster port on {', '.join(self.cluster_addresses)}"
        )

    def read_again(self) -> None:
        """Read what can change while the control plane runs."""
        if self._credentials is not None:
            self._credentials.read_again()

    def reload(self) -> None:
        """Open the log files anew, and read the certificate of the Admin API anew."""
        self.reopen_logs()
        if self._doors is not None:
            self._doors.reload()

    async def wait_failed(self) -> None:
        """Return never; raise what ended a part that should not end."""
        assert self._failed is not None
        await asyncio.shield(self._failed)

    async def close(self) -> None:
        """End every part, in reverse; may be called again."""
        self._is_closing = True
        for part in self._background:
            part.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._cleanup.aclose()

    def _run(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        part = asyncio.create_task(work, name=name)
        part.add_done_callback(self._ended)
        return part

    def _ended(self, part: asyncio.Task[Any]) -> None:
        assert self._failed is not None
        if part.cancelled() or self._is_closing or self._failed.done():
            return
        cause = part.exception()
        failure = FastgwError(f"the {part.get_name()} has ended: {cause or 'without a reason'}")
        failure.__cause__ = cause
        self._failed.set_exception(failure)


async def run_control_plane(settings: Settings) -> None:
    """Run a control plane until SIGTERM or SIGINT.

    Raises:
        FastgwError: it cannot start, or a part of it failed; one line that says which and why.
    """
    try:
        settings.prefix.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        reason = os.strerror(exc.errno or 0).lower()
        raise SettingsError(f"prefix {settings.prefix}: cannot be made: {reason}") from exc
    logs.setup(settings.log_level, settings.log_destination(settings.admin_error_log), process="cp")
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    control_plane = ControlPlane(settings)
    manager = ServiceManager()

    def reload() -> None:
        manager.reloading()
        control_plane.reload()
        control_plane.read_again()
        manager.ready(control_plane.describe())

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    loop.add_signal_handler(signal.SIGUSR1, control_plane.reopen_logs)
    await control_plane.start()
    manager.ready(control_plane.describe())
    manager.start_watchdog()
    failed = asyncio.ensure_future(control_plane.wait_failed())
    stopping = asyncio.ensure_future(stopped.wait())
    try:
        await asyncio.wait([failed, stopping], return_when=asyncio.FIRST_COMPLETED)
        log.notice("shutting down")
        manager.stopping("shutting down")
        async with asyncio.timeout(_SHUTDOWN_TIMEOUT_S):
            await control_plane.close()
    except TimeoutError:
        log.error("not everything was closed within %g s", _SHUTDOWN_TIMEOUT_S)
    finally:
        stopping.cancel()
        manager.close()
    if failed.done():
        failed.result()
    failed.cancel()
