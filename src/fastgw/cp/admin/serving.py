"""The doors of the Admin API: plain and TLS listeners, each kind with a uvicorn server of its own.

uvicorn knows one TLS context for all of its sockets, hence the two servers over one application, of which the
first runs the application's start and end. Signals are the process's, not uvicorn's.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final

import uvicorn
from starlette.applications import Starlette

from fastgw.bounded_http import BoundedProtocol
from fastgw.errors import CertificateError, FastgwError
from fastgw.listening import open_listeners
from fastgw.obs.logs import get_logger
from fastgw.settings import Listen, Settings
from fastgw.tls.proxy_pairs import load_admin_pairs, policy_of
from fastgw.tls.server import make_server_context

log = get_logger(__name__)

_GRACE_S: Final = 5


async def _serve(server: uvicorn.Server, sockets: list[socket.socket]) -> None:
    try:
        await server.serve(sockets=sockets)
    except SystemExit:  # how uvicorn says that the application does not start; it would end the loop as it is
        raise FastgwError("it does not start: see the log above") from None


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class AdminDoors:
    """The listeners, open from the start on, and their servers.

    Raises:
        ListenError: an address cannot be listened on; nothing stays open.
        CertificateError: there is an ssl listener, and its pair cannot serve.
    """

    def __init__(self, app: Starlette, settings: Settings) -> None:
        self._settings = settings
        has_tls = any(listen.ssl for listen in settings.admin_listen)
        self._tls = make_server_context(policy_of(settings), load_admin_pairs(settings)) if has_tls else None
        self.listeners = open_listeners(settings.admin_listen, name="admin_listen")
        self._servers: list[tuple[_Server, list[socket.socket]]] = []
        for is_tls in (False, True):
            door = [
                (listen, listener)
                for listen, listener in zip(settings.admin_listen, self.listeners, strict=True)
                if listen.ssl is is_tls
            ]
            if door:
                listens, sockets = zip(*door, strict=True)
                server = self._make(app, listens, self._tls if is_tls else None)
                self._servers.append((server, list(sockets)))

    async def serve(self) -> None:
        """Serve until `stop`; ends with the error of the first server that fails."""
        await asyncio.gather(*(_serve(server, sockets) for server, sockets in self._servers))

    def reload(self) -> None:
        """Present what the files of the pair hold now, from the next handshake on.

        A pair that cannot serve is told in the log, and the former one stays.
        """
        if self._tls is None:
            return
        try:
            for pair in load_admin_pairs(self._settings):
                with pair.as_paths() as (certificate, key):
                    self._tls.load_cert_chain(certificate, key)
        except (CertificateError, ssl.SSLError) as error:
            log.error("the Admin API keeps its certificate: %s", error)

    def stop(self) -> None:
        """Have `serve` return, once requests in flight are answered or a few seconds later."""
        for server, _ in self._servers:
            server.should_exit = True

    def _make(self, app: Starlette, listens: Sequence[Listen], context: ssl.SSLContext | None) -> _Server:
        config = uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off" if self._servers else "on",
            backlog=max(listen.backlog for listen in listens),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE_S,
        )
        config.load()
        config.ssl = context
        return _Server(config)
