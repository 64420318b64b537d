"""`/schemas`: the entity table as Kong writes its schemas, and checks of bodies against it.

Source: kong/api/routes/kong.lua and kong/api/api_helpers.lua (schema_to_jsonable), release 3.9.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import (
    UNSET,
    AllOrNone,
    AtLeastOneOf,
    Check,
    Conditional,
    Distinct,
    Field,
    OnlyOneOf,
    Variant,
)
from fastgw.model.renamed import old_fields
from fastgw.model.validate import check_row

_PLAIN = (
    *("uuid", "timestamp", "unique", "auto", "required", "referenceable", "encrypted", "transient"),
    *("len_eq", "len_min", "len_max", "starts_with", "gt", "reference"),
)


def field_schema(field: Field) -> dict[str, Any]:
    """One field as Kong shows it."""
    shown: dict[str, Any] = {"type": field.type}
    shown |= {name: value for name in _PLAIN if (value := getattr(field, name)) not in (None, False)}
    if field.default is not UNSET and field.default is not None:
        shown["default"] = field.default
    for name in ("one_of", "not_one_of", "between"):
        if getattr(field, name) is not None:
            shown[name] = list(getattr(field, name))
    if field.must_be is not UNSET:
        shown["eq"] = field.must_be
    if field.match is not None:
        shown["match"] = field.match.regex.pattern
    if field.contains is not UNSET:
        shown["contains"] = field.contains
    if field.type == "foreign" and field.on_delete == "cascade":
        shown["on_delete"] = "cascade"
    for name in ("elements", "keys", "values"):
        inner: Field | None = getattr(field, name)
        if inner is not None:
            shown[name] = field_schema(inner)
    if field.type == "record":
        shown["fields"] = _fields(field.fields)
        if field.renamed:
            shown["shorthand_fields"] = [
                {old: _old_schema(declared, field.renamed[old])}
                for old, declared in old_fields(field).items()
            ]
        if field.checks:
            shown["entity_checks"] = _checks(field.checks)
    return shown


def _old_schema(declared: Field, path: tuple[str, ...]) -> dict[str, Any]:
    """A field under its old name: without a default, and with what replaces it."""
    shown = field_schema(replace(declared, default=UNSET, required=False))
    name = ".".join(path)
    shown["deprecation"] = {
        "message": f"deprecated, please use config.{name} instead",
        "removal_in_version": "4.0",
        "replaced_with": [{"path": list(path)}],
    }
    shown["translate_backwards"] = list(path)
    return shown


def _fields(fields: Mapping[str, Field]) -> list[dict[str, Any]]:
    return [{name: field_schema(field)} for name, field in fields.items()]


def _checks(checks: tuple[Check, ...]) -> list[dict[str, Any]]:
    """Those that can be said as data; what a function judges is left out, as Kong leaves functions out."""
    return [shown for check in checks if (shown := _check(check))]


def _check(check: Check) -> dict[str, Any]:
    match check:
        case AtLeastOneOf(when_field=None):
            return {"at_least_one_of": list(check.fields)}
        case OnlyOneOf():
            return {"only_one_of" if check.exactly else "mutually_exclusive": list(check.fields)}
        case Distinct():
            return {"distinct": list(check.fields)}
        case AllOrNone():
            return {"mutually_required": list(check.fields)}
        case Conditional():
            return {
                "conditional": {
                    "if_field": check.if_field,
                    "if_match": _match(check.if_rule),
                    "then_field": check.then_field,
                    "then_match": _match(check.then_rule),
                }
            }
    return {}


def _match(rule: Field) -> dict[str, Any]:
    return {name: value for name, value in field_schema(rule).items() if name != "type"}


def entity_schema(entity: Entity, variant: Variant | None = None) -> dict[str, Any]:
    fields = {**entity.fields, **(variant.fields if variant else {}), **entity.optional}
    checks = (*entity.checks, *variant.checks) if variant else entity.checks
    return {"fields": _fields(fields), "entity_checks": _checks(checks)}


class _Schemas:
    def __init__(self, hooks: Mapping[str, Hooks]) -> None:
        self._hooks = hooks

    async def of_entity(self, call: Call) -> Response:
        return json_response(entity_schema(_entity(call.captured[0])))

    async def of_plugin(self, call: Call) -> Response:
        return json_response(_variant_schema("plugins", "plugin", call.captured[0]))

    async def of_vault(self, call: Call) -> Response:
        return json_response(_variant_schema("vaults", "vault", call.captured[0]))

    async def config_of_plugin(self, call: Call) -> Response:
        """The `config` record alone, for old clients."""
        variant = ENTITIES["plugins"].variants.get(call.captured[0])
        if variant is None:
            raise answers.message(404, f"No plugin named '{call.captured[0]}'")
        shown = field_schema(variant.fields["config"])
        return json_response({"fields": shown["fields"], "entity_checks": shown.get("entity_checks", [])})

    async def validate(self, call: Call) -> Response:
        return self._validate(_entity(call.captured[0]), call)

    async def validate_plugin(self, call: Call) -> Response:
        return self._validate(ENTITIES["plugins"], call)

    async def validate_vault(self, call: Call) -> Response:
        return self._validate(ENTITIES["vaults"], call)

    def _validate(self, entity: Entity, call: Call) -> Response:
        data = call.body.data_for(entity)
        if entity.name == "plugins":
            self._hooks["plugins"].check_data(data)
        check_row(self._hooks[entity.name].entity, data)
        return json_response({"message": "schema validation successful"})


def _entity(name: str) -> Entity:
    entity = ENTITIES.get(name)
    if entity is None:
        raise answers.message(404, f"No entity named '{name}'")
    return entity


def _variant_schema(entity: str, what: str, name: str) -> dict[str, Any]:
    variant = ENTITIES[entity].variants.get(name)
    if variant is None:
        raise answers.message(404, f"No {what} named '{name}'")
    return entity_schema(ENTITIES[entity], variant)


def schema_resources(hooks: Mapping[str, Hooks]) -> Iterator[Resource]:
    schemas = _Schemas(hooks)
    yield Resource("/schemas/{name}", {"GET": schemas.of_entity})
    yield Resource("/schemas/{name}/validate", {"POST": schemas.validate})
    yield Resource("/schemas/plugins/{name}", {"GET": schemas.of_plugin})
    yield Resource("/schemas/plugins/validate", {"POST": schemas.validate_plugin})
    yield Resource("/schemas/vaults/{name}", {"GET": schemas.of_vault})
    yield Resource("/schemas/vaults/validate", {"POST": schemas.validate_vault})
    yield Resource("/plugins/schema/{name}", {"GET": schemas.config_of_plugin})
