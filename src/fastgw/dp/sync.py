"""The data plane's link to its cluster: dialled, kept, and dialled again, at one control plane or the next.

    dial ──greeted──> linked ──broken──> next control plane ... a whole round failed: wait ──> dial
                        │ not at the first of our order: minutes later
                        └──> dial that beside the link ──greeted──> linked there; the former link says goodbye

Contract. `Sync.run` never gives up and never stops the data plane from serving: whatever breaks, a fault of
our own included, is logged with its reason and the seconds until the next try. Snapshots are applied one at a
time by the *apply* that was given, and each is answered with what came of it. What is being applied when a
link ends goes on being applied; the next link is told the result by its Hello or a Ping. A control plane of
another cluster than the one that this data plane belongs to is left at its Welcome (`pledge`).

Two complications. The newest snapshot that waits is the only one that waits: the control plane sends the next
only after the verdict on the last, but a new link may bring one while the old link's is still being applied.
And a link may be replaced while it is well: the new one takes its place in the moment of its Welcome, so that
there is always exactly one whose word counts.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fastgw import __version__
from fastgw.dp.connecting import connect
from fastgw.dp.connection import LinkConnection, OwnConnection
from fastgw.dp.dialling import Rounds, preferred_order
from fastgw.dp.incoming import Applied, AppliedState, ApplyResult, IncomingSnapshot, NodeIdentity, Refused
from fastgw.dp.kong_link import KongConnection, KongNode, next_kong_delay
from fastgw.dp.pledge import Pledge
from fastgw.errors import CompileError, DeltaError, FastgwError, RemoteLinkError
from fastgw.model.served import SERVED_PLUGINS
from fastgw.obs.logs import Logger
from fastgw.settings import Settings
from fastgw.tls.cluster import Credentials, LinkTls
from fastgw.wire.messages import Answered, Hello, Welcome
from fastgw.wire.pacing import (
    CONNECT_TIMEOUT_S,
    HEALTHY_AFTER_S,
    next_delay,
    return_delay,
    switch_delay,
)

__all__ = [
    "Applied",
    "AppliedState",
    "ApplyResult",
    "IncomingSnapshot",
    "NodeIdentity",
    "Refused",
    "Sync",
    "SyncStatus",
]

_SHUTTING_DOWN = "the data plane is shutting down"


@dataclass(slots=True)
class SyncStatus:
    """The link as /status shows it."""

    control_plane: str
    """The address that is linked, or dialled."""
    control_planes: Sequence[str] = ()
    """All of them, in the order in which this data plane prefers them."""
    control_plane_id: str = ""
    """Of the process that is linked, or was last; empty where it does not say, as Kong's."""
    control_plane_hostname: str = ""
    cluster_id: str = ""
    """The cluster that this data plane belongs to; empty while that is none."""
    is_connected: bool = False
    since_s: float = field(default_factory=time.time)
    """Unix seconds since when it is so, at this control plane."""
    last_error: str | None = None
    """Why the last link broke or the last try failed."""
    retry_at_s: float | None = None
    """Unix seconds of the next try, while there is one to come."""
    received_version: int | None = None
    """The version of the last snapshot that has arrived whole, applied or not."""
    confirmed_version: int | None = None
    """The version that the control plane last said is wanted here and runs here."""
    wire: str = "fastgw"
    """The protocol of the last link; the versions of Kong's are counted here."""

    def tell_error(self, reason: str) -> None:
        """Take why there is no link yet."""
        self.last_error = reason


class Sync:
    """Keeps one link to the cluster.

    Args:
        credentials: what each connection is made with.
        apply: applies one snapshot, which costs nothing when its digest is what runs; a FastgwError of it
            is answered as a refusal.
        applied: what runs now.
        pledge: the cluster that this data plane belongs to; None: any will do.
        draw: a number from 0 up to 1 for each delay.
        clock: monotonic seconds, of which the link's deadlines are made.
        trust_told: is called with the state of the cluster's authorities whenever the control plane names it.
        answered: gives what was answered since the start.
        signed_again: takes the signatures that what runs has now, without its content.
    """

    def __init__(
        self,
        settings: Settings,
        credentials: Credentials,
        *,
        node: NodeIdentity,
        apply: Callable[[IncomingSnapshot], Awaitable[ApplyResult]],
        applied: Callable[[], AppliedState],
        log: Logger,
        pledge: Pledge | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
        trust_told: Callable[[str], None] = lambda _: None,
        signed_again: Callable[[IncomingSnapshot], None] = lambda _: None,
        answered: Callable[[], Answered | None] = lambda: None,
    ) -> None:
        self.trust_told = trust_told
        self.signed_again = signed_again
        self.answered = answered
        self.clock = clock
        self._settings = settings
        self._node = node
        self._apply = apply
        self.applied = applied
        self.log = log
        self._credentials = credentials
        self._pledge = pledge
        self._draw = draw
        self._rounds = Rounds(preferred_order(node.id, settings.cluster_control_plane))
        self.status = SyncStatus(self._rounds.next, self._rounds.order)
        self._kong = KongNode(settings, node.id, node.hostname)
        self._kong_addresses: set[str] = set()
        """Those that were last spoken to in Kong's protocol."""
        self._spread_s = 0.0
        self._linked_at_s: float | None = None
        self._connection: LinkConnection | None = None
        """The link whose word counts; None while there is none."""
        self._looking = asyncio.Lock()
        """Held while a control plane is dialled beside a link."""
        self._returns = 0
        """Looks for a control plane that comes first, since a link there has lasted."""
        self._keeping: set[asyncio.Task[None]] = set()
        self._waiting: tuple[LinkConnection, IncomingSnapshot] | None = None
        self._has_waiting = asyncio.Event()
        self._belongs_to()

    async def run(self) -> None:
        """Keep the link until cancelled; then say goodbye on it."""
        applier = asyncio.create_task(self._apply_each())
        try:
            await self._keep_linked()
        finally:
            self.status.is_connected = False
            applier.cancel()
            await asyncio.gather(applier, *self._keeping, return_exceptions=True)

    # What the connection tells.

    def hello(self) -> Hello:
        state = self.applied()
        return Hello(
            node_id=self._node.id,
            hostname=self._node.hostname,
            version=__version__,
            applied_version=state.version,
            applied_digest=state.digest,
            max_snapshot_bytes=self._settings.cluster_max_payload,
            labels=dict(self._settings.cluster_dp_labels),
            plugins=sorted(SERVED_PLUGINS),
            cluster_id=self._belongs_to(),
        )

    def welcomed(self, connection: OwnConnection, welcome: Welcome) -> None:
        """A control plane answers in our own protocol: it is linked, if it is of our cluster."""
        try:
            if self._pledge is not None:
                self._pledge.check(welcome.cluster_id)
        except FastgwError as exc:
            connection.close(str(exc))
            return
        self._spread_s = welcome.spread_s
        self.trust_told(welcome.trust)
        self.linked(connection)

    def linked(self, connection: LinkConnection) -> None:
        """From now on this connection is the link; one that was is said goodbye to."""
        former, self._connection = self._connection, connection
        self._credit(self.status.control_plane)
        self._linked_at_s = self.clock()
        status, welcome = self.status, connection.welcome
        status.is_connected = True
        status.since_s = time.time()
        status.retry_at_s = None
        status.control_plane, status.wire = connection.address, connection.wire
        status.control_plane_id = welcome.node_id if welcome is not None else ""
        status.control_plane_hostname = welcome.hostname if welcome is not None else ""
        if welcome is None:
            self.log.notice("connected to the control plane %s, by Kong's protocol", connection)
        else:
            self.log.notice(
                "connected to the control plane %s of the cluster %s", connection, welcome.cluster_id
            )
        connection.greeted.set_result(None)
        # An apply begun on the former link may have ended since the Hello.
        connection.report(self.applied())
        if former is not None:
            former.close(f"the data plane goes to {connection.address}, which it prefers")

    def confirmed(self, connection: LinkConnection, version: int) -> None:
        """The control plane says that what runs here is what it wants."""
        self.status.confirmed_version = version
        if self._pledge is not None and connection.cluster_id and not self._belongs_to():
            keeping = asyncio.create_task(self._keep_pledge(self._pledge, connection.cluster_id))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)

    def received(self, connection: LinkConnection, snapshot: IncomingSnapshot) -> None:
        self.status.received_version = snapshot.version
        self._waiting = (connection, snapshot)
        self._has_waiting.set()

    def _belongs_to(self) -> str:
        if self._pledge is not None:
            try:
                self.status.cluster_id = self._pledge.read()
            except FastgwError as exc:
                self.log.error("%s", exc)
        return self.status.cluster_id

    async def _keep_pledge(self, pledge: Pledge, cluster_id: str) -> None:
        """Belong to the cluster whose configuration runs here already."""
        try:
            await asyncio.to_thread(pledge.keep, cluster_id)
        except (OSError, FastgwError) as exc:
            self.log.error("cannot write down the cluster %s: %s", cluster_id, exc)
        self._belongs_to()

    # Dialling.

    async def _keep_linked(self) -> None:
        while True:
            address = self._rounds.next
            try:
                connection = await self._link(address)
            except RemoteLinkError as exc:
                reason = str(exc)
            else:
                address, reason = await self._stay(connection)
            delay_s = self._delay_after(address)
            self._broken(address, reason, delay_s)
            await asyncio.sleep(delay_s)

    async def _link(self, address: str) -> LinkConnection:
        """Dial, and greet.

        Raises:
            RemoteLinkError: it is not linked; says why.
        """
        try:
            return await self._dial(address)
        except RemoteLinkError:
            raise
        except Exception as exc:
            self.log.exception("the try at %s broke off", address)
            raise RemoteLinkError(f"a fault of the data plane's own: {exc!r}") from exc

    async def _dial(self, address: str) -> LinkConnection:
        # Each try begins with our own protocol: a control plane may have been replaced.
        speaks_kong = self._settings.cluster_wire == "kong"
        while True:
            (self._kong_addresses.add if speaks_kong else self._kong_addresses.discard)(address)
            tls = self._credentials.current()
            make = self._maker(address, tls, speaks_kong=speaks_kong)
            connection = await connect(address, tls, make, self._draw)
            try:
                await asyncio.wait((connection.greeted, connection.over), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                connection.close(_SHUTTING_DOWN)
                raise
            if connection.greeted.done():
                return connection
            if not connection.is_foreign or self._settings.cluster_wire != "auto":
                raise RemoteLinkError(connection.over.result())
            self.log.notice("%s does not speak fastgw's protocol: trying Kong's", address)
            speaks_kong = True

    def _maker(self, address: str, tls: LinkTls, *, speaks_kong: bool) -> Callable[[], LinkConnection]:
        if speaks_kong:
            return lambda: KongConnection(self, address, tls, self._kong)
        return lambda: OwnConnection(self, address, tls)

    async def _stay(self, connection: LinkConnection) -> tuple[str, str]:
        """Stay linked as long as there is a link; return where the last one was, and why it ended."""
        returning = asyncio.create_task(self._return())
        try:
            while True:
                reason = await asyncio.shield(connection.over)
                if self._connection is connection:
                    self._connection = None
                    self._unlinked()
                    await self._wait_for_look()
                if self._connection is None:
                    return connection.address, reason
                connection = self._connection
        finally:
            if self._connection is not None:
                self._connection.close(_SHUTTING_DOWN)
            returning.cancel()
            await asyncio.gather(returning, return_exceptions=True)
            # What was greeted in that very moment has been closed with it.
            self._connection = None

    async def _wait_for_look(self) -> None:
        """A link is over: if another one is being made already, wait for that.

        For one: a control plane that is dialled by two of its names ends the former link of a data plane.
        """
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S), self._looking:
                pass
        except TimeoutError:
            pass

    async def _return(self) -> None:
        """While linked elsewhere, look now and then for a control plane that comes first."""
        first_s = self._settings.cluster_return_delay
        while first_s > 0:
            await asyncio.sleep(return_delay(self._returns, first_s, self._draw))
            async with self._looking:
                linked = self._connection
                preferred = self._rounds.before(linked.address) if linked is not None else ()
                if not preferred:
                    return
                self._returns += 1
                for address in preferred:
                    try:
                        await self._link(address)
                    except RemoteLinkError as exc:
                        self.log.info("stays with %s: no link to %s: %s", linked, address, exc)
                    else:
                        break

    def _delay_after(self, address: str) -> float:
        """Seconds until the next try, after the link to *address* broke or was not made."""
        self._credit(address)
        if not self._rounds.failed(address):
            return switch_delay(self._draw)
        if address in self._kong_addresses:
            return next_kong_delay(self._draw)
        return next_delay(self._rounds.failures - 1, self._spread_s, self._draw)

    def _credit(self, address: str) -> None:
        """The link to *address*, if there was one, is over or left: if it has lasted, that counts."""
        linked_at_s, self._linked_at_s = self._linked_at_s, None
        if linked_at_s is not None and self.clock() - linked_at_s >= HEALTHY_AFTER_S:
            self._rounds.lasted()
            if address == self._rounds.order[0]:
                self._returns = 0

    def _unlinked(self) -> None:
        if self.status.is_connected:
            self.status.is_connected = False
            self.status.since_s = time.time()

    def _broken(self, address: str, reason: str, delay_s: float) -> None:
        self._unlinked()
        self.status.last_error = reason if len(self._rounds.order) == 1 else f"{address}: {reason}"
        self.status.retry_at_s = time.time() + delay_s
        following = self._rounds.next
        self.status.control_plane = following
        where = "" if len(self._rounds.order) == 1 else f" at {following}"
        self.log.warning("no link to %s: %s; next try%s in %.1f s", address, reason, where, delay_s)

    # Applying.

    async def _apply_each(self) -> None:
        while True:
            await self._has_waiting.wait()
            self._has_waiting.clear()
            if self._waiting is None:
                continue
            (connection, snapshot), self._waiting = self._waiting, None
            result = await self._apply_one(snapshot)
            self._belongs_to()
            if connection is self._connection:
                connection.answer(result)
            elif self._connection is not None:
                self._connection.report(self.applied())

    async def _apply_one(self, snapshot: IncomingSnapshot) -> ApplyResult:
        try:
            return await self._apply(snapshot)
        except CompileError as exc:
            return Refused(snapshot.version, list(exc.faults), is_passing=exc.is_passing)
        except DeltaError as exc:
            return Refused(snapshot.version, [{"reason": str(exc)}], wants_whole=True)
        except FastgwError as exc:
            return Refused(snapshot.version, [{"reason": str(exc)}])
        except Exception as exc:
            self.log.exception("version %d could not be applied", snapshot.version)
            return Refused(snapshot.version, [{"reason": f"a fault of the data plane's own: {exc!r}"}])
