"""What an entity's table is written in: fields, their types and rules, and checks over several fields.

Everything else (validation, storage columns, Admin paths, forms) is derived from these declarations, so
they hold data only. The words are those of Kong's schemas (`between`, `one_of`, `len_min`, ...), because
users meet them again under `/schemas`. The rules of one field are tried in the order in which they stand in
`Field`; the first that is broken gives the message.

A *variant* is Kong's sub-schema: a route's first known protocol chooses other declarations for some fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from typing import Any, Final, Literal

FieldType = Literal[
    "any", "string", "integer", "number", "boolean", "array", "set", "map", "record", "foreign", "json"
]  # fmt: skip


class Unset(Enum):
    """The type of `UNSET`: a declaration that is absent, where None means Kong's null."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class Pattern:
    """A regular expression and what to say when it is broken (`{value}` stands for the value).

    Values may be megabytes long: write it so that it cannot backtrack (possessive `*+`).
    """

    regex: re.Pattern[str]
    message: str


def pattern(regex: str, message: str = "invalid value: {value}") -> Pattern:
    return Pattern(re.compile(regex), message)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an entity or record, or (without a name) the element, key or value of a collection."""

    name: str
    type: FieldType
    _: KW_ONLY
    #: Null is refused. An omitted field takes its default first.
    required: bool = False
    #: False for the few fields that are not required of the user and yet never null (id, timestamps).
    nullable: bool = True
    default: Any = UNSET
    #: Filled by the server when omitted: ids, timestamps, and other strings at random.
    auto: bool = False
    #: At most one row holds a value.
    unique: bool = False
    #: Takes `{vault://...}` in place of a value; such a value is passed on unchecked.
    referenceable: bool = False
    #: A secret: masked wherever rows are shown for any purpose but their own use.
    encrypted: bool = False
    #: Written and read through the Admin API, but kept elsewhere than in the row.
    transient: bool = False

    must_be: Any = UNSET
    must_not_be: Any = UNSET
    not_one_of: tuple[Any, ...] | None = None
    one_of: tuple[Any, ...] | None = None
    timestamp: bool = False
    uuid: bool = False
    between: tuple[float, float] | None = None
    #: The value has to be greater.
    gt: float | None = None
    len_eq: int | None = None
    len_min: int | None = None
    len_max: int | None = None
    starts_with: str | None = None
    match_none: tuple[Pattern, ...] = ()
    match: Pattern | None = None
    match_all: tuple[Pattern, ...] = ()
    #: The alternatives share one message.
    match_any: tuple[tuple[re.Pattern[str], ...], str] | None = None
    contains: Any = UNSET
    #: A name in `formats.FORMATS`.
    format: str | None = None
    exclusive_subsets: tuple[tuple[str, ...], ...] = ()
    #: Says this instead of the message of `must_be` or `must_not_be`.
    message: str | None = None

    elements: Field | None = None
    keys: Field | None = None
    values: Field | None = None
    fields: Mapping[str, Field] = field(default_factory=dict)
    #: Old names of fields of this record, and the paths below it that replace them.
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    #: The entity that a foreign field points to; it need not exist in this version.
    reference: str | None = None
    on_delete: Literal["restrict", "cascade"] = "restrict"


def each(type: FieldType, **rules: Any) -> Field:
    """Declare the element, key or value of a collection."""
    return Field("", type, **rules)


def rule(**rules: Any) -> Field:
    """Declare rules alone, for a condition over a value whose type was checked elsewhere."""
    return Field("", "any", **rules)


def by_name(*fields: Field) -> Mapping[str, Field]:
    return {each_field.name: each_field for each_field in fields}


@dataclass(frozen=True, slots=True)
class AtLeastOneOf:
    """One of the fields holds something; null, `""`, `[]` and `{}` do not count.

    With `when`, the check holds only where that rule holds for the value of `when_field`.
    With `message`, Kong worded this check itself; the general text differs between POST and PATCH.
    """

    fields: tuple[str, ...]
    _: KW_ONLY
    when_field: str | None = None
    when: Field | None = None
    message: str | None = None
    #: A field in place of all of them.
    unless: str | None = None


@dataclass(frozen=True, slots=True)
class Excluding:
    """Where `field` holds something, none of `fields` does; null, 0, `""`, `[]` and `{}` are nothing."""

    field: str
    fields: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True)
class Conditional:
    """Where `if_field` keeps `if_rule`, `then_field` has to keep `then_rule`."""

    if_field: str
    if_rule: Field
    then_field: str
    then_rule: Field
    message: str | None = None


@dataclass(frozen=True, slots=True)
class OnlyOneOf:
    """Not more than one of the fields holds something; with `exactly`, not fewer either."""

    fields: tuple[str, ...]
    _: KW_ONLY
    exactly: bool = False


@dataclass(frozen=True, slots=True)
class Distinct:
    """The fields do not hold one and the same value."""

    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AllOrNone:
    """All of the fields hold something, or none.

    With `in_patch` it concerns what a PATCH sends rather than what the row then holds; a dotted name is one
    inside a field.
    """

    fields: tuple[str, ...]
    _: KW_ONLY
    in_patch: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """`judge` takes the values of the fields, in order, and returns what is wrong with them together.

    It is asked only when all of them are present and faultless. With `on_field` the message is of that field,
    else of the whole.
    """

    fields: tuple[str, ...]
    judge: Callable[..., str | None]
    _: KW_ONLY
    on_field: str | None = None
    #: Ask also where some of the fields are null.
    with_nulls: bool = False


Check = AtLeastOneOf | Conditional | OnlyOneOf | Distinct | AllOrNone | Judged | Excluding


@dataclass(frozen=True, slots=True)
class Variant:
    """What differs for the rows that one key value selects: fields declared anew, and further checks."""

    fields: Mapping[str, Field] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
