"""The processes of scenarios, each with what tests ask of it: httpbin, `fastgw cp`, `fastgw dp`."""

from __future__ import annotations

import http.client
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from tests.cli.running import SOURCE_ROOT
from tests.scenario.process import HOST, SERVED_S, START_S, Place, Process

_ROOT: Final = Path(__file__).parent.parent.parent


class Upstream(Process):
    """httpbin; it knows no end in good order."""

    end_signal = signal.SIGKILL

    def __init__(self, place: Place) -> None:
        # What other packages are warned of is not ours to fix.
        paths = {"PYTHONPATH": f"{_ROOT}{os.pathsep}{SOURCE_ROOT}", "PYTHONWARNINGS": ""}
        super().__init__(place, "httpbin", [sys.executable, "-m", "tests.scenario.upstream"], paths)

    def wait_port(self) -> int:
        found = self.wait_for(lambda: re.search(r"listens on (\d+)", self.output), START_S, "its port")
        assert found is not None
        return int(found[1])


class Node(Process):
    """A process that answers HTTP when it is ready."""

    def __init__(
        self,
        place: Place,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None,
        *,
        ready: tuple[int, str],
    ) -> None:
        super().__init__(place, name, command, environ)
        self._ready = ready

    def wait_ready(self, deadline_s: float = START_S) -> None:
        port, path = self._ready
        self.wait_for(lambda: _answers(port, path), deadline_s, f"200 for http://{HOST}:{port}{path}")


class ControlPlane(Node):
    """`fastgw cp`."""

    def __init__(
        self,
        place: Place,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        admin_port: int,
        cluster_port: int,
    ) -> None:
        super().__init__(place, name, command, environ, ready=(admin_port, "/status"))
        self.admin_port: Final = admin_port
        self.cluster_port: Final = cluster_port
        self.admin: Final = place.client(admin_port)

    def add_service(self, name: str, url: str) -> None:
        self.expect(201, self.admin.post("/services", data={"name": name, "url": url}))

    def add_route(self, service: str, path: str, **fields: Any) -> str:
        """Add a route for *path*; returns its id."""
        answer = self.admin.post(f"/services/{service}/routes", json={"paths": [path], **fields})
        return str(self.expect(201, answer)["id"])

    def data_planes(self) -> dict[str, dict[str, Any]]:
        """What /clustering/data-planes shows, by id."""
        shown = self.expect(200, self.admin.get("/clustering/data-planes"))
        return {row["id"]: row for row in shown["data"]}

    def cluster(self) -> dict[str, Any]:
        """What /fastgw/cluster shows."""
        shown: dict[str, Any] = self.expect(200, self.admin.get("/fastgw/cluster"))
        return shown

    @staticmethod
    def expect(status: int, answer: httpx.Response) -> Any:
        """The body of an answer that has this status."""
        assert answer.status_code == status, f"{answer.request.url}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None


class DataPlane(Node):
    """`fastgw dp`."""

    def __init__(
        self,
        place: Place,
        name: str,
        command: Sequence[str],
        environ: Mapping[str, str] | None = None,
        *,
        prefix: Path,
        proxy_port: int,
        status_port: int,
    ) -> None:
        super().__init__(place, name, command, environ, ready=(status_port, "/status/ready"))
        self.prefix: Final = prefix
        self.proxy_port: Final = proxy_port
        self.proxy: Final = place.client(proxy_port)
        self.status_client: Final = place.client(status_port)

    def status(self) -> dict[str, Any]:
        """Our own part of /status."""
        shown: dict[str, Any] = self.status_client.get("/status").json()["fastgw"]
        return shown

    @property
    def is_connected(self) -> bool:
        return bool(self.status()["link"]["is_connected"])

    @property
    def node_id(self) -> str:
        return str(self.status()["node_id"])

    def wait_connected(self, deadline_s: float = START_S) -> None:
        self.wait_for(lambda: self.is_connected, deadline_s, "connected")

    def wait_answer(self, path: str, status: int = 200, deadline_s: float = SERVED_S) -> httpx.Response:
        """Ask until the answer has this status."""
        last: list[httpx.Response] = []

        def ask() -> bool:
            last[:] = [self.proxy.get(path)]
            return last[0].status_code == status

        self.wait_for(ask, deadline_s, f"{status} for {path}")
        return last[0]


def _answers(port: int, path: str) -> bool:
    # Asked so often while a process starts that the cost of httpx's client would slow it down.
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
