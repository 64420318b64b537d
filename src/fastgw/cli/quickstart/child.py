"""The first step of a child: ask the kernel to end it with the quickstart, then become the command.

`python -m fastgw.cli.quickstart.child PARENT ARGUMENTS…`. Without this a quickstart that is killed outright
would leave both processes behind, and their ports taken. Source: prctl(2), PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

from fastgw.cli import main

_PR_SET_PDEATHSIG: Final = 1


def run() -> None:
    parent = int(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:
        sys.exit(1)  # the parent was gone before the kernel was asked
    main(sys.argv[2:], prog_name="fastgw")


if __name__ == "__main__":
    run()
