"""What an entity is: its fields and rules, how it is addressed, and what happens to its rows on their way in.

A *row* is a plain dict in the shape that the Admin API shows: every field present, null is None, a foreign
key is `{"id": "<uuid>"}` or None, timestamps are Unix seconds. Rows of an entity with `ttl` also hold `ttl`:
the Unix second at which they end, or None (the Admin API shows the seconds that are left).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final

from fastgw.model.fields import AllOrNone, Check, Field, Variant

Row = dict[str, Any]

DEFAULT_FLAVOR: Final = "traditional_compatible"
"""Kong's `router_flavor`, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Shorthand:
    """A field that users write and never read back: it stands for several others, which it overrides."""

    field: Field
    expand: Callable[[str], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Entity:
    name: str
    fields: Mapping[str, Field] = field(repr=False)
    _: KW_ONLY
    #: The field that may stand in a path instead of the id. Unique, or unique within a parent.
    endpoint_key: str | None = None
    #: The same, where the path names the parent too.
    nested_key: str | None = None
    #: First segment of its Admin paths.
    admin_path: str
    #: Last segment of the list under a parent (`/services/{s}/routes`).
    nested_name: str
    #: At most one row holds these values together, null being a value.
    composite_key: tuple[str, ...] = ()
    #: The fields of the key that declarative ids are derived from; the endpoint key alone when empty.
    cache_key: tuple[str, ...] = ()
    #: Rows may end by themselves.
    ttl: bool = False
    #: Has paths of its own; else it is found under its parent only.
    is_top_level: bool = True
    checks: tuple[Check, ...] = field(default=(), repr=False)
    patch_checks: tuple[AllOrNone, ...] = field(default=(), repr=False)
    shorthands: Mapping[str, Shorthand] = field(default_factory=dict, repr=False)
    #: Fields that a row has only if it was given them, for what most users never meet.
    optional: Mapping[str, Field] = field(default_factory=dict, repr=False)
    #: Changes what a user sent before defaults are filled in: side effects of one field on others.
    side_effects: Callable[[dict[str, Any]], None] | None = field(default=None, repr=False)
    #: Changes what was sent, or exported, before defaults are filled in: one of several spellings.
    prepare: Callable[[dict[str, Any]], None] | None = field(default=None, repr=False)
    #: Changes a valid row before it is stored; is told which fields were sent.
    transform: Callable[[Row, frozenset[str]], None] | None = field(default=None, repr=False)
    #: The field whose value, or first known element, selects one of `variants`.
    variant_key: str | None = None
    variants: Mapping[str, Variant] = field(default_factory=dict, repr=False)
    #: Of routes: the `router_flavor` that they are to be served under.
    flavor: str = DEFAULT_FLAVOR
    #: What is wrong with a value of `variant_key` that selects none.
    unknown_variant: str = "unknown type: {value}"

    unique_fields: tuple[str, ...] = field(init=False, repr=False)
    foreign_fields: Mapping[str, Field] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        unique = tuple(name for name, declared in self.fields.items() if declared.unique)
        foreign = {name: declared for name, declared in self.fields.items() if declared.type == "foreign"}
        object.__setattr__(self, "unique_fields", unique)
        object.__setattr__(self, "foreign_fields", foreign)

    @property
    def stored_fields(self) -> Mapping[str, Field]:
        return {name: declared for name, declared in self.fields.items() if not declared.transient}

    def variant_of(self, row: Mapping[str, Any]) -> Variant | None:
        """The variant that a valid row belongs to."""
        if self.variant_key is None:
            return None
        value = row.get(self.variant_key)
        candidates = value if isinstance(value, list) else [value]
        known = (key for key in candidates if isinstance(key, str) and key in self.variants)
        return next((self.variants[key] for key in known), None)

    def fields_of(self, row: Mapping[str, Any]) -> Mapping[str, Field]:
        """The fields as they are declared for *row*."""
        variant = self.variant_of(row)
        return {**self.fields, **variant.fields} if variant else self.fields


_flavored: dict[tuple[int, str], tuple[Entity, Entity]] = {}


def flavored(entity: Entity, flavor: str) -> Entity:
    """*entity* with the rules of a `router_flavor`, which only routes have; the same one each time."""
    if entity.name != "routes" or flavor == entity.flavor:
        return entity
    key = (id(entity), flavor)
    if key not in _flavored:
        # The original is kept too, so that no other entity comes to have its id.
        _flavored[key] = entity, replace(entity, flavor=flavor)
    return _flavored[key][1]
