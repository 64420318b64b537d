"""`/fastgw/history`: who changed what when, any version as a document, and what lies between two.

Everything comes from the journal, as far as it reaches back. Secrets are masked; a version with its secrets,
which can be loaded again, is given for `?secrets=clear`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.config import version_tag
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.paging import page_request
from fastgw.cp.storage.contract import Change, Storage
from fastgw.model.declarative_export import export_document, masked, to_yaml
from fastgw.model.entities import ENTITIES, Row

_NUMBER: Final = re.compile("[0-9]{1,18}")


class _History:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def changes(self, call: Call) -> Response:
        """Changes, newest first."""
        size = page_request({"size": call.arguments.get("size")}).size
        offset = call.arguments.get("offset")
        if offset is not None and not (isinstance(offset, str) and _NUMBER.fullmatch(offset)):
            raise answers.invalid_offset(str(offset), "it is no number")
        changes = await self._storage.history(before=None if offset is None else int(offset), size=size + 1)
        body: dict[str, Any] = {"data": [_shown(change) for change in changes[:size]], "next": None}
        if len(changes) > size:
            following = str(changes[size - 1].seq)
            body |= {"next": f"/fastgw/history?offset={following}&size={size}", "offset": following}
        return json_response(body)

    async def version(self, call: Call) -> Response:
        """The configuration as it stood, as a declarative document."""
        rows = await self._rows_at(call.captured[0])
        document = export_document(
            rows, now_s=time.time(), with_secrets=call.arguments.get("secrets") == "clear"
        )
        headers = {"ETag": version_tag(int(call.captured[0]))}
        if call.arguments.get("format") == "yaml":
            return Response(to_yaml(document), headers=headers, media_type="application/yaml")
        return json_response(document, headers=headers)

    async def diff(self, call: Call) -> Response:
        """What changed from one version to another, row by row."""
        first, second = call.captured
        before, after = await self._rows_at(first), await self._rows_at(second)
        changes = [
            {"entity": kind, **change}
            for kind in ENTITIES
            for change in _differences(kind, before.get(kind, []), after.get(kind, []))
        ]
        return json_response({"from": int(first), "to": int(second), "changes": changes})

    async def _rows_at(self, given: str) -> dict[str, list[Row]]:
        rows = await self._storage.rows_at(int(given)) if _NUMBER.fullmatch(given) else None
        if rows is None:
            raise answers.message(
                404, f"there is no version '{given}', or the journal does not reach back to it"
            )
        return rows


def _shown(change: Change) -> dict[str, Any]:
    entity = ENTITIES.get(change.entity)
    after = None if change.after is None or entity is None else masked(entity, change.after)
    return {
        "version": change.version,
        "seq": change.seq,
        "at": change.at,
        "actor": change.actor,
        "entity": change.entity,
        "id": change.id,
        "op": change.op,
        "after": after,
    }


def _differences(kind: str, before: list[Row], after: list[Row]) -> Iterator[Mapping[str, Any]]:
    entity = ENTITIES[kind]
    old, new = ({row["id"]: row for row in rows} for rows in (before, after))
    for id_ in sorted(old.keys() | new.keys()):
        was, now = old.get(id_), new.get(id_)
        if was == now:
            continue
        op = "create" if was is None else "delete" if now is None else "update"
        change: dict[str, Any] = {"id": id_, "op": op}
        if was is not None and now is not None:
            # Names of fields tell of secrets too, which look alike when they are masked.
            change["fields"] = sorted(name for name in now if was.get(name) != now[name])
        change["before"] = None if was is None else masked(entity, was)
        change["after"] = None if now is None else masked(entity, now)
        yield change


def history_resources(storage: Storage) -> Iterator[Resource]:
    history = _History(storage)
    yield Resource("/fastgw/history", {"GET": history.changes})
    yield Resource("/fastgw/history/{version}", {"GET": history.version})
    yield Resource("/fastgw/history/{from}/diff/{to}", {"GET": history.diff})
