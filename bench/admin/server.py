"""An Admin API in a process of its own, so that what asks it does not share its interpreter.

    python -m bench.admin.server PREFIX [NAME=VALUE ...]

Says its port in one line and serves until its standard input ends.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.cp.admin.server import AdminServer


class ServerProcess:
    """Serves between `with` and its end."""

    def __init__(self, prefix: Path, flags: dict[str, str]) -> None:
        properties = [f"{name}={value}" for name, value in flags.items()]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.admin.server", str(prefix), *properties],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the Admin API did not start")
        self.port = int(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)


def main() -> None:
    prefix, *properties = sys.argv[1:]
    flags = dict(item.split("=", 1) for item in properties)
    with AdminServer(Path(prefix), **flags) as server:
        print(server.port, flush=True)  # noqa: T201
        sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
