"""Write docs/entities.md from the entity table and the plugins' schemas; a test holds the page to them.

.venv/bin/python tools/entities_page.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import UNSET, AllOrNone, AtLeastOneOf, Check, Conditional, Distinct, Field, OnlyOneOf
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.model.plugin_schemas.schema import PluginSchema
from fastgw.model.served import SERVED_PLUGINS, UNSERVED

PAGE: Final = Path(__file__).parent.parent / "docs" / "entities.md"

_HEAD: Final = """# Entities

Everything that the Admin API and declarative files hold: fields, defaults and rules. This page is made from
the tables in `src/fastgw/model/` (by `tools/entities_page.py`), as are validation, storage, paths, `/schemas`
and OpenAPI, so it cannot say anything else than they do. Errors are worded as in Kong 3.9.

**Bold** fields refuse null. Every other one takes null, also in place of its default. Fields *set by the
server* may be given all the same. A reference is `{"id": …}`, or names its target by any unique field of it:
`{"name": …}`. Fields marked *secret* are masked in the history; those marked *vault* take `{vault://…}`.
"""


_PLUGINS: Final = """## Configuration of plugins

What may stand in `config` of a plugin, by its `name`. Larger priorities run first.
"""


def make_page() -> str:
    """The whole page."""
    parts = [_HEAD]
    parts += [_entity(entity) for entity in ENTITIES.values()]
    parts.append(_PLUGINS)
    parts += [_plugin(schema) for schema in sorted(PLUGIN_SCHEMAS.values(), key=lambda schema: schema.name)]
    return "\n".join(parts)


def _entity(entity: Entity) -> str:
    lines = [f"## {entity.name}", "", _addressed(entity), ""]
    unserved = {row.field for row in UNSERVED.get(entity.name, ())}
    lines += _table({**entity.fields, **entity.optional}, optional=entity.optional.keys())
    for name in entity.shorthands:
        lines += [
            "",
            f"`{name}` may be written in place of the fields that it is made of; it is never answered.",
        ]
    rules = [*_checks(entity.checks)]
    if rules:
        lines += ["", *rules]
    for key, variant in entity.variants.items():
        if entity.name == "plugins":
            continue
        own = [*_checks(variant.checks)]
        fields = list(_table(variant.fields))
        if own or variant.fields:
            lines += ["", f"With `{entity.variant_key}` {key}:", ""]
            lines += [*(fields if variant.fields else ()), *([""] if variant.fields and own else ()), *own]
    if unserved:
        listed = ", ".join(f"`{name}`" for name in sorted(unserved))
        lines += [
            "",
            f"Not all values of {listed} are served yet; those that are not are refused with the reason.",
        ]
    return "\n".join([*lines, ""])


def _addressed(entity: Entity) -> str:
    said = []
    if entity.is_top_level:
        said.append(f"At `/{entity.admin_path}`.")
    parents = [
        f"`/{ENTITIES[field.reference].admin_path}/…/{entity.nested_name}`"
        for field in entity.foreign_fields.values()
        if field.reference is not None and field.reference in ENTITIES
    ]
    if parents:
        said.append(f"Under its parents at {', '.join(parents)}.")
    key = entity.endpoint_key or entity.nested_key
    said.append(f"Paths name a row by its id or its `{key}`." if key else "Paths name a row by its id.")
    if entity.composite_key:
        names = ", ".join(f"`{name}`" for name in entity.composite_key)
        said.append(f"At most one row holds the same {names} together.")
    if entity.ttl:
        said.append("Rows may end by themselves: `ttl` in seconds.")
    return " ".join(said)


def _plugin(schema: PluginSchema) -> str:
    served = "" if schema.name in SERVED_PLUGINS else " Stored and checked; its behaviour is not there yet."
    without = f" Not for: {', '.join(schema.without)}." if schema.without else ""
    lines = [f"### {schema.name}", "", f"Priority {schema.priority}.{without}{served}", ""]
    lines += _table({field.name: field for field in schema.config})
    rules = [*_checks(schema.checks)]
    return "\n".join([*lines, *(["", *rules] if rules else ()), ""])


def _table(fields: Mapping[str, Field], *, optional: Any = ()) -> Iterator[str]:
    yield "| field | type | default | rules |"
    yield "|---|---|---|---|"
    for path, field in _flat(fields):
        name = f"**{path}**" if field.required else path
        rules = list(_rules(field))
        if path in optional:
            rules.append("only answered where it was given")
        yield f"| {name} | {_type(field)} | {_default(field)} | {_escaped('; '.join(rules))} |"


def _flat(fields: Mapping[str, Field], prefix: str = "") -> Iterator[tuple[str, Field]]:
    for name, field in fields.items():
        if field.type == "record" and field.fields:
            yield from _flat(field.fields, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _type(field: Field) -> str:
    if field.type == "foreign":
        return f"→ {field.reference}"
    if field.elements is not None:
        return f"{field.type} of {_type(field.elements)}"
    if field.values is not None:
        return f"map of {_type(field.values)}"
    if field.type == "record":
        return f"record ({', '.join(field.fields)})"
    return field.type


def _default(field: Field) -> str:
    if field.default is UNSET:
        return "*set by the server*" if field.auto else ""
    return f"`{_escaped(msgspec.json.encode(field.default).decode())}`"


def _rules(field: Field) -> Iterator[str]:
    if field.unique:
        yield "unique"
    if field.one_of is not None:
        yield f"one of {_listed(field.one_of)}"
    if field.not_one_of is not None:
        yield f"none of {_listed(field.not_one_of)}"
    if field.must_be is not UNSET:
        yield "must be null" if field.must_be is None else f"must be {_shown(field.must_be)}"
    if field.between is not None:
        yield f"{field.between[0]} to {field.between[1]}"
    if field.gt is not None:
        yield f"above {field.gt}"
    for words, number in (
        ("length", field.len_eq),
        ("length at least", field.len_min),
        ("at most", field.len_max),
    ):
        if number:
            yield f"{words} {number}"
    if field.starts_with is not None:
        yield f"starts with `{field.starts_with}`"
    if field.contains is not UNSET:
        yield f"contains {_shown(field.contains)}"
    if field.match is not None:
        yield f"matches `{field.match.regex.pattern}`"
    if field.uuid:
        yield "UUID"
    if field.format is not None:
        yield field.format.replace("_", " ")
    if field.exclusive_subsets:
        yield "of one group only: " + " · ".join(", ".join(subset) for subset in field.exclusive_subsets)
    for what, inner in (("each", field.elements), ("keys", field.keys), ("values", field.values)):
        if inner is not None and inner.type != "record" and (rules := list(_rules(inner))):
            yield f"{what}: {', '.join(rules)}"
    if field.type == "foreign":
        yield (
            "goes with its parent" if field.on_delete == "cascade" else "keeps its parent from being deleted"
        )
    if field.referenceable:
        yield "vault"
    if field.encrypted:
        yield "secret"


def _checks(checks: Sequence[Check]) -> Iterator[str]:
    for check in checks:
        match check:
            case AtLeastOneOf(message=str() as message):
                yield f"- {message}"
            case AtLeastOneOf():
                yield f"- At least one of {_listed(check.fields)} holds something."
            case OnlyOneOf():
                how = "Exactly one" if check.exactly else "At most one"
                yield f"- {how} of {_listed(check.fields)} is set."
            case Distinct():
                yield f"- {_listed(check.fields)} differ."
            case AllOrNone():
                yield f"- All or none of {_listed(check.fields)} are set."
            case Conditional():
                given, then = (", ".join(_rules(one)) or "set" for one in (check.if_rule, check.then_rule))
                if check.then_rule.required:
                    then = f"required{'' if then == 'set' else ', ' + then}"
                where = f"- Where `{check.if_field}` is {_escaped(given)}"
                yield f"{where}: `{check.then_field}` is {_escaped(then)}."


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(_shown(value) for value in values)


def _shown(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{msgspec.json.encode(value).decode()}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(make_page())
