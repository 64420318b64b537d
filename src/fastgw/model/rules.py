"""Values against declarations: the message of the first rule that a value breaks, in Kong's order and words.

`check_value` judges one value and all below it; `check_record` judges several fields and then the checks over
them, which are skipped where one of theirs is already at fault. Values have been filled in by `validate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from fastgw.model.entities import ENTITIES
from fastgw.model.faults import Fault, Faults
from fastgw.model.fields import (
    UNSET,
    AllOrNone,
    AtLeastOneOf,
    Check,
    Conditional,
    Distinct,
    Excluding,
    Field,
    Judged,
    OnlyOneOf,
)
from fastgw.model.formats import FORMATS, is_uuid
from fastgw.model.served import trimmed

REQUIRED: Final = "required field missing"

#: Elements of one list; more could keep the event loop busy for seconds.
MOST_ELEMENTS: Final = 0xFFFF

#: Integers that every storage and wire format here can carry.
_INT64: Final = range(-(2**63), 2**63)


def check_record(
    fields: Mapping[str, Field],
    checks: Sequence[Check],
    value: Mapping[str, Any],
    *,
    is_update: bool,
    known_faults: Mapping[str, Any],
    settled: AbstractSet[str] = frozenset(),
) -> Faults:
    """The faults of a record or whole row.

    Args:
        known_faults: names that are at fault already.
        settled: names whose values are known to be good.
    """
    faults: Faults = {}
    for name, given in value.items():
        if name in settled:
            continue
        field = fields.get(name)
        fault = "unknown field" if field is None else check_value(field, given, is_update=is_update)
        if fault is not None:
            faults[name] = fault
    messages = []
    for check in checks:
        message = _check_several(check, value, faults, known_faults, is_update=is_update)
        if message is not None:
            messages.append(message)
    if messages:
        faults["@entity"] = messages
    return faults


def _check_several(
    check: Check,
    value: Mapping[str, Any],
    faults: Faults,
    known_faults: Mapping[str, Any],
    *,
    is_update: bool,
) -> str | None:
    """The message of a broken check, or None. A check of one field's value adds to *faults* instead."""
    if isinstance(check, Excluding):
        is_broken = value.get(check.field) and any(value.get(name) for name in check.fields)
        return check.message if is_broken else None
    concerned: tuple[str, ...]
    if isinstance(check, Conditional):
        concerned = (check.if_field, check.then_field)
    elif isinstance(check, AtLeastOneOf) and check.when_field is not None:
        concerned = (check.when_field, *check.fields)
    else:
        concerned = check.fields
    if any(
        name in faults or name in known_faults or is_vault_reference(value.get(name)) for name in concerned
    ):
        return None
    match check:
        case Conditional():
            return _check_condition(check, value, faults, is_update=is_update)
        case AtLeastOneOf():
            return _check_at_least_one(check, value, is_update=is_update)
        case OnlyOneOf():
            held = sum(_holds(value.get(name)) for name in check.fields)
            if held == 1 or (held == 0 and not check.exactly):
                return None
            what = "exactly one" if check.exactly else "only one or none"
            verb = "be non-empty" if check.exactly else "be set"
            return f"{what} of these fields must {verb}: {_quoted(check.fields)}"
        case Distinct():
            held_values = [value.get(name) for name in check.fields if value.get(name) is not None]
            if all(one != other for n, one in enumerate(held_values) for other in held_values[n + 1 :]):
                return None
            return f"values of these fields must be distinct: {_quoted(check.fields)}"
        case AllOrNone():
            if len({_holds(_at(value, name)) for name in check.fields}) < 2:
                return None
            return f"all or none of these fields must be set: {_quoted(check.fields)}"
        case Judged():
            values = [value.get(name) for name in check.fields]
            if None in values and not check.with_nulls:
                return None
            fault = check.judge(*values)
            if fault is not None and check.on_field is not None:
                faults[check.on_field] = fault
                return None
            return fault


def concerned_by(check: Check) -> frozenset[str]:
    """The names of all fields that *check* looks at."""
    match check:
        case Conditional():
            names: tuple[str | None, ...] = (check.if_field, check.then_field)
        case Excluding():
            names = (check.field, *check.fields)
        case AtLeastOneOf():
            names = (check.when_field, check.unless, *check.fields)
        case Judged():
            names = (check.on_field, *check.fields)
        case _:
            names = check.fields
    return frozenset(name.partition(".")[0] for name in names if name is not None)


def check_patch(checks: Sequence[AllOrNone], patch: Mapping[str, Any]) -> list[str]:
    """The messages of checks over what a PATCH sends."""
    messages = (_check_several(check, patch, {}, {}, is_update=True) for check in checks)
    return [message for message in messages if message is not None]


def is_vault_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("{vault://") and value.endswith("}")


def _holds(value: Any) -> bool:
    return value not in (None, "", [], {})


def _at(value: Mapping[str, Any], dotted: str) -> Any:
    found: Any = value
    for name in dotted.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _check_at_least_one(check: AtLeastOneOf, value: Mapping[str, Any], *, is_update: bool) -> str | None:
    if check.when_field is not None and check.when is not None:
        if check_value(check.when, value.get(check.when_field), is_update=is_update) is not None:
            return None
    if any(_holds(value.get(name)) for name in check.fields):
        return None
    if check.unless is not None and value.get(check.unless):
        return None
    if check.message is not None:
        return check.message
    prefix = "when updating, " if is_update else ""
    return f"{prefix}at least one of these fields must be non-empty: {_quoted(check.fields)}"


def _check_condition(
    check: Conditional, value: Mapping[str, Any], faults: Faults, *, is_update: bool
) -> str | None:
    if check_value(check.if_rule, value.get(check.if_field), is_update=is_update) is not None:
        return None
    fault = check_value(check.then_rule, value.get(check.then_field), is_update=is_update)
    if fault is None:
        return None
    faults[check.then_field] = fault
    return check.message or f"failed conditional validation given value of field '{check.if_field}'"


def check_value(field: Field, value: Any, *, is_update: bool = False) -> Fault | None:
    """The fault of one value, or None.

    Args:
        is_update: some of Kong's messages differ when a stored row is changed.
    """
    if value is None:
        if field.required or not field.nullable:
            return REQUIRED
        if field.must_be is not UNSET and field.must_be is not None:
            return field.message or f"value must be {_shown(field.must_be)}"
        return None
    if field.must_be is None:
        return field.message or "value must be null"
    fault: Fault | None = check_type(field, value)
    if fault is None and field.referenceable and is_vault_reference(value):
        return None
    if fault is None:
        fault = _check_structure(field, value, is_update=is_update)
    if fault is None:
        fault = _broken_rule(field, value)
    return fault


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "set": list,
    "map": Mapping,
    "record": Mapping,
}


def check_type(field: Field, value: Any) -> str | None:
    """The message for a value of the wrong type, or of a size that no value of its type has."""
    expected = _TYPES.get(field.type)
    if expected is not None:
        is_wrong_bool = isinstance(value, bool) and field.type != "boolean"
        if is_wrong_bool or not isinstance(value, expected):
            article = "an" if field.type in ("array", "integer") else "a"
            return f"expected {article} {field.type}"
    if field.type == "integer" and value not in _INT64:
        return f"value should be between {_INT64.start} and {_INT64.stop - 1}"
    if isinstance(value, list) and len(value) > MOST_ELEMENTS:
        return f"length must be at most {MOST_ELEMENTS}"
    if isinstance(value, str):
        if value == "" and field.len_min != 0:
            return "length must be at least 1"
        return _bad_utf8(value)
    return None


def _bad_utf8(value: str) -> str | None:
    """Bytes that were no UTF-8 arrive as lone surrogates (`surrogateescape`); nothing may store them."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        return f"invalid utf-8 character sequence detected at position {error.start + 1}"
    return None


def _check_structure(field: Field, value: Any, *, is_update: bool) -> Fault | None:
    """The faults of elements, entries, sub-fields or of a foreign key."""
    if field.elements is not None and isinstance(value, list):
        faults = [
            REQUIRED if element is None else check_value(field.elements, element, is_update=is_update)
            for element in value
        ]
        return trimmed(faults) if any(faults) else None
    if field.type == "map":
        # Kong shows the first fault in place of the whole map.
        for declared, members in ((field.keys, value.keys()), (field.values, value.values())):
            for member in members if declared is not None else ():
                fault = REQUIRED if member is None else check_value(declared, member, is_update=is_update)  # type: ignore[arg-type]
                if fault is not None:
                    return fault
    if field.type == "record":
        return check_record(field.fields, field.checks, value, is_update=is_update, known_faults={}) or None
    if field.type == "foreign":
        return _check_foreign(field, value)
    return None


def _check_foreign(field: Field, value: Any) -> Fault | None:
    """A foreign row needs a good id; without one, faults in its other fields say more than a missing id."""
    if not isinstance(value, Mapping):
        return {"id": "missing primary key"}
    id = value.get("id")
    if isinstance(id, str) and is_uuid(id):
        return None
    faults: Faults = {}
    parent = ENTITIES.get(field.reference or "")
    if parent is not None:
        for name, given in value.items():
            declared = parent.fields.get(name)
            fault = "unknown field" if declared is None else check_value(declared, given)
            if fault is not None:
                faults[name] = fault
    elif id is not None:
        faults["id"] = "expected a valid UUID"
    return faults or {"id": "missing primary key"}


def _broken_rule(field: Field, value: Any) -> str | None:
    """The message of the first broken rule, in Kong's order."""
    if field.must_be is not UNSET and value != field.must_be:
        return field.message or f"value must be {_shown(field.must_be)}"
    if field.must_not_be is not UNSET and value == field.must_not_be:
        return field.message or f"value must not be {_shown(field.must_not_be)}"
    if field.not_one_of is not None and value in field.not_one_of:
        return f"must not be one of: {_listed(field.not_one_of)}"
    if field.one_of is not None and value not in field.one_of:
        return f"expected one of: {_listed(field.one_of)}"
    if field.timestamp and value <= 0:
        return "expected a valid timestamp"
    if field.uuid and not is_uuid(value):
        return "expected a valid UUID"
    if field.between is not None and not field.between[0] <= value <= field.between[1]:
        return f"value should be between {field.between[0]} and {field.between[1]}"
    if field.gt is not None and not value > field.gt:
        return f"value must be greater than {field.gt}"
    if isinstance(value, str):
        return _broken_length(field, value) or _broken_text_rule(field, value)
    if isinstance(value, Mapping | list):
        return _broken_length(field, value) or _broken_list_rule(field, value)
    return None


def _broken_length(field: Field, value: Any) -> str | None:
    if field.len_eq is not None and len(value) != field.len_eq:
        return f"length must be {field.len_eq}"
    if field.len_min is not None and len(value) < field.len_min:
        return f"length must be at least {field.len_min}"
    if field.len_max is not None and len(value) > field.len_max:
        return f"length must be at most {field.len_max}"
    return None


def _broken_text_rule(field: Field, value: Any) -> str | None:
    if field.starts_with is not None and not value.startswith(field.starts_with):
        return f"should start with: {field.starts_with}"
    for unwanted in field.match_none:
        if unwanted.regex.search(value):
            return unwanted.message.format(value=value)
    for wanted in (field.match, *field.match_all) if field.match else field.match_all:
        if not wanted.regex.search(value):
            return wanted.message.format(value=value)
    if field.match_any is not None:
        alternatives, message = field.match_any
        if not any(alternative.search(value) for alternative in alternatives):
            return message
    return None if field.format is None else FORMATS[field.format](value)


def _broken_list_rule(field: Field, value: Any) -> str | None:
    if field.contains is not UNSET and field.contains not in value:
        return f"expected to contain: {_shown(field.contains)}"
    if field.exclusive_subsets:
        met = [subset for subset in field.exclusive_subsets if not set(value).isdisjoint(subset)]
        if len(met) > 1:
            shown = ", ".join("(" + ", ".join(f"'{member}'" for member in subset) + ")" for subset in met)
            return f"these sets are mutually exclusive: {shown}"
    return None


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(_shown(value) for value in values)
