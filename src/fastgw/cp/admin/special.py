"""Endpoints of single entities that follow no common rule: targets, consumers by custom id, health.

Source: kong/api/routes/{upstreams,consumers}.lua, release 3.9.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.collections import Collection
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.storage.contract import Reader, Storage
from fastgw.model.entities import Row

_MOST_ROWS = 1000


class Targets(Collection):
    """The targets of one upstream: newest first, and a PUT changes without creating."""

    async def list(self, call: Call) -> Response:
        size = call.arguments.get("size", "100")
        if not isinstance(size, str) or not re.fullmatch("[0-9]{1,9}", size):
            raise answers.invalid_size("size must be a number")
        if int(size) < 1:
            raise answers.invalid_size(f"size must be an integer between 1 and {_MOST_ROWS}")
        wanted = min(int(size), _MOST_ROWS)
        offset = call.arguments.get("offset", "0")
        if not isinstance(offset, str) or not re.fullmatch("[0-9]{1,9}", offset):
            raise answers.invalid_offset(str(offset), "bad base64 encoding")
        start = int(offset)
        async with call.reading(self._storage) as reader:
            rows = await all_of(reader, "targets", ("upstream", str(await self._parent_id(reader, call))))
        rows.sort(key=lambda row: (-row["created_at"], row["id"]))
        page = rows[start : start + wanted]
        body: dict[str, object] = {"data": page, "next": None}
        if start + wanted < len(rows):
            body = {"data": page, "next": f"{self.path(call)}?offset={start + wanted}"}
            body["offset"] = str(start + wanted)
        return json_response(body)

    async def list_all(self, call: Call) -> Response:
        """The same rows by ascending id, with ordinary paging."""
        return await super().list(call)

    async def upsert(self, call: Call) -> Response:
        return await self.update(call)


async def all_of(reader: Reader, entity: str, parent: tuple[str, str] | None = None) -> list[Row]:
    rows: list[Row] = []
    after: str | None = None
    while True:
        page, after = await reader.page(entity, size=_MOST_ROWS, after=after, parent=parent)
        rows += page
        if after is None:
            return rows


class Consumers(Collection):
    async def list(self, call: Call) -> Response:
        """All consumers; with `custom_id`, the one that has it."""
        if "custom_id" not in call.arguments:
            return await super().list(call)
        custom_id = call.arguments["custom_id"]
        if not isinstance(custom_id, str) or custom_id == "":
            raise answers.message(400, "custom_id must be an unempty string")
        async with call.reading(self._storage) as reader:
            row = await reader.get_by("consumers", "custom_id", custom_id)
        return json_response({"data": [] if row is None else [row], "next": None})


class Health:
    """`/upstreams/{u}/health`: a control plane balances nothing, so it knows of no health."""

    def __init__(self, storage: Storage, upstreams: Hooks, node_id: str) -> None:
        self._storage = storage
        self._upstreams = upstreams
        self._node_id = node_id

    async def read(self, call: Call) -> Response:
        async with call.reading(self._storage) as reader:
            upstream = await self._upstreams.find(reader, self._upstreams.key(call.captured[0]))
            if upstream is None:
                raise answers.not_found()
            rows = await all_of(reader, "targets", ("upstream", upstream["id"]))
        if call.arguments.get("balancer_health") == "1":
            details = {"healthy": True, "hosts": [], "weight": {"total": 0, "available": 0, "unavailable": 0}}
            data: object = {
                "health": "HEALTHCHECKS_OFF",
                "balancer_health": "HEALTHY",
                "id": upstream["id"],
                "details": details,
            }
        else:
            data = [{**row, "health": "HEALTHCHECKS_OFF"} for row in rows]
        return json_response({"data": data, "next": None, "node_id": self._node_id})


def special_resources(storage: Storage, hooks: dict[str, Hooks], node_id: str) -> Iterator[Resource]:
    """Resources that replace those of the common rule, or stand beside them."""
    targets = Targets(storage, hooks["targets"], parent_field="upstream", parent=hooks["upstreams"])
    base = "/upstreams/{upstreams}/targets"
    yield Resource(base, {"GET": targets.list, "POST": targets.create})
    yield Resource(f"{base}/all", {"GET": targets.list_all})
    yield Resource(
        f"{base}/{{targets}}",
        {"GET": targets.read, "PUT": targets.upsert, "PATCH": targets.update, "DELETE": targets.delete},
    )
    consumers = Consumers(storage, hooks["consumers"])
    yield Resource("/consumers", {"GET": consumers.list, "POST": consumers.create})
    yield Resource(
        "/upstreams/{upstreams}/health", {"GET": Health(storage, hooks["upstreams"], node_id).read}
    )
