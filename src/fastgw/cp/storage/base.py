"""What both storages have in common: everything that is SQL, and nothing that is a connection.

A subclass gives three kinds of transactions: `_view` (reading, consistent), `_transaction` (writing outside
the versions) and `_versioned` (writing, with the version row locked), and calls `_signal` when a version
stands.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Final

import msgspec

from fastgw.cp.storage.contract import (
    CHANGES_LIMIT,
    Change,
    Connection,
    DataPlaneRow,
    Reader,
    Row,
    Storage,
    VersionSummary,
    Writer,
)
from fastgw.cp.storage.migrations import MIGRATIONS, Migration, Migrator
from fastgw.cp.storage.schema import Dialect, Schema, decode_row
from fastgw.cp.storage.session import JournalLimits, SqlReader, SqlWriter, read_state
from fastgw.cp.storage.version_signal import VersionSignal
from fastgw.errors import StorageUnavailable
from fastgw.model.entities import ENTITIES, Entity

# How long a writer waits for the writers before it in this process.
_TURN_S: Final = 30.0

# Rows are decoded on the event loop, so they come in slices that take a few milliseconds at most.
_LOAD_SLICE: Final = 500

_PUT_DATA_PLANE: Final = (
    "INSERT INTO data_planes (id, last_seen, doc, holder, is_connected) VALUES ($1, $2, $3, $4, $5) "
    "ON CONFLICT (id) DO UPDATE SET last_seen = excluded.last_seen, doc = excluded.doc, "
    "holder = excluded.holder, is_connected = excluded.is_connected "
    # The clocks of two control planes may differ, so who has just been connected to need not be later; and
    # the clock of one may be put right, so what it writes of its own need not be later either.
    "WHERE $6 = 1 OR data_planes.holder = excluded.holder OR (data_planes.last_seen <= excluded.last_seen "
    "AND (excluded.is_connected = 1 OR data_planes.is_connected = 0))"
)

_FETCH_CHANGES: Final = (
    "SELECT version, seq, at, actor, entity, entity_id, op, after FROM journal "
    # Both orders are the same, but by seq alone SQLite walks over all of the journal.
    "WHERE version > $1 AND seq > $2 ORDER BY version, seq LIMIT $3"
)

_FETCH_WRITTEN_AT: Final = "SELECT at FROM journal WHERE version = $1 ORDER BY seq LIMIT 1"
_FETCH_STATE: Final = f"SELECT version, trimmed, ({_FETCH_WRITTEN_AT}) FROM cluster"
_NO_SEQ: Final = 2**62
_FETCH_HISTORY: Final = (
    "SELECT version, seq, at, actor, entity, entity_id, op, after FROM journal "
    "WHERE seq < $1 ORDER BY seq DESC LIMIT $2"
)
_FETCH_VERSIONS: Final = (
    "SELECT version, min(at), min(actor), sum(CASE op WHEN 'create' THEN 1 ELSE 0 END), "
    "sum(CASE op WHEN 'update' THEN 1 ELSE 0 END), sum(CASE op WHEN 'delete' THEN 1 ELSE 0 END) "
    "FROM journal WHERE version < $1 GROUP BY version ORDER BY version DESC LIMIT $2"
)

_encode: Final = msgspec.json.Encoder().encode
_decode_data_plane: Final = msgspec.json.Decoder(DataPlaneRow).decode


class SqlStorage(Storage):
    """A storage whose transactions are `Connection`s."""

    dialect: ClassVar[Dialect]

    def __init__(
        self,
        *,
        entities: Mapping[str, Entity] = ENTITIES,
        migrations: Sequence[Migration] = MIGRATIONS,
        limits: JournalLimits | None = None,
    ) -> None:
        """Arguments other than the defaults are for tests."""
        self._schema = Schema(entities)
        self._migrations = migrations
        self._limits = limits or JournalLimits()
        self._signal = VersionSignal()

    @property
    @abstractmethod
    def where(self) -> str:
        """Which database this is, for people."""

    @abstractmethod
    def _view(self) -> AbstractAsyncContextManager[Connection]:
        """Open a read-only transaction that sees one state."""

    @abstractmethod
    def _transaction(self) -> AbstractAsyncContextManager[Connection]:
        """Open a writing transaction that touches neither entities nor versions."""

    @abstractmethod
    def _versioned(self, actor: str) -> AbstractAsyncContextManager[SqlWriter]:
        """Open a writing transaction with the version row locked; `finish`es the writer and commits."""

    @abstractmethod
    def beside(self) -> AbstractAsyncContextManager[Connection]:
        """Open a writing transaction as `write_records` does, on a storage that is not open.

        For a command beside a running control plane, which may hold the database open.

        Raises:
            NeedsBootstrap: the database is empty; PendingMigrations, as `Storage.open`.
        """

    @abstractmethod
    def migrator(self) -> Migrator:
        """Make the runner of this database's migrations; the storage need not be open."""

    def read_records(self) -> AbstractAsyncContextManager[Connection]:
        """Open a view for what is kept beside entities and versions, such as the authority's records."""
        return self._view()

    def write_records(self) -> AbstractAsyncContextManager[Connection]:
        """Open a writing transaction for the same; what it writes makes no version."""
        return self._transaction()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Reader]:
        async with self._view() as connection:
            yield SqlReader(self._schema, connection)

    def write(self, actor: str) -> AbstractAsyncContextManager[Writer]:
        return self._versioned(actor)

    async def version(self) -> int:
        async with self._view() as connection:
            return (await read_state(connection))[0]

    async def load_all(self) -> tuple[int, dict[str, list[Row]]]:
        version, _, rows = await self.load_newest()
        return version, rows

    async def load_newest(self) -> tuple[int, float | None, dict[str, list[Row]]]:
        async with self._view() as connection:
            version, _, _ = await read_state(connection)
            return version, await _written_at(connection, version), await self._load_rows(connection)

    async def _load_rows(self, connection: Connection) -> dict[str, list[Row]]:
        entities: dict[str, list[Row]] = {}
        for name, table in self._schema.tables.items():
            rows: list[Row] = []
            after: str | None = None
            while True:
                sql, arguments = table.page(_LOAD_SLICE, after, None)
                documents = await connection.fetch(sql, *arguments)
                rows += [decode_row(document) for (document,) in documents]
                if len(documents) < _LOAD_SLICE:
                    break
                after = rows[-1]["id"]
            entities[name] = rows
        return entities

    async def changes_since(
        self, version: int, limit: int = CHANGES_LIMIT, *, at: float | None = None
    ) -> list[Change] | None:
        async with self._view() as connection:
            ((current, trimmed, written_at),) = await connection.fetch(_FETCH_STATE, version)
            if not trimmed <= version <= current:
                return None
            if at is not None and written_at not in (None, at):
                return None
            changes: list[Change] = []
            last_seq = 0
            while len(changes) <= limit:
                wanted = min(_LOAD_SLICE, limit + 1 - len(changes))
                found = await connection.fetch(_FETCH_CHANGES, version, last_seq, wanted)
                changes += map(_change, found)
                if len(found) < wanted:
                    return changes
                last_seq = changes[-1].seq
        # One more than wanted was read: the version that it belongs to is left out, as a part is no use.
        cut = changes[-1].version
        return [change for change in changes if change.version < cut] or None

    async def history(self, *, before: int | None, size: int) -> list[Change]:
        async with self._view() as connection:
            found = await connection.fetch(_FETCH_HISTORY, _NO_SEQ if before is None else before, size)
        return [_change(record) for record in found]

    async def versions(self, *, before: int | None, size: int) -> list[VersionSummary]:
        async with self._view() as connection:
            found = await connection.fetch(_FETCH_VERSIONS, _NO_SEQ if before is None else before, size)
        return [VersionSummary(*record[:3], *map(int, record[3:])) for record in found]

    async def rows_at(self, version: int) -> dict[str, list[Row]] | None:
        async with self._view() as connection:
            touched = await SqlReader(self._schema, connection).touched_since(version)
            if touched is None:
                return None
            rows = await self._load_rows(connection)
        for name, earlier in touched.items():
            present = {row["id"]: row for row in rows[name] if row["id"] not in earlier}
            present.update((id_, row) for id_, row in earlier.items() if row is not None)
            rows[name] = [present[id_] for id_ in sorted(present)]
        return rows

    async def wait_version_above(self, version: int, timeout_s: float, *, at: float | None = None) -> int:
        return await self._signal.wait_above(version, timeout_s, at)

    def is_replaced(self, version: int, at: float | None) -> bool:
        return self._signal.is_replaced(version, at)

    async def put_data_planes(
        self, rows: Sequence[DataPlaneRow], *, claims: AbstractSet[str] = frozenset()
    ) -> None:
        if not rows:
            return
        # By id, so that two control planes that write the same rows cannot wait for each other in a circle.
        records = [
            (
                row.id,
                row.last_seen,
                _encode(row).decode(),
                row.control_plane_id,
                int(row.connected),
                int(row.id in claims),
            )
            for row in sorted(rows, key=lambda row: row.id)
        ]
        async with self._transaction() as connection:
            await connection.execute_many(_PUT_DATA_PLANE, records)

    async def list_data_planes(
        self, size: int, after: str | None = None
    ) -> tuple[list[DataPlaneRow], str | None]:
        async with self._view() as connection:
            documents = await connection.fetch(
                "SELECT doc FROM data_planes WHERE id > $1 ORDER BY id LIMIT $2", after or "", size + 1
            )
        rows = [_decode_data_plane(document) for (document,) in documents[:size]]
        return rows, rows[-1].id if len(documents) > size else None

    async def purge_data_planes(self, before_s: int) -> int:
        async with self._transaction() as connection:
            gone = await connection.fetch(
                "DELETE FROM data_planes WHERE last_seen < $1 RETURNING id", before_s
            )
        return len(gone)

    async def cluster_id(self) -> str:
        async with self._view() as connection:
            ((cluster_id,),) = await connection.fetch("SELECT id FROM cluster")
            return str(cluster_id)

    async def ping(self) -> None:
        await self.version()


@asynccontextmanager
async def in_turn(turn: asyncio.Lock, database: str) -> AsyncIterator[None]:
    """Hold *turn*, in order of arrival; *database* is for the message when that takes too long."""
    try:
        async with asyncio.timeout(_TURN_S):
            await turn.acquire()
    except TimeoutError:
        raise StorageUnavailable(f"{database}: other writers are at work for {_TURN_S:.0f} s") from None
    try:
        yield
    finally:
        turn.release()


async def _written_at(connection: Connection, version: int) -> float | None:
    found = await connection.fetch(_FETCH_WRITTEN_AT, version)
    return float(found[0][0]) if found else None


def _change(record: Sequence[Any]) -> Change:
    version, seq, at, actor, entity, id_, op, after = record
    return Change(version, seq, at, actor, entity, id_, op, None if after is None else decode_row(after))
