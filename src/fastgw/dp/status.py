"""The status port of a data plane: `/status`, `/status/ready`, `/metrics`; read-only apart from draining.

`ready` turns 200 with the first applied configuration, the empty one too, and 503 when the data plane
drains: by a signal, or because an operator said `POST /status/ready?status=draining` ahead of one.
Source: Kong's status listener (proxying reference §6.5); `fastgw` in `/status` is ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fastgw import __version__
from fastgw.bounded_http import BoundedProtocol
from fastgw.dp._metrics import read_segment
from fastgw.dp.supervisor import Supervisor
from fastgw.dp.sync import SyncStatus
from fastgw.dp.takeover import Predecessor
from fastgw.dp.workers import Worker, WorkerState
from fastgw.listening import address_of, open_listeners
from fastgw.obs.metrics import CONTENT_TYPE, NodeFigures, WorkerFigures, render, sum_totals
from fastgw.settings import Listen

STATUS_LISTEN: Final = "status_listen"
SHUTDOWN_DEADLINE_S: Final = 1
CONNECTIONS_LIMIT: Final = 64

_UNITS: Final = {"b": 1, "B": 1, "k": 2**10, "K": 2**10, "m": 2**20, "M": 2**20, "g": 2**30, "G": 2**30}
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_NOT_FOUND: Final = {"message": "Not found"}


class StatusApp:
    """What the endpoints read."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        link: Callable[[], SyncStatus | None],
        certificate_expires_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Make the app of *supervisor*.

        Args:
            link: the state of the link; None without a control plane.
            certificate_expires_s: Unix seconds until which the cluster certificate is valid.
        """
        self._supervisor = supervisor
        self._link = link
        self._certificate_expires_s = certificate_expires_s
        self._is_told_to_drain = False

    def make(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/status", self._status),
                Route("/status/ready", self._ready),
                Route("/status/ready", self._set_ready, methods=["POST"]),
                Route("/metrics", self._metrics),
                Route("/robots.txt", _robots),
            ],
            exception_handlers={HTTPException: _on_http_error},
        )

    async def _status(self, request: Request) -> Response:
        unit = request.query_params.get("unit", "m")
        scale = request.query_params.get("scale", "2")
        if unit not in _UNITS:
            return _bad_request(f"invalid unit '{unit}' (expected 'k/K', 'm/M', or 'g/G')")
        if not scale.isdigit() or len(scale) > 2:
            return _bad_request(f"invalid scale '{scale}' (expected a whole number from 0 to 99)")
        figures = await asyncio.to_thread(self._gather)
        totals = sum_totals(figures)
        applied = self._supervisor.applier
        state = self._supervisor.state()
        return JSONResponse(
            {
                "configuration_hash": (state.digest or "0" * 64)[:32],
                "memory": {
                    "lua_shared_dicts": {},
                    "workers_lua_vms": [
                        {
                            "pid": item.pid,
                            "http_allocated_gc": _show_bytes(item.memory_bytes, unit, int(scale)),
                        }
                        for item in figures
                        if item.pid is not None
                    ],
                },
                "server": {**totals.connections, "total_requests": totals.requests},
                "fastgw": {
                    "version": __version__,
                    "node_id": self._supervisor.node.id,
                    "listen": self._supervisor.addresses,
                    "is_draining": self._supervisor.is_draining,
                    "applied": None
                    if applied.decided is None
                    else {
                        "version": state.version,
                        "digest": state.digest,
                        "counts": dict(applied.decided.counts),
                        "at": applied.applied_at,
                    },
                    "workers": [_show_worker(worker) for worker in self._supervisor.workers],
                    "link": _show_link(self._link()),
                },
            }
        )

    async def _ready(self, _request: Request) -> Response:
        if self._is_told_to_drain or self._supervisor.is_draining:
            return _unavailable("draining")
        if self._supervisor.is_serving:
            return JSONResponse({"message": "ready"})
        if self._supervisor.applier.decided is None:
            return _unavailable("no configuration available")
        return _unavailable("no worker is running")

    async def _set_ready(self, request: Request) -> Response:
        if request.query_params.get("status") != "draining":
            return _bad_request("the only status that can be set is 'draining'")
        self._is_told_to_drain = True
        return Response(status_code=HTTPStatus.NO_CONTENT)

    async def _metrics(self, _request: Request) -> Response:
        # In a thread: with many routes it takes long, and the link's heartbeat must go on.
        return Response(await asyncio.to_thread(self._render), media_type=CONTENT_TYPE)

    def _gather(self) -> list[WorkerFigures]:
        return [_figures_of(worker) for worker in self._supervisor.workers]

    def _render(self) -> bytes:
        applier = self._supervisor.applier
        link = self._link()
        node = NodeFigures(
            node_id=self._supervisor.node.id,
            config_version=self._supervisor.state().version,
            config_applied_total=applier.applied_total,
            config_refused_total=applier.refused_total,
            control_plane_connected=None if link is None else link.is_connected,
            control_planes={}
            if link is None
            else {one: link.is_connected and one == link.control_plane for one in link.control_planes},
            certificate_expires_s=self._certificate_expires_s(),
        )
        return render(node, self._gather())


class StatusServer:
    """Serves a `StatusApp` on the sockets of status_listen."""

    def __init__(
        self, listens: Sequence[Listen], app: Starlette, *, predecessor: Predecessor | None = None
    ) -> None:
        """Open the sockets.

        Args:
            predecessor: its sockets are used where status_listen names them.

        Raises:
            ListenError: one of them cannot be listened on.
        """
        self.listeners: Final = list(zip(listens, _open(listens, predecessor), strict=True))
        """The socket of each entry of status_listen."""
        self._sockets = [sock for _, sock in self.listeners]
        self.addresses: Final = [address_of(sock) for sock in self._sockets]
        """As `127.0.0.1:8007`, with the real ports."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http=BoundedProtocol,
            ws="none",
            server_header=False,
            limit_concurrency=CONNECTIONS_LIMIT,
            timeout_graceful_shutdown=SHUTDOWN_DEADLINE_S,
        )
        self._server = _Uvicorn(config)

        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Serve until `stop`; without sockets, just wait for it."""
        if self._sockets:
            await self._server.serve(self._sockets)
        else:
            await self._ended.wait()

    def stop(self) -> None:
        self._server.should_exit = True
        self._ended.set()

    def close(self) -> None:
        """Close the sockets; after `run`, or instead of it."""
        for sock in self._sockets:
            sock.close()


def _open(listens: Sequence[Listen], predecessor: Predecessor | None) -> list[socket.socket]:
    """Open one socket for each, or none at all; those that were lent are taken as they are."""
    sockets: list[socket.socket] = []
    try:
        for listen in listens:
            lent = [] if predecessor is None else predecessor.take_sockets(STATUS_LISTEN, listen)
            sockets += lent or open_listeners([listen], name=STATUS_LISTEN)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the data plane."""
        yield


def _figures_of(worker: Worker) -> WorkerFigures:
    return WorkerFigures(
        index=worker.index,
        pid=worker.pid,
        is_running=worker.state is WorkerState.RUNNING,
        restarts_total=worker.restarts_total,
        memory_bytes=_memory_of(worker.pid),
        segment_bytes=os.fstat(worker.metrics_fd).st_blocks * 512,
        values=read_segment(worker.metrics),
    )


def _memory_of(pid: int | None) -> int:
    """Read the resident bytes of a process; 0 when there is none."""
    if pid is None:
        return 0
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError, ValueError):
        return 0


def _show_worker(worker: Worker) -> Mapping[str, Any]:
    return {
        "worker": worker.index,
        "pid": worker.pid,
        "state": worker.state.value,
        "restarts_total": worker.restarts_total,
    }


def _show_link(status: SyncStatus | None) -> Mapping[str, Any] | None:
    return None if status is None else asdict(status)


def _show_bytes(count: int, unit: str, scale: int) -> str | int:
    """Write bytes as Kong does: a whole number for bytes, else a text such as "12.34 MiB"."""
    if unit in "bB":
        return count
    return f"{count / _UNITS[unit]:.{scale}f} {unit.upper()}iB"


async def _robots(_request: Request) -> Response:
    return PlainTextResponse("User-agent: *\nDisallow: /")


async def _on_http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == HTTPStatus.NOT_FOUND:
        return JSONResponse(_NOT_FOUND, HTTPStatus.NOT_FOUND)
    return JSONResponse({"message": error.detail}, error.status_code, headers=dict(error.headers or {}))


def _bad_request(message: str) -> Response:
    return JSONResponse({"message": message}, HTTPStatus.BAD_REQUEST)


def _unavailable(message: str) -> Response:
    return JSONResponse({"message": message}, HTTPStatus.SERVICE_UNAVAILABLE)
