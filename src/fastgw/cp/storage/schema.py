"""Tables and statements for entities, derived from the entity table; the same SQL text for both databases.

A table holds the whole row as JSON in `doc`. What the database itself must know has columns beside it: the
id, unique fields, references to entities that exist, the time at which a row ends, and one text for a key of
several fields (`composite_key`: null is a value in it, which a unique index over columns could not say). The
reserved `ws_id` waits for workspaces.

The one complication: a table has to grow with its entity. So DDL is convergent: `statements_to_reach` looks
at the columns that are there and adds what is missing, with the values that the documents hold. A new table
takes the same way, from no columns at all.

Parameters are written `$1`, `$2`, ..., which both databases understand.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Literal

import msgspec

from fastgw.cp.storage.contract import Row, TagFilter
from fastgw.model.entities import Entity
from fastgw.model.fields import Field

Dialect = Literal["sqlite", "postgres"]

DEFAULT_WORKSPACE_ID: Final = "0dc6f45b-8f8d-40d2-a504-473544ee190b"
"""The one that Kong's own data planes assume; all rows are in it."""

# Byte order, whatever the locale of the server: pages go by ascending id.
TEXT: Final[Mapping[Dialect, str]] = {"sqlite": "TEXT", "postgres": 'TEXT COLLATE "C"'}
REAL: Final[Mapping[Dialect, str]] = {"sqlite": "REAL", "postgres": "DOUBLE PRECISION"}

COMPOSITE_KEY: Final = "composite_key"
"""The column, and the name under which `check` and `fetch_by` know it."""

encode_row: Final = msgspec.json.Encoder().encode
decode_row: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Table:
    """One entity's table: its columns and the statements that use it."""

    __slots__ = (
        *("_columns", "delete", "entity", "expired", "fetch", "foreign", "insert", "name", "release"),
        *("unique", "update"),
    )

    def __init__(self, entity: Entity, known: Collection[str]) -> None:
        """Derive the table of *entity*; references to entities outside *known* get no column."""
        self.entity = entity
        self.name = f'"{entity.name}"'
        self.unique = tuple(name for name in entity.unique_fields if name != "id")
        self.foreign: dict[str, Field] = {
            name: field for name, field in entity.foreign_fields.items() if field.reference in known
        }
        composite = (COMPOSITE_KEY,) if entity.composite_key else ()
        self._columns = (*self.unique, *self.foreign, *composite)
        given = ("id", "created_at", "expires_at", "doc", *self._columns)
        marks = ", ".join(f"${n}" for n in range(1, len(given) + 1))
        self.insert = f"INSERT INTO {self.name} ({', '.join(map(_quoted, given))}) VALUES ({marks})"
        sets = ", ".join(f"{_quoted(column)} = ${n}" for n, column in enumerate(given[1:], 2))
        self.update = f"UPDATE {self.name} SET {sets} WHERE id = $1"
        self.delete = f"DELETE FROM {self.name} WHERE id = $1"
        self.fetch = f"SELECT doc FROM {self.name} WHERE id = $1"
        keys = (*self.unique, *composite)
        # Makes a row let go of its unique values; its next update gives it new ones.
        self.release = (
            f"UPDATE {self.name} SET {', '.join(f'{_quoted(key)} = NULL' for key in keys)} WHERE id = $1"
            if keys
            else None
        )
        self.expired = f"SELECT id FROM {self.name} WHERE expires_at <= $1"

    def values(self, row: Row) -> tuple[Any, ...]:
        """Arguments for `insert` and `update`."""
        created_at = row.get("created_at")
        expires_at = row.get("ttl") if self.entity.ttl else None
        composite = (self.composite_key(row),) if self.entity.composite_key else ()
        return (
            row["id"],
            None if created_at is None else float(created_at),
            None if expires_at is None else float(expires_at),
            encode_row(row).decode(),
            *(row.get(name) for name in self.unique),
            *(reference_of(row, name) for name in self.foreign),
            *composite,
        )

    def composite_key(self, row: Mapping[str, Any]) -> str:
        """The text of the key of several fields; a reference counts by its id."""
        values = [
            reference_of(row, name) if name in self.foreign else row.get(name)
            for name in self.entity.composite_key
        ]
        return encode_row(values).decode()

    def fetch_many(self, count: int) -> str:
        """Make the query for *count* documents by their ids."""
        marks = ", ".join(f"${n}" for n in range(1, count + 1))
        return f"SELECT doc FROM {self.name} WHERE id IN ({marks})"

    def fetch_by(self, field: str) -> str:
        if field not in self.unique and not (field == COMPOSITE_KEY and self.entity.composite_key):
            raise LookupError(f"{self.entity.name}.{field} is not unique")
        return f"SELECT doc FROM {self.name} WHERE {_quoted(field)} = $1"

    def check(self, row: Row, *, is_new: bool) -> tuple[str, list[Any]]:
        """Make the query that names what stands against writing *row*: rows of (what, field).

        `what` is "unique" or "foreign"; for an update also "missing" (no row of that id) or "same" (it is
        equal, so that there is nothing to do).
        """
        parts: list[str] = []
        arguments: list[Any] = [row["id"]]

        def argument(value: Any) -> str:
            arguments.append(value)
            return f"${len(arguments)}"

        def part(what: str, field: str, condition: str) -> None:
            parts.append(f"SELECT '{what}', '{field}' WHERE {condition}")

        own = f"EXISTS (SELECT 1 FROM {self.name} WHERE id = $1"
        if is_new:
            part("unique", "id", f"{own})")
        else:
            part("missing", "id", f"NOT {own})")
            part("same", "doc", f"{own} AND doc = {argument(encode_row(row).decode())})")
        for name in self.unique:
            if row.get(name) is not None:
                holder = f"SELECT 1 FROM {self.name} WHERE {_quoted(name)} = {argument(row[name])}"
                part("unique", name, f"EXISTS ({holder} AND id <> $1)")
        if self.entity.composite_key:
            key = argument(self.composite_key(row))
            holder = f"SELECT 1 FROM {self.name} WHERE {COMPOSITE_KEY} = {key}"
            part("unique", COMPOSITE_KEY, f"EXISTS ({holder} AND id <> $1)")
        for name, field in self.foreign.items():
            target = reference_of(row, name)
            # A row may point to itself, also while it is being made.
            if target is not None and (field.reference, target) != (self.entity.name, row["id"]):
                found = f"SELECT 1 FROM {_quoted(field.reference or '')} WHERE id = {argument(target)}"
                part("foreign", name, f"NOT EXISTS ({found})")
        return " UNION ALL ".join(parts), arguments

    def page(self, size: int, after: str | None, parent: tuple[str, str] | None) -> tuple[str, list[Any]]:
        """Make the query for up to *size* documents in ascending order of id."""
        arguments: list[Any] = [size, after or ""]
        condition = "id > $2"
        if parent is not None:
            field, parent_id = parent
            if field not in self.foreign:
                raise LookupError(f"{self.entity.name}.{field} is not a reference to a known entity")
            arguments.append(parent_id)
            condition += f" AND {_quoted(field)} = $3"
        return f"SELECT doc FROM {self.name} WHERE {condition} ORDER BY id LIMIT $1", arguments

    def tagged_page(self, size: int, after: str | None, tags: TagFilter) -> tuple[str, list[Any]]:
        """Make the same for rows with tags.

        The index of tags goes by ascending id too. So it alone finds the ids of the page: those that carry
        the first tag and the others; or for "any" the next *size* of each tag, which hold the page.
        """
        arguments = [size, after or "", self.entity.name, *tags.tags]
        marks = [f"${n}" for n in range(4, len(arguments) + 1)]
        carried = "SELECT {what} FROM entity_tags AS {name} WHERE {name}.entity = $3 AND {name}.tag = {mark}"
        if tags.mode == "all":
            first, *others = marks
            also = "".join(
                f" AND EXISTS ({carried.format(what='1', name='o', mark=mark)} AND o.entity_id = t.entity_id)"
                for mark in others
            )
            heads = [(first, also)]
        else:
            heads = [(mark, "") for mark in marks]
        ids = " UNION ".join(
            f"SELECT * FROM ({carried.format(what='t.entity_id', name='t', mark=mark)} "
            f"AND t.entity_id > $2{also} ORDER BY t.entity_id LIMIT $1) AS ids"
            for mark, also in heads
        )
        return f"SELECT doc FROM {self.name} WHERE id IN ({ids}) ORDER BY id LIMIT $1", arguments

    def statements_to_reach(self, present: Collection[str], dialect: Dialect) -> Iterator[str]:
        """Yield the DDL from a table with the columns *present* (none: no table) to this one."""
        text, real = TEXT[dialect], REAL[dialect]
        if not present:
            yield (
                f"CREATE TABLE {self.name} (id {text} PRIMARY KEY, "
                f"ws_id {text} NOT NULL DEFAULT '{DEFAULT_WORKSPACE_ID}', "
                f"created_at {real}, expires_at {real}, doc TEXT NOT NULL)"
            )
            if self.entity.ttl:
                yield f'CREATE INDEX "{self.entity.name}_expires_at" ON {self.name} (expires_at)'
        for name in self._columns:
            if name in present:
                continue
            column, index = _quoted(name), _quoted(f"{self.entity.name}_{name}")
            if name in self.foreign:
                target = _quoted(self.foreign[name].reference or "")
                yield f"ALTER TABLE {self.name} ADD COLUMN {column} {text} REFERENCES {target} (id)"
                yield f"UPDATE {self.name} SET {column} = {_in_document((name, 'id'), dialect)}"
                yield f"CREATE INDEX {index} ON {self.name} ({column}, id)"
            elif name == COMPOSITE_KEY:
                # Never added later: nothing could fill it in for the rows that are there.
                yield f"ALTER TABLE {self.name} ADD COLUMN {column} {text}"
                yield f"CREATE UNIQUE INDEX {index} ON {self.name} ({column}, ws_id)"
            else:
                yield f"ALTER TABLE {self.name} ADD COLUMN {column} {text}"
                yield f"UPDATE {self.name} SET {column} = {_in_document((name,), dialect)}"
                yield f"CREATE UNIQUE INDEX {index} ON {self.name} ({column}, ws_id)"


class Referrer:
    """A reference seen from where it points: rows of `table` point to the entity by `field`."""

    __slots__ = ("cascades", "field", "select", "table")

    def __init__(self, table: Table, field: str) -> None:
        self.table = table
        self.field = field
        self.cascades = table.foreign[field].on_delete == "cascade"
        pointing = f"SELECT id FROM {table.name} WHERE {_quoted(field)} = $1"
        # One is enough to refuse; and a row that points to itself does not hold itself back.
        self.select = pointing if self.cascades else f"{pointing} AND id <> $1 LIMIT 1"


class Schema:
    """The tables of all entities, and who points to whom."""

    __slots__ = ("referrers", "tables")

    def __init__(self, entities: Mapping[str, Entity]) -> None:
        self.tables = {name: Table(entity, entities.keys()) for name, entity in entities.items()}
        self.referrers: dict[str, list[Referrer]] = {name: [] for name in entities}
        for table in self.tables.values():
            for name, field in table.foreign.items():
                self.referrers[field.reference or ""].append(Referrer(table, name))


def tags_page(size: int, after: str | None, tag: str | None) -> tuple[str, list[Any]]:
    """Make the query for (entity, id, tag), by ascending id; *after* is a token of `TagRow`."""
    id_, entity, last = (*(after or "").split(" ", 2), "", "")[:3]
    arguments: list[Any] = [size, id_, entity, last]
    condition = "(entity_id, entity, tag) > ($2, $3, $4)"
    if tag is not None:
        arguments.append(tag)
        condition += " AND tag = $5"
    return (
        f"SELECT entity, entity_id, tag FROM entity_tags WHERE {condition} "
        "ORDER BY entity_id, entity, tag LIMIT $1",
        arguments,
    )


def reference_of(row: Mapping[str, Any], field: str) -> str | None:
    """Take the id out of a foreign field."""
    value = row.get(field)
    return None if value is None else value["id"]


def _in_document(path: tuple[str, ...], dialect: Dialect) -> str:
    if dialect == "sqlite":
        return f"json_extract(doc, '$.{'.'.join(path)}')"
    return f"doc::json #>> '{{{','.join(path)}}}'"


def _quoted(identifier: str) -> str:
    return f'"{identifier}"'
