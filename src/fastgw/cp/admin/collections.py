"""Endpoints over the rows of one entity, all of them or those of one parent.

What a write reads, checks and stores is one transaction, and its timestamps are the database's. The course is
the same for every entity; what single ones do beside it is asked of their `Hooks`.
Source: kong/api/endpoints.lua, release 3.9.1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response, not_found
from fastgw.cp.admin.dispatch import Call
from fastgw.cp.admin.hooks import Hooks, Method
from fastgw.cp.admin.paging import page_body, page_request, tag_filter
from fastgw.cp.admin.rows import RowKey, check_match, etag_of, is_live, resolve_references, shown
from fastgw.cp.storage.contract import Reader, Storage, Writer
from fastgw.model.entities import Entity, Row
from fastgw.model.validate import make_row, merge_row


def row_response(entity: Entity, row: Row, status: int = 200, *, now_s: float | None = None) -> Response:
    """The answer that is one row, with its entity tag."""
    now_s = time.time() if now_s is None else now_s
    return json_response(shown(entity, row, now_s), status, {"ETag": etag_of(row)})


class Collection:
    """The rows of one entity: all of them, or with a parent those that belong to it."""

    def __init__(
        self,
        storage: Storage,
        hooks: Hooks,
        *,
        parent_field: str | None = None,
        parent: Hooks | None = None,
    ) -> None:
        self.entity = hooks.entity
        self._storage = storage
        self._hooks = hooks
        self._parent_field = parent_field
        self._parent = parent

    async def list(self, call: Call) -> Response:
        page = page_request(call.arguments)
        tags = None if self._parent else tag_filter(call.arguments)
        async with call.reading(self._storage) as reader:
            parent_id = await self._parent_id(reader, call)
            rows, next_after = await reader.page(
                self.entity.name,
                size=page.size,
                after=page.after,
                parent=(self._parent_field, parent_id) if self._parent_field and parent_id else None,
                tags=tags,
            )
            rows = await self._hooks.whole(reader, rows)
        now_s = time.time()
        data = [shown(self.entity, row, now_s) for row in rows if is_live(self.entity, row, now_s)]
        # Kong repeats neither size nor tags under a parent.
        repeated = call.arguments if self._parent is None else {}
        return json_response(page_body(data, path=self.path(call), next_after=next_after, repeated=repeated))

    def path(self, call: Call) -> str:
        """The path of the list, as it was asked for."""
        if self._parent is None:
            return f"/{self.entity.admin_path}"
        parent = self._parent.entity.admin_path
        return f"/{parent}/{call.raw_captured[0]}/{self.entity.nested_name}"

    async def create(self, call: Call) -> Response:
        data = call.body.data_for(self.entity)
        async with call.writing(self._storage) as writer:
            data = await self._prepared(writer, call, data)
            if self.entity.ttl:
                # An expired row holds its key until it is deleted.
                await writer.delete_expired()
            row = make_row(self.entity, data, now_s=writer.at)
            await self._hooks.before_write(writer, row, data, "POST", None)
            await writer.insert(self.entity.name, row)
            await self._hooks.after_write(writer, row, data, "POST", None)
            (row,) = await self._hooks.whole(writer, [row])
        return row_response(self.entity, row, 201, now_s=writer.at)

    async def read(self, call: Call) -> Response:
        key = self._key(call)
        async with call.reading(self._storage) as reader:
            row = await self._member(reader, call, key)
            if row is None or not is_live(self.entity, row, time.time()):
                raise not_found() if self._parent else self._hooks.missing(key)
            (row,) = await self._hooks.whole(reader, [row])
        return row_response(self.entity, row)

    async def upsert(self, call: Call) -> Response:
        key = self._key(call)
        data = call.body.data_for(self.entity)
        async with call.writing(self._storage) as writer:
            # A row of another parent is taken over, so the row is looked up among all.
            data = await self._prepared(writer, call, data)
            if self.entity.ttl:
                await writer.delete_expired()
            stored = await self._hooks.find(writer, key, data)
            await self._check_match(writer, call, stored)
            data = _named(self.entity, data, key)
            row = make_row(self.entity, data, now_s=writer.at, id=_id_of(stored, key))
            await self._hooks.before_write(writer, row, data, "PUT", key)
            if stored is None:
                await writer.insert(self.entity.name, row)
            else:
                await writer.update(self.entity.name, row)
            await self._hooks.after_write(writer, row, data, "PUT", key)
            (row,) = await self._hooks.whole(writer, [row])
        return row_response(self.entity, row, now_s=writer.at)

    async def update(self, call: Call) -> Response:
        key = self._key(call)
        async with call.writing(self._storage) as writer:
            stored = await self._member(writer, call, key)
            data = call.body.data_for(self.entity, stored)
            if stored is None or not is_live(self.entity, stored, writer.at):
                if self._parent or (self.entity.name == "plugins" and data.get("name") is None):
                    raise not_found()
                raise answers.row_not_found({key.field: key.value})
            await self._check_match(writer, call, stored)
            if self._parent_field is not None and data.get(self._parent_field) is None:
                data = {**data, self._parent_field: stored[self._parent_field]}
            self._hooks.check_data(data)
            data = await resolve_references(writer, self.entity, data)
            row = merge_row(self.entity, stored, data, now_s=writer.at)
            await self._store_update(writer, row, data, key)
            (row,) = await self._hooks.whole(writer, [row])
        return row_response(self.entity, row, now_s=writer.at)

    async def delete(self, call: Call) -> Response:
        key = self._key(call)
        async with call.writing(self._storage) as writer:
            stored = await self._member(writer, call, key)
            await self._check_match(writer, call, stored)
            if stored is not None:
                await self._hooks.before_delete(writer, stored)
                await writer.delete(self.entity.name, stored["id"])
            elif self._parent is not None:
                raise not_found()
            elif key.field == "sni":
                raise self._hooks.missing(key)
        return Response(status_code=204)

    async def _store_update(
        self, writer: Writer, row: Row, data: Mapping[str, Any], key: RowKey, method: Method = "PATCH"
    ) -> None:
        await self._hooks.before_write(writer, row, data, method, key)
        await writer.update(self.entity.name, row)
        await self._hooks.after_write(writer, row, data, method, key)

    async def _check_match(self, reader: Reader, call: Call, stored: Row | None) -> None:
        """Hold `If-Match` against the row as it was shown."""
        if call.if_match is not None and stored is not None:
            (stored,) = await self._hooks.whole(reader, [stored])
        check_match(call, stored, "the entity")

    def _key(self, call: Call) -> RowKey:
        return self._hooks.key(call.captured[-1], is_nested=self._parent is not None)

    async def _prepared(self, reader: Reader, call: Call, data: dict[str, Any]) -> dict[str, Any]:
        """The data of a whole row, bound to the parent in the path, with its references resolved."""
        parent_id = await self._parent_id(reader, call)
        if self._parent_field is not None:
            data = {**data, self._parent_field: {"id": parent_id}}
        self._hooks.check_data(data)
        return await resolve_references(reader, self.entity, data)

    async def _parent_id(self, reader: Reader, call: Call) -> str | None:
        """The id of the parent in the path; None without one."""
        if self._parent is None:
            return None
        key = self._parent.key(call.captured[0])
        row = await self._parent.find(reader, key)
        if row is None:
            raise self._parent.missing(key) if key.field == "sni" else not_found()
        return str(row["id"])

    async def _member(self, reader: Reader, call: Call, key: RowKey) -> Row | None:
        """The row, if it exists and belongs to the parent in the path."""
        if self._parent_field is None:
            return await self._hooks.find(reader, key)
        bound = {self._parent_field: {"id": await self._parent_id(reader, call)}}
        row = await self._hooks.find(reader, key, bound)
        return None if row is None or row[self._parent_field] != bound[self._parent_field] else row


class ParentLink:
    """The parent of one row, reached through the foreign field: `/routes/{r}/service`."""

    def __init__(self, storage: Storage, child: Hooks, field: str, parent: Hooks) -> None:
        self._storage = storage
        self._child = child
        self._field = field
        self._parent = parent
        self._entity = parent.entity

    async def read(self, call: Call) -> Response:
        async with call.reading(self._storage) as reader:
            parent = await self._stored_parent(reader, await self._stored_child(reader, call))
            if parent is None:
                raise not_found()
            (parent,) = await self._parent.whole(reader, [parent])
        return row_response(self._entity, parent)

    async def upsert(self, call: Call) -> Response:
        """Replace the parent; where there is none, create one and link the row to it."""
        data = call.body.data_for(self._entity)
        async with call.writing(self._storage) as writer:
            child = await self._stored_child(writer, call)
            stored = await self._stored_parent(writer, child)
            await self._check_match(writer, call, stored)
            self._parent.check_data(data)
            data = await resolve_references(writer, self._entity, data)
            data.pop("id", None)
            row = make_row(self._entity, data, now_s=writer.at, id=stored["id"] if stored else None)
            await self._parent.before_write(writer, row, data, "PUT", None)
            if stored is None:
                await writer.insert(self._entity.name, row)
                link = merge_row(self._child.entity, child, {self._field: {"id": row["id"]}}, now_s=writer.at)
                await writer.update(self._child.entity.name, link)
            else:
                await writer.update(self._entity.name, row)
            await self._parent.after_write(writer, row, data, "PUT", None)
            (row,) = await self._parent.whole(writer, [row])
        return row_response(self._entity, row, now_s=writer.at)

    async def update(self, call: Call) -> Response:
        async with call.writing(self._storage) as writer:
            stored = await self._stored_parent(writer, await self._stored_child(writer, call))
            if stored is None:
                raise not_found()
            await self._check_match(writer, call, stored)
            data = call.body.data_for(self._entity, stored)
            self._parent.check_data(data)
            data = await resolve_references(writer, self._entity, data)
            row = merge_row(self._entity, stored, data, now_s=writer.at)
            await self._parent.before_write(writer, row, data, "PATCH", None)
            await writer.update(self._entity.name, row)
            await self._parent.after_write(writer, row, data, "PATCH", None)
            (row,) = await self._parent.whole(writer, [row])
        return row_response(self._entity, row, now_s=writer.at)

    async def delete(self, call: Call) -> Response:
        """Refused: a parent is not deleted through its child. Kong says 404 when there is none."""
        async with call.reading(self._storage) as reader:
            if await self._stored_parent(reader, await self._stored_child(reader, call)) is None:
                raise not_found()
        raise answers.message(405, "Method not allowed")

    async def _check_match(self, reader: Reader, call: Call, stored: Row | None) -> None:
        if call.if_match is not None and stored is not None:
            (stored,) = await self._parent.whole(reader, [stored])
        check_match(call, stored, "the entity")

    async def _stored_child(self, reader: Reader, call: Call) -> Row:
        row = await self._child.find(reader, self._child.key(call.captured[0]))
        if row is None:
            raise not_found()
        return row

    async def _stored_parent(self, reader: Reader, child: Row) -> Row | None:
        link = child[self._field]
        return None if link is None else await reader.get(self._entity.name, link["id"])


def _named(entity: Entity, data: Mapping[str, Any], key: RowKey) -> dict[str, Any]:
    """The data of a PUT with the key of its path, which wins over the body's."""
    without_id = {name: value for name, value in data.items() if name != "id"}
    if key.field not in entity.fields or key.field == "id":
        return without_id
    return {**without_id, key.field: key.value}


def _id_of(stored: Row | None, key: RowKey) -> str | None:
    if stored is not None:
        return str(stored["id"])
    return key.value if key.field == "id" else None
