"""The verbs of `docker compose` that docker/README.md uses, over `Container`s.

Order and waiting are those of compose: a service starts when what it depends on has started, is healthy, or has
ended well, as the file says; `--wait` returns when everything that was asked for is healthy.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.image.base import Image, ImageTestFailed
from tests.image.composition import Port, Service
from tests.image.container import PREFIX, Container
from tests.waiting import wait_until

HEALTHY_S: Final = 60.0
JOB_S: Final = 60.0


class Engine:
    """The composition and the containers that run of it."""

    def __init__(self, services: Mapping[str, Service], images: Mapping[str, Image], state: Path) -> None:
        self.services: Final = services
        self.containers: Final[dict[str, Container]] = {}
        self.stop_times_s: Final[dict[str, float]] = {}
        self._images = images
        self._state = state
        self._numbers = {name: 10 + place for place, name in enumerate(services)}
        self._runs = 0
        self._doors: list[Door] = []
        self._verbs: Mapping[str, Callable[[Sequence[str]], str]] = {
            "up": self._up,
            "ps": self._ps,
            "kill": self._kill,
            "stop": self._stop,
            "run": self._run,
            "down": self._down,
        }

    def compose(self, line: str) -> str:
        """Run one `docker compose` command; return what it prints."""
        words = shlex.split(line)
        if words[:4] != ["docker", "compose", "-f", "docker/compose.yaml"]:
            raise ImageTestFailed(f"not a command that this test knows: {line}")
        return self._verbs[words[4]](words[5:])

    def close(self) -> None:
        """End and remove everything."""
        for door in self._doors:
            door.close()
        self._doors.clear()
        for container in self.containers.values():
            container.remove()
        self.containers.clear()

    def address(self, name: str) -> str:
        return f"{PREFIX}.{self._numbers[name]}"

    def open_doors(self) -> None:
        """Publish the ports of all services on this side, as the file says."""
        self._doors += [
            Door(port, self.address(name))
            for name, service in self.services.items()
            for port in service.ports
        ]

    def _up(self, words: Sequence[str]) -> str:
        parser = argparse.ArgumentParser()
        for flag in ("-d", "--build", "--wait", "--no-deps", "--force-recreate"):
            parser.add_argument(flag, action="store_true")
        parser.add_argument("services", nargs="*")
        given = parser.parse_args(words)
        wanted = given.services or list(self.services)
        for name in wanted if given.no_deps else self._ordered(wanted):
            self._bring_up(name, anew=given.force_recreate and name in wanted)
        for name in wanted:
            if not self.services[name].is_job:
                self._wait_healthy(name)
        return ""

    def _bring_up(self, name: str, *, anew: bool) -> None:
        current = self.containers.get(name)
        if current is not None and current.is_running and not anew:
            return
        for other, condition in self.services[name].depends_on.items():
            if (
                other in self.containers
                and condition == "service_healthy"
                and self.containers[other].is_running
            ):
                self._wait_healthy(other)
        if current is not None:
            if current.is_running:
                current.stop()
            current.remove()
        self.containers[name] = self._make(name)
        self.containers[name].start()
        if self.services[name].is_job:
            self._wait_ended_well(self.containers[name])

    def _ordered(self, wanted: Sequence[str]) -> list[str]:
        order: list[str] = []

        def visit(name: str) -> None:
            for other in self.services[name].depends_on:
                visit(other)
            if name not in order:
                order.append(name)

        for name in wanted:
            visit(name)
        return order

    def _ps(self, _words: Sequence[str]) -> str:
        return "\n".join(
            f"{name} {'running' if container.is_running else 'exited'}"
            for name, container in self.containers.items()
        )

    def _kill(self, words: Sequence[str]) -> str:
        for name in words:
            self.containers[name].send(signal.SIGKILL)
            self.containers[name].wait(JOB_S)
        return ""

    def _stop(self, words: Sequence[str]) -> str:
        for name in words:
            self.stop_times_s[name] = self.containers[name].stop()
        return ""

    def _run(self, words: Sequence[str]) -> str:
        if words[0] != "--rm":
            raise ImageTestFailed(f"run without --rm: {words}")
        name, *command = words[1:]
        self._runs += 1
        container = self._make(name, number=100 + self._runs, command=command or None)
        try:
            container.start()
            self._wait_ended_well(container)
            return container.log
        finally:
            container.remove()

    def _down(self, _words: Sequence[str]) -> str:
        for name in reversed(self._ordered(list(self.containers))):
            if self.containers[name].is_running:
                self.stop_times_s[name] = self.containers[name].stop()
        self.close()
        return ""

    def _make(
        self, name: str, *, number: int | None = None, command: Sequence[str] | None = None
    ) -> Container:
        service = self.services[name]
        return Container(
            service,
            self._images[service.image],
            number=number or self._numbers[name],
            hosts={other: self.address(other) for other in self.services},
            volumes=self._state / "volumes",
            state=self._state,
            command=command,
            name=name if number is None else f"{name}-{number}",
        )

    def _wait_healthy(self, name: str) -> None:
        wait_until(self.containers[name].is_healthy, HEALTHY_S, f"{name} is healthy")

    @staticmethod
    def _wait_ended_well(container: Container) -> None:
        code = container.wait(JOB_S)
        if code:
            raise ImageTestFailed(f"{container.name} ended with {code}:\n{container.log}")


class Door:
    """A published port: what connects to it outside is led to the container, as an engine's proxy does."""

    def __init__(self, port: Port, address: str) -> None:
        self._target = (address, port.inside)
        self._listener = socket.create_server((port.host, port.outside), reuse_port=False)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        # shutdown wakes the thread that waits in accept; close alone does not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(client,), daemon=True).start()

    def _lead(self, client: socket.socket) -> None:
        with client:
            try:
                target = socket.create_connection(self._target, timeout=5)
            except OSError:
                return
            with target:
                target.settimeout(None)
                back = threading.Thread(target=_copy, args=(target, client), daemon=True)
                back.start()
                _copy(client, target)
                back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
