"""Rows to store, and a small entity of our own that cascades."""

from __future__ import annotations

import uuid
from typing import Any, Final

from fastgw.cp.storage.contract import Row, Storage
from fastgw.cp.storage.migrations import MIGRATIONS, EntityTable, Migration
from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import Field, by_name, each
from fastgw.model.validate import make_row

NOW_S: Final = 1_700_000_000
NOWHERE: Final = str(uuid.UUID(int=0xDEAD))

# Points to services and routes and goes with them; and to itself.
LABELS: Final = Entity(
    "labels",
    by_name(
        Field("id", "string", auto=True, uuid=True, nullable=False),
        Field("created_at", "number", auto=True, timestamp=True, nullable=False),
        Field("group", "string", unique=True),
        Field("key", "string", unique=True),
        Field("service", "foreign", reference="services", on_delete="cascade"),
        Field("route", "foreign", reference="routes", on_delete="cascade"),
        Field("parent", "foreign", reference="labels", on_delete="restrict"),
        Field("elsewhere", "foreign", reference="licenses"),
        Field("tags", "set", elements=each("string")),
    ),
    admin_path="labels",
    nested_name="labels",
)
WITH_LABELS: Final[dict[str, Any]] = {
    "entities": {**ENTITIES, "labels": LABELS},
    "migrations": (*MIGRATIONS, Migration(900, "labels", up=(EntityTable("labels"),))),
}


def make_service(name: str | None = None, **fields: Any) -> Row:
    return make_row(ENTITIES["services"], {"name": name, "host": "example.com", **fields}, now_s=NOW_S)


def make_route(service: Row | None, name: str | None = None, **fields: Any) -> Row:
    reference = None if service is None else {"id": service["id"]}
    data = {"name": name, "paths": ["/"], "service": reference, **fields}
    return make_row(ENTITIES["routes"], data, now_s=NOW_S)


def make_label(**fields: Any) -> Row:
    row = dict.fromkeys(LABELS.fields)
    return {**row, "id": str(uuid.uuid4()), "created_at": 1.5, **fields}


async def insert(storage: Storage, entity: str, *rows: Row) -> int:
    """Insert in one transaction; return its version."""
    async with storage.write("tests") as writer:
        for row in rows:
            await writer.insert(entity, row)
    return writer.version


async def loaded(storage: Storage) -> tuple[int, dict[str, list[Row]]]:
    """What `load_all` gives, without the empty tables of entities that these tests leave alone."""
    version, rows = await storage.load_all()
    kept = ("services", "routes", "labels")
    return version, {entity: found for entity, found in rows.items() if found or entity in kept}
