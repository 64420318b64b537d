"""The states of both ends of a link that speaks Kong's protocol, and every move they may make.

The control plane's end::

    GREETING ──basic_info──> LINKED ──push──> PUSHING ──pushed──> LINKED

The data plane's end, which has said all it has to say before the first answer::

    LINKED

and from every state to CLOSED, by a close frame, a broken rule, or silence. There is no state of waiting for
a verdict, since there are no verdicts. A pair that is not in a table is a broken rule: by the peer if the
input came from it (the link ends), by us if it did not (LocalLinkError, and nothing changes).

Source: kong/clustering/{control_plane,data_plane}.lua, 3.9.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class KongControlState(Enum):
    GREETING = "greeting"
    """The data plane has not sent its basic_info."""
    LINKED = "linked"
    PUSHING = "pushing"
    """A push is being written; PONGs wait for its end."""
    CLOSED = "closed"


class KongControlInput(Enum):
    # from the data plane
    BASIC_INFO = "basic_info"
    PING = "ping"
    REPORT = "report"
    PEER_CLOSE = "peer_close"
    # from here
    OFFER = "offer"
    PUSH = "push"
    PUSHED = "pushed"
    CLOSE = "close"


class KongDataState(Enum):
    LINKED = "linked"
    CLOSED = "closed"


class KongDataInput(Enum):
    # from the control plane
    PUSH = "push"
    PONG = "pong"
    IGNORED = "ignored"
    PEER_CLOSE = "peer_close"
    # from here
    PING = "ping"
    CLOSE = "close"


FROM_DATA_PLANE: Final = frozenset(
    {
        KongControlInput.BASIC_INFO,
        KongControlInput.PING,
        KongControlInput.REPORT,
        KongControlInput.PEER_CLOSE,
    }
)
FROM_CONTROL_PLANE: Final = frozenset(
    {KongDataInput.PUSH, KongDataInput.PONG, KongDataInput.IGNORED, KongDataInput.PEER_CLOSE}
)

_C, _CI = KongControlState, KongControlInput
CONTROL_MOVES: Final[Mapping[tuple[KongControlState, KongControlInput], KongControlState]] = {
    (_C.GREETING, _CI.BASIC_INFO): _C.LINKED,
    (_C.GREETING, _CI.OFFER): _C.GREETING,
    (_C.GREETING, _CI.PEER_CLOSE): _C.CLOSED,
    (_C.GREETING, _CI.CLOSE): _C.CLOSED,
    (_C.LINKED, _CI.PING): _C.LINKED,
    (_C.LINKED, _CI.REPORT): _C.LINKED,
    (_C.LINKED, _CI.OFFER): _C.LINKED,
    (_C.LINKED, _CI.PUSH): _C.PUSHING,
    (_C.LINKED, _CI.PEER_CLOSE): _C.CLOSED,
    (_C.LINKED, _CI.CLOSE): _C.CLOSED,
    (_C.PUSHING, _CI.PING): _C.PUSHING,
    (_C.PUSHING, _CI.REPORT): _C.PUSHING,
    (_C.PUSHING, _CI.OFFER): _C.PUSHING,
    (_C.PUSHING, _CI.PUSHED): _C.LINKED,
    (_C.PUSHING, _CI.PEER_CLOSE): _C.CLOSED,
    (_C.PUSHING, _CI.CLOSE): _C.CLOSED,
}

_D, _DI = KongDataState, KongDataInput
DATA_MOVES: Final[Mapping[tuple[KongDataState, KongDataInput], KongDataState]] = {
    (_D.LINKED, _DI.PUSH): _D.LINKED,
    (_D.LINKED, _DI.PONG): _D.LINKED,
    (_D.LINKED, _DI.IGNORED): _D.LINKED,
    (_D.LINKED, _DI.PING): _D.LINKED,
    (_D.LINKED, _DI.PEER_CLOSE): _D.CLOSED,
    (_D.LINKED, _DI.CLOSE): _D.CLOSED,
}
