"""The Admin API's access log: one line per request, in nginx's combined format, as Kong writes it.

Each line is one `write(2)` on a descriptor opened for appending. What a client sent is escaped as nginx does
(`\\x22`), so that it cannot forge a line.
"""

from __future__ import annotations

import os
import time
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

from fastgw.errors import SettingsError

_ESCAPES: Final = {
    code: f"\\x{code:02X}" for code in (*range(0x20), *range(0x7F, 0x100), ord('"'), ord("\\"))
}  # fmt: skip


class AccessLog:
    """Appends to a file; with None as destination nothing is written.

    Raises:
        SettingsError: the file cannot be opened.
    """

    def __init__(self, destination: str | None) -> None:
        self._destination = destination
        self._fd = None if destination is None else _open(destination)

    def write(self, scope: Scope, headers: Headers, *, status: int, sent_bytes: int) -> None:
        if self._fd is None:
            return
        client = scope.get("client")
        target = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        request = f"{scope['method']} {target} HTTP/{scope['http_version']}"
        stamp = time.strftime("%d/%b/%Y:%H:%M:%S %z")
        line = (
            f'{client[0] if client else "-"} - - [{stamp}] "{_escape(request)}" {status} {sent_bytes} '
            f'"{_escape(headers.get("referer", "-"))}" "{_escape(headers.get("user-agent", "-"))}"\n'
        )
        try:
            os.write(self._fd, line.encode("ascii", "backslashreplace"))
        except OSError:
            pass  # a full disk or closed pipe must not fail the request

    def reopen(self) -> None:
        """Open the file anew under its name, after it was moved away.

        Raises:
            SettingsError: it cannot be opened; the old one stays in use.
        """
        if self._fd is None or self._destination is None:
            return
        fd = _open(self._destination)
        os.close(self._fd)
        self._fd = fd

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _open(path: str) -> int:
    try:
        if path in ("/dev/stdout", "/dev/stderr"):
            # Opening them by name fails where they are sockets, as under some service managers.
            return os.dup(1 if path == "/dev/stdout" else 2)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(f"admin_access_log: cannot open {path}: {reason}") from None


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)
