"""The proxy's access log: nginx's combined line with Kong's request id, or JSON; written off the event loop.

The loop only appends to a queue; a thread writes what has gathered, once per second or as soon as 64 KiB are
there, so that a slow disk or a full pipe never stops a request. The queue has a bound: beyond it lines are
dropped and counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from typing import Any, Final, NamedTuple

import msgspec

FLUSH_INTERVAL_S: Final = 1.0
FLUSH_BYTES: Final = 65536
#: Bytes that may wait for a destination that does not take them; about 100,000 lines.
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024

_ESCAPES: Final = {
    byte: f"\\x{byte:02X}".encode() for byte in (*range(0x20), 0x22, 0x5C, *range(0x7F, 0x100))
}


def escape(value: bytes) -> bytes:
    r"""Return *value* with quotes, backslashes and bytes outside printable ASCII as `\xHH`, as nginx does."""
    if value.isascii() and value.decode("ascii").isprintable() and b'"' not in value and b"\\" not in value:
        return value
    return b"".join(_ESCAPES.get(byte, bytes((byte,))) for byte in value)


class Entry(NamedTuple):
    """One request and its answer; text as the bytes that came."""

    client: bytes
    """Address: the peer's, or the one that a trusted peer names."""
    request_line: bytes
    """As far as it came."""
    status: int
    bytes_in: int
    bytes_out: int
    """Head and body; the combined line has the body alone."""
    head_bytes_out: int
    request_id: bytes
    referer: bytes | None = None
    user_agent: bytes | None = None
    host: bytes | None = None
    scheme: bytes = b"http"
    request_ms: int = 0
    gateway_ms: int = 0
    upstream_ms: int = -1
    """-1: no upstream answered."""
    route: tuple[str, str | None] | None = None
    """Id and name; so for the service."""
    service: tuple[str, str | None] | None = None
    is_from_upstream: bool = False


class AccessLog:
    """An append-only log at *path*; `/dev/stdout` and `/dev/stderr` are the process's own streams.

    Args:
        is_json: one JSON object a line, members named as in the entries of Kong's log plugins.
    """

    def __init__(self, path: str, *, is_json: bool = False) -> None:
        self._path = path
        self._is_json = is_json
        self._fd = _open(path)
        # One thread appends, the other pops; each counts what it moved in a number of its own.
        self._lines: deque[bytes] = deque()
        self._bytes_in = 0
        self._bytes_out = 0
        self.dropped_total = 0
        self._stamp = b""
        self._stamp_second = 0
        self._wake = threading.Event()
        self._is_closed = False
        self._must_reopen = False
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, entry: Entry) -> None:
        """Add one line; never blocks."""
        now = time.time()
        self.append(_json_line(entry, now) if self._is_json else self._combined_line(entry, now))

    def _combined_line(self, entry: Entry, now_s: float) -> bytes:
        if int(now_s) != self._stamp_second:
            self._stamp_second = int(now_s)
            self._stamp = time.strftime("%d/%b/%Y:%H:%M:%S %z", time.localtime(now_s)).encode()
        return b'%s - - [%s] "%s" %d %d "%s" "%s" kong_request_id: "%s"\n' % (
            entry.client,
            self._stamp,
            escape(entry.request_line),
            entry.status,
            entry.bytes_out - entry.head_bytes_out,
            escape(entry.referer) if entry.referer else b"-",
            escape(entry.user_agent) if entry.user_agent else b"-",
            entry.request_id,
        )

    def append(self, line: bytes) -> None:
        """Add a line that is already made, its newline included; never blocks."""
        waiting = self._bytes_in - self._bytes_out
        if waiting > MAX_WAITING_BYTES:
            self.dropped_total += 1
            return
        self._lines.append(line)
        self._bytes_in += len(line)
        if waiting > FLUSH_BYTES:
            self._wake.set()

    def reopen(self) -> None:
        """Open the path anew before the next line is written: after a rotation."""
        self._must_reopen = True
        self._wake.set()

    def flush(self) -> None:
        """Have what waits written soon."""
        self._wake.set()

    def close(self, deadline_s: float = 2.0) -> None:
        """Write what waits, and end; a destination that takes nothing is left behind at the deadline."""
        self._is_closed = True
        self._wake.set()
        self._thread.join(deadline_s)

    def _run(self) -> None:
        while True:
            self._wake.wait(FLUSH_INTERVAL_S)
            self._wake.clear()
            is_closed = self._is_closed
            if self._must_reopen:
                self._must_reopen = False
                self._reopen()
            data = b"".join([self._lines.popleft() for _ in range(len(self._lines))])
            self._write(data)
            self._bytes_out += len(data)
            if is_closed:
                return

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except OSError:
                # A full disk or a closed pipe: these lines are lost, the next ones may not be.
                self.dropped_total += data.count(b"\n", len(data) - len(view))
                return

    def _reopen(self) -> None:
        try:
            fresh = _open(self._path)
        except OSError:
            return  # keep the old file: better there than nowhere
        if fresh != self._fd and self._fd > 2:
            os.close(self._fd)
        self._fd = fresh


def _open(path: str) -> int:
    # Opening /dev/stdout anew fails for sockets and truncates nothing: the stream itself is meant.
    if path == "/dev/stdout":
        return 1
    if path == "/dev/stderr":
        return 2
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)


_encode_json: Final = msgspec.json.Encoder().encode


def _json_line(entry: Entry, now_s: float) -> bytes:
    """*entry* by the names of Kong's log entries (`kong.log.serialize`), as far as it is known here."""
    method, _, rest = entry.request_line.decode("latin-1").partition(" ")
    uri = rest.rpartition(" ")[0]
    headers = {
        name: value.decode("latin-1")
        for name, value in (
            ("host", entry.host),
            ("user-agent", entry.user_agent),
            ("referer", entry.referer),
        )
        if value is not None
    }
    origin = f"{entry.scheme.decode()}://{headers['host']}" if "host" in headers else ""
    shown: dict[str, Any] = {
        "started_at": int(now_s * 1000) - entry.request_ms,
        "client_ip": entry.client.decode("latin-1"),
        "request": {
            "id": entry.request_id.decode("ascii"),
            "method": method,
            "uri": uri,
            "url": origin + uri if uri.startswith("/") else uri,
            "size": entry.bytes_in,
            "headers": headers,
        },
        "response": {"status": entry.status, "size": entry.bytes_out},
        "latencies": {
            "request": entry.request_ms,
            "kong": entry.gateway_ms,
            "proxy": entry.upstream_ms,
            "receive": max(0, entry.request_ms - entry.gateway_ms - entry.upstream_ms)
            if entry.upstream_ms >= 0
            else 0,
        },
        "source": "upstream" if entry.is_from_upstream else "kong",
        "upstream_status": str(entry.status) if entry.is_from_upstream else "",
    }
    if entry.route is not None:
        shown["route"] = {"id": entry.route[0], "name": entry.route[1]}
    if entry.service is not None:
        shown["service"] = {"id": entry.service[0], "name": entry.service[1]}
    return _encode_json(shown) + b"\n"
