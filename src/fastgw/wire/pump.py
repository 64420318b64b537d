"""Between a link and bytes: the websocket around the messages.

Contract. `feed` takes bytes as they arrive and gives back handshake messages and whole link messages; `flush`
writes what the link has to send, as long as the transport takes more. No I/O happens here: *write* is given,
and so is the moment for everything.

Messages are single binary frames. Anything else that carries data (text, fragments) is a broken rule; control
frames are answered by websockets' core and are not messages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from fastgw.errors import RemoteLinkError
from fastgw.wire.link import ControlLink, DataLink
from fastgw.wire.messages import LINK_PATH, MESSAGE_LIMIT_BYTES, SUBPROTOCOL

# Its lines about each opened and closed connection would stand beside ours, which say why.
_websockets_log: Final = logging.getLogger("fastgw.websockets")
_websockets_log.setLevel(logging.ERROR)

_REASON_FIELD: Final = "X-Fastgw-Reason"
_REASON_LIMIT: Final = 500


def make_server_connection() -> ServerProtocol:
    """A websocket connection as the control plane accepts it: our subprotocol, no extension."""
    return ServerProtocol(
        subprotocols=[Subprotocol(SUBPROTOCOL)], max_size=MESSAGE_LIMIT_BYTES, logger=_websockets_log
    )


def make_client_connection(authority: str, path: str = LINK_PATH) -> ClientProtocol:
    """A websocket connection as the data plane asks for it; *authority* is `host:port`."""
    return ClientProtocol(
        parse_uri(f"wss://{authority}{path}"),
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        max_size=MESSAGE_LIMIT_BYTES,
        logger=_websockets_log,
    )


def refusal(status: bytes, reason: str) -> bytes:
    """An answer in place of an upgrade, which may be sent without having read a request."""
    # It may repeat a name out of a certificate: nothing of that may end the field.
    printable = "".join(character if character.isprintable() else "?" for character in reason)
    told = printable.encode("ascii", "replace")[:_REASON_LIMIT]
    return b"HTTP/1.1 %s\r\nConnection: close\r\n%s: %s\r\nContent-Length: 0\r\n\r\n" % (
        status,
        _REASON_FIELD.encode(),
        told,
    )


def explain_refusal(error: Exception) -> str:
    """Say why no websocket was opened, in the control plane's words if it has given some."""
    if isinstance(error, InvalidStatus):
        reason = error.response.headers.get(_REASON_FIELD)
        if reason:
            return f"the control plane answered {error.response.status_code}: {reason[:_REASON_LIMIT]}"
    return str(error)


class Pump:
    """One websocket connection and, once there is one, the link on it."""

    def __init__(self, connection: ServerProtocol | ClientProtocol, write: Callable[[bytes], None]) -> None:
        self.connection = connection
        self.link: ControlLink | DataLink | None = None
        self.is_paused = False
        """Set while the transport takes no more."""
        self._write = write

    def open(self) -> None:
        """Ask the control plane for the websocket."""
        assert isinstance(self.connection, ClientProtocol)
        self.connection.send_request(self.connection.connect())
        self._write_frames()

    def feed(self, data: bytes) -> list[Request | Response | bytes]:
        """Take bytes from the peer; what comes back is in order.

        Raises:
            RemoteLinkError: these bytes are no websocket, or not one of ours.
        """
        self.connection.receive_data(data)
        found: list[Request | Response | bytes] = []
        for event in self.connection.events_received():
            if not isinstance(event, Frame):
                found.append(event)
            elif event.opcode is Opcode.BINARY and event.fin:
                found.append(bytes(event.data))
            elif event.opcode in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
                raise RemoteLinkError(
                    "the peer sent text or fragments where only whole binary messages belong"
                )
        self._write_frames()
        if self.connection.handshake_exc is not None:
            raise RemoteLinkError(
                f"no websocket was opened: {explain_refusal(self.connection.handshake_exc)}"
            )
        if self.connection.parser_exc is not None:
            raise RemoteLinkError(f"the peer's websocket is broken: {self.connection.parser_exc}")
        return found

    def flush(self) -> None:
        """Write what is due until the transport takes no more."""
        while self.link is not None and not self.is_paused and self.connection.state is State.OPEN:
            message = self.link.next_message()
            if message is None:
                break
            self.connection.send_binary(message)
            self._write_frames()

    def finish(self) -> None:
        """Write what the ended link still has to say, and the websocket's own goodbye."""
        self.flush()
        if self.connection.state is State.OPEN:
            self.connection.send_close(CloseCode.NORMAL_CLOSURE)
        self._write_frames()

    def _write_frames(self) -> None:
        for piece in self.connection.data_to_send():
            # An empty piece asks for a half-close, which TLS does not have; the transport is closed instead.
            if piece:
                self._write(piece)
