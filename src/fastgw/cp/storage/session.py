"""Reader and Writer, written once for both databases on top of a connection that can fetch and execute.

A writer asks first what stands against a change (one query), so that a violation is raised with its field
named and the transaction stays usable; the constraints in the database are the net below. That holds because
only one writer is at work at a time, in all processes: its storage took the version row's lock.

Journal rows gather in the writer and go out in slices; `finish` writes the rest, trims, and moves the
version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from fastgw.cp.storage.contract import (
    Connection,
    ImportCounts,
    Operation,
    Reader,
    Row,
    TagFilter,
    TagRow,
    Writer,
)
from fastgw.cp.storage.importing import ImportPlan, plan_import, plan_restore
from fastgw.cp.storage.schema import (
    COMPOSITE_KEY,
    Schema,
    Table,
    decode_row,
    encode_row,
    reference_of,
    tags_page,
)
from fastgw.errors import ForeignViolation, ReferencedViolation, UniqueViolation

KEEP_VERSIONS: Final = 10_000
KEEP_CHANGES: Final = 500_000
"""The journal's bound where single versions are large, such as imports."""
_TRIM_EVERY: Final = 100
_JOURNAL_SLICE: Final = 1_000
_IMPORT_SLICE: Final = 500

_INSERT_JOURNAL: Final = (
    "INSERT INTO journal (seq, version, at, actor, entity, entity_id, op, after) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
)
_INSERT_TAG: Final = "INSERT INTO entity_tags (entity, tag, entity_id) VALUES ($1, $2, $3)"
_DELETE_TAGS: Final = "DELETE FROM entity_tags WHERE entity = $1 AND entity_id = $2"


# The rows that changed after a version: what was first done to them, and their last journal row before that.
_FETCH_TOUCHED: Final = (
    "SELECT t.entity, t.entity_id, f.op, b.seq, b.after "
    "FROM (SELECT entity, entity_id, min(seq) AS seq FROM journal WHERE version > $1 "
    "GROUP BY entity, entity_id) AS t JOIN journal AS f ON f.seq = t.seq LEFT JOIN journal AS b ON b.seq = "
    "(SELECT max(c.seq) FROM journal AS c WHERE c.entity = t.entity AND c.entity_id = t.entity_id "
    "AND c.seq < t.seq)"
)
_FETCH_HELD: Final = "SELECT min(base_version) FROM rollouts WHERE running = 1"
_FEW_IDS: Final = 100
"""In one query by ids."""


class JournalLimits(NamedTuple):
    """How much of the journal is kept; smaller in tests."""

    keep_versions: int = KEEP_VERSIONS
    keep_changes: int = KEEP_CHANGES
    keep_s: float = 0
    """Seconds; 0: for ever."""
    trim_every: int = _TRIM_EVERY


class _Counted:
    """How many rows of all are written."""

    __slots__ = ("_all", "_done", "_tell")

    def __init__(self, all_: int, tell: Callable[[int, int], None]) -> None:
        self._all = all_
        self._done = 0
        self._tell = tell

    def add(self, number: int) -> None:
        self._done += number
        self._tell(self._done, self._all)


class SqlReader(Reader):
    """`Reader` over a connection."""

    def __init__(self, schema: Schema, connection: Connection) -> None:
        self._schema = schema
        self._connection = connection

    async def get(self, entity: str, id_: str) -> Row | None:
        return await self._one(self._table(entity).fetch, id_)

    async def get_by(self, entity: str, field: str, value: str) -> Row | None:
        table = self._table(entity)
        if field == "id":
            return await self._one(table.fetch, value)
        return await self._one(table.fetch_by(field), value)

    async def get_by_key(self, entity: str, row: Mapping[str, Any]) -> Row | None:
        table = self._table(entity)
        return await self._one(table.fetch_by(COMPOSITE_KEY), table.composite_key(row))

    async def list_tags(
        self, *, size: int, after: str | None = None, tag: str | None = None
    ) -> tuple[list[TagRow], str | None]:
        if not all(map(_is_storable, (after, tag))):
            return [], None
        sql, arguments = tags_page(size + 1, after, tag)
        found = await self._connection.fetch(sql, *arguments)
        rows = [TagRow(*row) for row in found[:size]]
        return rows, rows[-1].token if len(found) > size else None

    async def page(
        self,
        entity: str,
        *,
        size: int,
        after: str | None = None,
        parent: tuple[str, str] | None = None,
        tags: TagFilter | None = None,
    ) -> tuple[list[Row], str | None]:
        if not all(map(_is_storable, (after, *(parent or ()), *(tags.tags if tags else ())))):
            return [], None
        table = self._table(entity)
        if tags is None:
            sql, arguments = table.page(size + 1, after, parent)
        elif parent is None:
            sql, arguments = table.tagged_page(size + 1, after, tags)
        else:
            raise LookupError("a page is of a parent or of tags, not of both")
        documents = await self._connection.fetch(sql, *arguments)
        rows = [decode_row(document) for (document,) in documents[:size]]
        return rows, rows[-1]["id"] if len(documents) > size else None

    async def count(self, entity: str) -> int:
        ((number,),) = await self._connection.fetch(f"SELECT count(*) FROM {self._table(entity).name}")
        return int(number)

    async def get_many(self, entity: str, ids: Sequence[str]) -> dict[str, Row]:
        found: dict[str, Row] = {}
        for start in range(0, len(ids), _FEW_IDS):
            few = ids[start : start + _FEW_IDS]
            documents = await self._connection.fetch(self._table(entity).fetch_many(len(few)), *few)
            found.update((row["id"], row) for row in (decode_row(document) for (document,) in documents))
        return found

    async def touched_since(self, version: int) -> dict[str, dict[str, Row | None]] | None:
        current, _, trimmed = await read_state(self._connection)
        if not trimmed <= version <= current:
            return None
        touched: dict[str, dict[str, Row | None]] = {}
        records = await self._connection.fetch(_FETCH_TOUCHED, version)
        for number, (entity, id_, first_op, seq_before, before) in enumerate(records):
            if seq_before is None and first_op != "create":
                # What it was then is trimmed.
                return None
            touched.setdefault(entity, {})[id_] = None if before is None else decode_row(before)
            if number % _IMPORT_SLICE == 0:
                await asyncio.sleep(0)
        return touched

    def _table(self, entity: str) -> Table:
        return self._schema.tables[entity]

    async def _one(self, sql: str, value: str) -> Row | None:
        if not _is_storable(value):
            return None
        found = await self._connection.fetch(sql, value)
        return decode_row(found[0][0]) if found else None


class SqlWriter(SqlReader, Writer):
    """`Writer` over a connection that holds the version row's lock."""

    def __init__(
        self,
        schema: Schema,
        connection: Connection,
        *,
        actor: str,
        at: float,
        version: int,
        seq: int,
        trimmed: int,
        limits: JournalLimits,
    ) -> None:
        """Continue after *version* and *seq*, which the version row holds, as does *trimmed*."""
        super().__init__(schema, connection)
        self.at = at
        self.version = version + 1
        self.changed = False
        self._actor = actor
        self._seq = seq
        self._trimmed = trimmed
        self._limits = limits
        self._is_trimmed = False
        self.records = connection
        self._unwritten: list[tuple[Any, ...]] = []

    async def insert(self, entity: str, row: Row) -> None:
        table = self._table(entity)
        await self._check(table, row, is_new=True)
        await self._connection.execute_later(table.insert, *table.values(row))
        await self._insert_tags(entity, row)
        await self._note(entity, row["id"], "create", row)

    async def update(self, entity: str, row: Row) -> bool:
        table = self._table(entity)
        obstacle = await self._check(table, row, is_new=False)
        if obstacle is not None:
            return obstacle == "same"
        await self._connection.execute_later(table.update, *table.values(row))
        if "tags" in table.entity.fields:
            await self._connection.execute_later(_DELETE_TAGS, entity, row["id"])
            await self._insert_tags(entity, row)
        await self._note(entity, row["id"], "update", row)
        return True

    async def delete(self, entity: str, id_: str) -> bool:
        if not _is_storable(id_) or not await self._connection.fetch(self._table(entity).fetch, id_):
            return False
        # All obstacles are looked for before the first row goes.
        for doomed, doomed_id in await self._find_doomed(entity, id_):
            await self._connection.execute_later(doomed.delete, doomed_id)
            if "tags" in doomed.entity.fields:
                await self._connection.execute_later(_DELETE_TAGS, doomed.entity.name, doomed_id)
            await self._note(doomed.entity.name, doomed_id, "delete", None)
        return True

    async def import_rows(
        self,
        rows: Mapping[str, Sequence[Row]],
        *,
        replace: bool,
        on_progress: Callable[[int, int], None] = lambda done, all_: None,
    ) -> ImportCounts:
        plans = []
        for name, table in self._schema.tables.items():
            stored = await self._all_rows(table)
            # Large ones are compared in a thread, which lets others have their turn.
            compare = partial(plan_import, table, stored, rows.get(name, ()), replace=replace)
            plans.append(await asyncio.to_thread(compare) if stored or rows.get(name) else compare())
        return await self._carry_out(plans, on_progress)

    async def restore_rows(self, rows: Mapping[str, Mapping[str, Row | None]]) -> ImportCounts:
        plans = []
        for name, table in self._schema.tables.items():
            wanted = rows.get(name, {})
            stored = await self.get_many(name, list(wanted))
            plans.append(plan_restore(table, stored, wanted))
        return await self._carry_out(plans)

    async def _carry_out(
        self,
        plans: Sequence[ImportPlan],
        on_progress: Callable[[int, int], None] = lambda done, all_: None,
    ) -> ImportCounts:
        counted = _Counted(sum(len(plan.created) + len(plan.updated) for plan in plans), on_progress)
        # What goes or changes its unique values lets go of them first, so that others may take them.
        for plan in plans:
            if plan.freed and plan.table.release is not None:
                await self._connection.execute_many(plan.table.release, [(id_,) for id_ in plan.freed])
        for plan in plans:
            await self._store_many(plan.table.insert, plan.table, "create", plan.created, counted)
            await self._store_many(plan.table.update, plan.table, "update", plan.updated, counted)
        for plan in reversed(plans):
            await self._connection.execute_many(plan.table.delete, [(id_,) for id_ in plan.deleted])
            await self._forget_tags(plan.table.entity.name, plan.deleted)
            for id_ in plan.deleted:
                await self._note(plan.table.entity.name, id_, "delete", None)
        return ImportCounts(
            created=sum(len(plan.created) for plan in plans),
            updated=sum(len(plan.updated) for plan in plans),
            deleted=sum(len(plan.deleted) for plan in plans),
            unchanged=sum(plan.unchanged for plan in plans),
        )

    async def _all_rows(self, table: Table) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        after: str | None = None
        while True:
            page, after = await self.page(table.entity.name, size=_IMPORT_SLICE, after=after)
            rows.update((row["id"], row) for row in page)
            if after is None:
                return rows

    async def _store_many(
        self, sql: str, table: Table, op: Operation, rows: Sequence[Row], counted: _Counted
    ) -> None:
        name = table.entity.name
        for start in range(0, len(rows), _IMPORT_SLICE):
            batch = rows[start : start + _IMPORT_SLICE]
            await self._connection.execute_many(sql, [table.values(row) for row in batch])
            if op == "update":
                await self._forget_tags(name, [row["id"] for row in batch])
            tags = [(name, tag, row["id"]) for row in batch for tag in dict.fromkeys(row.get("tags") or ())]
            if tags:
                await self._connection.execute_many(_INSERT_TAG, tags)
            for row in batch:
                await self._note(name, row["id"], op, row)
            counted.add(len(batch))
            # Other requests are served between two batches.
            await asyncio.sleep(0)

    async def _forget_tags(self, name: str, ids: Sequence[str]) -> None:
        if ids and "tags" in self._table(name).entity.fields:
            await self._connection.execute_many(_DELETE_TAGS, [(name, id_) for id_ in ids])

    async def delete_expired(self) -> int:
        number = 0
        for name, table in self._schema.tables.items():
            if table.entity.ttl:
                for (id_,) in await self._connection.fetch(table.expired, self.at):
                    number += await self.delete(name, id_)
        return number

    async def finish(self) -> None:
        """Write what is left of the journal and move the version, if anything changed."""
        if not self.changed:
            self.version -= 1
            if self._is_trimmed:
                await self._connection.execute("UPDATE cluster SET trimmed = $1", self._trimmed)
            return
        await self._write_journal()
        if self.version % self._limits.trim_every == 0:
            await self._trim()
        await self._connection.execute_later(
            "UPDATE cluster SET version = $1, seq = $2, trimmed = $3", self.version, self._seq, self._trimmed
        )

    async def _check(self, table: Table, row: Row, *, is_new: bool) -> str | None:
        """Raise the violation that *row* would be; return "missing" or "same" where an update ends there."""
        sql, arguments = table.check(row, is_new=is_new)
        found = {(what, field) for what, field in await self._connection.fetch(sql, *arguments)}
        name = table.entity.name
        if ("missing", "id") in found:
            return "missing"
        for what, field in sorted(found):
            if what == "foreign":
                reference = table.foreign[field].reference or ""
                raise ForeignViolation(name, field, reference, reference_of(row, field) or "")
        taken = {field: row[field] for what, field in sorted(found) if what == "unique" and field in row}
        if ("unique", COMPOSITE_KEY) in found:
            # Kong tells of the whole key, references included.
            taken = {field: row[field] for field in table.entity.composite_key}
        if taken:
            raise UniqueViolation(name, taken)
        return "same" if found else None

    async def _find_doomed(self, entity: str, id_: str) -> list[tuple[Table, str]]:
        """List the row and what cascades with it, those that point before those that are pointed to."""
        order: list[tuple[Table, str]] = []
        seen: set[tuple[str, str]] = set()
        stack: list[tuple[str, str, bool]] = [(entity, id_, False)]
        while stack:
            name, row_id, is_walked = stack.pop()
            if is_walked:
                order.append((self._table(name), row_id))
            elif (name, row_id) not in seen:
                seen.add((name, row_id))
                stack.append((name, row_id, True))
                for referrer in self._schema.referrers[name]:
                    pointing = await self._connection.fetch(referrer.select, row_id)
                    if pointing and not referrer.cascades:
                        raise ReferencedViolation(name, referrer.table.entity.name)
                    stack += [(referrer.table.entity.name, pointing_id, False) for (pointing_id,) in pointing]
        return order

    async def _insert_tags(self, entity: str, row: Row) -> None:
        tags = row.get("tags")
        if tags:
            await self._insert_rows(_INSERT_TAG, [(entity, tag, row["id"]) for tag in dict.fromkeys(tags)])

    async def _note(self, entity: str, id_: str, op: Operation, after: Row | None) -> None:
        self.changed = True
        self._seq += 1
        document = None if after is None else encode_row(after).decode()
        self._unwritten.append((self._seq, self.version, self.at, self._actor, entity, id_, op, document))
        if len(self._unwritten) >= _JOURNAL_SLICE:
            await self._write_journal()

    async def _write_journal(self) -> None:
        await self._insert_rows(_INSERT_JOURNAL, self._unwritten)
        self._unwritten.clear()

    async def _insert_rows(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        if len(rows) == 1:
            await self._connection.execute_later(sql, *rows[0])
        elif rows:
            await self._connection.execute_many(sql, rows)

    async def trim_history(self) -> None:
        await self._trim()
        if self._limits.keep_s:
            # No index knows of times, so this walks over the journal: now and then, not at every write.
            ((beyond,),) = await self._connection.fetch(
                "SELECT max(version) FROM journal WHERE at < $1", self.at - self._limits.keep_s
            )
            # The newest stays, however old it is.
            await self._cut(min(beyond or 0, self._newest - 1))

    async def _trim(self) -> None:
        """Drop versions beyond the bounds of numbers; a version goes whole or stays whole."""
        ((beyond,),) = await self._connection.fetch(
            "SELECT max(version) FROM journal WHERE seq <= $1", self._seq - self._limits.keep_changes
        )
        await self._cut(max(self._newest - self._limits.keep_versions, beyond or 0))

    async def _cut(self, version: int) -> None:
        # What was changed since the base of a rollout has to be known until that has ended.
        ((held,),) = await self._connection.fetch(_FETCH_HELD)
        if held is not None:
            version = min(version, held)
        if version > self._trimmed:
            await self._connection.execute("DELETE FROM journal WHERE version <= $1", version)
            self._trimmed, self._is_trimmed = version, True

    @property
    def _newest(self) -> int:
        return self.version if self.changed else self.version - 1


async def read_state(connection: Connection) -> tuple[int, int, int]:
    """Read version, seq and trimmed."""
    ((version, seq, trimmed),) = await connection.fetch("SELECT version, seq, trimmed FROM cluster")
    return int(version), int(seq), int(trimmed)


def _is_storable(value: str | None) -> bool:
    """Tell whether a column could hold *value* at all; PostgreSQL's text has no NUL."""
    return value is None or "\0" not in value
