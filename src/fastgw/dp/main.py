"""The data plane's process: supervisor, status port, and the link or a declarative file.

Contract. `DataPlane.start` either has everything open or raises one FastgwError with nothing left behind;
`run` serves until `stop`, or until a part that cannot be done without has failed. With declarative_config no
control plane is dialled, and nothing is read from disk: the file is the configuration.

    SIGTERM, SIGINT, SIGQUIT   drain, then end; once more: end now
    SIGHUP                     read declarative_config, the certificates of ssl listeners and that of the
                               link anew
    SIGUSR1                    open the log files anew
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Final

from fastgw import __version__
from fastgw.dp.identity import load_identity
from fastgw.dp.process import raise_file_limit
from fastgw.dp.spares import Spares
from fastgw.dp.status import StatusApp, StatusServer
from fastgw.dp.store import Store
from fastgw.dp.supervisor import Supervisor
from fastgw.dp.sync import IncomingSnapshot, Sync, SyncStatus
from fastgw.dp.workers import Deadlines
from fastgw.obs import logs
from fastgw.obs.service_manager import ServiceManager
from fastgw.settings import Settings
from fastgw.tls.cluster_files import FileCredentials

if TYPE_CHECKING:
    from fastgw.dp.declared import DeclaredSource

_log: Final = logs.get_logger("supervisor")


class DataPlane:
    """One data plane."""

    def __init__(
        self,
        settings: Settings,
        *,
        deadlines: Deadlines | None = None,
        manager: ServiceManager | None = None,
        spares: Spares | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            manager: told how the data plane is; none by default.
            spares: worker processes that run already.
        """
        self._spares = spares
        self._settings = settings
        self._manager = manager or ServiceManager({})
        self._deadlines = deadlines
        self._cleanup = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._link: Sync | None = None
        self._declared: DeclaredSource | None = None
        self._first: IncomingSnapshot | None = None
        self._credentials: FileCredentials | None = None
        self.supervisor: Supervisor
        """Once started."""
        self.status: StatusServer
        """Once started."""

    async def start(self) -> None:
        """Open everything; no worker runs yet.

        Raises:
            FastgwError: the first part that cannot start; those before it are closed again.
        """
        try:
            await self._start()
        except BaseException:
            await self._cleanup.aclose()
            raise

    async def run(self) -> None:
        """Serve until `stop`; then drain and close everything.

        Raises:
            FastgwError: a part failed for good.
        """
        source = asyncio.create_task(self._run_source(), name="source")
        workers = asyncio.create_task(self.supervisor.run(), name="workers")
        status = asyncio.create_task(self.status.run(), name="status")
        stopping = asyncio.create_task(self._stopping.wait())
        self._in_background(self._tell_ready())
        self._manager.start_watchdog()
        try:
            await asyncio.wait((source, workers, status, stopping), return_when=asyncio.FIRST_COMPLETED)
            for task in (source, workers, status):
                if task.done():
                    task.result()
        finally:
            stopping.cancel()
            source.cancel()
            await asyncio.gather(source, return_exceptions=True)
            _log.notice("drains")
            self._manager.stopping("draining")
            await self.supervisor.stop()
            await asyncio.gather(workers, return_exceptions=True)
            self.status.stop()
            await asyncio.gather(status, return_exceptions=True)
            await self._cleanup.aclose()
            _log.notice("ends")

    def stop(self) -> None:
        """Have `run` drain and end; the second time without waiting for requests in progress."""
        if self._stopping.is_set():
            self.supervisor.kill()
        self._stopping.set()

    def read_again(self) -> None:
        """Read what can change while the data plane runs."""
        self._in_background(self._read_again())

    def reopen_logs(self) -> None:
        self._in_background(self.supervisor.reopen_logs())

    async def _read_again(self) -> None:
        self._manager.reloading()
        await self.supervisor.read_certificates()
        if self._declared is not None:
            await self._declared.read_again()
        if self._credentials is not None:
            self._credentials.read_again()
        if not self._stopping.is_set():
            self._manager.ready(self._describe())

    async def _tell_ready(self) -> None:
        """Tell once all workers accept; with a file, once they serve it.

        A data plane whose control plane is out of sight is ready too: waiting for it is what it is for.
        """
        generation = 0 if self._declared is None else 1
        for worker in self.supervisor.workers:
            if not await worker.wait_serving(generation, None):
                return
        self._manager.ready(self._describe())

    def _describe(self) -> str:
        version = self.supervisor.state().version
        return f"data plane on {', '.join(self.supervisor.addresses)}, started with version {version}"

    async def _start(self) -> None:
        settings = self._settings
        for warning in settings.warnings:
            _log.warning("%s", warning)
        store = Store(settings.prefix)
        self._cleanup.callback(store.close)
        node = load_identity(settings.prefix)
        self.supervisor = Supervisor(
            settings, node=node, store=store, deadlines=self._deadlines, spares=self._spares
        )
        if settings.declarative_config is not None:
            from fastgw.dp.declared import DeclaredSource  # noqa: PLC0415 - most have none, and start faster

            self._declared = DeclaredSource(
                settings.declarative_config, self.supervisor.apply, flavor=settings.router_flavor
            )
            self._first = await self._declared.read()
        else:
            self._link = self._make_link()
        self._cleanup.push_async_callback(self.supervisor.close)
        await self.supervisor.start(from_disk=self._declared is None)
        app = StatusApp(
            self.supervisor, link=self._link_status, certificate_expires_s=self._certificate_expires_s
        )
        self.status = StatusServer(settings.status_listen, app.make())
        self._cleanup.callback(self.status.close)
        _log.notice(
            "fastgw %s, node %s on %s, prefix %s; %s",
            __version__,
            node.id,
            node.hostname,
            settings.prefix,
            f"status on {', '.join(self.status.addresses)}" if self.status.addresses else "no status port",
        )

    def _make_link(self) -> Sync:
        log = logs.get_logger("link")
        self._credentials = FileCredentials(self._settings, tell=log.notice, complain=log.warning)
        return Sync(
            self._settings,
            self._credentials,
            node=self.supervisor.node,
            apply=self.supervisor.apply,
            applied=self.supervisor.state,
            log=log,
        )

    async def _run_source(self) -> None:
        if self._link is not None:
            await self._link.run()
        elif self._declared is not None and self._first is not None:
            await self._declared.run(self._first)

    def _certificate_expires_s(self) -> float | None:
        """Unix seconds until which what the next connection presents is valid."""
        return None if self._credentials is None else self._credentials.current().pair.not_after.timestamp()

    def _link_status(self) -> SyncStatus | None:
        return None if self._link is None else self._link.status

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def run_data_plane(settings: Settings, spares: Spares | None = None) -> None:
    """Run a data plane until a signal ends it.

    Raises:
        FastgwError: it cannot start, or cannot go on.
    """
    logs.setup(
        settings.log_level, settings.log_destination(settings.proxy_error_log), process="dp supervisor"
    )
    raise_file_limit()
    with contextlib.closing(ServiceManager()) as manager:
        data_plane = DataPlane(settings, manager=manager, spares=spares)
        await data_plane.start()
        with _signals(data_plane):
            await data_plane.run()


@contextlib.contextmanager
def _signals(data_plane: DataPlane) -> Iterator[None]:
    actions = {
        signal.SIGTERM: data_plane.stop,
        signal.SIGINT: data_plane.stop,
        signal.SIGQUIT: data_plane.stop,
        signal.SIGHUP: data_plane.read_again,
        signal.SIGUSR1: data_plane.reopen_logs,
    }
    loop = asyncio.get_running_loop()
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)
