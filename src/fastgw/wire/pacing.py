"""When to dial again, so that a fleet comes back neither late nor all at once.

A data plane draws its delay anew for each try, uniformly from zero up to a ceiling that doubles with each
failure, and starts from the bottom again only after `HEALTHY_AFTER_S` of an unbroken link. Two things hold
the ceiling:

- The *spread* that the control plane announced in its last Welcome. It lets in `ADMITTED_PER_SECOND`
  handshakes, so a fleet of n needs n / 25 seconds; the ceiling is never below that.
- A *cap*. A single data plane promises to be connected within 12 s of the port accepting. The worst case is
  a try that dies just before: a whole delay passes, and before it the dying try itself (`CONNECT_TIMEOUT_S`,
  when the address swallows packets). 5 + 6 leaves a second for the handshake, hence `SHORT_CAP_S`. Up to 150
  data planes fit into 6 s at 25 per second, so they are announced a spread of 0; a larger fleet gives up the
  promise for the longer cap.

Where a data plane knows several control planes, one that fails is followed by the next within `SWITCH_S`: the
delay above is for a whole round that failed. One that is linked elsewhere than at its first goes back after
minutes (`return_delay`), so that a fleet spreads again, and not all at once.

Source: the usual exponential back-off with full jitter.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

ADMITTED_PER_SECOND: Final = 25
HEALTHY_AFTER_S: Final = 60.0
CONNECT_TIMEOUT_S: Final = 5.0
SHORT_CAP_S: Final = 6.0
LONG_CAP_S: Final = 30.0
RETRY_CAP_S: Final = 15.0
"""What a data plane could not take for the moment is sent again after so long at most."""
SWITCH_S: Final = 0.5
"""From one control plane that failed to the next, at most."""
RETURN_CAP_S: Final = 3600.0
_FIRST_CEILING_S: Final = 1.0
_DOUBLINGS_LIMIT: Final = 16


def next_delay(failures: int, spread_s: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds to wait before the next try.

    Args:
        failures: tries that failed since the last healthy link, not counting the break itself.
        spread_s: as announced by the control plane; 0 before any did.
        draw: gives a number from 0 up to 1.
    """
    cap = LONG_CAP_S if spread_s > 0 else SHORT_CAP_S
    backed_off: float = min(cap, _FIRST_CEILING_S * 2.0 ** min(failures, _DOUBLINGS_LIMIT))
    return draw() * max(spread_s, backed_off)


def retry_delay(failures: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds until a data plane is sent again what it could not take for the moment.

    Args:
        failures: that came before this one, in a row.
    """
    ceiling_s: float = min(RETRY_CAP_S, _FIRST_CEILING_S * 2.0 ** min(failures, _DOUBLINGS_LIMIT))
    return ceiling_s * (0.5 + draw() / 2)


def switch_delay(draw: Callable[[], float] = random.random) -> float:
    """Seconds until the next control plane is tried after another one failed."""
    return SWITCH_S * draw()


def return_delay(failures: int, first_s: float, draw: Callable[[], float] = random.random) -> float:
    """Seconds until a data plane that is linked elsewhere looks for a control plane that comes before.

    Args:
        failures: looks in vain, or returns that did not last, in a row.
        first_s: around which the first is; each that follows is twice as far, up to an hour.
    """
    ceiling_s: float = max(first_s, min(RETURN_CAP_S, first_s * 2.0 ** min(failures, _DOUBLINGS_LIMIT)))
    return ceiling_s * (0.5 + draw())


def spread_for(data_planes: int) -> float:
    """The spread in seconds that a control plane announces while so many data planes are its own."""
    needed_s = data_planes / ADMITTED_PER_SECOND
    return needed_s if needed_s > SHORT_CAP_S else 0.0
