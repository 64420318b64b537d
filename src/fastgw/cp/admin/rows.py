"""How requests name rows, and what the entity endpoints share: looking up, resolving, entity tags."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from fastgw.cp.admin import answers
from fastgw.cp.admin.dispatch import Call
from fastgw.cp.storage.contract import Reader
from fastgw.model.entities import ENTITIES, Entity, Row
from fastgw.model.faults import lua_table
from fastgw.model.formats import is_uuid
from fastgw.model.validate import check_field


@dataclass(frozen=True, slots=True)
class RowKey:
    """How a path names a row: by `id`, by the endpoint key, or by a field that is unique in the parent."""

    field: str
    value: str


def row_key(entity: Entity, segment: str, *, is_nested: bool = False) -> RowKey:
    """Read a path segment; refuse what cannot be a key before any storage sees it."""
    if is_uuid(segment):
        return RowKey("id", segment.lower())
    name = (entity.nested_key if is_nested else None) or entity.endpoint_key
    if name is None:
        raise answers.invalid_primary_key("expected a valid UUID")
    fault = check_field(entity, name, segment)
    if isinstance(fault, str):
        raise answers.invalid_unique(name, fault)
    return RowKey(name, segment)


async def find_row(
    reader: Reader, entity: Entity, key: RowKey, parent: Mapping[str, Any] | None = None
) -> Row | None:
    """Fetch the row that *key* names.

    Args:
        parent: the foreign field that the path binds, for keys that are unique within it.
    """
    if key.field == "id":
        row = await reader.get(entity.name, key.value)
    elif key.field in entity.unique_fields:
        row = await reader.get_by(entity.name, key.field, key.value)
    elif parent is not None:
        row = await reader.get_by_key(entity.name, {**parent, key.field: key.value})
    else:
        row = None
    return row


def is_live(entity: Entity, row: Row, now_s: float) -> bool:
    """Whether the row's time is not over; expired rows are deleted soon, and hidden until then."""
    return not entity.ttl or row.get("ttl") is None or row["ttl"] > now_s


def shown(entity: Entity, row: Row, now_s: float) -> Row:
    """*row* as clients see it: a time to live in seconds that are left."""
    if not entity.ttl or row.get("ttl") is None:
        return row
    return {**row, "ttl": max(0, row["ttl"] - int(now_s))}


def etag_of(row: Row) -> str:
    """The entity tag of a whole row; equal rows have equal tags, on every control plane."""
    digest = hashlib.sha256(msgspec.json.encode(row, order="sorted")).hexdigest()
    return f'"{digest[:32]}"'


def check_match(call: Call, row: Row | None, what: str) -> None:
    """Refuse with 412 a change of something else than what the client has seen."""
    if call.if_match is None:
        return
    if row is None or not matches(call.if_match, etag_of(row)):
        raise answers.precondition_failed(what)


def matches(if_match: str, etag: str) -> bool:
    """Source: RFC 9110 §13.1.1; weak tags never match."""
    return if_match.strip() == "*" or etag in (tag.strip() for tag in if_match.split(","))


async def resolve_references(reader: Reader, entity: Entity, data: Mapping[str, Any]) -> dict[str, Any]:
    """Replace parents that are given by a unique field, such as `{"name": "x"}`, by their ids.

    What is no usable reference at all stays, for validation to refuse.
    """
    resolved = dict(data)
    unresolved: dict[str, Any] = {}
    for name, field in entity.foreign_fields.items():
        given, parent = data.get(name), ENTITIES.get(field.reference or "")
        if parent is None or not isinstance(given, Mapping):
            continue
        id = given.get("id")
        if isinstance(id, str) and is_uuid(id):
            continue
        faults = {}
        for unique in parent.unique_fields:
            value = given.get(unique)
            if value is None or check_field(parent, unique, value) is not None:
                continue
            row = await reader.get_by(parent.name, unique, value)
            if row is not None:
                resolved[name] = {"id": row["id"]}
                break
            key = lua_table({unique: value})
            faults[unique] = (
                f"the foreign key cannot be resolved with '{key}' for an existing '{parent.name}' entity"
            )
        else:
            if faults:
                unresolved[name] = faults
    if unresolved:
        raise answers.foreign_unresolved(unresolved)
    return resolved
