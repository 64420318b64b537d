"""Form arguments (urlencoded or multipart) made into the structure that JSON would have given.

First the names are taken apart and gathered into a tree: `paths[]`, `paths[1]` and a repeated `paths` are one
list, `service.id` and `headers[x-team]` are entries. Then the entity's declarations say what the strings are.
What does not fit its declaration is left as it was sent, so that validation can refuse it with Kong's words.
Source: admin-API behaviour of Kong 3.9 (kong/api/arguments.lua, kong/api/arguments_decoder.lua).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import Field, each
from fastgw.model.renamed import old_fields

#: A value as sent; True stands for a name without `=`.
FormValue = str | Literal[True]

#: The step of `[]`: the next place of a list.
_NEXT: Final = None
_Step = str | int | None

_STEP = re.compile(r"\[([^\]]*)\]|\.?([^.\[]+)")
# Deeper names are no field of any entity.
_DEEPEST: Final = 32
_LONGEST_NAME: Final = 4096
# Longer ones are no number that any field could hold.
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(slots=True)
class _Node:
    """What was sent under one name: values of its own and those below it."""

    values: list[FormValue] = field(default_factory=list)
    entries: dict[_Step, _Node] = field(default_factory=dict)


def decode_form(
    pairs: Iterable[tuple[str, FormValue]], entity: Entity, stored: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the arguments of a form into data for `make_row` or `merge_row`.

    An empty string is null. Strings become numbers and booleans only where the field is one; fields unknown
    to *entity* stay strings.

    Args:
        stored: the row that is to be changed: it tells the variant where the form does not.
    """
    root = _Node()
    for name, value in pairs:
        node = root
        for step in _steps(name):
            node = node.entries.setdefault(step, _Node())
        node.values.append(value)
    shorthands = {name: shorthand.field for name, shorthand in entity.shorthands.items()}
    variant: dict[str, Any] = dict(stored or {})
    if entity.variant_key is not None and entity.variant_key in root.entries:
        variant[entity.variant_key] = _value(
            entity.fields[entity.variant_key], root.entries[entity.variant_key]
        )
    options = {"ttl": Field("ttl", "integer")} if entity.ttl else {}
    return _record({**entity.fields_of(variant), **entity.optional, **shorthands, **options}, root)


def _steps(name: str) -> list[_Step]:
    """Take a name apart: `a.b[]` is a, b, next; `a[1].b` is a, 1, b; one that follows no rule is one step."""
    if len(name) > _LONGEST_NAME:
        return [name]
    steps: list[_Step] = []
    position = 0
    while position < len(name):
        match = _STEP.match(name, position)
        if match is None or (not steps and match[2] is None):
            return [name]
        inner = match[1]
        if inner is None:
            steps.append(match[2])
        elif inner == "":
            steps.append(_NEXT)
        else:
            steps.append(int(inner) if re.fullmatch("[0-9]{1,4}", inner) else inner)
        position = match.end()
    return steps if 0 < len(steps) <= _DEEPEST else [name]


def _record(fields: Mapping[str, Field], node: _Node) -> dict[str, Any]:
    return {str(step): _value(fields.get(str(step)), entry) for step, entry in node.entries.items()}


def _value(declared: Field | None, node: _Node) -> Any:
    if declared is None:
        return _scalar(None, node.values[0]) if node.values else {}
    if declared.type in ("array", "set"):
        return _list(declared.elements or each("any"), node)
    if node.entries:
        return _entries(declared, node)
    values = [_scalar(declared, value) for value in node.values]
    return values[0] if len(values) == 1 else values


def _entries(declared: Field, node: _Node) -> Any:
    if declared.type == "map":
        values = declared.values or each("any")
        return {str(step): _value(values, entry) for step, entry in node.entries.items()}
    if declared.renamed:
        return _record({**declared.fields, **old_fields(declared)}, node)
    if declared.type == "foreign":
        parent = ENTITIES.get(declared.reference or "")
        return _record(parent.fields if parent else {}, node)
    return _record(declared.fields, node)


def _list(elements: Field, node: _Node) -> Any:
    """A list from all its spellings; with a hole, or a named entry, a mapping that is refused as no list."""
    if len(node.values) == 1 and not node.entries and node.values[0] == "":
        return None
    items = [_scalar(elements, value) for value in node.values]
    appended = node.entries.get(_NEXT)
    if appended is not None:
        if appended.entries:
            items.append(_value(elements, _Node(entries=appended.entries)))
        items += [_scalar(elements, value) for value in appended.values]
    placed = {step: entry for step, entry in node.entries.items() if step is not _NEXT}
    for place in range(len(items) + 1, len(items) + len(placed) + 1):
        if place not in placed:
            return {str(step): _value(elements, entry) for step, entry in placed.items()}
        items.append(_value(elements, placed[place]))
    return items


def _scalar(declared: Field | None, value: FormValue) -> Any:
    """One value as its field's type wants it; left as it is when it cannot be that."""
    if value == "":
        return None
    if value is True or declared is None:
        return value
    if declared.type in ("integer", "number") and _NUMBER.fullmatch(value):
        number = float(value)
        if re.fullmatch("[+-]?[0-9]+", value):
            return int(value)
        return number if math.isfinite(number) else value
    if declared.type == "boolean" and value in ("true", "false"):
        return value == "true"
    return value
