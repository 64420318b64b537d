"""Large configurations in memory without Python looking through them for cycles.

Rows make none. The collector looks all the same whenever many objects are made: among 100,000 rows that holds
the event loop for most of a second each time, and doubles what an import costs.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_pauses = 0


@contextmanager
def no_collection() -> Iterator[None]:
    """Collect nothing inside; may be nested, and held by several tasks at once.

    What makes cycles meanwhile is collected afterwards, so hold it for seconds, not for ever.
    """
    global _pauses
    if _pauses == 0 and not gc.isenabled():
        # Somebody has decided so for the whole process.
        yield
        return
    _pauses += 1
    gc.disable()
    try:
        yield
    finally:
        _pauses -= 1
        if _pauses == 0:
            gc.enable()
