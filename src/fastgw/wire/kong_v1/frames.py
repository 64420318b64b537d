"""Websocket frames as Kong's nodes take and send them.

Contract. Every message is one whole frame without extensions: a fragment, a reserved bit, a frame that is
masked where it must not be (or the reverse), or one above the limit ends the connection, in both roles.
Nothing is answered here: a PING of a data plane is the business of the link, which answers it with an empty
PONG.

The one complication is that the library's connection answers every PING itself, with its payload; so only
its codec of frames is used, one generator per frame.

Source: clustering of Kong 3.9.1, lua-resty-websocket; RFC 6455 §5.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final, NamedTuple

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from fastgw.errors import RemoteLinkError

__all__ = ["FrameReader", "KongFrame", "Opcode", "encode_frame"]

_DATA: Final = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


class KongFrame(NamedTuple):
    opcode: Opcode
    payload: bytes


class FrameReader:
    """Cuts the bytes of one peer into frames.

    Args:
        is_masked: what the peer sends is masked, as a client's is.
        limit_bytes: the largest payload that is taken.
    """

    def __init__(self, *, is_masked: bool, limit_bytes: int) -> None:
        self._is_masked = is_masked
        self._limit_bytes = limit_bytes
        self._stream = StreamReader()
        self._parser = self._parse()

    def feed(self, data: bytes) -> list[KongFrame]:
        """Take bytes; give back the frames that are whole now.

        Raises:
            RemoteLinkError: these are no frames of a Kong node; the connection cannot go on, nor this reader.
        """
        self._stream.feed_data(data)
        frames: list[KongFrame] = []
        while True:
            try:
                next(self._parser)
                return frames
            except StopIteration as found:
                frame: Frame = found.value
                frames.append(self._checked(frame))
                self._parser = self._parse()
            except PayloadTooBig as exc:
                raise RemoteLinkError(f"exceeding max payload len: {exc}") from exc
            except ProtocolError as exc:
                raise RemoteLinkError(f"the peer's websocket is broken: {exc}") from exc

    def _parse(self) -> Generator[None, None, Frame]:
        return Frame.parse(self._stream.read_exact, mask=self._is_masked, max_size=self._limit_bytes)

    def _checked(self, frame: Frame) -> KongFrame:
        if frame.opcode is Opcode.CONT or (frame.opcode in _DATA and not frame.fin):
            raise RemoteLinkError("the peer sent a fragment where only whole messages belong")
        return KongFrame(frame.opcode, bytes(frame.data))


def encode_frame(opcode: Opcode, payload: bytes = b"", *, is_masked: bool) -> bytes:
    """One whole frame; a data plane masks its own, a control plane does not."""
    return Frame(opcode, payload).serialize(mask=is_masked)
