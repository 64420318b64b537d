"""The states of both ends of a link, and every move they may make.

The control plane's end::

    GREETING ──hello──> IDLE ──begin──> SENDING ──sent──> AWAITING ──ack, nack──> IDLE

The data plane's end::

    GREETING ──welcome──> READY ──snapshot──> RECEIVING ──last chunk──> APPLYING ──verdict──> READY
                          READY ──delta────────────────────────────────> APPLYING

and from every state to CLOSED, by a Bye from either side, a broken rule, or silence. A pair that is not in a
table is a broken rule: by the peer if the input came from it (the link ends, saying so to the peer), by us
if it did not (LocalLinkError, and nothing changes).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class ControlState(Enum):
    GREETING = "greeting"
    """The data plane has not said Hello."""
    IDLE = "idle"
    """Nothing is on its way; a newer offer is sent at once."""
    SENDING = "sending"
    """A snapshot or a delta is being sent; newer offers overwrite each other until it is answered."""
    AWAITING = "awaiting"
    """It is whole on the wire; its Ack or Nack is due."""
    CLOSED = "closed"


class ControlInput(Enum):
    # from the data plane
    HELLO = "hello"
    ACK = "ack"
    NACK = "nack"
    PING = "ping"
    PEER_BYE = "peer_bye"
    # from here
    OFFER = "offer"
    BEGIN = "begin"
    SENT = "sent"
    CLOSE = "close"


class DataState(Enum):
    GREETING = "greeting"
    """Hello is sent; the Welcome is due."""
    READY = "ready"
    RECEIVING = "receiving"
    """Between a SnapshotBegin and its last chunk."""
    APPLYING = "applying"
    """A snapshot or a delta is here whole; our Ack or Nack is due."""
    CLOSED = "closed"


class DataInput(Enum):
    # from the control plane
    WELCOME = "welcome"
    SAME = "same"
    SNAPSHOT = "snapshot"
    DELTA = "delta"
    CHUNK = "chunk"
    LAST_CHUNK = "last_chunk"
    PONG = "pong"
    PEER_BYE = "peer_bye"
    # from here
    VERDICT = "verdict"
    PING = "ping"
    CLOSE = "close"


FROM_DATA_PLANE: Final = frozenset(
    {ControlInput.HELLO, ControlInput.ACK, ControlInput.NACK, ControlInput.PING, ControlInput.PEER_BYE}
)
FROM_CONTROL_PLANE: Final = frozenset(
    {
        DataInput.WELCOME,
        DataInput.SAME,
        DataInput.SNAPSHOT,
        DataInput.DELTA,
        DataInput.CHUNK,
        DataInput.LAST_CHUNK,
        DataInput.PONG,
        DataInput.PEER_BYE,
    }
)

_C, _CI = ControlState, ControlInput
CONTROL_MOVES: Final[Mapping[tuple[ControlState, ControlInput], ControlState]] = {
    (_C.GREETING, _CI.HELLO): _C.IDLE,
    (_C.GREETING, _CI.OFFER): _C.GREETING,
    (_C.GREETING, _CI.PEER_BYE): _C.CLOSED,
    (_C.GREETING, _CI.CLOSE): _C.CLOSED,
    (_C.IDLE, _CI.PING): _C.IDLE,
    (_C.IDLE, _CI.OFFER): _C.IDLE,
    (_C.IDLE, _CI.BEGIN): _C.SENDING,
    (_C.IDLE, _CI.PEER_BYE): _C.CLOSED,
    (_C.IDLE, _CI.CLOSE): _C.CLOSED,
    (_C.SENDING, _CI.PING): _C.SENDING,
    (_C.SENDING, _CI.OFFER): _C.SENDING,
    (_C.SENDING, _CI.SENT): _C.AWAITING,
    (_C.SENDING, _CI.PEER_BYE): _C.CLOSED,
    (_C.SENDING, _CI.CLOSE): _C.CLOSED,
    (_C.AWAITING, _CI.PING): _C.AWAITING,
    (_C.AWAITING, _CI.OFFER): _C.AWAITING,
    (_C.AWAITING, _CI.ACK): _C.IDLE,
    (_C.AWAITING, _CI.NACK): _C.IDLE,
    (_C.AWAITING, _CI.PEER_BYE): _C.CLOSED,
    (_C.AWAITING, _CI.CLOSE): _C.CLOSED,
}

_D, _DI = DataState, DataInput
DATA_MOVES: Final[Mapping[tuple[DataState, DataInput], DataState]] = {
    (_D.GREETING, _DI.WELCOME): _D.READY,
    (_D.GREETING, _DI.PEER_BYE): _D.CLOSED,
    (_D.GREETING, _DI.CLOSE): _D.CLOSED,
    (_D.READY, _DI.SAME): _D.READY,
    (_D.READY, _DI.SNAPSHOT): _D.RECEIVING,
    (_D.READY, _DI.DELTA): _D.APPLYING,
    (_D.READY, _DI.PONG): _D.READY,
    (_D.READY, _DI.PING): _D.READY,
    (_D.READY, _DI.PEER_BYE): _D.CLOSED,
    (_D.READY, _DI.CLOSE): _D.CLOSED,
    (_D.RECEIVING, _DI.CHUNK): _D.RECEIVING,
    (_D.RECEIVING, _DI.LAST_CHUNK): _D.APPLYING,
    (_D.RECEIVING, _DI.PONG): _D.RECEIVING,
    (_D.RECEIVING, _DI.PING): _D.RECEIVING,
    (_D.RECEIVING, _DI.PEER_BYE): _D.CLOSED,
    (_D.RECEIVING, _DI.CLOSE): _D.CLOSED,
    (_D.APPLYING, _DI.VERDICT): _D.READY,
    (_D.APPLYING, _DI.PONG): _D.APPLYING,
    (_D.APPLYING, _DI.PING): _D.APPLYING,
    (_D.APPLYING, _DI.PEER_BYE): _D.CLOSED,
    (_D.APPLYING, _DI.CLOSE): _D.CLOSED,
}
