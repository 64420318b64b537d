"""The endpoints of entities, all derived from the entity table.

For an entity E with a foreign field F to a parent P there are

    /E                    list, create
    /E/{e}                read, upsert, update, delete
    /E/{e}/F              the parent: read, upsert, update
    /P/{p}/E, /P/{p}/E/{e}  the same as the first two, within one parent

where `{e}` is an id or a value of the endpoint key. What a write reads, checks and stores is one transaction,
and its timestamps are the database's.
Source: kong/api/endpoints.lua, release 3.9.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response, not_found
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.paging import page_body, page_request, tag_filter
from fastgw.cp.storage.contract import Reader, Storage, Writer
from fastgw.model.entities import ENTITIES, Entity, Row
from fastgw.model.faults import lua_table
from fastgw.model.formats import is_uuid
from fastgw.model.validate import check_field, make_row, merge_row


def entity_resources(storage: Storage) -> Iterator[Resource]:
    """All resources of all entities."""
    for entity in ENTITIES.values():
        top = _Collection(storage, entity)
        yield from _collection_resources(top, f"/{entity.admin_path}")
        for name, field in entity.foreign_fields.items():
            parent = ENTITIES.get(field.reference or "")
            if parent is None:
                continue
            link = _ParentLink(storage, entity, name, parent)
            yield Resource(
                f"/{entity.admin_path}/{{{entity.name}}}/{name}",
                {"GET": link.read, "PUT": link.upsert, "PATCH": link.update, "DELETE": link.delete},
            )
            nested = _Collection(storage, entity, parent_field=name, parent=parent)
            base = f"/{parent.admin_path}/{{{parent.name}}}/{entity.nested_name}"
            yield from _collection_resources(nested, base)


def _collection_resources(rows: _Collection, path: str) -> Iterator[Resource]:
    yield Resource(path, {"GET": rows.list, "POST": rows.create})
    yield Resource(
        f"{path}/{{{rows.entity.name}}}",
        {"GET": rows.read, "PUT": rows.upsert, "PATCH": rows.update, "DELETE": rows.delete},
    )


@dataclass(frozen=True, slots=True)
class RowKey:
    """How a path names a row: by `id` or by the endpoint key."""

    field: str
    value: str


def row_key(entity: Entity, segment: str) -> RowKey:
    """Read a path segment; refuse what cannot be a key before any storage sees it."""
    if is_uuid(segment):
        return RowKey("id", segment.lower())
    if entity.endpoint_key is None:
        raise answers.invalid_primary_key("expected a valid UUID")
    fault = check_field(entity, entity.endpoint_key, segment)
    if isinstance(fault, str):
        raise answers.invalid_unique(entity.endpoint_key, fault)
    return RowKey(entity.endpoint_key, segment)


async def _find(reader: Reader, entity: Entity, key: RowKey) -> Row | None:
    if key.field == "id":
        return await reader.get(entity.name, key.value)
    return await reader.get_by(entity.name, key.field, key.value)


async def _resolve_references(reader: Reader, entity: Entity, data: Mapping[str, Any]) -> dict[str, Any]:
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


async def _put_row(writer: Writer, entity: Entity, stored: Row | None, row: Row) -> None:
    if stored is None:
        await writer.insert(entity.name, row)
    else:
        await writer.update(entity.name, row)


class _Collection:
    """The rows of one entity: all of them, or with a parent those that belong to it."""

    def __init__(
        self,
        storage: Storage,
        entity: Entity,
        *,
        parent_field: str | None = None,
        parent: Entity | None = None,
    ) -> None:
        self.entity = entity
        self._storage = storage
        self._parent_field = parent_field
        self._parent = parent

    async def list(self, call: Call) -> Response:
        page = page_request(call.arguments)
        tags = None if self._parent else tag_filter(call.arguments)
        async with self._storage.read() as reader:
            parent_id = await self._parent_id(reader, call)
            rows, next_after = await reader.page(
                self.entity.name,
                size=page.size,
                after=page.after,
                parent=(self._parent_field, parent_id) if self._parent_field and parent_id else None,
                tags=tags,
            )
        if self._parent is None:
            path, repeated = f"/{self.entity.admin_path}", call.arguments
        else:
            # Kong repeats neither size nor tags here.
            path = f"/{self._parent.admin_path}/{call.raw_captured[0]}/{self.entity.nested_name}"
            repeated = {}
        return json_response(page_body(rows, path=path, next_after=next_after, repeated=repeated))

    async def create(self, call: Call) -> Response:
        data = call.body.data_for(self.entity)
        async with self._storage.write(call.actor) as writer:
            data = self._bound(data, await self._parent_id(writer, call))
            data = await _resolve_references(writer, self.entity, data)
            row = make_row(self.entity, data, now_s=int(writer.at))
            await writer.insert(self.entity.name, row)
        return json_response(row, 201)

    async def read(self, call: Call) -> Response:
        key = self._key(call)
        async with self._storage.read() as reader:
            row = await self._member(reader, call, key)
        if row is None:
            raise not_found()
        return json_response(row)

    async def upsert(self, call: Call) -> Response:
        key = self._key(call)
        data = call.body.data_for(self.entity)
        async with self._storage.write(call.actor) as writer:
            # A row of another parent is taken over, so the row is looked up among all.
            data = self._bound(data, await self._parent_id(writer, call))
            stored = await _find(writer, self.entity, key)
            data = await _resolve_references(writer, self.entity, data)
            row = make_row(self.entity, _named(data, key), now_s=int(writer.at), id=_id_of(stored, key))
            await _put_row(writer, self.entity, stored, row)
        return json_response(row)

    async def update(self, call: Call) -> Response:
        key = self._key(call)
        data = call.body.data_for(self.entity)
        async with self._storage.write(call.actor) as writer:
            stored = await self._member(writer, call, key)
            if stored is None:
                raise not_found() if self._parent else answers.row_not_found({key.field: key.value})
            data = await _resolve_references(writer, self.entity, data)
            row = merge_row(self.entity, stored, data, now_s=int(writer.at))
            await writer.update(self.entity.name, row)
        return json_response(row)

    async def delete(self, call: Call) -> Response:
        key = self._key(call)
        async with self._storage.write(call.actor) as writer:
            stored = await self._member(writer, call, key)
            if stored is not None:
                await writer.delete(self.entity.name, stored["id"])
            elif self._parent is not None:
                raise not_found()
        return Response(status_code=204)

    def _key(self, call: Call) -> RowKey:
        return row_key(self.entity, call.captured[-1])

    async def _parent_id(self, reader: Reader, call: Call) -> str | None:
        """The id of the parent in the path; None without one."""
        if self._parent is None:
            return None
        row = await _find(reader, self._parent, row_key(self._parent, call.captured[0]))
        if row is None:
            raise not_found()
        return str(row["id"])

    async def _member(self, reader: Reader, call: Call, key: RowKey) -> Row | None:
        """The row, if it exists and belongs to the parent in the path."""
        parent_id = await self._parent_id(reader, call)
        row = await _find(reader, self.entity, key)
        if (
            row is not None
            and self._parent_field is not None
            and row[self._parent_field] != {"id": parent_id}
        ):
            return None
        return row

    def _bound(self, data: dict[str, Any], parent_id: str | None) -> dict[str, Any]:
        return data if self._parent_field is None else {**data, self._parent_field: {"id": parent_id}}


class _ParentLink:
    """The parent of one row, reached through the foreign field: `/routes/{r}/service`."""

    def __init__(self, storage: Storage, child: Entity, field: str, parent: Entity) -> None:
        self._storage = storage
        self._child = child
        self._field = field
        self._parent = parent

    async def read(self, call: Call) -> Response:
        async with self._storage.read() as reader:
            parent = await self._stored_parent(reader, await self._stored_child(reader, call))
        if parent is None:
            raise not_found()
        return json_response(parent)

    async def upsert(self, call: Call) -> Response:
        """Replace the parent; where there is none, create one and link the row to it."""
        data = call.body.data_for(self._parent)
        async with self._storage.write(call.actor) as writer:
            child = await self._stored_child(writer, call)
            stored = await self._stored_parent(writer, child)
            data = await _resolve_references(writer, self._parent, data)
            data.pop("id", None)
            now_s = int(writer.at)
            row = make_row(self._parent, data, now_s=now_s, id=stored["id"] if stored else None)
            await _put_row(writer, self._parent, stored, row)
            if stored is None:
                link = {self._field: {"id": row["id"]}}
                await writer.update(self._child.name, merge_row(self._child, child, link, now_s=now_s))
        return json_response(row)

    async def update(self, call: Call) -> Response:
        data = call.body.data_for(self._parent)
        async with self._storage.write(call.actor) as writer:
            stored = await self._stored_parent(writer, await self._stored_child(writer, call))
            if stored is None:
                raise not_found()
            data = await _resolve_references(writer, self._parent, data)
            row = merge_row(self._parent, stored, data, now_s=int(writer.at))
            await writer.update(self._parent.name, row)
        return json_response(row)

    async def delete(self, call: Call) -> Response:
        """Refused: a parent is not deleted through its child. Kong says 404 when there is none."""
        async with self._storage.read() as reader:
            if await self._stored_parent(reader, await self._stored_child(reader, call)) is None:
                raise not_found()
        raise answers.message(405, "Method not allowed")

    async def _stored_child(self, reader: Reader, call: Call) -> Row:
        row = await _find(reader, self._child, row_key(self._child, call.captured[0]))
        if row is None:
            raise not_found()
        return row

    async def _stored_parent(self, reader: Reader, child: Row) -> Row | None:
        link = child[self._field]
        return None if link is None else await reader.get(self._parent.name, link["id"])


def _named(data: Mapping[str, Any], key: RowKey) -> dict[str, Any]:
    """The data of a PUT with the key of its path, which wins over the body's."""
    without_id = {name: value for name, value in data.items() if name != "id"}
    return without_id if key.field == "id" else {**without_id, key.field: key.value}


def _id_of(stored: Row | None, key: RowKey) -> str | None:
    if stored is not None:
        return str(stored["id"])
    return key.value if key.field == "id" else None
