"""What the supervisor and its workers ask of the kernel: descriptor limits, and dying together."""

from __future__ import annotations

import ctypes
import resource
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone.

    A parent that died before the call is not noticed: its end of the control channel is closed then.
    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
