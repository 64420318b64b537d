"""Time decK's sync, imports, listing pages and conflicting writers, on SQLite and PostgreSQL.

    python -m bench.admin.run [sync|import|config|conflicts ...] [--routes N] [--services N] [--writes N]

`sync` needs decK as the tests build it (`pytest tests/clients/test_deck.py`). Figures are of one run on an
otherwise idle machine; PostgreSQL is the distribution's with its own defaults.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import http.client
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.admin.server import ServerProcess
from tests.cp.admin.server import AdminServer
from tests.postgres import PgServer, make_directory

PAGES = 50
PAUSE_S = 0.005
"""Between two requests that are asked while a configuration is loaded."""


@dataclass(frozen=True)
class Place:
    """A storage of its own for each benchmark."""

    prefix: Path
    flags: dict[str, str]

    def server(self) -> AdminServer:
        return AdminServer(self.prefix, admin_access_log="off", **self.flags)

    def server_process(self) -> ServerProcess:
        return ServerProcess(self.prefix, {"admin_access_log": "off", **self.flags})


@contextmanager
def places(directory: Path) -> Iterator[Callable[[str], Place]]:
    """Gives a fresh place on the storage that is asked for."""
    place = make_directory()
    postgres = PgServer(place)
    # Durable, as in production: tests switch these off.
    postgres.options |= {"fsync": "on", "full_page_writes": "on"}
    postgres.start()
    numbers = itertools.count()

    def fresh(storage: str) -> Place:
        flags = dict(postgres.create_database().properties) if storage == "postgres" else {}
        return Place(directory / f"{storage}-{next(numbers)}", flags)

    try:
        yield fresh
    finally:
        postgres.stop()
        shutil.rmtree(place)


def client_of(server: AdminServer) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=300, trust_env=False)


def make_document(services: int, routes_each: int, version: str) -> dict[str, Any]:
    return {
        "_format_version": version,
        "services": [
            {
                "name": f"service-{n}",
                "host": f"host-{n}.example",
                "routes": [
                    {"name": f"route-{n}-{m}", "paths": [f"/service-{n}/{m}"]} for m in range(routes_each)
                ],
            }
            for n in range(services)
        ],
    }


def time_sync(place: Place, options: argparse.Namespace, directory: Path) -> str:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "fastgw-tests"
    programs = sorted(cache.glob("deck-v*"))
    version = "1.1" if programs and programs[-1].name.startswith("deck-v1.12") else "3.0"
    if not programs:
        return "decK is not built: run pytest tests/clients/test_deck.py once"
    path = directory / "deck.json"
    path.write_bytes(msgspec.json.encode(make_document(options.services, 2, version)))
    with place.server() as server:
        address = f"http://127.0.0.1:{server.port}"
        command = [str(programs[-1]), "--analytics=false", "--kong-addr", address, "sync", "-s", str(path)]
        begun = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        synced = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        again = time.perf_counter()
    size = f"{options.services} services, {2 * options.services} routes"
    return f"{size}: {synced - begun:.1f} s, again {again - synced:.1f} s"


def time_import(place: Place, options: argparse.Namespace, directory: Path) -> str:
    """The command `fastgw config db_import`, as a process; then pages of 100 at that size."""
    path = directory / "import.json"
    path.write_bytes(msgspec.json.encode(make_document(options.routes // 10, 10, "3.0")))
    with place.server():
        pass  # bootstraps
    sets = [f"--set={name}={value}" for name, value in (("prefix", place.prefix), *place.flags.items())]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "fastgw", "config", "db_import", str(path), *sets]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - begun
    pages: list[float] = []
    with place.server() as server, client_of(server) as client:
        following: str | None = "/routes?size=100"
        while following and len(pages) < PAGES:
            begun = time.perf_counter()
            following = client.get(following).json()["next"]
            pages.append((time.perf_counter() - begun) * 1e3)
    return (
        f"{options.routes} routes: {took:.1f} s; pages of 100: median {statistics.median(pages):.1f} ms, "
        f"slowest {max(pages):.1f} ms"
    )


def time_config(place: Place, options: argparse.Namespace, directory: Path) -> str:
    """POST /config of as many routes, and how long other requests wait meanwhile."""
    content = msgspec.json.encode(make_document(options.routes // 10, 10, "3.0"))
    is_done = threading.Event()
    waited_ms: list[float] = []

    def ask_on(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not is_done.wait(PAUSE_S):
            begun = time.perf_counter()
            connection.request("GET", "/robots.txt")
            connection.getresponse().read()
            waited_ms.append((time.perf_counter() - begun) * 1e3)
        connection.close()

    with place.server_process() as server:
        asking = threading.Thread(target=ask_on, args=(server.port,))
        asking.start()
        begun = time.perf_counter()
        answer = httpx.post(
            f"http://127.0.0.1:{server.port}/config",
            content=content,
            headers={"Content-Type": "application/json"},
            timeout=300,
            trust_env=False,
        )
        took = time.perf_counter() - begun
        is_done.set()
        asking.join()
    answer.raise_for_status()
    waited_ms.sort()
    return (
        f"{options.routes} routes: {took:.1f} s; {len(waited_ms)} others: p99 "
        f"{waited_ms[int(len(waited_ms) * 0.99)]:.1f} ms, slowest {waited_ms[-1]:.1f} ms"
    )


def count_up(port: int, times: int) -> int:
    """Count the field up so many times as one writer; return how often that was refused."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(method: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict[str, Any]]:
        connection.request(method, "/services/counter", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("etag", ""), msgspec.json.decode(answer.read())

    refused = 0
    for _ in range(times):
        while True:
            _, etag, seen = ask("GET")
            body = msgspec.json.encode({"retries": seen["retries"] + 1})
            status, _, told = ask("PATCH", body, **{"Content-Type": "application/json", "If-Match": etag})
            if status == 200:
                break
            if status != 412:
                raise RuntimeError(f"{status}: {told}")
            refused += 1
    connection.close()
    return refused


def time_conflicts(place: Place, options: argparse.Namespace, directory: Path) -> str:
    """Writers, processes of their own, that change one row, each repeating what is refused with 412."""
    writers = 8
    with place.server_process() as server:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60, trust_env=False) as client:
            client.put("/services/counter", json={"host": "h", "retries": 0}).raise_for_status()
            begun = time.perf_counter()
            with concurrent.futures.ProcessPoolExecutor(writers) as pool:
                times = [options.writes // writers] * writers
                retries = sum(pool.map(count_up, [server.port] * writers, times))
            took = time.perf_counter() - begun
            counted = client.get("/services/counter").json()["retries"]
    wanted = options.writes // writers * writers
    return f"counted {counted} of {wanted} in {took:.1f} s, {retries} refused with 412 and repeated"


BENCHMARKS: dict[str, Callable[[Place, argparse.Namespace, Path], str]] = {
    "sync": time_sync,
    "import": time_import,
    "config": time_config,
    "conflicts": time_conflicts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="default: all")
    parser.add_argument("--services", type=int, default=2000, help="of the sync; with two routes each")
    parser.add_argument("--routes", type=int, default=100_000, help="of the import; ten to a service")
    parser.add_argument("--writes", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, places(Path(name)) as fresh:
        for benchmark in options.names or BENCHMARKS:
            for storage in ("sqlite", "postgres"):
                line = BENCHMARKS[benchmark](fresh(storage), options, Path(name))
                print(f"{benchmark} {storage}: {line}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
