"""The states of a rollout, and every move it may make.

    OPEN ──written──> APPLYING ──applied──> HOLDING ──held──> PROMOTED
      ^                  │  ^                 │  │
      └─────undone───────┴──┼──────undone─────┘  │
                            └──────written───────┘

    APPLYING, HOLDING ──refused, late, lost, risen──> REVERTED
    OPEN, APPLYING, HOLDING ──promote──> PROMOTED, ──abort──> ABORTED;    OPEN ──expired──> ABORTED

There is no state between the decision to go back and being back: both are one transaction. A pair that is
not in the table is a fault of ours or comes too late; it raises and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from fastgw.errors import RolloutError


class RolloutState(Enum):
    OPEN = "open"
    """Nothing has been written yet that is not in the base."""
    APPLYING = "applying"
    """A version is on its way to the chosen data planes."""
    HOLDING = "holding"
    """All chosen data planes that are connected run it; it has to prove itself."""
    PROMOTED = "promoted"
    REVERTED = "reverted"
    ABORTED = "aborted"

    @property
    def is_over(self) -> bool:
        return self in _OVER


_OVER: Final = frozenset({RolloutState.PROMOTED, RolloutState.REVERTED, RolloutState.ABORTED})


class RolloutInput(Enum):
    # what is published
    WRITTEN = "written"
    """There is a newer version, which differs from the base."""
    UNDONE = "undone"
    """There is a newer version, and it holds what the base holds."""
    # what data planes do
    APPLIED = "applied"
    REFUSED = "refused"
    LATE = "late"
    LOST = "lost"
    RISEN = "risen"
    # time
    HELD = "held"
    EXPIRED = "expired"
    # a person
    PROMOTE = "promote"
    ABORT = "abort"


_S, _I = RolloutState, RolloutInput
ROLLOUT_MOVES: Final[Mapping[tuple[RolloutState, RolloutInput], RolloutState]] = {
    (_S.OPEN, _I.WRITTEN): _S.APPLYING,
    (_S.OPEN, _I.EXPIRED): _S.ABORTED,
    (_S.OPEN, _I.PROMOTE): _S.PROMOTED,
    (_S.OPEN, _I.ABORT): _S.ABORTED,
    (_S.APPLYING, _I.WRITTEN): _S.APPLYING,
    (_S.APPLYING, _I.UNDONE): _S.OPEN,
    (_S.APPLYING, _I.APPLIED): _S.HOLDING,
    (_S.APPLYING, _I.REFUSED): _S.REVERTED,
    (_S.APPLYING, _I.LATE): _S.REVERTED,
    (_S.APPLYING, _I.LOST): _S.REVERTED,
    (_S.APPLYING, _I.RISEN): _S.REVERTED,
    (_S.APPLYING, _I.PROMOTE): _S.PROMOTED,
    (_S.APPLYING, _I.ABORT): _S.ABORTED,
    (_S.HOLDING, _I.WRITTEN): _S.APPLYING,
    (_S.HOLDING, _I.UNDONE): _S.OPEN,
    (_S.HOLDING, _I.HELD): _S.PROMOTED,
    (_S.HOLDING, _I.REFUSED): _S.REVERTED,
    (_S.HOLDING, _I.LATE): _S.REVERTED,
    (_S.HOLDING, _I.LOST): _S.REVERTED,
    (_S.HOLDING, _I.RISEN): _S.REVERTED,
    (_S.HOLDING, _I.PROMOTE): _S.PROMOTED,
    (_S.HOLDING, _I.ABORT): _S.ABORTED,
}


def next_state(state: RolloutState, signal: RolloutInput) -> RolloutState:
    """The state that follows.

    Raises:
        RolloutError: there is no such move.
    """
    target = ROLLOUT_MOVES.get((state, signal))
    if target is None:
        raise RolloutError(f"a rollout that is {state.value} takes no '{signal.value}'")
    return target
