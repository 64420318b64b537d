"""The status port of a control plane: `/status` and `/status/ready` of the Admin API, and nothing else of it.

For probes, which have no token and must not reach what changes something. Read-only, plain HTTP, bounded.
Source: Kong's status listener, which both of its roles have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Final

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fastgw.bounded_http import BoundedProtocol
from fastgw.listening import address_of, open_listeners
from fastgw.settings import Listen

_PATHS: Final = frozenset({"/status", "/status/ready"})
_CONNECTIONS_LIMIT: Final = 64
_GRACE_S: Final = 1


class StatusDoor:
    """The listeners, open from the start on, and their server."""

    def __init__(self, endpoints: ASGIApp, listens: Sequence[Listen]) -> None:
        """Open the listeners.

        Args:
            endpoints: answers what may be asked here.

        Raises:
            ListenError: an address cannot be listened on; nothing stays open.
        """
        self._endpoints = endpoints
        self._listeners = open_listeners(listens, name="status_listen")
        self.addresses: Final = [address_of(listener) for listener in self._listeners]
        self._server = _Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",  # a bound method is taken for the older interface otherwise
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_CONNECTIONS_LIMIT,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )

    async def serve(self) -> None:
        """Serve until `stop`."""
        await self._server.serve(self._listeners)

    def stop(self) -> None:
        """Have `serve` return."""
        self._server.should_exit = True

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint: ASGIApp = self._endpoints
        if scope["path"] not in _PATHS:
            endpoint = JSONResponse({"message": "Not found"}, 404)
        elif scope["method"] not in ("GET", "HEAD"):
            endpoint = JSONResponse({"message": "Method not allowed"}, 405)
        await endpoint(scope, receive, send)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
