"""Have the installed fastgw serve a request, with nothing but the standard library besides.

python -P tools/smoke.py

`fastgw quickstart --demo` takes a control plane, a data plane, every extension and a key pair; then it has to
end by itself on SIGINT. For wheels in environments where no test tools are.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

START_S: Final = 60.0
STOP_S: Final = 30.0
_NAMES: Final = ("proxy", "admin", "cluster", "status")


def main() -> int:
    """Run it; the exit code says whether it served."""
    fastgw = [sys.executable, "-P", "-m", "fastgw"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("FASTGW_", "KONG_"))}
    subprocess.run([*fastgw, "version", "--all"], env=environ, check=True, timeout=START_S)
    ports = _free_ports(len(_NAMES))
    options = [
        word for name, port in zip(_NAMES, ports, strict=True) for word in (f"--{name}-port", str(port))
    ]
    with tempfile.TemporaryDirectory(prefix="fastgw-smoke-") as state:
        log_path = Path(state, "log")
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*fastgw, "quickstart", "--demo", "-p", state, *options],
                cwd=state,
                stdout=log,
                stderr=log,
                env=environ,
            )
            try:
                why = _ask(f"http://127.0.0.1:{ports[0]}/demo", process)
                process.send_signal(signal.SIGINT)
                code = process.wait(STOP_S)
            finally:
                process.kill()
        if why is None and code == 0:
            print("a request was served")
            return 0
        sys.stderr.write(
            f"no request was served: {why}; exit code {code}\n{log_path.read_text(errors='replace')}"
        )
        return 1


def _ask(url: str, process: subprocess.Popen[bytes]) -> str | None:
    """Ask until the answer comes; None, or what came instead."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_S
    why = "not asked"
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with opener.open(url, timeout=5) as answer:
                answer.read()
                return None
        except (urllib.error.URLError, OSError) as error:
            why = str(error)
            time.sleep(0.05)
    return why


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


if __name__ == "__main__":
    sys.exit(main())
