"""The data plane's process: supervisor, status port, and the link or a declarative file.

Contract. `DataPlane.start` either has everything open or raises one FastgwError with nothing left behind;
`run` serves until `stop`, or until a part that cannot be done without has failed. With declarative_config no
control plane is dialled, and nothing is read from disk: the file is the configuration.

    SIGTERM, SIGINT, SIGQUIT   drain, then end; once more: end now
    SIGHUP                     read settings, certificates and declarative_config anew
    SIGUSR1                    open the log files anew

One that takes over from another (`takeover.py`) begins with what that one serves, and has a link, a status
port and a door of its own only once the other has let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, Final

from fastgw import __version__
from fastgw.dp.control import Drain
from fastgw.dp.identity import load_identity
from fastgw.dp.process import raise_file_limit
from fastgw.dp.seal import Seal
from fastgw.dp.source import Source
from fastgw.dp.spares import Spares
from fastgw.dp.status import STATUS_LISTEN, StatusApp, StatusServer
from fastgw.dp.store import Store
from fastgw.dp.supervisor import PROXY_LISTEN, Supervisor
from fastgw.dp.takeover import LentListener, Predecessor, TakeoverDoor, TakeoverFailed
from fastgw.dp.workers import Deadlines, WorkerState
from fastgw.errors import SettingsError
from fastgw.obs import logs
from fastgw.obs.service_manager import ServiceManager
from fastgw.settings import Settings

IDLE_GRACE_S: Final = 15.0
"""After a take-over, idle connections are kept for so long, to be told by an answer that they close."""

_log: Final = logs.get_logger("supervisor")


class DataPlane:
    """One data plane."""

    def __init__(
        self,
        settings: Settings,
        *,
        deadlines: Deadlines | None = None,
        manager: ServiceManager | None = None,
        load_settings: Callable[[], Settings] | None = None,
        spares: Spares | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            load_settings: reads the settings anew, at SIGHUP; None: they stay.
            manager: told how the data plane is; none by default.
            spares: worker processes that run already.
        """
        self._spares = spares
        self._settings = settings
        self._load_settings = load_settings
        self._manager = manager or ServiceManager({})
        self._deadlines = deadlines
        self._cleanup = contextlib.AsyncExitStack()
        self._stopping = asyncio.Event()
        self._serving = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._predecessor: Predecessor | None = None
        self._drain: Drain | None = None
        self._store: Store
        self._source: Source
        self.supervisor: Supervisor
        """Once started."""
        self.status: StatusServer
        """Once started."""

    async def start(self, *, takes_over: bool = False) -> None:
        """Open everything; no worker runs yet.

        Args:
            takes_over: whether a data plane that runs in this prefix is to hand over its sockets.
        Raises:
            FastgwError: the first part that cannot start; those before it are closed again.
        """
        try:
            await self._start(takes_over=takes_over)
        except BaseException:
            await self._cleanup.aclose()
            raise

    async def run(self) -> None:
        """Serve until `stop`, or until another process has taken over; then drain and close everything.

        Raises:
            FastgwError: a part failed for good.
        """
        if self._predecessor is None:
            self._serving.set()
        source = asyncio.create_task(self._run_source(), name="source")
        workers = asyncio.create_task(self.supervisor.run(), name="workers")
        status = asyncio.create_task(self._run_status(), name="status")
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
            if self._drain is not None:
                # What the status port says is the successor's to say.
                await self._end_status(status)
            _log.notice("drains")
            self._manager.stopping("draining")
            await self.supervisor.stop(self._drain)
            await asyncio.gather(workers, return_exceptions=True)
            await self._end_status(status)
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

    # What the one that takes over asks (`takeover.Lender`).

    async def pause(self) -> str | None:
        if self._stopping.is_set():
            return "it drains"
        await self._source.pause()
        return None

    def lent(self) -> Iterable[LentListener]:
        for listen, sockets in self.supervisor.listeners:
            yield LentListener(PROXY_LISTEN, listen, sockets)
        for listen, sock in self.status.listeners:
            yield LentListener(STATUS_LISTEN, listen, [sock])

    @property
    def lock_fd(self) -> int:
        return self._store.lock_fd

    def resume(self) -> None:
        try:
            self._store.look_again()
        finally:
            self._source.resume()

    def leave(self, successor: int, grace_s: float) -> None:
        _log.notice("process %d serves; what is in progress here may go on for %g s", successor, grace_s)
        self._drain = Drain(grace_s, IDLE_GRACE_S)
        self._stopping.set()

    async def _read_again(self) -> None:
        self._manager.reloading()
        try:
            if self._load_settings is not None:
                try:
                    settings = await asyncio.to_thread(self._load_settings)
                except SettingsError as error:
                    _log.error("the settings stay as they are: %s", error)
                else:
                    await self.supervisor.adjust(settings)
            await self.supervisor.read_certificates()
            await self._source.read_again()
        finally:
            # Who waits for it would take a data plane that serves for one that hangs.
            if not self._stopping.is_set():
                self._manager.ready(self._describe())

    async def _tell_ready(self) -> None:
        """Tell once all workers accept; with a file, once they serve it.

        A data plane whose control plane is out of sight is ready too: waiting for it is what it is for.
        """
        generation = 1 if self._source.is_file else 0
        for worker in self.supervisor.workers:
            if not await worker.wait_serving(generation, None):
                return
        self._manager.ready(self._describe())

    def _describe(self) -> str:
        version = self.supervisor.state().version
        return f"data plane on {', '.join(self.supervisor.addresses)}, started with version {version}"

    async def _start(self, *, takes_over: bool) -> None:
        settings = self._settings
        for warning in settings.warnings:
            _log.warning("%s", warning)
        seal = Seal(settings.store_secret) if settings.store_secret else None
        predecessor = None
        if takes_over:
            predecessor = await Predecessor.find(settings.prefix / "dp")
            if predecessor is None:
                _log.notice("nothing to take over: no data plane runs in %s", settings.prefix)
            else:
                self._predecessor = predecessor
                self._cleanup.callback(predecessor.close)
        self._store = Store(
            settings.prefix,
            lock_fd=-1 if predecessor is None else predecessor.take_lock(),
            seal=seal,
        )
        self._cleanup.callback(self._store.close)
        node = load_identity(settings.prefix)
        self.supervisor = Supervisor(
            settings, node=node, store=self._store, deadlines=self._deadlines, spares=self._spares
        )
        self._source = Source(settings, self.supervisor)
        await self._source.read()
        self._cleanup.push_async_callback(self.supervisor.close)
        if predecessor is None:
            await self._source.begin()
        await self.supervisor.start(
            from_disk=predecessor is not None or not self._source.is_file, predecessor=predecessor
        )
        app = StatusApp(
            self.supervisor,
            link=self._source.link_status,
            certificate_expires_s=self._source.certificate_expires_s,
        )
        self.status = StatusServer(settings.status_listen, app.make(), predecessor=predecessor)
        self._cleanup.callback(self.status.close)
        _log.notice(
            "fastgw %s, node %s on %s, prefix %s; %s",
            __version__,
            node.id,
            node.hostname,
            settings.prefix,
            f"status on {', '.join(self.status.addresses)}" if self.status.addresses else "no status port",
        )

    async def _run_source(self) -> None:
        if self._predecessor is not None:
            await self._source.begin()
            await self._finish_takeover(self._predecessor)
            self._serving.set()
        try:
            door = TakeoverDoor(self._store.directory, self)
        except OSError as error:
            _log.warning("no other process can take over: %s: %s", self._store.directory, error.strerror)
        else:
            self._cleanup.push_async_callback(door.close)
        await self._source.run()

    async def _finish_takeover(self, predecessor: Predecessor) -> None:
        if not await self.supervisor.wait_serving():
            if any(worker.state is WorkerState.STOPPED for worker in self.supervisor.workers):
                await self._stopping.wait()  # the workers' own reason ends `run`
            raise TakeoverFailed("the workers do not start in time: the one before goes on")
        await predecessor.finish(self.supervisor.settings.takeover_timeout)
        predecessor.close()
        _log.notice("has taken over from process %d", predecessor.pid)

    async def _run_status(self) -> None:
        await self._serving.wait()
        await self.status.run()

    async def _end_status(self, status: asyncio.Task[None]) -> None:
        if self._serving.is_set():
            self.status.stop()
        else:
            status.cancel()
        await asyncio.gather(status, return_exceptions=True)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def run_data_plane(
    settings: Settings,
    *,
    takes_over: bool = False,
    load_settings: Callable[[], Settings] | None = None,
    spares: Spares | None = None,
) -> None:
    """Run a data plane until a signal ends it, or another one takes over.

    Args:
        takes_over: whether it takes over from the one that runs in its prefix.
        load_settings: reads the settings anew, at SIGHUP; None: they stay.
        spares: worker processes that run already.
    Raises:
        FastgwError: it cannot start, or cannot go on.
    """
    logs.setup(
        settings.log_level, settings.log_destination(settings.proxy_error_log), process="dp supervisor"
    )
    raise_file_limit()
    with contextlib.closing(ServiceManager()) as manager:
        data_plane = DataPlane(settings, manager=manager, load_settings=load_settings, spares=spares)
        await data_plane.start(takes_over=takes_over)
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
