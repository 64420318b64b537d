"""Reading from a snapshot instead of the database: what is answered while that is away.

Contract. Gives what the storage gave at the snapshot's version, in the same order. The one complication: a
snapshot has no index but its ids. So a look-up by anything else searches the lines for the value as JSON
writes it, and decodes only those that have it; walks over everything are done in a thread.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from fastgw.cp.storage.contract import Reader, TagFilter, TagRow
from fastgw.cp.storage.schema import Schema
from fastgw.errors import StorageUnavailable
from fastgw.model.entities import ENTITIES, Row
from fastgw.model.snapshot import Snapshot

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_SCHEMA = Schema(ENTITIES)


class SnapshotReader(Reader):
    """`Reader` over *snapshot*; may be kept and used by many."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._ids: dict[str, list[str]] = {}

    async def get(self, entity: str, id_: str) -> Row | None:
        return self.snapshot.rows(entity).get(id_)

    async def get_by(self, entity: str, field: str, value: str) -> Row | None:
        if field == "id":
            return await self.get(entity, value)
        found = await self._rows_with(entity, value, lambda row: bool(row.get(field) == value))
        return found[0] if found else None

    async def get_by_key(self, entity: str, row: Mapping[str, Any]) -> Row | None:
        table = _SCHEMA.tables[entity]
        wanted = table.composite_key(row)
        texts = [value for name in table.entity.composite_key if isinstance(value := row.get(name), str)]
        found = await self._rows_with(
            entity, texts[0] if texts else "", lambda one: table.composite_key(one) == wanted
        )
        return found[0] if found else None

    async def page(
        self,
        entity: str,
        *,
        size: int,
        after: str | None = None,
        parent: tuple[str, str] | None = None,
        tags: TagFilter | None = None,
    ) -> tuple[list[Row], str | None]:
        if parent is not None:
            field, id_ = parent
            rows = await self._rows_with(entity, id_, lambda row: row.get(field) == {"id": id_})
            ids = [row["id"] for row in rows]
        elif tags is not None:
            ids = [row["id"] for row in await self._rows_tagged(entity, tags)]
        else:
            ids = await self._ids_of(entity)
        start = bisect_right(ids, after) if after is not None else 0
        shown = ids[start : start + size]
        of_kind = self.snapshot.rows(entity)
        return [of_kind[id_] for id_ in shown], shown[-1] if len(ids) > start + size else None

    async def list_tags(
        self, *, size: int, after: str | None = None, tag: str | None = None
    ) -> tuple[list[TagRow], str | None]:
        found = sorted(await asyncio.to_thread(self._all_tags, tag))
        start = 0
        if after is not None:
            id_, entity, last = (*after.split(" ", 2), "", "")[:3]
            start = bisect_right(found, (id_, entity, last))
        rows = [TagRow(entity, id_, carried) for id_, entity, carried in found[start : start + size]]
        return rows, rows[-1].token if len(found) > start + size else None

    async def count(self, entity: str) -> int:
        return self.snapshot.counts().get(entity, 0)

    async def get_many(self, entity: str, ids: Sequence[str]) -> dict[str, Row]:
        of_kind = self.snapshot.rows(entity)
        return {id_: row for id_ in ids if (row := of_kind.get(id_)) is not None}

    async def touched_since(self, version: int) -> dict[str, dict[str, Row | None]] | None:
        raise StorageUnavailable("the history is in the database, which is away")

    def load_all(self) -> dict[str, list[Row]]:
        """Every row by entity, in ascending order of id; takes time in proportion to them."""
        return {kind: list(self.snapshot.rows(kind).values()) for kind in ENTITIES}

    async def _ids_of(self, entity: str) -> list[str]:
        if entity not in self._ids:
            self._ids[entity] = await asyncio.to_thread(list, self.snapshot.rows(entity))
        return self._ids[entity]

    async def _rows_with(self, entity: str, text: str, is_wanted: Callable[[Row], bool]) -> list[Row]:
        """The rows that hold *text* somewhere and are wanted, by ascending id."""
        return await asyncio.to_thread(self._search, entity, text, is_wanted)

    async def _rows_tagged(self, entity: str, tags: TagFilter) -> list[Row]:
        if tags.mode == "all":
            return await self._rows_with(
                entity, tags.tags[0], lambda row: set(tags.tags) <= set(row.get("tags") or ())
            )
        found: dict[str, Row] = {}
        for tag in tags.tags:
            rows = await self._rows_with(entity, tag, partial(_carries, tag))
            found.update((row["id"], row) for row in rows)
        return [found[id_] for id_ in sorted(found)]

    def _search(self, entity: str, text: str, is_wanted: Callable[[Row], bool]) -> list[Row]:
        start = entity.encode() + b" "
        lines = (line for line in self.snapshot.lines_with(_encode(text)) if line.startswith(start))
        rows = (row for row in map(_row_of, lines) if is_wanted(row))
        return sorted(rows, key=lambda row: str(row["id"]))

    def _all_tags(self, tag: str | None) -> Iterable[tuple[str, str, str]]:
        for line in self.snapshot.lines_with(b'"tags":["' if tag is None else _encode(tag)):
            kind = line.partition(b" ")[0].decode()
            row = _row_of(line)
            for carried in dict.fromkeys(row.get("tags") or ()):
                if tag in (None, carried):
                    yield row["id"], kind, carried


def _carries(tag: str, row: Row) -> bool:
    return tag in (row.get("tags") or ())


def _row_of(line: bytes) -> Row:
    return _decode(line.split(b" ", 2)[2])
