"""Many data planes in one process, real up to their link: `python -m bench.cluster.data_planes --help`.

Each keeps the product's own link (`dp.sync.Sync`: TLS, websocket, pacing, deltas, verdicts). What is
missing is what comes after it, compiling and serving. A snapshot is checked as a data plane checks it, digest
included, but once for all in this process: they share the result, or a thousand would not fit into a machine.

Talks in lines of JSON on stdout: `{"linked": N}` as soon as all are; then, for each version that all have
applied, `{"version": V, "at_s": [...]}` with the monotonic second of each one's verdict. On stdin, `bytes
HOST:PORT` is answered by `{"received_bytes": B}`, what the kernel has counted on the open links there; `watch
HOST:PORT` by `{"watching": N}`, how many are linked there, and, once each of them has been linked anew and
told that it runs what is wanted, by `{"again": N, "linked_s": [...], "confirmed_s": [...]}`. Ends at the end
of stdin.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
import time
import uuid
from pathlib import Path
from typing import Any, Final

import click
import msgspec
import uvloop

from fastgw.dp.connection import LinkConnection
from fastgw.dp.sync import Applied, AppliedState, ApplyResult, IncomingSnapshot, NodeIdentity, Sync
from fastgw.model.snapshot import Snapshot, unpack_delta
from fastgw.obs import logs
from fastgw.obs.logs import get_logger
from fastgw.settings import Settings, load_settings
from fastgw.tls.cluster import Credentials, FixedCredentials, LinkTls
from fastgw.tls.keypair import load_key_pair
from fastgw.wire.messages import Hello

log = get_logger(__name__)

_MAX_PAYLOAD_BYTES: Final = 64 * 1024 * 1024
_BYTES_RECEIVED_AT: Final = 128
"""Offset of tcpi_bytes_received, a u64. Source: struct tcp_info of linux/tcp.h."""
_TCP_INFO_BYTES: Final = 136


class _Snapshots:
    """Each version read once, whoever brought it first."""

    def __init__(self) -> None:
        self._by_digest: dict[str, Snapshot] = {"": Snapshot.from_rows(0, {})}

    def read(self, incoming: IncomingSnapshot) -> None:
        if incoming.digest in self._by_digest:
            return
        if incoming.base_digest:
            base = self._by_digest[incoming.base_digest]
            snapshot = base.patch(unpack_delta(incoming.compressed), version=incoming.version)
            if snapshot.digest != incoming.digest:
                raise AssertionError(f"a delta leads to {snapshot.digest}, not to {incoming.digest}")
        else:
            snapshot = Snapshot.unpack(incoming.version, incoming.compressed, incoming.digest)
        self._by_digest[incoming.digest] = snapshot


class _WatchedSync(Sync):
    """A link that tells its fleet when it is there."""

    def __init__(self, fleet: Fleet, number: int, **options: Any) -> None:
        super().__init__(fleet.settings, fleet.credentials, **options)
        self._fleet = fleet
        self._number = number

    def hello(self) -> Hello:
        """As before minor version 1 of the link, where no deltas are to be known."""
        hello = super().hello()
        return msgspec.structs.replace(hello, minor=0) if self._fleet.whole_only else hello

    def linked(self, connection: LinkConnection) -> None:
        super().linked(connection)
        self._fleet.linked(self._number)

    def confirmed(self, connection: LinkConnection, version: int) -> None:
        super().confirmed(connection, version)
        self._fleet.confirmed(self._number)


class DataPlane:
    """What a link needs of the data plane behind it."""

    def __init__(self, fleet: Fleet, number: int) -> None:
        self.number = number
        self._fleet = fleet
        self._applied = AppliedState(0, "")
        self.sync = _WatchedSync(
            fleet,
            number,
            node=NodeIdentity(str(uuid.uuid4()), f"simulated-{number}"),
            apply=self._apply,
            applied=lambda: self._applied,
            log=log,
        )

    @property
    def digest(self) -> str:
        """Of what it runs; empty before the first."""
        return self._applied.digest

    async def _apply(self, incoming: IncomingSnapshot) -> ApplyResult:
        self._fleet.snapshots.read(incoming)
        self._applied = AppliedState(incoming.version, incoming.digest)
        self._fleet.applied(incoming.version)
        return Applied(incoming.version, incoming.digest, 0.0, 0.0, 0.0, 0.0)


class Fleet:
    """The data planes of this process."""

    def __init__(self, settings: Settings, credentials: Credentials, count: int, *, whole_only: bool) -> None:
        self.settings = settings
        self.credentials = credentials
        self.whole_only = whole_only
        self.snapshots = _Snapshots()
        self._count = count
        self._at_s: dict[int, list[float]] = {}
        self._linked_s: dict[int, float] | None = None
        """Of those that were linked since somebody watches."""
        self._confirmed_s: dict[int, float] = {}
        self._watched: set[int] = set()
        self._all: list[DataPlane] = []
        self._is_linked = False

    def applied(self, version: int) -> None:
        times = self._at_s.setdefault(version, [])
        times.append(time.monotonic())
        if len(times) < self._count:
            return
        if self._is_linked:
            _tell({"version": version, "at_s": times})
        else:
            self._is_linked = True
            _tell({"linked": self._count})
        del self._at_s[version]

    def watch(self, control_plane: str) -> None:
        self._linked_s, self._confirmed_s = {}, {}
        self._watched = {one.number for one in self._all if one.sync.status.control_plane == control_plane}
        _tell({"watching": len(self._watched)})
        self._tell_again()

    def linked(self, number: int) -> None:
        if self._linked_s is not None and number in self._watched:
            self._linked_s[number] = time.monotonic()

    def confirmed(self, number: int) -> None:
        linked_s = self._linked_s
        if linked_s is not None and number in linked_s:
            self._confirmed_s[number] = time.monotonic()
            self._tell_again()

    def _tell_again(self) -> None:
        if self._linked_s is not None and len(self._confirmed_s) == len(self._watched):
            times = {
                "linked_s": list(self._linked_s.values()),
                "confirmed_s": list(self._confirmed_s.values()),
            }
            self._linked_s = None
            _tell({"again": len(self._watched), **times})

    async def run(self, first: int, per_second: float) -> None:
        """Dial one after the other, then keep the links until stdin ends."""
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        links: list[asyncio.Task[None]] = []
        dialling = asyncio.create_task(self._dial(links, first, per_second))
        while command := await commands.readline():
            what, control_plane = command.decode().split()
            if what == "watch":
                self.watch(control_plane)
            else:
                _tell({"received_bytes": _received_bytes(int(control_plane.rpartition(":")[2]))})
        for task in (dialling, *links):
            task.cancel()
        await asyncio.gather(dialling, *links, return_exceptions=True)

    async def _dial(self, links: list[asyncio.Task[None]], first: int, per_second: float) -> None:
        for number in range(self._count):
            self._all.append(DataPlane(self, first + number))
            links.append(asyncio.create_task(self._all[-1].sync.run()))
            await asyncio.sleep(1 / per_second)


def _received_bytes(port: int) -> int:
    """What the kernel received for this process from *port*, over all open connections."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(name))) as connection:
                if connection.type is socket.SOCK_STREAM and connection.getpeername()[1] == port:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
                    total += struct.unpack_from("Q", info, _BYTES_RECEIVED_AT)[0]
        except (OSError, IndexError, TypeError):
            continue  # no socket, or none with a peer and a port
    return total


def _tell(fact: dict[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(fact).decode() + "\n")
    sys.stdout.flush()


def link_settings(control_plane: str, pair: Path, prefix: str) -> tuple[Settings, Credentials]:
    """What the links of a process need; *pair* is the directory of cluster.crt and cluster.key."""
    certificate, key = str(pair / "cluster.crt"), str(pair / "cluster.key")
    settings = load_settings(
        "data_plane",
        environ={},
        flags={
            "prefix": str(pair / prefix),
            "cluster_control_plane": control_plane,
            "cluster_cert": certificate,
            "cluster_cert_key": key,
            "cluster_max_payload": str(_MAX_PAYLOAD_BYTES),
        },
    )
    return settings, FixedCredentials(LinkTls.shared(load_key_pair(certificate, key)))


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--control-plane", required=True, help="HOST:PORT of the cluster port, or several.")
@click.option("--pair", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True,
              help="Directory of cluster.crt and cluster.key.")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 1000), default=250, help="Data planes in this process.")
@click.option("--first", type=int, default=0, help="Number of the first, for its host name.")
@click.option("--per-second", type=float, default=5.0, help="So many dial per second.")
@click.option("--whole", is_flag=True, help="Know no deltas.")
def main(control_plane: str, pair: Path, count: int, first: int, per_second: float, whole: bool) -> None:
    """Run simulated data planes until the end of stdin; see the module's docstring for what is told."""
    logs.setup("error", "/dev/stderr", process="simulated")
    settings, credentials = link_settings(control_plane, pair, f"simulated-{first}")
    fleet = Fleet(settings, credentials, count, whole_only=whole)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(fleet.run(first, per_second))


if __name__ == "__main__":
    main()
