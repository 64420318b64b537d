"""`/fastgw/history`: who changed what when, any version as a document, what lies between two, and going back.

Everything comes from the journal, as far as it reaches back. Secrets are masked; a version with its secrets,
which can be loaded again, is given for `?secrets=clear`. Going back to a version makes a new one: the rows
that have changed since are made what they were, in one transaction. What this control plane would refuse by
now, such as a plugin that is not enabled any more, does not come back that way either.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.config import refused_plugins, version_tag
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.admin.paging import page_request
from fastgw.cp.admin.rows import matches
from fastgw.cp.garbage import no_collection
from fastgw.cp.storage.contract import Change, Reader, Storage
from fastgw.model.declarative_export import export_document, masked, to_yaml
from fastgw.model.entities import ENTITIES, Row
from fastgw.model.served import unserved_faults
from fastgw.obs.logs import get_logger

log = get_logger(__name__)

_NUMBER: Final = re.compile("[0-9]{1,18}")
_MOST_CHANGES: Final = 1000
"""In one answer."""
_NAMED_REASONS: Final = 5


class _History:
    def __init__(self, storage: Storage, hooks: Mapping[str, Hooks], flavor: str) -> None:
        self._storage = storage
        self._hooks = hooks
        self._flavor = flavor

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

    async def versions(self, call: Call) -> Response:
        """Versions in short, newest first."""
        size = page_request({"size": call.arguments.get("size")}).size
        offset = call.arguments.get("offset")
        if offset is not None and not (isinstance(offset, str) and _NUMBER.fullmatch(offset)):
            raise answers.invalid_offset(str(offset), "it is no number")
        found = await self._storage.versions(before=None if offset is None else int(offset), size=size + 1)
        body: dict[str, Any] = {"data": [one._asdict() for one in found[:size]], "next": None}
        if len(found) > size:
            following = str(found[size - 1].version)
            path = f"/fastgw/history/versions?offset={following}&size={size}"
            body |= {"next": path, "offset": following}
        return json_response(body)

    async def version(self, call: Call) -> Response:
        """The configuration as it stood, as a declarative document."""
        number = _number(call.captured[0])
        rows = await self._storage.rows_at(number)
        if rows is None:
            raise _unknown(number)
        with_secrets = call.arguments.get("secrets") == "clear"
        as_yaml = call.arguments.get("format") == "yaml"

        def made() -> Response:
            document = export_document(rows, now_s=time.time(), with_secrets=with_secrets)
            headers = {"ETag": version_tag(number)}
            if as_yaml:
                return Response(to_yaml(document), headers=headers, media_type="application/yaml")
            return json_response(document, headers=headers)

        return await asyncio.to_thread(made)

    async def diff(self, call: Call) -> Response:
        """What changed from one version to another, row by row."""
        first, second = map(_number, call.captured)
        size = page_request({"size": call.arguments.get("size", str(_MOST_CHANGES))}).size
        async with call.reading(self._storage) as reader:
            before, after = await _rows_of_both(reader, first, second)
        changed = [
            (kind, id_)
            for kind in ENTITIES
            for id_ in sorted(before.get(kind, {}))
            if before[kind][id_] != after[kind][id_]
        ]
        changes = [
            _difference(kind, id_, before[kind][id_], after[kind][id_]) for kind, id_ in changed[:size]
        ]
        body = {"from": first, "to": second, "changes": changes, "left_out": len(changed) - len(changes)}
        return json_response(body)

    async def rollback(self, call: Call) -> Response:
        """Make the configuration what it was at a version; `If-Match` is held against the one that stands."""
        number = _number(call.captured[0])
        async with self._storage.write(f"{call.actor} (rollback to {number})") as writer:
            stands = writer.version - 1
            if call.if_match is not None and not matches(call.if_match, version_tag(stands)):
                raise answers.precondition_failed("the configuration")
            earlier = await writer.touched_since(number)
            if earlier is None:
                raise _unknown(number)
            against = await asyncio.to_thread(self._against, earlier)
            if against:
                raise answers.message(400, f"version {number} cannot be restored: {_listed(against)}")
            with no_collection():
                counts = await writer.restore_rows(earlier)
        if writer.changed:
            log.notice("%s: rolled back to version %d as version %d", call.actor, number, writer.version)
        body = {"version": writer.version, "restored": number, "from": stands, **counts._asdict()}
        return json_response(body, headers={"ETag": version_tag(writer.version)})

    def _against(self, rows: Mapping[str, Mapping[str, Row | None]]) -> list[str]:
        """What speaks against storing *rows*, which were good once: settings may have changed since."""
        refused = refused_plugins(self._hooks)
        found = []
        for kind, of_kind in rows.items():
            for id_, row in of_kind.items():
                if row is None:
                    continue
                if kind == "plugins" and row["name"] in refused:
                    found.append(f"{kind} {id_}: {refused[row['name']]}")
                faults = unserved_faults(kind, row, self._flavor)
                found += [f"{kind} {id_}: {field}: {fault}" for field, fault in faults.items()]
        return found


def _listed(reasons: list[str]) -> str:
    more = len(reasons) - _NAMED_REASONS
    return "; ".join(reasons[:_NAMED_REASONS]) + (f"; and {more} more" if more > 0 else "")


async def _rows_of_both(
    reader: Reader, first: int, second: int
) -> tuple[dict[str, dict[str, Row | None]], dict[str, dict[str, Row | None]]]:
    """The rows that may differ between two versions, as they were at each, by kind and id."""
    older, newer = sorted((first, second))
    at_older, at_newer = await reader.touched_since(older), await reader.touched_since(newer)
    if at_older is None or at_newer is None:
        raise _unknown(older if at_older is None else newer)
    # What has not been touched since the newer one is as it is now.
    for kind, rows in at_older.items():
        of_kind = at_newer.setdefault(kind, {})
        untouched = [id_ for id_ in rows if id_ not in of_kind]
        present = await reader.get_many(kind, untouched)
        of_kind.update((id_, present.get(id_)) for id_ in untouched)
    return (at_older, at_newer) if first == older else (at_newer, at_older)


def _number(given: str) -> int:
    if not _NUMBER.fullmatch(given):
        raise answers.message(404, f"'{given}' is no version: versions are numbers")
    return int(given)


def _unknown(version: int) -> answers.Answer:
    return answers.message(404, f"there is no version {version}, or the history does not reach back to it")


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


def _difference(kind: str, id_: str, was: Row | None, now: Row | None) -> dict[str, Any]:
    entity = ENTITIES[kind]
    op = "create" if was is None else "delete" if now is None else "update"
    change: dict[str, Any] = {"entity": kind, "id": id_, "op": op}
    if was is not None and now is not None:
        # Names of fields tell of secrets too, which look alike when they are masked.
        change["fields"] = sorted(name for name in {**was, **now} if was.get(name) != now.get(name))
    change["before"] = None if was is None else masked(entity, was)
    change["after"] = None if now is None else masked(entity, now)
    return change


def history_resources(storage: Storage, hooks: Mapping[str, Hooks], flavor: str) -> Iterator[Resource]:
    history = _History(storage, hooks, flavor)
    yield Resource("/fastgw/history", {"GET": history.changes})
    yield Resource("/fastgw/history/versions", {"GET": history.versions})
    yield Resource("/fastgw/history/{version}", {"GET": history.version})
    yield Resource("/fastgw/history/{from}/diff/{to}", {"GET": history.diff})
    yield Resource("/fastgw/history/{version}/rollback", {"POST": history.rollback})
