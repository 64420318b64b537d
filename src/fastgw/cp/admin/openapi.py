"""`/openapi.json` and `/endpoints`: what there is, derived from the resources and the entity table.

OpenAPI 3.1, whose schemas are JSON Schema: it says of each field what the table says in the words that JSON
Schema has. Formats with rules of their own and checks over several fields are told under `/schemas`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from starlette.responses import Response

from fastgw import KONG_VERSION, __version__
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import UNSET, Field

_PLACE: Final = re.compile(r"\{([^}]+)\}")
_TYPES: Final = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "array": "array",
    "set": "array",
    "map": "object",
    "record": "object",
}
_REFERENCE: Final = {
    "type": ["object", "null"],
    "properties": {"id": {"type": "string", "format": "uuid"}},
    "required": ["id"],
}


def field_schema(field: Field, *, is_answer: bool) -> dict[str, Any]:
    """One field in JSON Schema; what is answered may be null more often than what is taken."""
    if field.type == "foreign":
        return dict(_REFERENCE) if is_answer else {"type": ["object", "null"]}
    schema: dict[str, Any] = {}
    if field.type in _TYPES:
        name = _TYPES[field.type]
        schema["type"] = name if field.required or not field.nullable else [name, "null"]
    if field.uuid:
        schema["format"] = "uuid"
    if not is_answer:
        schema |= _rules(field)
    if field.elements is not None:
        schema["items"] = field_schema(field.elements, is_answer=is_answer)
        if field.type == "set":
            schema["uniqueItems"] = True
    if field.values is not None:
        schema["additionalProperties"] = field_schema(field.values, is_answer=is_answer)
    if field.type == "record" and field.fields:
        schema["properties"] = {
            name: field_schema(inner, is_answer=is_answer) for name, inner in field.fields.items()
        }
        schema["additionalProperties"] = False
    return schema


def _rules(field: Field) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    if field.one_of is not None:
        rules["enum"] = [*field.one_of, *([] if field.required else [None])]
    if field.between is not None:
        rules["minimum"], rules["maximum"] = field.between
    if field.gt is not None:
        rules["exclusiveMinimum"] = field.gt
    if field.type == "string":
        rules["minLength"] = 1 if field.len_min is None else field.len_min
    if field.default is not UNSET and field.default is not None:
        rules["default"] = field.default
    return rules


def entity_schemas(entity: Entity) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas of what is answered and of what is taken."""
    ttl = {"ttl": {"type": ["integer", "null"]}} if entity.ttl else {}
    fields = {**entity.fields, **entity.optional}
    answered = {name: field_schema(field, is_answer=True) for name, field in fields.items()}
    yield (
        entity.name,
        {"type": "object", "properties": {**answered, **ttl}, "required": list(entity.fields)},
    )
    taken = {name: field_schema(field, is_answer=False) for name, field in fields.items()}
    shorthands = {
        name: field_schema(shorthand.field, is_answer=False) for name, shorthand in entity.shorthands.items()
    }
    yield (
        f"{entity.name}_written",
        {"type": "object", "properties": {**taken, **shorthands, **ttl}, "additionalProperties": False},
    )


_ERROR: Final = {
    "type": "object",
    "properties": {"message": {"type": ["string", "null"]}},
    "required": ["message"],
}
_MAKING: Final = frozenset({"/config", "/fastgw/rollout"})
"""Where a POST is answered 201, besides those of entities."""
_PAGE_ARGUMENTS: Final = (("size", "integer"), ("offset", "string"), ("tags", "string"))


def openapi_document(resources: Iterable[Resource]) -> dict[str, Any]:
    schemas: dict[str, Any] = {"error": _ERROR}
    for entity in ENTITIES.values():
        schemas.update(entity_schemas(entity))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fastgw Admin API",
            "version": __version__,
            "description": f"Compatible with the Admin API of Kong {KONG_VERSION}.",
        },
        "paths": {
            resource.pattern: _path_item(resource)
            for resource in sorted(resources, key=lambda one: one.pattern)
        },
        "components": {"schemas": schemas},
    }


def _path_item(resource: Resource) -> dict[str, Any]:
    segments = [segment for segment in resource.pattern.split("/") if segment]
    entity, is_list = _subject(segments)
    item: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in _PLACE.findall(resource.pattern)
        ]
    }
    for method in resource.endpoints:
        item[method.lower()] = _operation(resource, method, entity, is_list=is_list)
    return item


def _subject(segments: list[str]) -> tuple[Entity | None, bool]:
    """The entity that a path answers with, if any, and whether it is a list of them."""
    if not segments:
        return None, False
    last = segments[-1]
    if last.startswith("{"):
        return (ENTITIES.get(last[1:-1]) if segments[0] not in ("schemas", "tags") else None), False
    if len(segments) == 1:
        return next((one for one in ENTITIES.values() if one.admin_path == last), None), True
    owner = ENTITIES.get(segments[-2][1:-1]) if segments[-2].startswith("{") else None
    if owner is None:
        return None, False
    if last in owner.foreign_fields:
        return ENTITIES.get(owner.foreign_fields[last].reference or ""), False
    for one in ENTITIES.values():
        references = {field.reference for field in one.foreign_fields.values()}
        if one.nested_name == last and owner.name in references:
            return one, True
    return None, False


def _operation(resource: Resource, method: str, entity: Entity | None, *, is_list: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "responses": {"4XX": _content({"$ref": "#/components/schemas/error"}, "an error")}
    }
    if method == "GET" and is_list:
        operation["parameters"] = [
            {"name": name, "in": "query", "schema": {"type": kind}} for name, kind in _PAGE_ARGUMENTS
        ]
    if method in ("POST", "PUT", "PATCH"):
        taken: dict[str, Any] = {"type": "object"}
        if entity is not None:
            taken = {"$ref": f"#/components/schemas/{entity.name}_written"}
        operation["requestBody"] = {"content": {"application/json": {"schema": taken}}}
    status, answer = "200", _answer(method, entity, is_list=is_list)
    if method == "POST" and entity is not None:
        status = "201"
    if resource.pattern in _MAKING and method == "POST":
        status = "201"
    if resource.pattern == "/config" and method == "POST":
        operation["responses"]["304"] = {"description": "the same text is loaded"}
    if method == "DELETE":
        status, answer = "204", None
    operation["responses"][status] = (
        {"description": "done"} if answer is None else _content(answer, "the answer")
    )
    return operation


def _answer(method: str, entity: Entity | None, *, is_list: bool) -> dict[str, Any] | None:
    if entity is None:
        return {}
    row = {"$ref": f"#/components/schemas/{entity.name}"}
    if not is_list or method != "GET":
        return row
    return {
        "type": "object",
        "properties": {
            "data": {"type": "array", "items": row},
            "next": {"type": ["string", "null"]},
            "offset": {"type": "string"},
        },
        "required": ["data", "next"],
    }


def _content(schema: Mapping[str, Any], description: str) -> dict[str, Any]:
    if not schema:
        return {"description": description}
    return {"description": description, "content": {"application/json": {"schema": dict(schema)}}}


def description_resources(resources: Mapping[str, Resource]) -> Iterator[Resource]:
    """The two resources; *resources* is read when they are asked, with these in it."""

    async def openapi(call: Call) -> Response:
        return json_response(openapi_document(resources.values()))

    async def endpoints(call: Call) -> Response:
        return json_response({"data": sorted(resources, key=lambda pattern: pattern.split("/"))})

    yield Resource("/openapi.json", {"GET": openapi})
    yield Resource("/endpoints", {"GET": endpoints})
