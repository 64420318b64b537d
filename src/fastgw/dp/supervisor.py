"""The supervisor: owns the listening sockets, keeps the workers, and applies configurations through them.

1. `start`: open all sockets (a taken port ends the start with one line), read the last decided generation
   from disk, start the compile process. With a declarative file, `apply` comes before it: no port is open
   until the file is decided.
2. `run`: keep a process in every worker's place, until `stop`.
3. `apply`: one snapshot, from the link or from a declarative file, in two phases (`apply.py`).
4. `stop`: end applies, drain all workers at once, let go of everything.

It carries no traffic itself: whatever keeps its loop busy, requests are served.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from fastgw.dp._metrics import read_answered
from fastgw.dp.apply import Applier, short_digest
from fastgw.dp.belief import Belief
from fastgw.dp.control import Drain, ListenerKind
from fastgw.dp.generation import describe_counts
from fastgw.dp.pledge import Pledge
from fastgw.dp.server import ProxyOptions
from fastgw.dp.spares import Spares
from fastgw.dp.store import Store, StoredImage, StoredSnapshot
from fastgw.dp.sync import Applied, AppliedState, IncomingSnapshot, NodeIdentity, Refused
from fastgw.dp.takeover import Predecessor
from fastgw.dp.workers import Deadlines, SharedFile, Worker, WorkerSettings, WorkerState
from fastgw.errors import CertificateError
from fastgw.listening import address_of, adopt_listener, open_listener
from fastgw.obs import logs
from fastgw.routing.compile_process import CompileProcess
from fastgw.routing.routes import FLAVORS
from fastgw.settings import Listen, Settings
from fastgw.tls.proxy_pairs import load_proxy_tls
from fastgw.wire.messages import Answered

PROXY_LISTEN: Final = "proxy_listen"

ADJUSTABLE: Final = frozenset(
    {
        "log_level",
        "ssl_cert",
        "ssl_cert_key",
        "headers",
        "headers_upstream",
        "allow_debug_header",
        "proxy_request_line_bytes",
        "proxy_head_fields",
        "proxy_field_bytes",
        "proxy_body_rate",
        "nginx_http_underscores_in_headers",
        "nginx_http_client_max_body_size",
        "nginx_http_client_header_timeout",
        "nginx_http_client_body_timeout",
        "nginx_http_send_timeout",
        "nginx_http_keepalive_timeout",
        "nginx_http_keepalive_requests",
        "nginx_main_worker_shutdown_timeout",
        "worker_connections",
        "takeover_timeout",
    }
)
"""Settings that can change while a data plane runs."""

_log: Final = logs.get_logger(__name__)

WORKERS_FIRST_S: Final = 5.0
"""What the compile process leaves workers to come up in, where they need it for nothing."""


class Supervisor:
    """The data plane without its link and its status port."""

    def __init__(
        self,
        settings: Settings,
        *,
        node: NodeIdentity,
        store: Store,
        deadlines: Deadlines | None = None,
        spares: Spares | None = None,
    ) -> None:
        self.node: Final = node
        self.workers: list[Worker] = []
        self.addresses: list[str] = []
        """What the workers listen on, as `127.0.0.1:8000`, one for each entry of proxy_listen."""
        self.is_draining = False
        self.listeners: list[tuple[Listen, list[socket.socket]]] = []
        """The sockets of each entry of proxy_listen; they belong to the workers."""
        self._settings = settings
        self._spares = spares or Spares()
        self._deadlines = deadlines or Deadlines(drain_s=settings.nginx_main_worker_shutdown_timeout)
        self._compiler = CompileProcess(flavor=settings.router_flavor)
        self._compiler_start: asyncio.Task[None] | None = None
        self._worker_settings: WorkerSettings
        self._store = store
        self._tls_file = SharedFile("fastgw-tls", b"")
        self.belief: Final = Belief(store.directory)
        self.pledge: Final = Pledge(store.directory)
        self.applier: Final = Applier(
            store, self._compiler, self._deadlines, belief=self.belief, pledge=self.pledge
        )

    @property
    def is_serving(self) -> bool:
        """Whether requests are routed: a configuration is applied and a worker accepts."""
        return (
            not self.is_draining
            and self.applier.decided is not None
            and any(worker.state is WorkerState.RUNNING for worker in self.workers)
        )

    async def start(self, *, from_disk: bool = True, predecessor: Predecessor | None = None) -> None:
        """Open sockets, make the workers' places, and take the last generation from disk.

        Args:
            predecessor: its sockets are used where proxy_listen names them.

        Raises:
            ListenError: an address of proxy_listen cannot be listened on.
            CertificateError: a certificate of an ssl listener cannot serve.
        """
        count = self._settings.workers
        self._tls_file.replace(await self._load_tls())
        places: list[list[tuple[socket.socket, ListenerKind]]] = [[] for _ in range(count)]
        for listen in self._settings.proxy_listen:
            lent = [] if predecessor is None else predecessor.take_sockets(PROXY_LISTEN, listen)
            sockets = open_for_workers(listen, count, lent)
            self.listeners.append((listen, sockets))
            self.addresses.append(address_of(sockets[0]))
            kind = ListenerKind(listen.ssl, listen.proxy_protocol)
            # Of a predecessor with more workers all are kept: clients may wait in the backlog of each.
            for number, sock in enumerate(sockets):
                places[number % count].append((sock, kind))
        if from_disk:
            await self._restore()
        self._worker_settings = WorkerSettings(
            node_id=self.node.id,
            options=_options_of(self._settings),
            log_level=self._settings.log_level,
            error_log=self._settings.log_destination(self._settings.proxy_error_log),
            access_log=self._settings.log_destination(self._settings.proxy_access_log),
            tls_file=self._tls_file,
            spares=self._spares,
        )
        self.workers = [
            Worker(
                index,
                place,
                self._worker_settings,
                decided=lambda: self.applier.decided,
                deadlines=self._deadlines,
            )
            for index, place in enumerate(places)
        ]
        self.applier.workers = self.workers
        if self._compiler_start is None:
            self._compiler_start = asyncio.create_task(self._start_compiler(), name="compile process start")

    async def run(self) -> None:
        """Keep all workers running until `stop`.

        Raises:
            WorkersCannotStart: a worker never came up.
            OSError: the compile process never came up.
        """
        begun = time.monotonic()
        failure: Exception | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for worker in self.workers:
                    group.create_task(worker.run(), name=f"worker {worker.index}")
                group.create_task(self._tell_start(begun))
                if self._compiler_start is not None:
                    await self._compiler_start
        except* Exception as failures:
            failure = failures.exceptions[0]
        if failure is not None:
            # One reason is enough: the workers fail alike. Raised out here, since early releases of
            # Python 3.11 wrap what is raised in the clause above into a group again.
            raise failure

    async def apply(self, incoming: IncomingSnapshot) -> Applied | Refused:
        """Bring *incoming* to all workers, whole or not at all; before `start`, to those to come.

        Raises:
            OSError: before `start`, the compile process does not start.
        """
        if self._compiler_start is None:
            self._compiler_start = asyncio.create_task(self._compiler.start(), name="compile process start")
            await self._compiler_start
        return await self.applier.apply(incoming)

    def state(self) -> AppliedState:
        return self.applier.state()

    def answered(self) -> Answered:
        """What all workers have answered since the start."""
        counts = [read_answered(worker.metrics) for worker in self.workers]
        return Answered(sum(number for number, _ in counts), sum(errors for _, errors in counts))

    async def reopen_logs(self) -> None:
        """Open all log files anew under their names, here and in the workers."""
        logs.reopen()
        running = [worker for worker in self.workers if worker.state is WorkerState.RUNNING]
        async with asyncio.TaskGroup() as group:
            for worker in running:
                group.create_task(worker.reopen())

    async def adjust(self, settings: Settings) -> None:
        """Go by *settings* as far as they can change while a data plane runs; the rest is named.

        Connections take a limit or a deadline from their next step on. Certificates are read by
        `read_certificates`.
        """
        names = [item.name for item in dataclasses.fields(Settings) if item.name != "warnings"]
        changed = [name for name in names if getattr(settings, name) != getattr(self._settings, name)]
        adjusted = [name for name in changed if name in ADJUSTABLE]
        if left := [name for name in changed if name not in ADJUSTABLE]:
            _log.warning("settings that changed and wait for 'fastgw dp --takeover': %s", ", ".join(left))
        if not adjusted:
            return
        self._settings = dataclasses.replace(
            self._settings, **{name: getattr(settings, name) for name in adjusted}
        )
        self._deadlines = dataclasses.replace(
            self._deadlines, drain_s=self._settings.nginx_main_worker_shutdown_timeout
        )
        self._worker_settings.options = _options_of(self._settings)
        self._worker_settings.log_level = self._settings.log_level
        logs.set_level(self._settings.log_level)
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                if worker.state is WorkerState.RUNNING:
                    group.create_task(worker.adjust())
        _log.notice("settings taken over: %s", ", ".join(adjusted))

    @property
    def settings(self) -> Settings:
        """Those in force."""
        return self._settings

    async def read_certificates(self) -> None:
        """Load the certificates of the ssl listeners anew; those that cannot serve change nothing."""
        try:
            content = await self._load_tls()
        except CertificateError as error:
            _log.error("the certificates stay as they are: %s", error)
            return
        if not content:
            return
        self._tls_file.replace(content)
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                if worker.state is WorkerState.RUNNING:
                    group.create_task(worker.certify())
        _log.notice("certificates of the ssl listeners read anew")

    async def wait_serving(self) -> bool:
        """Wait until all workers accept, up to the deadline of a start; say whether they do."""
        deadline_s = self._deadlines.start_s
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(worker.wait_serving(0, deadline_s)) for worker in self.workers]
        return all(wait.result() for wait in waits)

    async def stop(self, drain: Drain | None = None) -> None:
        """Drain all workers, within the deadline; `run` returns. May be called again.

        Args:
            drain: None: by the deadlines.
        """
        self.is_draining = True
        async with asyncio.TaskGroup() as group:
            for worker in self.workers:
                group.create_task(worker.stop(drain))

    def kill(self) -> None:
        """End all workers now; after `stop`, for those who will not wait."""
        for worker in self.workers:
            worker.kill()

    async def close(self) -> None:
        """Let go of everything, after `run` has ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._deadlines.commit_s):
                await self.applier.finish()
        if self._compiler_start is not None:
            self._compiler_start.cancel()
            await asyncio.gather(self._compiler_start, return_exceptions=True)
        await self._compiler.close()
        for worker in self.workers:
            worker.close()
        self._tls_file.close()

    async def _load_tls(self) -> bytes:
        """Return what the workers need for ssl listeners; empty without any."""
        if not any(listen.ssl for listen in self._settings.proxy_listen):
            return b""
        # In a thread: making an RSA key takes a while.
        tls = await asyncio.to_thread(load_proxy_tls, self._settings)
        for warning in dict.fromkeys(warning for pair in tls.default for warning in pair.warnings):
            _log.warning("%s", warning)
        return msgspec.msgpack.encode(tls)

    async def _start_compiler(self) -> None:
        """Start the compile process; where something is on disk, when that is served: workers come first."""
        if self.applier.decided is not None:
            deadline = time.monotonic() + WORKERS_FIRST_S
            for worker in self.workers:
                await worker.wait_serving(0, max(deadline - time.monotonic(), 0))
        await self._compiler.start()

    async def _restore(self) -> None:
        begun = time.monotonic()
        stored = await asyncio.to_thread(
            self._store.load,
            FLAVORS[self._settings.router_flavor],
            check=self.belief.check_stored,
            is_to_compile=self.belief.is_needed and not self._store.is_sealed,
        )
        match stored:
            case StoredImage():
                self.applier.restore(stored)
            case StoredSnapshot():
                self._compiler_start = asyncio.create_task(self._compiler.start())
                await self.applier.recompile(stored)
        decided = self.applier.decided
        if decided is not None:
            _log.notice(
                "starts from disk with version %d, digest %s: %s; load %.1f ms",
                decided.version,
                short_digest(decided.digest),
                describe_counts(decided.counts),
                (time.monotonic() - begun) * 1000,
            )

    async def _tell_start(self, begun: float) -> None:
        for worker in self.workers:
            if not await worker.wait_serving(0, None):
                return
        _log.notice(
            "%d worker%s on %s, started in %.0f ms",
            len(self.workers),
            "" if len(self.workers) == 1 else "s",
            ", ".join(self.addresses),
            (time.monotonic() - begun) * 1000,
        )


def _options_of(settings: Settings) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(ProxyOptions.from_settings(settings)))


def open_for_workers(listen: Listen, count: int, lent: Sequence[socket.socket] = ()) -> list[socket.socket]:
    """Open one socket per worker on the same address; the kernel spreads connections over them.

    Args:
        lent: sockets of that address from the process before; all are kept.

    Raises:
        ListenError: the address cannot be listened on.
    """
    shared = dataclasses.replace(listen, reuseport=True)
    sockets = list(lent)
    try:
        for sock in lent:
            adopt_listener(sock, shared)
        if not sockets:
            # Without SO_REUSEPORT first: with it, another data plane's port would be shared, not refused.
            open_listener(dataclasses.replace(listen, reuseport=False), name=PROXY_LISTEN).close()
            sockets.append(open_listener(shared, name=PROXY_LISTEN))
        port = sockets[0].getsockname()[1]  # the one that the system chose, where that is its choice
        for _ in range(count - len(sockets)):
            sockets.append(open_listener(dataclasses.replace(shared, port=port), name=PROXY_LISTEN))  # noqa: PERF401 - those that are open are closed when a later one fails
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
