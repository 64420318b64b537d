"""Rows from what users send: defaults and shorthands filled in, every rule checked, all faults at once.

`make_row` serves POST, PUT and declarative files, `merge_row` serves PATCH. Both either return a whole row
(see `entities`) or raise one ValidationError with the tree of all faults. Nothing here does I/O: references
by name are resolved and existence is checked by the callers.

Order, as in Kong: shorthands, then values set by the server and defaults, then the rules (`rules`). What
is valid and not served yet is told last, to a row that has no other fault, so that Kong's faults come out as
Kong words them.
A row without a known variant (a plugin of an unknown name, a route without a known protocol) gets that one
fault alone.
"""

from __future__ import annotations

import copy
import secrets
import string
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastgw.errors import OptionsError, ValidationError
from fastgw.model.entities import Entity, Row
from fastgw.model.faults import Fault, Faults
from fastgw.model.fields import UNSET, Check, Field
from fastgw.model.rules import MOST_ELEMENTS, REQUIRED, check_patch, check_record, check_type, check_value
from fastgw.model.served import unserved_faults

_ALPHANUMERIC: Final = string.ascii_letters + string.digits
_RANDOM_LENGTH: Final = 32


def make_row(
    entity: Entity,
    data: Mapping[str, Any],
    *,
    now_s: float,
    id: str | None = None,
    is_transformed: bool = False,
) -> Row:
    """Make a whole new row of *entity* from *data*.

    Args:
        now_s: Unix seconds, for `created_at` (kept when given) and `updated_at` (always overwritten).
        id: overrides the one in *data*; without both a random one is made.
        is_transformed: what an entity transforms (passwords into hashes) is so already.
    Raises:
        ValidationError: with all faults.
        OptionsError: the `ttl` is wrong.
    """
    given = dict(data)
    ttl = _take_ttl(entity, given)
    if id is not None:
        given["id"] = id
    row = _finish(entity, given, now_s=now_s, is_update=False)
    if entity.ttl:
        row["ttl"] = _expiry(ttl, now_s)
    if entity.transform is not None and not is_transformed:
        entity.transform(row, frozenset(row))
    return row


def check_row(entity: Entity, data: Mapping[str, Any]) -> None:
    """Check *data* as for a new row, without making one; raises as `make_row` does."""
    make_row(entity, data, now_s=1, is_transformed=True)


def merge_row(entity: Entity, stored: Row, patch: Mapping[str, Any], *, now_s: float) -> Row:
    """Make the row that *stored* becomes by *patch*: records merge key by key, all other values are replaced.

    Raises:
        ValidationError: with all faults of the result, those that come from stored values too.
    """
    given = dict(patch)
    ttl = _take_ttl(entity, given)
    faults = _expand_shorthands(entity, given)
    broken = check_patch(entity.patch_checks, given)
    if broken:
        raise ValidationError({"@entity": broken})
    if entity.prepare is not None:
        entity.prepare(given)
    fields = entity.fields_of({**stored, **given})
    stored_fields = {name: value for name, value in stored.items() if name != "ttl"}
    merged = _merge(fields, stored_fields if entity.ttl else stored, given)
    merged["id"] = stored["id"]
    row = _finish(entity, merged, now_s=now_s, is_update=True, faults=faults)
    if entity.ttl:
        row["ttl"] = stored.get("ttl") if ttl is UNSET else _expiry(ttl, now_s)
    if entity.transform is not None:
        entity.transform(row, frozenset(given))
    return row


MOST_TTL_S: Final = 100_000_000


def _take_ttl(entity: Entity, given: dict[str, Any]) -> Any:
    """Take the option `ttl` out of *given*, where the entity has one; UNSET without any."""
    if not entity.ttl:
        return UNSET
    ttl = given.pop("ttl", UNSET)
    if isinstance(ttl, float) and ttl.is_integer():
        ttl = int(ttl)
    if ttl is UNSET or ttl is None:
        return ttl
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 0 <= ttl <= MOST_TTL_S:
        raise OptionsError({"ttl": f"must be an integer between 0 and {MOST_TTL_S}"})
    return ttl


def _expiry(ttl: Any, now_s: float) -> int | None:
    """The Unix second at which a row ends; 0 and none at all are without end."""
    return int(now_s) + int(ttl) if isinstance(ttl, int) and ttl else None


def check_field(entity: Entity, name: str, value: Any) -> Fault | None:
    """The fault of one value on its own, as for a name in a path; None when it keeps the field's rules."""
    return check_value(entity.fields[name], value)


def _merge(
    fields: Mapping[str, Field], stored: Mapping[str, Any], patch: Mapping[str, Any]
) -> dict[str, Any]:
    merged = dict(stored)
    for name, value in patch.items():
        field, old = fields.get(name), stored.get(name)
        if field and field.type == "record" and isinstance(value, Mapping) and isinstance(old, Mapping):
            merged[name] = _merge(field.fields, old, value)
        else:
            merged[name] = value
    return merged


def _finish(
    entity: Entity, given: dict[str, Any], *, now_s: float, is_update: bool, faults: Faults | None = None
) -> Row:
    faults = {**(faults or {}), **_expand_shorthands(entity, given)}
    if not is_update and entity.prepare is not None:
        entity.prepare(given)
    for name in entity.optional:
        if given.get(name, UNSET) is None:
            del given[name]
    fields, checks = _declarations(entity, given)
    _set_by_server(fields, given, now_s=now_s, is_update=is_update)

    row = {name: _fill(field, given.get(name, UNSET)) for name, field in fields.items()}
    unknown = {name: value for name, value in given.items() if name not in fields}
    faults |= check_record(fields, checks, {**row, **unknown}, is_update=is_update, known_faults=faults)
    faults = faults or unserved_faults(entity.name, row, entity.flavor)
    if faults:
        raise ValidationError(faults)
    return {name: _settle(field, row[name]) for name, field in fields.items() if not field.transient}


def _set_by_server(
    fields: Mapping[str, Field], given: dict[str, Any], *, now_s: float, is_update: bool
) -> None:
    """Fill in ids and timestamps; whatever was sent as `updated_at` does not count."""
    given.pop("updated_at", None)
    for name, field in fields.items():
        if not field.auto:
            continue
        now = round(now_s, 3) if field.type == "number" else int(now_s)
        if name == "updated_at":
            given[name] = now
        elif is_update:
            continue
        elif name == "created_at":
            if given.get(name) is None:
                given[name] = now
        elif field.uuid:
            given.setdefault(name, str(uuid.uuid4()))


def _expand_shorthands(entity: Entity, given: dict[str, Any]) -> Faults:
    """Replace shorthands in *given* by what they stand for; return the faults of unreadable ones."""
    faults: Faults = {}
    for name, shorthand in entity.shorthands.items():
        value = given.pop(name, None)
        if value is None:
            continue
        fault = check_value(shorthand.field, value)
        if fault is None:
            given.update(shorthand.expand(value))
        else:
            faults[name] = fault
    return faults


def _declarations(entity: Entity, given: Mapping[str, Any]) -> tuple[Mapping[str, Field], Sequence[Check]]:
    """The fields and checks that hold for this row, by its variant and by what it was given."""
    all_fields = entity.fields
    given_optional = {name: field for name, field in entity.optional.items() if given.get(name) is not None}
    if given_optional:
        all_fields = {**all_fields, **given_optional}
    if entity.variant_key is None:
        return all_fields, entity.checks
    key_field = entity.fields[entity.variant_key]
    value = _fill(key_field, given.get(entity.variant_key, UNSET))
    if value is None:
        raise ValidationError({key_field.name: REQUIRED})
    candidates = value if isinstance(value, list) else [value]
    for key in candidates:
        if isinstance(key, str) and key in entity.variants:
            variant = entity.variants[key]
            fields = {name: variant.fields.get(name, field) for name, field in all_fields.items()}
            return fields, (*entity.checks, *variant.checks)
    fault = check_type(key_field, value)
    if fault is None:
        fault = entity.unknown_variant.format(value=candidates[0] if candidates else "nil")
    raise ValidationError({key_field.name: fault})


def _fill(field: Field, value: Any) -> Any:
    """The value as it is to be checked: the default for an omitted one, and spellings of the same made one.

    JSON has several spellings of one value: 80.0 for 80, and, from clients written in Lua, `{}` for `[]`.
    """
    if value is UNSET:
        if field.default is not UNSET:
            # Most defaults are plain values, of which no copy is needed.
            return copy.deepcopy(field.default) if isinstance(field.default, list | dict) else field.default
        if field.auto and field.type == "string":
            return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(_RANDOM_LENGTH))
        value = {} if field.type == "record" else None
    match field.type:
        case "integer" if isinstance(value, float) and value.is_integer():
            return int(value)
        case "array" | "set":
            if value == {}:
                value = []
            if isinstance(value, list) and field.elements is not None and len(value) <= MOST_ELEMENTS:
                elements = [_fill(field.elements, element) for element in value]
                is_plain_set = field.type == "set" and all(isinstance(element, str) for element in elements)
                return list(dict.fromkeys(elements)) if is_plain_set else elements
        case "map" if value == []:
            return {}
        case "record" if isinstance(value, Mapping):
            filled = {name: _fill(sub, value.get(name, UNSET)) for name, sub in field.fields.items()}
            return {**filled, **{name: sub for name, sub in value.items() if name not in filled}}
        case "string" if field.uuid and isinstance(value, str):
            return value.lower()
    return value


def _settle(field: Field, value: Any) -> Any:
    """The valid value as it is stored: of a foreign row, only its id."""
    if field.type == "foreign" and value is not None:
        return {"id": value["id"].lower()}
    return value
