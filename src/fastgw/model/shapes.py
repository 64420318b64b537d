"""Which declarations hold for a row, and what its fields are when nobody gave them.

Contract. A shape is made once for each variant of an entity and kept. It knows which defaults keep all rules,
so that a row is judged by what it was given, in proportion to that: of the two dozen fields of a route, most
users give three.

The one complication are checks over several fields: one of them is settled by the defaults too, if none of
the fields that it concerns was given.
"""

from __future__ import annotations

import copy
import secrets
import string
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastgw.errors import ValidationError
from fastgw.model.entities import Entity
from fastgw.model.fields import UNSET, Check, Field
from fastgw.model.rules import MOST_ELEMENTS, REQUIRED, check_record, check_type, concerned_by

_ALPHANUMERIC: Final = string.ascii_letters + string.digits
_RANDOM_LENGTH: Final = 32


class Shape:
    """The fields and checks of one variant of an entity, and its defaults."""

    __slots__ = (
        *(
            "_checks",
            "_lists",
            "_plain",
            "auto",
            "entity",
            "fields",
            "foreign",
            "renamed",
            "settled",
            "stored",
        ),
    )

    def __init__(self, entity: Entity, fields: Mapping[str, Field], checks: Sequence[Check]) -> None:
        self.entity = entity
        self.fields = fields
        omitted = {name: fill(field, UNSET) for name, field in fields.items()}
        self._plain = {
            name: value
            for name, value in omitted.items()
            if not isinstance(value, list | dict) and not _is_random(fields[name])
        }
        # Nobody shares what could be changed in place.
        self._lists = {
            name: value
            for name, value in omitted.items()
            if isinstance(value, list) and not any(isinstance(element, list | dict) for element in value)
        }
        faults = check_record(fields, checks, omitted, is_update=False, known_faults={})
        self.settled: Final = frozenset(name for name in fields if name not in faults)
        """Fields whose default keeps its rules."""
        self._checks = [(check, concerned_by(check), _is_kept(check, fields, omitted)) for check in checks]
        self.renamed: Final = tuple(field for field in fields.values() if field.renamed)
        self.auto: Final = tuple(field for field in fields.values() if field.auto)
        self.stored: Final = tuple(name for name, field in fields.items() if not field.transient)
        self.foreign: Final = tuple(name for name, field in fields.items() if field.type == "foreign")

    def row(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """*given* filled in with what it leaves out; what no field is called is left alone."""
        row: dict[str, Any] = {}
        for name, field in self.fields.items():
            if name in given:
                row[name] = fill(field, given[name])
            elif name in self._plain:
                row[name] = self._plain[name]
            elif name in self._lists:
                row[name] = self._lists[name].copy()
            else:
                row[name] = fill(field, UNSET)
        return row

    def checks_for(self, given: Mapping[str, Any]) -> list[Check]:
        """The checks that *given* can break."""
        return [
            check
            for check, concerned, is_kept in self._checks
            if not is_kept or not concerned.isdisjoint(given)
        ]


def _is_kept(check: Check, fields: Mapping[str, Field], omitted: Mapping[str, Any]) -> bool:
    """Whether the defaults keep *check*."""
    with_it, without_it = (
        check_record(fields, checks, omitted, is_update=False, known_faults={}) for checks in ((check,), ())
    )
    return with_it == without_it


_shapes: dict[tuple[int, str | None, tuple[str, ...]], Shape] = {}


def shape_of(entity: Entity, given: Mapping[str, Any]) -> Shape:
    """The shape of a row by its variant and by what it was given.

    Raises:
        ValidationError: there is no such variant.
    """
    variant = None if entity.variant_key is None else _variant_name(entity, given)
    optional = (
        tuple(name for name in entity.optional if given.get(name) is not None) if entity.optional else ()
    )
    key = (id(entity), variant, optional)
    shape = _shapes.get(key)
    if shape is None:
        # The shape keeps its entity, so that no other one comes to have this id.
        shape = _shapes[key] = _make_shape(entity, variant, optional)
    return shape


def _make_shape(entity: Entity, variant_name: str | None, optional: tuple[str, ...]) -> Shape:
    fields = {**entity.fields, **{name: entity.optional[name] for name in optional}}
    if variant_name is None:
        return Shape(entity, fields, entity.checks)
    variant = entity.variants[variant_name]
    fields = {name: variant.fields.get(name, field) for name, field in fields.items()}
    return Shape(entity, fields, (*entity.checks, *variant.checks))


def _variant_name(entity: Entity, given: Mapping[str, Any]) -> str:
    key_field = entity.fields[entity.variant_key or ""]
    value = fill(key_field, given.get(key_field.name, UNSET))
    if value is None:
        raise ValidationError({key_field.name: REQUIRED})
    candidates = value if isinstance(value, list) else [value]
    for key in candidates:
        if isinstance(key, str) and key in entity.variants:
            return key
    fault = check_type(key_field, value)
    if fault is None:
        fault = entity.unknown_variant.format(value=candidates[0] if candidates else "nil")
    raise ValidationError({key_field.name: fault})


def fill(field: Field, value: Any) -> Any:
    """The value as it is to be checked: the default for an omitted one, and spellings of the same made one.

    JSON has several spellings of one value: 80.0 for 80, and, from clients written in Lua, `{}` for `[]`.
    """
    if value is UNSET:
        if field.default is not UNSET:
            # Most defaults are plain values, of which no copy is needed.
            return copy.deepcopy(field.default) if isinstance(field.default, list | dict) else field.default
        if _is_random(field):
            return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(_RANDOM_LENGTH))
        value = {} if field.type == "record" else None
    match field.type:
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case "array" | "set":
            if value == {}:
                value = []
            if isinstance(value, list) and field.elements is not None and len(value) <= MOST_ELEMENTS:
                elements = [fill(field.elements, element) for element in value]
                is_plain_set = field.type == "set" and all(isinstance(element, str) for element in elements)
                return list(dict.fromkeys(elements)) if is_plain_set else elements
        case "map" if value == []:
            return {}
        case "record" if isinstance(value, Mapping):
            filled = {name: fill(sub, value.get(name, UNSET)) for name, sub in field.fields.items()}
            return {**filled, **{name: sub for name, sub in value.items() if name not in filled}}
        case "string" if field.uuid and isinstance(value, str):
            return value.lower()
    return value


def _is_random(field: Field) -> bool:
    return field.default is UNSET and field.auto and field.type == "string"
