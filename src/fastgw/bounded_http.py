"""A connection to one of our uvicorn servers, with the bounds that uvicorn leaves to whoever is before it.

Contract. A head has 64 KiB, 200 fields and 10 s from its first byte (a new connection has those 10 s to begin
with one); trailers, and the framing between two pieces of a body, have 64 KiB; what is still to come of a
body when it was answered has 5 s; an answer of which nothing is taken for 30 s is given up; a server has 512
connections. What goes beyond is answered in one line where that can be, and the connection ends. Idle
connections are closed by uvicorn itself; bodies are bounded by who reads them. Not bounded here are TLS
handshakes: the event loop gives them 60 s, uvicorn passes no other time on to it, and tells of a connection
only after its handshake.

The one complication: the parser tells of a field when all of it has come, so heads and trailers are also
counted as they come, in whole reads: one that is too long may be told apart a read later, never earlier.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_BYTES: Final = 65536
FIELDS_LIMIT: Final = 200
HEAD_DEADLINE_S: Final = 10.0
LEFTOVER_DEADLINE_S: Final = 5.0
TAKING_DEADLINE_S: Final = 30.0
CONNECTIONS_LIMIT: Final = 512

_TOO_LARGE: Final = "Request head is too large"
_TRAILERS_TOO_LARGE: Final = "Request trailers are too large"
_TOO_SLOW: Final = f"Request head did not arrive within {HEAD_DEADLINE_S:.0f} seconds"
_TOO_MANY: Final = "Too many connections"


class _HeadTooLarge(httptools.HttpParserError):
    """Raised through the parser, which passes it on inside an error of its own."""


class BoundedProtocol(HttpToolsProtocol):
    """For `uvicorn.Config(http=...)`."""

    head_deadline_s = HEAD_DEADLINE_S
    leftover_deadline_s = LEFTOVER_DEADLINE_S
    taking_deadline_s = TAKING_DEADLINE_S
    connections_limit = CONNECTIONS_LIMIT

    _timer: asyncio.TimerHandle | None = None
    """Of a head while it comes, and of a body whose answer has gone."""
    _taking: asyncio.TimerHandle | None = None
    """Looks whether anything is taken of what waits to be sent."""
    _is_in_head = True
    _head_bytes = 0
    """Of a head so far; of a body what came since its last piece: framing and trailers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in the base
        super().connection_made(transport)
        self._watch_taking()
        if len(self.connections) > self.connections_limit:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, _TOO_MANY)
        else:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_watching()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing() or self._head_bytes == 0:
            return
        if self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_size()
        elif self._is_in_head and self._timer is None:
            self._wait_for_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > FIELDS_LIMIT:
            raise _HeadTooLarge

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_LIMIT_BYTES:
            raise _HeadTooLarge
        self._is_in_head, self._head_bytes = False, 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head, self._head_bytes = True, 0
        self._stop_timer()
        super().on_message_complete()
        if (
            self.cycle.response_complete
        ):  # uvicorn waited for the next one already, and gave up at this one's body
            self._wait_for_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        is_of_last = self.cycle.response_complete  # and not of one before it, in a pipeline
        if is_of_last and not self._is_in_head and not self.transport.is_closing():
            self._stop_timer()
            self._timer = self.loop.call_later(self.leftover_deadline_s, self.transport.close)
        self._watch_taking()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch_taking()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's answer to what is no HTTP, in our form; or what we raised through the parser."""
        if len(self.headers or ()) > FIELDS_LIMIT or self._head_bytes > HEAD_LIMIT_BYTES:
            self._refuse_size()
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(self.head_deadline_s, self._on_late_head)

    def _on_late_head(self) -> None:
        self._timer = None
        if self._head_bytes:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, _TOO_SLOW)
        else:
            self.transport.close()

    def _watch_taking(self) -> None:
        """Look from now on, as long as the connection lasts; anew when something was taken, or added.

        What is left of an answer may be too little to pause writing, and `close` waits for it without end.
        TLS shows a part of what waits only, so its closing is given one deadline whatever it shows.
        """
        self._stop_watching()
        if self not in self.connections:  # lost, while an answer to it was made
            return
        waiting, was_closing = self.transport.get_write_buffer_size(), self.transport.is_closing()

        def look() -> None:
            if (waiting or was_closing) and self.transport.get_write_buffer_size() >= waiting:
                self.transport.abort()
            else:
                self._watch_taking()

        self._taking = self.loop.call_later(self.taking_deadline_s, look)

    def _stop_watching(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse_size(self) -> None:
        text = _TOO_LARGE if self._is_in_head else _TRAILERS_TOO_LARGE
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text)

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer in place of the application and end the connection; behind an answer in progress: end it."""
        self._stop_timer()
        if self._is_in_head:
            is_free = self.cycle is None or self.cycle.response_complete
        else:
            is_free = not self.pipeline and not self.cycle.response_started
            self.cycle.disconnected = True  # what the application sends from now on goes nowhere
        if is_free:
            body = json.dumps({"message": text}).encode()
            head = (
                f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                "content-type: application/json; charset=utf-8\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
