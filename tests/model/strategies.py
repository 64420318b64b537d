"""Random bodies of any entity, drawn from its declarations in the entity table."""

from __future__ import annotations

from typing import Any, Final

from hypothesis import strategies as st

from fastgw.model.entities import Entity
from fastgw.model.fields import UNSET, Field
from fastgw.model.served import UNSERVED

_NAMES: Final = st.text(st.sampled_from("abcXYZ012-_.~é"), min_size=3, max_size=12)
_HOSTS: Final = st.from_regex(r"[a-z]{1,6}(\.[a-z]{1,6}){0,2}", fullmatch=True)
_FORMATS: Final[dict[str, st.SearchStrategy[str]]] = {
    "utf8_name": _NAMES,
    "host": _HOSTS,
    "host_with_optional_port": _HOSTS,
    "route_host": _HOSTS,
    "wildcard_host": _HOSTS,
    "sni": _HOSTS,
    "upstream_name": _HOSTS,
    "target_address": _HOSTS.map("{}:80".format) | st.just("[::1]"),
    "path": st.sampled_from(["/", "/a", "/a/b%20c"]),
    "route_path": st.from_regex(r"/[a-z]{1,8}(/[a-z]{1,4})?", fullmatch=True),
    "tag": st.text(st.sampled_from("ab c-ä"), min_size=1, max_size=5),
    "header_name": st.sampled_from(["x-a", "X_B"]),
    "cookie_name": st.sampled_from(["session", "a"]),
    "ip_or_cidr": st.sampled_from(["1.2.3.4", "10.0.0.0/8", "::1"]),
    "url": st.just("http://a.example/x"),
    "regex": st.just("a+"),
}
_TEXTS: Final = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
#: What has to hold together over several fields, or cannot be drawn at all.
_LEFT_OUT: Final = frozenset({"id", "created_at", "updated_at", "snis", "jwk", "pem", "kid"})


def values(field: Field) -> st.SearchStrategy[Any]:
    """Values that keep the rules of *field*."""
    if field.one_of is not None:
        return st.sampled_from(field.one_of)
    if field.format in _FORMATS:
        return _FORMATS[field.format]
    match field.type:
        case "string":
            return st.from_regex(r"[a-z][a-z0-9]{3,9}", fullmatch=True) if field.match else _TEXTS
        case "integer":
            low, high = field.between or (1, 1000)
            return st.integers(int(low), int(high))
        case "number":
            low, high = field.between or (1, 1000)
            return st.integers(int(low) + (field.gt is not None), int(high))
        case "boolean":
            return st.booleans()
        case "array" | "set" if field.elements is not None:
            return st.lists(values(field.elements), min_size=field.len_min or 0, max_size=3)
        case "map" if field.values is not None:
            keys = values(field.keys) if field.keys is not None else _TEXTS
            return st.dictionaries(keys, values(field.values), max_size=2)
        case "record":
            return bodies(field.fields)
    return st.none()


def bodies(fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with all required fields without a default, and some of the others."""
    drawable = {name: field for name, field in fields.items() if field.type not in ("foreign", "json", "any")}
    drawable = {name: field for name, field in drawable.items() if name not in _LEFT_OUT}
    needed = {n for n, field in drawable.items() if field.required and field.default is UNSET}
    return st.fixed_dictionaries(
        {name: values(drawable[name]) for name in needed},
        optional={
            name: values(field) if field.required else values(field) | st.none()
            for name, field in drawable.items()
            if name not in needed
        },
    )


def entity_bodies(entity: Entity) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies of *entity*, most of them valid; without what this version does not serve."""
    unserved = {row.field for row in UNSERVED.get(entity.name, ())} - {
        "host",
        "path",
        "hosts",
        "paths",
        "methods",
    }
    fields = {name: field for name, field in entity.fields.items() if name not in unserved}
    if entity.variant_key is None or entity.name == "routes":
        return bodies(fields)

    def of_variant(name: str) -> st.SearchStrategy[dict[str, Any]]:
        declared = {**fields, **entity.variants[name].fields}
        return bodies(declared).map(lambda body: {**body, entity.variant_key: name})

    return st.sampled_from(sorted(entity.variants)).flatmap(of_variant)
