"""A cluster port with its hub on a SQLite storage, data planes that dial it, and strangers that do."""

from __future__ import annotations

import asyncio
import random
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import uvloop
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from fastgw.cp.cluster import ClusterServer
from fastgw.cp.hub import Hub
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.storage import Storage, make_storage
from fastgw.dp.dialling import preferred_order
from fastgw.dp.pledge import Pledge
from fastgw.dp.sync import (
    Applied,
    AppliedState,
    ApplyResult,
    IncomingSnapshot,
    NodeIdentity,
    Refused,
    Sync,
)
from fastgw.model.snapshot import Snapshot, unpack_delta
from fastgw.obs import logs
from fastgw.settings import Listen, Settings, load_settings
from fastgw.tls.cluster import SERVER_NAME, Credentials, FixedCredentials, LinkTls
from fastgw.tls.generate import GeneratedPair
from fastgw.wire import messages as m
from fastgw.wire.offering import Offering
from tests.tls.certificates import gen_cert_pair, loaded
from tests.wire.ends import hello, whole_offering

DEADLINE_S: Final = 20.0

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], loop_factory: Callable[[], Any] = uvloop.new_event_loop) -> T:
    """Run a test's coroutine with a deadline, on the loop that the product uses."""

    async def bounded() -> T:
        async with asyncio.timeout(DEADLINE_S):
            return await work

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(bounded())


async def eventually(condition: Callable[[], Any], what: str, deadline_s: float = 5.0) -> Any:
    """Return the first truthy result of *condition* (or of what it gives to await), asked every 5 ms."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    while True:
        found = condition()
        result = await found if isinstance(found, Awaitable) else found
        if result:
            return result
        assert loop.time() < deadline, f"{what}: not within {deadline_s} s (last: {result!r})"
        await asyncio.sleep(0.005)


class Clock:
    """Monotonic seconds that move when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Log:
    """The log of this process, in a file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "error.log"
        logs.setup("debug", str(self.path), process="test")

    def text(self) -> str:
        return self.path.read_text()

    async def shows(self, words: str) -> str:
        """The first line that holds *words*, once there is one."""

        def line() -> str:
            return next((line for line in self.text().splitlines() if words in line), "")

        found = await eventually(line, f"a line with {words!r} in {self.path}")
        assert isinstance(found, str)
        return found


def settings_of(role: Any, directory: Path, pair: GeneratedPair, **flags: str) -> Settings:
    return load_settings(
        role,
        environ={},
        flags={
            "prefix": str(directory),
            "cluster_cert": pair.certificate_pem.decode(),
            "cluster_cert_key": pair.key_pem.decode(),
            **flags,
        },
    )


def offering_of(version: int, names: list[str], padding: bytes = b"") -> Offering:
    rows = [{"id": name, "name": name, "padding": padding.hex()} for name in names]
    snapshot = Snapshot.from_rows(version, {"services": rows})
    return whole_offering(version, snapshot.digest, snapshot.pack())


def node_id_that_prefers(order: Sequence[str]) -> str:
    """The id of a data plane whose own order of control planes is this one."""
    while True:
        node_id = str(uuid.uuid4())
        if preferred_order(node_id, order) == tuple(order):
            return node_id


def shared(pair: GeneratedPair) -> Credentials:
    return FixedCredentials(LinkTls.shared(loaded(pair)))


class Port:
    """A cluster port and what stands behind it."""

    def __init__(self, server: ClusterServer, hub: Hub, storage: Storage, clock: Clock | None) -> None:
        self.server = server
        self.hub = hub
        self.storage = storage
        self.clock = clock

    @property
    def address(self) -> str:
        return self.server.addresses[0]

    async def shown(self, node_id: str) -> dict[str, Any]:
        """What the Admin API would show of a data plane."""
        return next((row for row in await self.hub.data_planes() if row["id"] == node_id), {})


async def written(port: Port, versions: int) -> None:
    """Have the database stand at so many versions."""
    for number in range(versions):
        async with port.storage.write("test") as writer:
            id_ = f"{number:08d}-0000-4000-8000-000000000000"
            await writer.insert("services", {"id": id_, "name": f"s{number}"})


@asynccontextmanager
async def cluster_port(
    directory: Path,
    pair: GeneratedPair | None = None,
    *,
    credentials: Credentials | None = None,
    listen: str = "127.0.0.1:0",
    clock: Clock | None = None,
    heartbeat_s: float = 30.0,
    cluster_id: str = "the-cluster",
    **options: Any,
) -> AsyncIterator[Port]:
    """Start a cluster port; *options* are those of `ClusterServer`."""
    pair = pair or gen_cert_pair()
    storage = make_storage(settings_of("control_plane", directory, pair))
    await storage.open()
    identity = ControlPlaneIdentity.make(cluster_id)
    hub = Hub(storage, identity=identity, purge_delay_s=1000)
    server = ClusterServer(
        Listen.parse(listen),
        credentials or shared(pair),
        hub,
        heartbeat_s=heartbeat_s,
        **(options if clock is None else {**options, "clock": clock}),
    )
    writing = asyncio.create_task(hub.run())
    try:
        await server.start()
        yield Port(server, hub, storage, clock)
    finally:
        await server.close()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await hub.close()
        await storage.close()


class Node:
    """A data plane that keeps a snapshot in memory."""

    def __init__(
        self,
        directory: Path,
        address: str,
        pair: GeneratedPair | None = None,
        *,
        credentials: Credentials | None = None,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
        trust_told: Callable[[str], None] = lambda _: None,
        identity: NodeIdentity | None = None,
        pledge: Pledge | None = None,
        **flags: str,
    ) -> None:
        pair = pair or gen_cert_pair()
        settings = settings_of("data_plane", directory, pair, cluster_control_plane=address, **flags)
        identity = identity or NodeIdentity(str(uuid.uuid4()), "dp-1")
        self.id = identity.id
        self.state = AppliedState(0, "")
        self.answered: m.Answered | None = m.Answered(0, 0)
        self.snapshot: Snapshot | None = None
        self.seen: list[int] = []
        self.deltas = 0
        self.pledge = pledge
        self.may_apply = asyncio.Event()
        self.may_apply.set()
        self.refusal: ApplyResult | Exception | None = None
        self.sync = Sync(
            settings,
            credentials or shared(pair),
            node=identity,
            pledge=pledge,
            trust_told=trust_told,
            apply=self._apply,
            applied=lambda: self.state,
            log=logs.get_logger("sync"),
            draw=draw,
            answered=lambda: self.answered,
            clock=clock or time.monotonic,
        )

    async def _apply(self, incoming: IncomingSnapshot) -> ApplyResult:
        if incoming.digest == self.state.digest:
            return Applied(incoming.version, incoming.digest, 0.0, 0.0, 0.0, 0.0)
        self.seen.append(incoming.version)
        await self.may_apply.wait()
        if isinstance(self.refusal, Exception):
            raise self.refusal
        if self.refusal is not None:
            return self.refusal
        if incoming.base_digest:
            if self.snapshot is None or self.snapshot.digest != incoming.base_digest:
                return Refused(incoming.version, [{"reason": "another base"}], wants_whole=True)
            self.deltas += 1
            self.snapshot = self.snapshot.patch(unpack_delta(incoming.compressed), version=incoming.version)
            assert self.snapshot.digest == incoming.digest
        else:
            self.snapshot = Snapshot.unpack(incoming.version, incoming.compressed, incoming.digest)
        if self.pledge is not None:
            self.pledge.keep(incoming.cluster_id)
        self.state = AppliedState(incoming.version, incoming.digest)
        return Applied(incoming.version, incoming.digest, 1.0, 2.0, 3.0, 4.0, ["one warning"])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Node]:
        task = asyncio.create_task(self.sync.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Stranger:
    """A client of the cluster port that does what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.websocket = ClientProtocol(parse_uri("wss://localhost/"))
        self.events: list[Any] = []

    @classmethod
    async def connect(cls, address: str, context: ssl.SSLContext | None = None) -> Stranger:
        host, _, port = address.rpartition(":")
        return cls(
            *await asyncio.open_connection(
                host,
                int(port),
                ssl=context or shared(gen_cert_pair()).current().client_context,
                server_hostname=SERVER_NAME,
            )
        )

    async def upgrade(
        self, path: str = m.LINK_PATH, subprotocol: str | None = m.SUBPROTOCOL, greet: bool = False
    ) -> Response:
        self.websocket = ClientProtocol(
            parse_uri(f"wss://localhost{path}"),
            subprotocols=[Subprotocol(subprotocol)] if subprotocol is not None else None,
        )
        self.websocket.send_request(self.websocket.connect())
        response = await self.next_event()
        assert isinstance(response, Response)
        if greet:
            self.send(hello())
            assert isinstance(m.decode_to_data_plane(await self.next_message()), m.Welcome)
        return response

    def send(self, message: m.Message) -> None:
        self.websocket.send_binary(m.encode(message))
        self.flush()

    def flush(self) -> None:
        for piece in self.websocket.data_to_send():
            if piece:
                self._writer.write(piece)

    async def next_event(self) -> Any:
        """The next frame or response; None at the end of the connection."""
        self.flush()
        while not self.events:
            data = await self._read()
            if not data:
                return None
            self.websocket.receive_data(data)
            self.events += self.websocket.events_received()
        return self.events.pop(0)

    async def next_message(self) -> bytes:
        frame = await self.next_event()
        assert isinstance(frame, Frame)
        assert frame.opcode is Opcode.BINARY, frame
        return bytes(frame.data)

    async def ended(self) -> list[Any]:
        """Everything up to the end of the connection, which comes."""
        events = []
        while (event := await self.next_event()) is not None:
            events.append(event)
        return events

    async def _read(self) -> bytes:
        try:
            return await self._reader.read(1 << 16)
        except ConnectionError:
            return b""

    def write(self, data: bytes) -> None:
        self._writer.write(data)

    def close(self) -> None:
        self._writer.close()
