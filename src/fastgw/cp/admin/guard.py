"""What surrounds every request of the Admin API: who may ask, common headers, latency, counts, access log.

Browsers are kept from driving the API of the machine or network they stand in. Against DNS rebinding: on a
loopback address only names of this machine are taken as `Host`. Against foreign pages: a write with an
`Origin` that is not in `admin_cors_origins` is refused, and no CORS header lets such a page read an answer.
Without an `Origin` (curl, decK) the headers are Kong's.
"""

from __future__ import annotations

import ipaddress
import math
import re
import socket
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastgw import __version__
from fastgw.cp.admin.access_log import AdminAccessLog
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.callers import RateLimit, Tokens
from fastgw.settings import Settings

_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Asked by POST, since the question has a body, and changing nothing: those who may read may ask.
_QUESTIONS: Final = re.compile(rb"/(fastgw/plan|fastgw/routes/explain|schemas/[a-z_]+/validate)/?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::[0-9]{0,5})?")


class Requests:
    """Counts of requests since the start, for /status."""

    __slots__ = ("active", "total")

    def __init__(self) -> None:
        self.active = 0
        self.total = 0


class Guard:
    """The ASGI layer around the dispatcher."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        requests: Requests,
        access_log: AdminAccessLog,
        tokens: Tokens | None,
    ) -> None:
        self._app = app
        self._settings = settings
        self._requests = requests
        self._access_log = access_log
        listened = {listen.host.lower() for listen in settings.admin_listen}
        self._tokens = tokens
        self._rate_limit = RateLimit(settings.admin_rate_limit)
        self._own_names = {"localhost", socket.gethostname().lower()} | listened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        headers = Headers(scope=scope)
        status, sent_bytes = 0, 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), headers.get("origin"), started)
            elif message["type"] == "http.response.body":
                sent_bytes += len(message.get("body", b""))
            await send(message)

        self._requests.active += 1
        self._requests.total += 1
        try:
            refusal = self._refusal(scope, headers)
            if refusal is None:
                await self._app(scope, receive, send_with_headers)
            else:
                await refusal(scope, receive, send_with_headers)
        finally:
            self._requests.active -= 1
            sent = 0 if scope["method"] == "HEAD" else sent_bytes
            self._access_log.write(scope, headers, status=status, sent_bytes=sent)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to who may not ask this; notes in *scope* who asks."""
        hosts = headers.getlist("host")
        match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if match is None:
            return _refused(400, "The request needs one valid Host header")
        name = match[1].lower()
        if _is_loopback(scope) and not (_is_address(name) or name.rstrip(".") in self._own_names):
            return _refused(
                403, f"'{name}' is no name of this Admin API: use localhost, or name it in admin_listen"
            )
        writes = scope["method"] in _WRITES
        if writes and not self._may_read(headers.get("origin")):
            return _refused(403, "This Origin may not write: add it to admin_cors_origins")
        if self._tokens is not None and scope["method"] != "OPTIONS":
            caller = self._tokens.caller(headers)
            if caller is None:
                return _refused(
                    401,
                    "A token is needed: send it as 'Authorization: Bearer TOKEN' or 'Kong-Admin-Token'",
                    {"WWW-Authenticate": "Bearer"},
                )
            writes = writes and not _is_question(scope)
            if writes and not caller.may_write:
                return _refused(403, f"The token of '{caller.name}' may read only")
            scope["fastgw.actor"] = caller.name
        if writes and not _is_question(scope):
            client = scope.get("client")
            wait_s = self._rate_limit.take(scope.get("fastgw.actor") or (client[0] if client else ""))
            if wait_s > 0:
                return _refused(
                    429, "Too many writes, see admin_rate_limit", {"Retry-After": str(math.ceil(wait_s))}
                )
        return None

    def _may_read(self, origin: str | None) -> bool:
        return origin is None or origin in self._settings.admin_cors_origins

    def _add_headers(self, headers: MutableHeaders, origin: str | None, started: float) -> None:
        shown = self._settings.headers
        if "server" in shown:
            headers["Server"] = f"fastgw/{__version__}"
        if "x-kong-admin-latency" in shown:
            headers["X-Kong-Admin-Latency"] = str(round((time.monotonic() - started) * 1000))
        if self._may_read(origin):
            headers["Access-Control-Allow-Origin"] = origin or "*"
            headers["Access-Control-Allow-Credentials"] = "true"
        if self._settings.admin_cors_origins:
            headers.add_vary_header("Origin")


def _is_question(scope: Scope) -> bool:
    # As it was sent: whoever escapes a letter of such a path is taken for a writer.
    path = scope["raw_path"].partition(b"?")[0]
    return scope["method"] == "POST" and _QUESTIONS.fullmatch(path) is not None


def _refused(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    return json_response({"message": text}, status, headers)


def _is_loopback(scope: Scope) -> bool:
    """Whether the connection came in on an address that only this machine reaches."""
    server = scope.get("server")
    try:
        return server is not None and ipaddress.ip_address(server[0]).is_loopback
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
