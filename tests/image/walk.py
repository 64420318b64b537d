"""The walk through docker/README.md, command by command, and what the page and the image promise besides."""

from __future__ import annotations

import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.image.base import ROOT, Image, ImageTestFailed, run
from tests.image.engine import Engine
from tests.waiting import wait_until

README: Final = ROOT / "docker" / "README.md"
OWN_LAYERS_LIMIT_BYTES: Final = 60_000_000
KONG_PORTS: Final = frozenset({"8000/tcp", "8443/tcp", "8001/tcp", "8444/tcp", "8005/tcp", "8007/tcp"})
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
_LOAD_CLIENTS: Final = 8


def commands_of(page: Path) -> list[str]:
    """The commands of the page's `sh` blocks, each on one line."""
    blocks = _BLOCK.findall(page.read_text("utf-8"))
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def check_image(image: Image, base: Image) -> None:
    """Hold the image to what docker/README.md says about it."""
    own_bytes = image.size_bytes - base.size_bytes
    _expect(own_bytes <= OWN_LAYERS_LIMIT_BYTES, f"own layers of {own_bytes / 1e6:.0f} MB, not above 60 MB")
    _expect(image.user == "1000:1000", "not root")
    _expect(image.ports == KONG_PORTS, "Kong's ports are exposed")
    _expect(image.health == ("fastgw", "health"), "health is asked without a shell")
    _expect(image.command == ("kong", "docker-start"), "Kong's command starts it")
    _expect(image.labels["org.opencontainers.image.title"] == "fastgw", "it is labelled")


class Walk:
    """The commands of the page in order; after some of them the promises that belong there are checked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._after: Mapping[str, Callable[[], None]] = {
            "up -d --build --wait": self._after_up,
            "/hello/second": self._under_load,
            "kill control-plane": self._without_control_plane,
            "stop data-plane-2": self._after_stop,
        }

    def run(self, tell: Callable[[str], None]) -> None:
        """Run all; *tell* hears each command and its seconds."""
        commands = commands_of(README)
        left = dict(self._after)
        for command in commands:
            begun = time.monotonic()
            self._run_one(command)
            tell(f"{time.monotonic() - begun:6.2f} s  {command}")
            for ending in [ending for ending in left if command.endswith(ending)]:
                left.pop(ending)()
        if left:
            raise ImageTestFailed(f"the page has no commands that end with {', '.join(left)}")

    def _run_one(self, command: str) -> None:
        if command.startswith("docker "):
            self._engine.compose(command)
        else:
            run("sh", "-c", command, deadline_s=60)

    def _after_up(self) -> None:
        """One writable directory, no privileges, and orphans that somebody buries."""
        engine = self._engine
        for name in ("control-plane", "data-plane-1"):
            container = engine.containers[name]
            for path, writable in (
                ("/var/lib/fastgw/probe", True),
                ("/opt/probe", False),
                ("/etc/probe", False),
            ):
                done = container.exec(["touch", path])
                _expect(
                    (done.returncode == 0) == writable,
                    f"{name}: {path} is {'' if writable else 'not '}writable",
                )
            status = Path(f"/proc/{container.pid}/status").read_text()
            _expect(
                "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status,
                f"{name} has no privilege",
            )
            first = Path(f"/proc/{container.pid}/cmdline").read_bytes()
            _expect(first.startswith(b"/opt/fastgw/libexec/tini"), f"{name}: tini is process 1")
        container = engine.containers["data-plane-1"]
        # The child of a shell that is gone belongs to process 1.
        container.exec(["sh", "-c", "sleep 0.2 & exit 0"])
        wait_until(
            lambda: "Z" not in container.processes().values() and len(container.processes()) <= 8,
            10,
            "the orphan is buried",
        )
        for words, said in (
            (["kong", "version"], "fastgw"),
            (["kong", "health"], "the data plane is well"),
            (["fastgw", "version"], "fastgw"),
        ):
            done = container.exec(words)
            _expect(done.returncode == 0 and said in done.stdout, f"{' '.join(words)} says {said!r}: {done}")

    def _without_control_plane(self) -> None:
        _expect(not self._engine.containers["control-plane"].is_running, "the control plane is gone")

    def _after_stop(self) -> None:
        took_s = self._engine.stop_times_s["data-plane-2"]
        grace_s = self._engine.services["data-plane-2"].stop_grace_s
        _expect(took_s < grace_s / 2, f"data-plane-2 stopped within {took_s:.2f} s")

    def _under_load(self) -> None:
        """SIGTERM under load: no request that reached it fails, and it ends within the grace period.

        Clients keep their connections. A connection that is refused is another data plane's, as with every
        balancer; one that was accepted must be answered.
        """
        container = self._engine.containers["data-plane-2"]
        load = Load([(self._engine.address(name), 8000) for name in ("data-plane-2", "data-plane-1")])
        load.start()
        wait_until(lambda: load.answered > 500, 30, "the load runs")
        begun = time.monotonic()
        container.send(signal.SIGTERM)
        code = container.wait(container.service.stop_grace_s)
        took_s = time.monotonic() - begun
        before = load.answered
        wait_until(lambda: load.answered > before + 200, 30, "the other data plane has taken over")
        load.stop()
        _expect(
            code == 0 and took_s < container.service.stop_grace_s, f"exit code {code} after {took_s:.2f} s"
        )
        _expect(not load.failures, f"no request failed of {load.answered}: {load.failures[:5]}")
        self._engine.compose("docker compose -f docker/compose.yaml up -d --wait data-plane-2")


class Load:
    """Clients with keep-alive connections that go on to the next address when one refuses them."""

    def __init__(self, addresses: list[tuple[str, int]]) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._addresses = addresses
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(_LOAD_CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            sock = self._connect()
            if sock is None:
                self.failures.append("nobody accepts")
                return
            with sock:
                while not self._stop.is_set() and self._ask(sock):
                    pass

    def _connect(self) -> socket.socket | None:
        for address in self._addresses:
            try:
                return socket.create_connection(address, timeout=10)
            except ConnectionRefusedError:
                continue
        return None

    def _ask(self, sock: socket.socket) -> bool:
        """Ask once; say whether the connection serves another request."""
        try:
            sock.sendall(b"GET /hello/load HTTP/1.1\r\nHost: gateway.example\r\n\r\n")
            received = b""
            while b"\r\n\r\n" not in received:
                data = sock.recv(65536)
                if not data:
                    raise OSError("closed before an answer")
                received += data
            head, _, body = received.partition(b"\r\n\r\n")
            found = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
            length = int(found[1]) if found else 0
            while len(body) < length:
                data = sock.recv(65536)
                if not data:
                    raise OSError("closed within an answer")
                body += data
        except OSError as error:
            self.failures.append(str(error) or type(error).__name__)
            return False
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            self.failures.append(head.split(b"\r\n", 1)[0].decode())
        self.answered += 1
        return b"connection: close" not in head.lower()


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ImageTestFailed(f"does not hold: {what}")
