"""`/tags`: which rows carry which tags. Source: kong/api/routes/tags.lua, release 3.9.1."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import quote

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.paging import page_request
from fastgw.cp.storage.contract import Storage
from fastgw.model.formats import FORMATS


def tag_resources(storage: Storage) -> Iterator[Resource]:
    async def pairs(call: Call, path: str, tag: str | None) -> Response:
        size = page_request({"size": call.arguments.get("size")}).size
        after = _after(call.arguments.get("offset"))
        async with call.reading(storage) as reader:
            rows, following = await reader.list_tags(size=size, after=after, tag=tag)
        body: dict[str, object] = {
            "data": [{"entity_name": row.entity, "entity_id": row.id, "tag": row.tag} for row in rows],
            "next": None,
        }
        if following is not None:
            offset = base64.b64encode(following.encode()).decode().rstrip("=")
            body |= {"next": f"{path}?offset={quote(offset, safe='')}", "offset": offset}
        return json_response(body)

    async def every(call: Call) -> Response:
        return await pairs(call, "/tags", None)

    async def one(call: Call) -> Response:
        tag = call.captured[0]
        fault = FORMATS["tag"](tag)
        if fault is not None:
            raise answers.invalid_unique("tag", fault)
        return await pairs(call, f"/tags/{call.raw_captured[0]}", tag)

    yield Resource("/tags", {"GET": every})
    yield Resource("/tags/{tags}", {"GET": one})


def _after(token: object) -> str | None:
    if token is None:
        return None
    text = token if isinstance(token, str) else ""
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except ValueError:  # not ASCII, not base64, not UTF-8
        raise answers.invalid_offset(text, "bad base64 encoding") from None
