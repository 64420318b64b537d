"""Published versions as Kong's data planes are pushed them: made once, shared by all that need them.

    offering ── table and hashes ──> Export ── what a release knows ──> Payload, cut into pieces of one frame

Contract. An export belongs to a digest, a payload to an export and a release. Both are made in a thread, by
whoever needs them first; whoever comes meanwhile waits for the same one. The newest few are kept. Without a
Kong data plane nothing is made.

The hash that a data plane reports says which version it runs, so hashes are remembered beyond their exports.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from fastgw.model.entities import ENTITIES
from fastgw.model.snapshot import Snapshot
from fastgw.obs.logs import get_logger
from fastgw.wire.kong_v1.downgrade import downgrade, misfit
from fastgw.wire.kong_v1.export import Table, configured_plugins, count_expressions, export_table
from fastgw.wire.kong_v1.hashes import ConfigHashes, hash_c
from fastgw.wire.kong_v1.link import PUSH_SPACING_S, cut_frame
from fastgw.wire.kong_v1.messages import encode_push
from fastgw.wire.kong_v1.versions import KongVersion
from fastgw.wire.offering import Offering

log = get_logger(__name__)

TABLE_KEPT_S: Final = 30.0
_EXPORTS_KEPT: Final = 2
_PAYLOADS_KEPT: Final = 8
_HASHES_KEPT: Final = 1000
_T = TypeVar("_T")


class Applied(NamedTuple):
    """What a hash stands for."""

    version: int
    digest: str


class Export(NamedTuple):
    """What is to be known of one version as a table of Kong's."""

    offering: Offering
    hashes: ConfigHashes
    plugins: frozenset[str]
    routes: int
    with_expression: int
    is_empty: bool
    """No entity but workspaces: data planes of 3.2 and later report zeros for it."""

    def misfit(self, release: KongVersion, flavor: str) -> str | None:
        """Why a data plane cannot be sent it at all; None when it can."""
        return misfit(self.routes, self.with_expression, release, flavor)


class Payload(NamedTuple):
    """The frame of a push, in pieces."""

    pieces: tuple[bytes, ...]
    size: int
    """Compressed bytes."""


class KongPayloads:
    """What is pushed to the Kong data planes of this control plane.

    Args:
        cluster_id: of this cluster; data planes are told it.
        flavor: the router_flavor of data planes that do not tell theirs.
        spacing_s: the least time between two pushes to one data plane.
    """

    def __init__(
        self, cluster_id: str, *, flavor: str = "traditional_compatible", spacing_s: float = PUSH_SPACING_S
    ) -> None:
        self.flavor: Final = flavor
        self.spacing_s: Final = spacing_s
        self._cluster_id = cluster_id
        self._tables: _Shared[Table] = _Shared(1)
        self._exports: _Shared[Export] = _Shared(_EXPORTS_KEPT)
        self._payloads: _Shared[Payload] = _Shared(_PAYLOADS_KEPT)
        self._forgetting: asyncio.TimerHandle | None = None
        self._hashes: OrderedDict[str, Applied] = OrderedDict()

    async def export(self, offering: Offering) -> Export:
        """What is to be known of a version before it is pushed."""

        async def make() -> Export:
            table = await self._table(offering)
            return await asyncio.to_thread(_export, offering, table)

        export = await self._exports.get(offering.digest, make)
        self._hashes[export.hashes.config] = Applied(offering.version, offering.digest)
        self._hashes.move_to_end(export.hashes.config)
        while len(self._hashes) > _HASHES_KEPT:
            self._hashes.popitem(last=False)
        return export

    async def payload(self, export: Export, release: KongVersion) -> Payload:
        """An export as a data plane of this release takes it."""

        async def make() -> Payload:
            table = await self._table(export.offering)
            return await asyncio.to_thread(_pack, export, table, release)

        return await self._payloads.get((export.hashes.config, release), make)

    def applied_by(self, config_hash: str) -> Applied | None:
        """What a data plane that reports this hash runs, if it was made here."""
        return self._hashes.get(config_hash)

    async def _table(self, offering: Offering) -> Table:
        """The table of a version, soon forgotten: it is many times larger than what is made of it."""
        if self._forgetting is not None:
            self._forgetting.cancel()
        self._forgetting = asyncio.get_running_loop().call_later(TABLE_KEPT_S, self._tables.clear)
        return await self._tables.get(
            offering.digest, lambda: asyncio.to_thread(_make_table, offering, self._cluster_id)
        )


class _Shared(Generic[_T]):
    """Things by key, made for whoever asks first; the newest few are kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._made: OrderedDict[Hashable, asyncio.Future[_T]] = OrderedDict()

    def clear(self) -> None:
        self._made.clear()

    async def get(self, key: Hashable, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        making = self._made.get(key)
        if making is None:
            # A task of its own, so that one who stops waiting takes nothing from the others.
            making = asyncio.ensure_future(make())
            self._made[key] = making
        self._made.move_to_end(key)
        while len(self._made) > self._limit:
            self._made.popitem(last=False)
        try:
            return await asyncio.shield(making)
        except Exception:
            if self._made.get(key) is making:
                del self._made[key]
            raise


def _make_table(offering: Offering, cluster_id: str) -> Table:
    whole = offering.make_whole()
    return export_table(Snapshot.unpack(offering.version, whole.compressed, offering.digest), cluster_id)


def _export(offering: Offering, table: Table) -> Export:
    return Export(
        offering,
        hash_c(table),
        configured_plugins(table),
        routes=len(table.get("routes", ())),
        with_expression=count_expressions(table),
        is_empty=not ENTITIES.keys() & table.keys(),
    )


def _pack(export: Export, table: Table, release: KongVersion) -> Payload:
    changed, notes = downgrade(table, release, now_s=time.time())
    for note in notes:
        log.warning(
            "version %d for Kong %d.%d: %s", export.offering.version, release.major, release.minor, note
        )
    payload = encode_push(changed, export.hashes, time.time())
    return Payload(cut_frame(payload), len(payload))
