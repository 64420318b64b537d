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
from typing import Final

import msgspec
from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import Answer, json_response
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.admin.rows import matches
from fastgw.cp.documents.process import read_rows
from fastgw.cp.garbage import no_collection
from fastgw.cp.storage.contract import Storage
from fastgw.errors import DeclarativeError, ValidationError
from fastgw.model.declarative_export import export_document, to_yaml
from fastgw.model.entities import Row
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS

YAML_TYPES: Final = ("text/yaml", "application/yaml")
_ROWS_AT_ONCE: Final = 500
_encode: Final = msgspec.json.Encoder().encode
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
        known = call.take_last_known()
        if known is not None:
            version, rows = known.snapshot.version, await asyncio.to_thread(known.load_all)
        else:
            version, rows = await self._storage.load_all()
        text = await asyncio.to_thread(lambda: to_yaml(export_document(rows, now_s=time.time())))
        return json_response({"config": text}, headers={"ETag": version_tag(version)})

    async def replace(self, call: Call) -> Response:
        if self._one_at_a_time.locked():
            busy = {"message": "Currently loading previous configuration"}
            raise Answer(429, busy, {"Retry-After": "1"})
        async with self._one_at_a_time:
            with no_collection():
                return await self._replace(call)

    async def _replace(self, call: Call) -> Response:
        content, is_json, is_text = sent_document(call)
        digest = hashlib.md5(content, usedforsecurity=False).hexdigest() if is_text else None
        if call.arguments.get("check_hash") == "1" and digest is not None:
            if self._loaded == (digest, await self._storage.version()):
                return Response(status_code=304)
        try:
            rows = await read_rows(
                content,
                is_json=is_json,
                refused_plugins=refused_plugins(self._hooks),
                flavor=self._hooks["routes"].entity.flavor,
            )
        except DeclarativeError as error:
            raise refusal(error, call) from None
        async with self._storage.write(call.actor) as writer:
            if call.if_match is not None and not matches(call.if_match, version_tag(writer.version - 1)):
                raise answers.precondition_failed("the configuration")
            await writer.import_rows(rows, replace=True)
        self._loaded = None if digest is None else (digest, writer.version)
        headers = {"ETag": version_tag(writer.version)}
        return Response(await _body_of(rows), 201, headers, media_type=answers.JSON_TYPE)


async def _body_of(rows: Mapping[str, list[Row]]) -> bytes:
    """All rows by kind and id as JSON, made in slices: other requests are served between them."""
    kinds: list[bytes] = []
    for kind, found in rows.items():
        members: list[bytes] = []
        for start in range(0, len(found), _ROWS_AT_ONCE):
            part = _encode({row["id"]: row for row in found[start : start + _ROWS_AT_ONCE]})
            members.append(part[1:-1])
            await asyncio.sleep(0)
        if members:
            kinds.append(_encode(kind) + b":{" + b",".join(members) + b"}")
    return b"{" + b",".join(kinds) + b"}"


def refused_plugins(hooks: Mapping[str, Hooks]) -> dict[str, str]:
    """What is wrong with the plugins that may not be configured on this node, by name."""
    refused = {}
    for name in PLUGIN_SCHEMAS:
        try:
            hooks["plugins"].check_data({"name": name})
        except ValidationError as error:
            refused[name] = str(error.fields["name"])
    return refused


def sent_document(call: Call) -> tuple[bytes, bool, bool]:
    """The declarative document of a request, whether it is JSON, and whether it came as text.

    Raises:
        Answer: 400, there is none.
    """
    body = call.body
    text = body.raw
    if text is None and not (body.json is not None and "_format_version" in body.json):
        given = body.json.get("config") if body.json is not None else dict(body.pairs).get("config")
        if isinstance(given, str) and given:
            text = given.encode("utf-8", "surrogateescape")
    if text is not None:
        return text, _is_json(text), True
    if body.json:
        return _encode(body.json), True, False
    raise answers.message(400, "expected a declarative configuration")


def _is_json(text: bytes) -> bool:
    """Whether a text is JSON; what only looks so is left to the reader of YAML."""
    if text.lstrip()[:1] != b"{":
        return False
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def refusal(error: DeclarativeError, call: Call) -> Answer:
    """The answer to a document that is wrong; with `flatten_errors` entity by entity."""
    answer = answers.invalid_declarative(error)
    if call.arguments.get("flatten_errors") not in _TRUE:
        return answer
    kinds = {f"{entry['entity_type']}s" for entry in error.flattened}
    rest = {name: fault for name, fault in error.fields.items() if name not in kinds}
    shorter = answers.invalid_declarative(DeclarativeError(error.source, error.faults, rest))
    return Answer(400, {**shorter.body, "flattened_errors": error.flattened})


def config_resources(storage: Storage, hooks: Mapping[str, Hooks]) -> Iterator[Resource]:
    config = _Config(storage, hooks)
    yield Resource("/config", {"GET": config.read, "POST": config.replace}, content_types=YAML_TYPES)
