"""Declarative files: a whole configuration in YAML or JSON, in Kong's formats 1.1, 2.1 and 3.0.

1. Parse the text (`declarative_text`).
2. Walk it: entities lie in lists at the top level, or in their parent under the child's kind, to any depth.
   Each is known by its path in the file from here on.
3. Give every entity an id: its own, or one derived from its key as Kong does it, or from its place.
4. Resolve references (`service: name`, `service: id`, `service: {id: ...}`), validate, hold keys unique.

All faults are collected, each with its path and line. The same text gives the same rows, times included, so
a file that is read again without a change has the digest that it had.
Source: Kong's declarative format (Admin API reference §7).
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path as FilePath
from typing import Any, Final

from fastgw.errors import DeclarativeError, OptionsError, ValidationError
from fastgw.model.declarative_paths import migrate_path
from fastgw.model.declarative_text import Path, find_lines, parse_text, shown
from fastgw.model.entities import DEFAULT_FLAVOR, ENTITIES, Entity, Row, flavored
from fastgw.model.validate import make_row

FILE_LIMIT_BYTES: Final = 256 * 1024 * 1024
FORMAT_VERSION: Final = "3.0"
FORMAT_VERSIONS: Final = ("1.1", "2.1", FORMAT_VERSION)

#: Namespace of all ids that are derived from keys. Source: Kong, schema/others/declarative_config.lua.
NAMESPACE: Final = uuid.UUID("fd02801f-0957-4a15-a55a-c8d9606f30b5")

_TOP_LEVEL_TYPES: Final[Mapping[str, type]] = {
    "_transform": bool,
    "_comment": str,
    "_ignore": list,
    "_info": dict,
}
_TYPE_NAMES: Final = {bool: "a boolean", str: "a string", list: "an array", dict: "a record"}
_NOTES: Final = ("_comment", "_ignore")
#: Kinds of Kong's that are not here: an empty list of them is no fault.
_NOT_SERVED: Final = frozenset({"filter_chains"})
# `created_at` of entities that do not say: a constant, so that rereading changes nothing.
_CREATED_AT_S: Final = 1


@dataclass(eq=False, slots=True)
class _Declared:
    """One entity as it stands in the file."""

    kind: str
    path: Path
    data: dict[str, Any]
    parent: _Declared | None
    #: Each with its path below the entity; empty for those of the whole.
    faults: list[tuple[Path, str]] = field(default_factory=list)
    id: str = ""


class _Reading:
    """One file on its way to rows."""

    def __init__(self) -> None:
        self.declared: list[_Declared] = []
        #: Those that belong to no entity.
        self.faults: list[tuple[Path, str]] = []

    def all_faults(self) -> list[tuple[Path, str]]:
        below = [((*item.path, *path), text) for item in self.declared for path, text in item.faults]
        return [*self.faults, *below]


def load_declarative(path: FilePath, *, flavor: str = DEFAULT_FLAVOR) -> dict[str, list[Row]]:
    """Read *path* and return its rows by kind, validated, with all references resolved.

    Args:
        flavor: the `router_flavor` that routes are to be served under.
    Raises:
        DeclarativeError: with all faults and their paths in the file.
    """
    content = read_file(path)
    return parse_declarative(content, source=str(path), is_json=path.suffix == ".json", flavor=flavor)


def read_file(path: FilePath) -> bytes:
    """The bytes of a declarative file; raises DeclarativeError when it cannot be read or is too large."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise DeclarativeError(str(path), [("the file", (error.strerror or str(error)).lower())]) from None
    if len(content) > FILE_LIMIT_BYTES:
        raise DeclarativeError(str(path), [("the file", f"is larger than {FILE_LIMIT_BYTES} bytes")])
    return content


def parse_declarative(
    content: bytes,
    *,
    source: str,
    is_json: bool = False,
    created_at_s: float = _CREATED_AT_S,
    flavor: str = DEFAULT_FLAVOR,
) -> dict[str, list[Row]]:
    """The same from the text itself.

    Args:
        source: what messages call it.
        is_json: else YAML, of which nearly all JSON is a part.
        created_at_s: Unix seconds, for entities that do not say when they were made.
    """
    document = parse_text(content, source, is_json)
    if not isinstance(document, dict):
        fields = {"error": "failed parsing declarative configuration: expected an object"}
        text = "expected a mapping of entity kinds to lists"
        raise DeclarativeError(source, [("the file", text)], fields)
    return rows_of_document(
        document, source=source, content=content, created_at_s=created_at_s, flavor=flavor
    )


def rows_of_document(
    document: Mapping[Any, Any],
    *,
    source: str,
    content: bytes = b"",
    created_at_s: float = _CREATED_AT_S,
    flavor: str = DEFAULT_FLAVOR,
) -> dict[str, list[Row]]:
    """The same from parsed data; *content* is where lines are looked for."""
    reading = _Reading()
    reading.faults += _header_faults(document)
    version = document.get("_format_version")
    for kind, items in document.items():
        if kind in ENTITIES:
            _collect(reading, kind, items, (kind,), None)
    if version in FORMAT_VERSIONS and version != FORMAT_VERSION:
        _migrate_paths(reading)
    is_transformed = document.get("_transform") is False
    rows = _make_rows(reading, created_at_s=created_at_s, is_transformed=is_transformed, flavor=flavor)
    faults = reading.all_faults()
    if faults:
        lines = find_lines(content, {path for path, _ in faults})
        raise DeclarativeError(
            source,
            [
                (shown(path) + (f" (line {lines[path]})" if path in lines else ""), text)
                for path, text in faults
            ],
            _tree_of(faults),
            _flattened(reading),
        )
    return rows


def derived_id(kind: str, key: str) -> str:
    """Derive the id that Kong gives to an entity of *kind* whose key is *key*."""
    return str(uuid.uuid5(_namespace_of(kind), key))


@cache
def _namespace_of(kind: str) -> uuid.UUID:
    return uuid.uuid5(NAMESPACE, kind)


def _header_faults(document: Mapping[Any, Any]) -> Iterator[tuple[Path, str]]:
    version = document.get("_format_version")
    if version is None:
        yield ("_format_version",), "required field missing"
    elif not isinstance(version, str):
        yield ("_format_version",), f'expected a string: write "{version}", in quotes'
    elif version not in FORMAT_VERSIONS:
        yield ("_format_version",), f"expected one of: {', '.join(FORMAT_VERSIONS)}"
    for key, value in document.items():
        if key in ENTITIES or key == "_format_version":
            continue
        if key in _TOP_LEVEL_TYPES:
            if not isinstance(value, _TOP_LEVEL_TYPES[key]):
                yield (key,), f"expected {_TYPE_NAMES[_TOP_LEVEL_TYPES[key]]}"
            elif key == "_info" and document["_info"].get("defaults"):
                yield (key, "defaults"), "not applied here: write the values into the entities"
        elif key in _NOT_SERVED:
            if value:
                yield (key,), "not served in this version of fastgw"
        else:
            yield (str(key),), "unknown field"


def _collect(reading: _Reading, kind: str, items: Any, path: Path, parent: _Declared | None) -> None:
    """Add the entities of the list *items*, and those nested in them, to *reading*."""
    if items is None:
        return
    if not isinstance(items, list):
        reading.faults.append((path, "expected an array"))
        return
    for place, item in enumerate(items):
        here = (*path, place)
        if not isinstance(item, dict) or not all(isinstance(key, str) for key in item):
            reading.faults.append((here, "expected a record"))
            continue
        data = {key: value for key, value in item.items() if key not in _NOTES}
        children = [(child, data.pop(child)) for child in _children_of(kind) if child in data]
        entity = _Declared(kind, here, data, parent)
        entity.id = _choose_id(entity)
        for child in data.keys() & _NOT_SERVED:
            if data.pop(child):
                entity.faults.append(((child,), "not served in this version of fastgw"))
        reading.declared.append(entity)
        for child, child_items in children:
            _collect(reading, child, child_items, (*here, child), entity)


@cache
def _children_of(kind: str) -> tuple[str, ...]:
    return tuple(name for name in ENTITIES if _parent_field(name, kind) is not None)


@cache
def _parent_field(kind: str, parent_kind: str) -> str | None:
    """Name the field by which *kind* refers to a parent of *parent_kind*; None when there is none."""
    for name, declared in ENTITIES[kind].foreign_fields.items():
        if declared.reference == parent_kind:
            return name
    return None


def _choose_id(item: _Declared) -> str:
    given = item.data.get("id")
    if isinstance(given, str):
        return given
    entity = ENTITIES[item.kind]
    key = _cache_key(item, entity) if entity.cache_key else item.data.get(entity.endpoint_key or "")
    if isinstance(key, str):
        return derived_id(item.kind, key)
    # Kong draws these at random; from its place, an entity keeps its id from one reading to the next.
    return derived_id(item.kind, f"{item.parent.id if item.parent is not None else ''}:{item.path[-1]}")


def _cache_key(item: _Declared, entity: Entity) -> str | None:
    """The text of the key that Kong derives the id from; None when a part of it is missing.

    A parent counts by its id where the child is nested, and as it is written where it is not.
    """
    values: list[str] = []
    for name in entity.cache_key:
        declared = entity.fields[name]
        value: Any = item.data.get(name)
        if declared.type == "foreign":
            if item.parent is not None and name == _parent_field(item.kind, item.parent.kind):
                value = item.parent.id
            elif isinstance(value, Mapping):
                value = next(iter(value.values()), None)
        if value is None and (declared.required or declared.auto):
            return None
        if value is not None and not isinstance(value, str):
            return None
        values.append(value or "")
    return ":".join((item.kind, "*", *values))


def _migrate_paths(reading: _Reading) -> None:
    """Rewrite the route paths of older formats; as Kong does, only of routes no deeper than in a service."""
    for item in reading.declared:
        if item.kind == "routes" and (item.parent is None or item.parent.parent is None):
            paths = item.data.get("paths")
            if isinstance(paths, list):
                item.data["paths"] = [migrate_path(one) if isinstance(one, str) else one for one in paths]


def _make_rows(
    reading: _Reading, *, created_at_s: float, is_transformed: bool, flavor: str
) -> dict[str, list[Row]]:
    entities = {name: flavored(entity, flavor) for name, entity in ENTITIES.items()}
    known = _index(reading.declared)
    rows: dict[str, list[Row]] = {kind: [] for kind in ENTITIES}
    composite: set[tuple[Any, ...]] = set()
    ttl_base_s = time.time()
    for item in reading.declared:
        entity = entities[item.kind]
        data = {"id": item.id, "created_at": created_at_s, **item.data, **_resolve(item, entity, known)}
        try:
            row = make_row(entity, data, now_s=created_at_s, is_transformed=is_transformed)
        except ValidationError as error:
            item.faults += _flatten(error.fields, ())
            continue
        except OptionsError as error:
            item.faults += [((name,), text) for name, text in error.options.items()]
            continue
        if entity.ttl and row["ttl"] is not None:
            row["ttl"] += int(ttl_base_s) - int(created_at_s)
        if "updated_at" in row and isinstance(item.data.get("updated_at"), int | float):
            row["updated_at"] = item.data["updated_at"]
        _check_composite(item, entity, row, composite)
        rows[item.kind].append(row)
    return rows


def _check_composite(item: _Declared, entity: Entity, row: Row, seen: set[tuple[Any, ...]]) -> None:
    if not entity.composite_key:
        return
    values = [row[name] for name in entity.composite_key]
    key = (item.kind, *(value["id"] if isinstance(value, dict) else value for value in values))
    if key in seen:
        named = ", ".join(
            f"{name}={value['id'] if isinstance(value, dict) else value}"
            for name, value in zip(entity.composite_key, values, strict=True)
            if value is not None
        )
        fault = f"uniqueness violation: '{item.kind}' entity with {named} already declared"
        item.faults.append(((), fault))
    seen.add(key)


def _index(declared: list[_Declared]) -> dict[tuple[str, str, str], _Declared]:
    """Index entities by (kind, unique field, value); a value that stands twice is a fault of the second."""
    known: dict[tuple[str, str, str], _Declared] = {}
    for item in declared:
        values = {name: item.data.get(name) for name in ENTITIES[item.kind].unique_fields}
        values["id"] = item.id
        for name, value in values.items():
            if not isinstance(value, str):
                continue
            if known.setdefault((item.kind, name, value), item) is not item:
                clash = f"with {'primary key' if name == 'id' else name} set to '{value}' already declared"
                item.faults.append(((), f"uniqueness violation: '{item.kind}' entity {clash}"))
                break  # of two with one name, the derived ids clash too
    return known


def _resolve(
    item: _Declared, entity: Entity, known: Mapping[tuple[str, str, str], _Declared]
) -> dict[str, Any]:
    """Return the reference fields of *item* as rows have them."""
    resolved: dict[str, Any] = {}
    for name, declared in entity.foreign_fields.items():
        given = item.data.get(name)
        if item.parent is not None and name == _parent_field(item.kind, item.parent.kind):
            if given is not None:
                item.faults.append(((name,), "value must be null: it is nested in what it refers to"))
            resolved[name] = {"id": item.parent.id}
        elif given is not None and declared.reference is not None and declared.reference in ENTITIES:
            target = _find(declared.reference, given, known)
            if target is None:
                text = given if isinstance(given, str) else json.dumps(given, default=str)
                fault = f"invalid reference '{name}: {text}' (no such entry in '{declared.reference}')"
                item.faults.append(((name,), fault))
            resolved[name] = None if target is None else {"id": target.id}
            if target is None and declared.required:
                # Told once is enough: not also as a missing field.
                resolved[name] = {"id": item.id if _is_id(item.id) else derived_id(item.kind, "")}
    return resolved


def _is_id(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


def _find(kind: str, reference: Any, known: Mapping[tuple[str, str, str], _Declared]) -> _Declared | None:
    """Find what *reference* means: an id or an endpoint key, as text or in a mapping of one."""
    endpoint_key = ENTITIES[kind].endpoint_key or "id"
    if isinstance(reference, str):
        return known.get((kind, "id", reference)) or known.get((kind, endpoint_key, reference))
    if isinstance(reference, dict) and len(reference) == 1:
        ((name, value),) = reference.items()
        if name in ("id", endpoint_key) and isinstance(value, str):
            return known.get((kind, name, value))
    return None


def _flatten(fields: Any, path: Path) -> Iterator[tuple[Path, str]]:
    """Turn a tree of faults into (path, message) pairs."""
    if isinstance(fields, Mapping):
        for name, fault in fields.items():
            if name == "@entity":
                yield from ((path, message) for message in fault)
            else:
                yield from _flatten(fault, (*path, name))
    elif isinstance(fields, list):
        for place, fault in enumerate(fields):
            if fault is not None:
                yield from _flatten(fault, (*path, place))
    else:
        yield path, str(fields)


def _tree_of(faults: list[tuple[Path, str]]) -> dict[str, Any]:
    """The tree of messages that Kong shows: it mirrors the file, with null for what is good.

    Messages of a whole entity stand in its place, or under `@entity` beside those of its fields.
    """
    tree: dict[Any, Any] = {}
    for path, text in faults:
        node = tree
        for step in path:
            node = node.setdefault(step, {})
        node.setdefault("@entity", []).append(text)
    settled = _settled(tree)
    return settled if isinstance(settled, dict) else {"error": settled}


def _settled(node: dict[Any, Any]) -> Any:
    messages = node.pop("@entity", [])
    if not node:
        return messages[0] if len(messages) == 1 else messages
    if all(isinstance(step, int) for step in node) and not messages:
        return [_settled(node[place]) if place in node else None for place in range(max(node) + 1)]
    settled = {str(step): _settled(below) for step, below in node.items()}
    return {**settled, "@entity": messages} if messages else settled


def _flattened(reading: _Reading) -> list[dict[str, Any]]:
    """The faults entity by entity, for `flatten_errors`."""
    flat: list[dict[str, Any]] = []
    for item in reading.declared:
        if not item.faults:
            continue
        data = dict(item.data)
        if item.parent is not None and "id" in item.parent.data:
            field_name = _parent_field(item.kind, item.parent.kind)
            data[str(field_name)] = {"id": item.parent.id}
        entry: dict[str, Any] = {"entity_type": item.kind.removesuffix("s"), "entity": data, "errors": []}
        for name, key in (("entity_name", "name"), ("entity_id", "id"), ("entity_tags", "tags")):
            if isinstance(data.get(key), str | list):
                entry[name] = data[key]
        for path, text in item.faults:
            named = [step for step in path if isinstance(step, str)]
            where = {"type": "field", "field": ".".join(named)} if named else {"type": "entity"}
            entry["errors"].append({**where, "message": text})
        flat.append(entry)
    return flat
