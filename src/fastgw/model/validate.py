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

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from fastgw.errors import OptionsError, ValidationError
from fastgw.model.entities import Entity, Row
from fastgw.model.faults import Fault, Faults
from fastgw.model.fields import UNSET, Field
from fastgw.model.renamed import with_new_names
from fastgw.model.rules import check_patch, check_record, check_value
from fastgw.model.served import unserved_faults
from fastgw.model.shapes import shape_of


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
        is_transformed: what an entity transforms (passwords into hashes) is so already, and what one field
            does to others has been done: the row was exported.
    Raises:
        ValidationError: with all faults.
        OptionsError: the `ttl` is wrong.
    """
    row = _make_row(entity, data, now_s=now_s, id=id, is_exported=is_transformed)
    if entity.transform is not None and not is_transformed:
        entity.transform(row, frozenset(row))
    return row


def _make_row(
    entity: Entity, data: Mapping[str, Any], *, now_s: float, id: str | None, is_exported: bool
) -> Row:
    given = dict(data)
    ttl = _take_ttl(entity, given)
    if id is not None:
        given["id"] = id
    if entity.side_effects is not None and not is_exported:
        entity.side_effects(given)
    row = _finish(entity, given, now_s=now_s, is_update=False)
    if entity.ttl:
        row["ttl"] = _expiry(ttl, now_s)
    return row


def check_row(entity: Entity, data: Mapping[str, Any]) -> None:
    """Check *data* as for a new row, without making one; raises as `make_row` does."""
    _make_row(entity, data, now_s=1, id=None, is_exported=False)


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
    for change in (entity.side_effects, entity.prepare):
        if change is not None:
            change(given)
    fields = entity.fields_of({**stored, **given})
    faults |= _take_new_names(fields.values(), given)
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
    shape = shape_of(entity, given)
    faults |= _take_new_names(shape.renamed, given)
    _set_by_server(shape.auto, given, now_s=now_s, is_update=is_update)

    row = shape.row(given)
    unknown = {name: value for name, value in given.items() if name not in row}
    faults |= check_record(
        shape.fields,
        shape.checks_for(given),
        {**row, **unknown} if unknown else row,
        is_update=is_update,
        known_faults=faults,
        settled=shape.settled - given.keys(),
    )
    faults = faults or unserved_faults(entity.name, row, entity.flavor)
    if faults:
        raise ValidationError(faults)
    stored = {name: row[name] for name in shape.stored}
    for name in shape.foreign:
        # Of a foreign row, only its id is kept.
        if row[name] is not None:
            stored[name] = {"id": row[name]["id"].lower()}
    return stored


def _take_new_names(fields: Iterable[Field], given: dict[str, Any]) -> Faults:
    """Move what *given* holds under old names to the new ones; return the faults of contradictions."""
    faults: Faults = {}
    for field in fields:
        value = given.get(field.name)
        if field.renamed and isinstance(value, Mapping):
            below: Faults = {}
            given[field.name] = with_new_names(field, value, below)
            if below:
                faults[field.name] = below
    return faults


def _set_by_server(fields: Sequence[Field], given: dict[str, Any], *, now_s: float, is_update: bool) -> None:
    """Fill in ids and timestamps among *fields*; whatever was sent as `updated_at` does not count."""
    given.pop("updated_at", None)
    for field in fields:
        name = field.name
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
