"""`/config`: the whole configuration as one declarative document, read and replaced.

Kong has this without a database only; here it works with one (see `docs/deviations.md`). The entity tag is
the version, so that a whole configuration is not replaced by someone who has not seen it.
Source: kong/api/routes/config.lua, release 3.9.1.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import Answer, json_response
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.admin.rows import matches
from fastgw.cp.storage.contract import Storage
from fastgw.errors import DeclarativeError, ValidationError
from fastgw.model.declarative import parse_declarative, rows_of_document
from fastgw.model.declarative_export import export_document, to_yaml
from fastgw.model.entities import Row

_YAML = ("text/yaml", "application/yaml")
_TRUE = ("1", "true", "on", "yes", True)


def version_tag(version: int) -> str:
    """The entity tag of the whole configuration."""
    return f'"v{version}"'


class _Config:
    def __init__(self, storage: Storage, hooks: Mapping[str, Hooks]) -> None:
        self._storage = storage
        self._hooks = hooks
        self._one_at_a_time = asyncio.Lock()
        #: The MD5 of the text that was loaded last, and the version that it made.
        self._loaded: tuple[str, int] | None = None

    async def read(self, call: Call) -> Response:
        if call.last_known is not None:
            version, rows = (
                call.last_known.snapshot.version,
                await asyncio.to_thread(call.last_known.load_all),
            )
        else:
            version, rows = await self._storage.load_all()
        text = await asyncio.to_thread(lambda: to_yaml(export_document(rows, now_s=time.time())))
        return json_response({"config": text}, headers={"ETag": version_tag(version)})

    async def replace(self, call: Call) -> Response:
        if self._one_at_a_time.locked():
            raise answers.message(429, "Currently loading previous configuration")
        async with self._one_at_a_time:
            document, text = _sent(call)
            digest = None if text is None else hashlib.md5(text, usedforsecurity=False).hexdigest()
            if call.arguments.get("check_hash") == "1" and digest is not None:
                if self._loaded == (digest, await self._storage.version()):
                    return Response(status_code=304)
            try:
                flavor = self._hooks["routes"].entity.flavor
                rows = await asyncio.to_thread(_rows, document, text, flavor)
                self._check_plugins(rows)
            except DeclarativeError as error:
                raise _refusal(error, flatten=call.arguments.get("flatten_errors") in _TRUE) from None
            async with self._storage.write(call.actor) as writer:
                if call.if_match is not None and not matches(call.if_match, version_tag(writer.version - 1)):
                    raise answers.precondition_failed("the configuration")
                await writer.import_rows(rows, replace=True)
            self._loaded = None if digest is None else (digest, writer.version)
        body = {kind: {row["id"]: row for row in found} for kind, found in rows.items() if found}
        return json_response(body, 201, {"ETag": version_tag(writer.version)})

    def _check_plugins(self, rows: Mapping[str, list[Row]]) -> None:
        """Refuse plugins that this node does not know, as the Admin API does for one."""
        faults = []
        for place, row in enumerate(rows["plugins"]):
            try:
                self._hooks["plugins"].check_data(row)
            except ValidationError as error:
                faults.append((f"plugins[{place}].name", str(error.fields["name"])))
        if faults:
            raise DeclarativeError("the configuration", faults, {"plugins": [text for _, text in faults]})


def _sent(call: Call) -> tuple[Mapping[str, Any] | None, bytes | None]:
    """The configuration as parsed data, or as text."""
    body = call.body
    if body.raw is not None:
        return None, body.raw
    if body.json is not None and "_format_version" in body.json:
        return body.json, None
    given = body.json.get("config") if body.json is not None else dict(body.pairs).get("config")
    if isinstance(given, str) and given:
        return None, given.encode("utf-8", "surrogateescape")
    if body.json:
        return body.json, None
    raise answers.message(400, "expected a declarative configuration")


def _rows(document: Mapping[str, Any] | None, text: bytes | None, flavor: str) -> dict[str, list[Row]]:
    now_s = int(time.time())
    if document is not None:
        return rows_of_document(document, source="the configuration", created_at_s=now_s, flavor=flavor)
    assert text is not None
    is_json = text.lstrip()[:1] == b"{"
    return parse_declarative(
        text, source="the configuration", is_json=is_json, created_at_s=now_s, flavor=flavor
    )


def _refusal(error: DeclarativeError, *, flatten: bool) -> Answer:
    answer = answers.invalid_declarative(error)
    if not flatten:
        return answer
    kinds = {f"{entry['entity_type']}s" for entry in error.flattened}
    rest = {name: fault for name, fault in error.fields.items() if name not in kinds}
    shorter = answers.invalid_declarative(DeclarativeError(error.source, error.faults, rest))
    return Answer(400, {**shorter.body, "flattened_errors": error.flattened})


def config_resources(storage: Storage, hooks: Mapping[str, Hooks]) -> Iterator[Resource]:
    config = _Config(storage, hooks)
    yield Resource("/config", {"GET": config.read, "POST": config.replace}, content_types=_YAML)
