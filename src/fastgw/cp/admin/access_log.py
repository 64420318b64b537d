"""The Admin API's access log: one line per request, in nginx's combined format, as Kong writes it.

Lines are written off the event loop by the same writer as the proxy's, which also follows a rotated file.
What a client sent is escaped, so that it cannot forge a line.
"""

from __future__ import annotations

import os
import time

from starlette.datastructures import Headers
from starlette.types import Scope

from fastgw.errors import SettingsError
from fastgw.obs.accesslog import AccessLog, escape


class AdminAccessLog:
    """Appends to a file; with None as destination nothing is written.

    Raises:
        SettingsError: the file cannot be opened.
    """

    def __init__(self, destination: str | None) -> None:
        self._lines: AccessLog | None = None
        if destination is not None:
            try:
                self._lines = AccessLog(destination)
            except OSError as error:
                reason = os.strerror(error.errno or 0).lower()
                raise SettingsError(f"admin_access_log: cannot open {destination}: {reason}") from None

    def write(self, scope: Scope, headers: Headers, *, status: int, sent_bytes: int) -> None:
        """Add the line of one request; never blocks."""
        if self._lines is None:
            return
        client = scope.get("client")
        target: bytes = scope["raw_path"]
        if scope["query_string"]:
            target += b"?" + scope["query_string"]
        request_line = f"{scope['method']} ".encode() + target + f" HTTP/{scope['http_version']}".encode()
        self._lines.append(
            b'%s - - [%s] "%s" %d %d "%s" "%s"\n'
            % (
                client[0].encode() if client else b"-",
                time.strftime("%d/%b/%Y:%H:%M:%S %z").encode(),
                escape(request_line),
                status,
                sent_bytes,
                escape(headers.get("referer", "-").encode("latin-1")),
                escape(headers.get("user-agent", "-").encode("latin-1")),
            )
        )

    def reopen(self) -> None:
        """Open the file anew under its name, after it was moved away."""
        if self._lines is not None:
            self._lines.reopen()

    def close(self) -> None:
        """Write what waits, and end."""
        if self._lines is not None:
            self._lines.close()
