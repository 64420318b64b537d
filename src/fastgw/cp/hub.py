"""The data planes of this control plane: what each is to run, and what each runs.

Contract. `wanted` is the one place that decides what a data plane is to run; whatever changes its answer is
followed by `offer_all`. What data planes report is kept here at once, and written to the storage as rows,
in one go at most once per second and outside the journal; a storage that is away costs nothing but late
rows. The storage's rows are what all control planes know together; for a data plane that is linked here,
what is kept here is newer.

The one complication is a data plane that moves to another control plane: both write its row. Each row names
its writer; the first that a new link writes claims it, and that a link is over is written only by who has the
row.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from fastgw.cp.ahead import AheadWatch
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.cp.rollout.lately import Lately
from fastgw.cp.rollout.pinning import Pin
from fastgw.cp.storage.contract import DataPlaneRow, Storage
from fastgw.errors import StorageError
from fastgw.model.snapshot import CONFIG_HASH_HEX_LENGTH
from fastgw.obs.logs import get_logger
from fastgw.wire.events import Rejected
from fastgw.wire.link import HEARTBEAT_S
from fastgw.wire.messages import Ack, Answered, Hello
from fastgw.wire.offering import Offering

log = get_logger(__name__)

WRITE_INTERVAL_S: Final = 1.0
PURGE_INTERVAL_S: Final = 3600.0
_SEEN_LATELY_S: Final = int(2 * HEARTBEAT_S)
_PAGE_SIZE: Final = 1000


class Link(Protocol):
    """What the hub asks of a link to a data plane."""

    def offer(self, offering: Offering | None) -> None: ...
    def pace(self, ping_s: float) -> None: ...
    def close(self, reason: str) -> None: ...


class DataPlane:
    """One linked data plane."""

    def __init__(self, hello: Hello, link: Link, ip: str, certificate_expiry_s: int | None) -> None:
        self.id = hello.node_id
        self.hostname = hello.hostname
        self.ip = ip
        self.program_version = hello.version
        self.labels = dict(hello.labels)
        self.plugins = None if hello.plugins is None else frozenset(hello.plugins)
        self.max_snapshot_bytes = hello.max_snapshot_bytes
        self.certificate_expiry_s = certificate_expiry_s
        self.belongs_to = hello.cluster_id
        """The cluster that it belongs to; empty while it belongs to none, or does not say."""
        self.may_go_back = False
        """Whether it may be sent a version older than the one that it runs."""
        self.has_claimed = False
        """Whether its row has been written since this link began."""
        self.link = link
        self.is_connected = True
        self.last_seen_s = 0
        self.applied_version = hello.applied_version
        self.applied_digest = hello.applied_digest
        self.wanted_version: int | None = None
        self.lately = Lately()
        self.applied_at_s = 0
        """Unix seconds at which this control plane learned of it."""
        self.apply_ms: dict[str, float] | None = None
        """What the last apply took, as its Ack said, step by step."""
        self.refused_version: int | None = None
        """The newest that it refused for good, or cannot be sent; None once it runs what is wanted."""
        self.last_error: str | None = None
        self.sync_status = "normal"
        """Kong's word for whether it may be sent anything."""
        self.config_hash: str | None = None
        """What a Kong data plane reports; None of our own, whose digest says it."""

    def __str__(self) -> str:
        return f"data plane {self.hostname} ({self.id}, {self.ip})"

    def row(self, control_plane: ControlPlaneIdentity) -> DataPlaneRow:
        """This data plane as the storage keeps it, written by *control_plane*."""
        return DataPlaneRow(
            id=self.id,
            hostname=self.hostname,
            ip=self.ip,
            last_seen=self.last_seen_s,
            version=self.program_version,
            # As Kong's nodes do: zeros stand for nothing applied, too.
            config_hash=self.config_hash
            or (self.applied_digest or "0" * CONFIG_HASH_HEX_LENGTH)[:CONFIG_HASH_HEX_LENGTH],
            sync_status=self.sync_status,
            applied_version=self.applied_version,
            applied_at=self.applied_at_s or None,
            apply_ms=self.apply_ms,
            wanted_version=self.wanted_version,
            refused_version=self.refused_version,
            last_error=self.last_error,
            answered=self.lately.newest,
            answered_before=self.lately.oldest,
            labels=self.labels or None,
            cert_expiry=self.certificate_expiry_s,
            connected=self.is_connected,
            control_plane_id=control_plane.id,
            control_plane_hostname=control_plane.hostname,
        )


class Hub:
    """All links of this control plane.

    Args:
        identity: of this control plane, for rows.
        purge_delay_s: after so long without a sign of life a data plane's row is removed.
        wall_clock: Unix seconds, for rows only.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        identity: ControlPlaneIdentity,
        purge_delay_s: int,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.identity = identity
        self._storage = storage
        self._ahead: AheadWatch[DataPlane] = AheadWatch(
            storage, identity.cluster_id, release=self._offer, withhold=self.withheld
        )
        self._purge_delay_s = purge_delay_s
        self._wall_clock = wall_clock
        self.newest: Offering | None = None
        """What is published."""
        self.pin: Pin | None = None
        """What holds some data planes back, while a rollout runs."""
        self._ping_s = 0.0
        self._linked: dict[str, DataPlane] = {}
        self._unwritten: dict[str, DataPlane] = {}
        self._has_unwritten = asyncio.Event()
        self._being_written: dict[str, DataPlane] = {}
        """Those on their way to the storage, which neither waits for them nor has them."""
        self._packing: dict[Offering, set[DataPlane]] = {}
        """Who waits for the whole of which."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()
        """Set, and replaced, when anything becomes known of a data plane."""

    def __len__(self) -> int:
        return len(self._linked)

    def wanted(self, data_plane: DataPlane) -> Offering | None:
        """What this data plane is to run; None leaves it with what it has."""
        if self.pin is None or self.newest is None:
            return self.newest
        return self.pin.wanted(data_plane.id, data_plane.labels, self.newest)

    def publish(self, offering: Offering) -> None:
        """Take a newer configuration, and offer it."""
        if self.newest is not None and (whole := self.newest.newest_whole) is not None:
            offering.begin_with(whole)
        self.newest = offering
        self._hold(self.pin)
        self.offer_all()

    def set_pin(self, pin: Pin | None) -> None:
        """Hold data planes back, or no more; where that changes what is wanted of them, offer it."""
        held = None if self.pin is None else self.pin.rollout.id
        self._hold(pin)
        if held != (None if self.pin is None else self.pin.rollout.id):
            self.offer_all()

    def _hold(self, pin: Pin | None) -> None:
        if pin is not None and self.newest is not None and pin.is_released_by(self.newest.version):
            pin = None
        self.pin = pin
        if self.newest is not None:
            self.newest.is_for_all = pin is None or self.newest.version == pin.rollout.base_version
        ping_s = 0.0 if pin is None else pin.ping_s
        if ping_s != self._ping_s:
            self._ping_s = ping_s
            for data_plane in list(self._linked.values()):
                data_plane.link.pace(ping_s)

    def is_held_back(self, row: DataPlaneRow, version: int) -> bool:
        """Whether a data plane is not to run a version as long as a rollout runs."""
        return self.pin is not None and self.pin.is_held_back(row.id, row.labels, version)

    def certified(self, node_id: str, expiry_s: int) -> None:
        """A node has a newer certificate; its link, which began with the one before, goes on."""
        data_plane = self._linked.get(node_id)
        if data_plane is not None:
            data_plane.certificate_expiry_s = expiry_s
            self._note(data_plane)

    def sign_again(self) -> None:
        """Other keys sign now: have what is published, and what runs already, bear their signatures too."""
        for offering in {self.newest, self.pin.base if self.pin is not None else None}:
            if offering is not None:
                offering.sign_again()
        self.offer_all()

    def offer_all(self) -> None:
        """Offer every data plane what is wanted of it now."""
        for data_plane in list(self._linked.values()):
            self._offer(data_plane)

    def join(self, data_plane: DataPlane) -> None:
        """Take in a data plane that said Hello; an older link of the same one is closed."""
        former = self._linked.get(data_plane.id)
        self._linked[data_plane.id] = data_plane
        if former is not None:
            former.link.close("the same data plane has connected anew")
        runs = f"version {data_plane.applied_version}" if data_plane.applied_digest else "nothing yet"
        log.notice("%s is connected and runs %s", data_plane, runs)
        self._saw(data_plane)
        if self._ping_s:
            data_plane.link.pace(self._ping_s)
        self._offer(data_plane)

    def leave(self, data_plane: DataPlane, reason: str) -> None:
        """Let go of a data plane whose link is over."""
        data_plane.is_connected = False
        if self._linked.get(data_plane.id) is data_plane:
            del self._linked[data_plane.id]
            self._note(data_plane)
        log.notice("%s is disconnected: %s", data_plane, reason)

    def reported(
        self, data_plane: DataPlane, version: int, digest: str, answered: Answered | None = None
    ) -> None:
        """Keep what a data plane said that it runs, and has answered."""
        if answered is not None:
            data_plane.lately.add(answered, time.monotonic())
        self._applied(data_plane, version, digest)
        self._saw(data_plane)
        wanted = self.wanted(data_plane)
        if wanted is not None and wanted.version < version:
            # Its link has forgotten what was wanted of it: what it runs came from another control plane.
            self._offer(data_plane)

    def accepted(self, data_plane: DataPlane, ack: Ack) -> None:
        """Keep that a data plane runs what it was sent."""
        data_plane.last_error = None
        data_plane.refused_version = None
        data_plane.apply_ms = {
            "decode": round(ack.decode_ms, 1),
            "compile": round(ack.compile_ms, 1),
            "store": round(ack.store_ms, 1),
            "commit": round(ack.commit_ms, 1),
        }
        self._applied(data_plane, ack.version, ack.digest)
        self._saw(data_plane)
        log.info(
            "%s runs version %d: decode %.1f ms, compile %.1f ms, store %.1f ms, commit %.1f ms",
            data_plane,
            ack.version,
            ack.decode_ms,
            ack.compile_ms,
            ack.store_ms,
            ack.commit_ms,
        )
        for warning in ack.warnings:
            log.warning("%s runs version %d, and warns: %s", data_plane, ack.version, warning)

    def rejected(self, data_plane: DataPlane, rejected: Rejected) -> None:
        """Keep that a data plane refused what it was sent, and why."""
        nack, retry_s = rejected
        reasons = "; ".join(_describe(fault) for fault in nack.faults) or "no reason given"
        self._saw(data_plane)
        if nack.wants_whole and retry_s is not None:
            log.info("%s cannot use the changes of version %d: %s", data_plane, nack.version, reasons)
            return
        if retry_s is None:
            data_plane.refused_version = nack.version
        data_plane.last_error = f"version {nack.version} is refused: {reasons}"
        log.error(
            "%s stays with version %d: %s%s",
            data_plane,
            data_plane.applied_version,
            data_plane.last_error,
            "" if retry_s is None else f"; next try in {retry_s:.1f} s",
        )

    def turned_away(self, data_plane: DataPlane, reason: str) -> None:
        """Keep who may not join, and why."""
        data_plane.is_connected = False
        data_plane.last_error = reason
        if data_plane.id not in self._linked:
            self._saw(data_plane)

    def unapplied(self, data_plane: DataPlane, version: int, reason: str) -> None:
        """Keep that a data plane that sends no verdicts does not run what it was sent."""
        data_plane.refused_version = version
        data_plane.last_error = f"version {version} is not applied: {reason}"
        log.error(
            "%s stays with version %d: %s", data_plane, data_plane.applied_version, data_plane.last_error
        )
        self._note(data_plane)

    def whole_wanted(self, data_plane: DataPlane, offering: Offering) -> None:
        """Have a version packed for those that no delta leads to; then offer them again what is wanted."""
        waiting = self._packing.setdefault(offering, set())
        if not waiting:
            task = asyncio.get_running_loop().create_task(self._pack(offering))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting.add(data_plane)

    async def _pack(self, offering: Offering) -> None:
        whole = await asyncio.to_thread(offering.make_whole)
        if self.newest is not None and self.newest is not offering and offering.is_for_all:
            self.newest.begin_with(whole)
        for data_plane in self._packing.pop(offering):
            if data_plane.is_connected:
                self._offer(data_plane)

    def withheld(self, data_plane: DataPlane, version: int, reason: str) -> None:
        """Keep that what is wanted of a data plane cannot be sent to it."""
        error = f"version {version} is not sent: {reason}"
        if (data_plane.refused_version, data_plane.last_error) != (version, error):
            # Every Ping may come to the same.
            log.error("%s stays with version %d: %s", data_plane, data_plane.applied_version, error)
        data_plane.refused_version, data_plane.last_error = version, error
        self._note(data_plane)

    async def run(self) -> None:
        """Write rows and purge old ones, until cancelled."""
        purge_at_s = time.monotonic()
        while True:
            if time.monotonic() >= purge_at_s:
                await self._purge()
                purge_at_s = time.monotonic() + PURGE_INTERVAL_S
            try:
                async with asyncio.timeout(max(0.0, purge_at_s - time.monotonic())):
                    await self._has_unwritten.wait()
            except TimeoutError:
                continue
            await self.write_rows()
            await asyncio.sleep(WRITE_INTERVAL_S)

    async def write_rows(self) -> None:
        """Write the rows that changed; those that the storage did not take stay due."""
        due, self._unwritten = self._unwritten, {}
        self._has_unwritten.clear()
        if not due:
            return
        self._being_written = due
        try:
            claiming = [one for one in due.values() if one.is_connected and not one.has_claimed]
            await self._storage.put_data_planes(
                [one.row(self.identity) for one in due.values()], claims={one.id for one in claiming}
            )
            for one in claiming:
                one.has_claimed = True
        except StorageError as exc:
            log.warning(
                "the states of %d data planes could not be written, and will be later: %s", len(due), exc
            )
            self._unwritten = due | self._unwritten
            self._has_unwritten.set()
        finally:
            self._being_written = {}

    async def close(self) -> None:
        """Give up what is being packed, and write the rows that are left."""
        await self._ahead.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.write_rows()

    def linked_rows(self) -> list[DataPlaneRow]:
        """The data planes that are linked here."""
        return [data_plane.row(self.identity) for data_plane in self._linked.values()]

    async def rows_elsewhere(self) -> list[DataPlaneRow]:
        """Those that are linked to other control planes, as far as the storage knows.

        Raises:
            StorageUnavailable: it cannot be told.
        """
        # Who has left here a moment ago is not elsewhere before his row says so.
        left = {*self._being_written, *self._unwritten}
        rows = await self._stored_rows()
        left |= {*self._linked, *self._unwritten}
        now_s = int(self._wall_clock())
        return [row for row in rows.values() if row.id not in left and _is_connected(row, now_s)]

    async def changed(self) -> None:
        """Wait until something becomes known of a data plane."""
        await self._change.wait()

    def linked(self) -> list[DataPlane]:
        """The data planes that are linked here, by id."""
        return [self._linked[id_] for id_ in sorted(self._linked)]

    async def data_planes(self) -> list[dict[str, Any]]:
        """Every data plane that the cluster knows, by id: Kong's fields of /clustering/data-planes, and ours.

        Raises:
            StorageUnavailable: only those linked here could be told.
        """
        pending = [*self._being_written.values(), *self._unwritten.values()]
        rows = await self._stored_rows()
        pending += self._unwritten.values()
        rows.update((data_plane.id, data_plane.row(self.identity)) for data_plane in pending)
        rows.update((row.id, row) for row in self.linked_rows())
        now_s = int(self._wall_clock())
        return [self._shown(row, now_s) for _, row in sorted(rows.items())]

    async def _stored_rows(self) -> dict[str, DataPlaneRow]:
        rows: dict[str, DataPlaneRow] = {}
        after: str | None = None
        while True:
            page, after = await self._storage.list_data_planes(_PAGE_SIZE, after)
            rows.update((row.id, row) for row in page)
            if after is None:
                return rows

    def _shown(self, row: DataPlaneRow, now_s: int) -> dict[str, Any]:
        return {
            "id": row.id,
            "hostname": row.hostname,
            "ip": row.ip,
            "config_hash": row.config_hash,
            "last_seen": row.last_seen,
            "ttl": max(0, row.last_seen + self._purge_delay_s - now_s),
            "version": row.version,
            "sync_status": row.sync_status,
            "updated_at": row.last_seen,
            "labels": row.labels,
            "cert_details": {"expiry_timestamp": row.cert_expiry} if row.cert_expiry is not None else None,
            "rpc_capabilities": [],
            "applied_version": row.applied_version,
            "applied_at": row.applied_at,
            "apply_ms": row.apply_ms,
            "wanted_version": row.wanted_version,
            "last_error": row.last_error,
            "connected": _is_connected(row, now_s),
            "rollout": self._part_in_rollout(row),
            "control_plane": (
                {"id": row.control_plane_id, "hostname": row.control_plane_hostname}
                if row.control_plane_id
                else None
            ),
        }

    def _part_in_rollout(self, row: DataPlaneRow) -> str | None:
        if self.pin is None or self.pin.rollout.is_over:
            return None
        return "chosen" if self.pin.rollout.is_chosen(row.id, row.labels) else "held back"

    def _offer(self, data_plane: DataPlane) -> None:
        offering = self.wanted(data_plane)
        if offering is None:
            return
        data_plane.wanted_version = offering.version
        self._applied(data_plane, data_plane.applied_version, data_plane.applied_digest)
        newest_version = self.newest.version if self.newest is not None else offering.version
        if self._ahead.holds(data_plane, offering, newest_version):
            self._note(data_plane)
            return
        data_plane.link.offer(offering)
        self._note(data_plane)

    def _applied(self, data_plane: DataPlane, version: int, digest: str) -> None:
        """Keep what is applied. The digest decides: who runs what is wanted runs that version."""
        wanted = self.wanted(data_plane)
        if wanted is not None and wanted.digest == digest:
            # What spoke against others speaks no more.
            data_plane.applied_version, data_plane.last_error = wanted.version, None
            data_plane.refused_version = None
        else:
            data_plane.applied_version = version
        if digest and (data_plane.applied_digest != digest or not data_plane.applied_at_s):
            data_plane.applied_at_s = int(self._wall_clock())
        data_plane.applied_digest = digest

    def _saw(self, data_plane: DataPlane) -> None:
        data_plane.last_seen_s = int(self._wall_clock())
        self._note(data_plane)

    def _note(self, data_plane: DataPlane) -> None:
        self._unwritten[data_plane.id] = data_plane
        self._has_unwritten.set()
        self._change.set()
        self._change = asyncio.Event()

    async def _purge(self) -> None:
        try:
            purged = await self._storage.purge_data_planes(int(self._wall_clock()) - self._purge_delay_s)
        except StorageError as exc:
            log.warning("data planes not seen for long could not be forgotten, and will be later: %s", exc)
            return
        if purged:
            log.notice("forgot %d data planes not seen for %d s", purged, self._purge_delay_s)


def _is_connected(row: DataPlaneRow, now_s: int) -> bool:
    # A control plane that was killed leaves rows that say so for ever.
    return row.connected and now_s - row.last_seen <= _SEEN_LATELY_S


def _describe(fault: dict[str, Any]) -> str:
    place = " ".join(str(fault[key]) for key in ("entity", "id", "field") if fault.get(key))
    return f"{place}: {fault.get('reason', '')}" if place else str(fault.get("reason", fault))
