"""Declarative files: a whole configuration in YAML or JSON, in Kong's format 3.0.

1. Parse the text; a key that stands twice in one mapping is a fault, not a silent choice.
2. Walk it: entities lie in lists at the top level, or in their parent under the child's kind, to any depth.
   Each is known by its path in the file from here on.
3. Give every entity an id: its own, or one derived from its name as Kong does it, or from its place.
4. Resolve references (`service: name`, `service: id`, `service: {id: ...}`), validate, hold keys unique.

All faults are collected, each with its path. The same text gives the same rows, times included, so a file
that is read again without a change has the digest that it had.
Source: Kong's declarative format (Admin API reference §7).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from fastgw.errors import DeclarativeError, ValidationError
from fastgw.model.entities import ENTITIES, Entity, Row
from fastgw.model.validate import make_row

FILE_LIMIT_BYTES: Final = 256 * 1024 * 1024
FORMAT_VERSION: Final = "3.0"

#: Namespace of all ids that are derived from keys. Source: Kong, schema/others/declarative_config.lua.
NAMESPACE: Final = uuid.UUID("fd02801f-0957-4a15-a55a-c8d9606f30b5")

_OLDER_VERSIONS: Final = ("1.1", "2.1")
_TOP_LEVEL_TYPES: Final[Mapping[str, type]] = {"_transform": bool, "_comment": str, "_ignore": list}
_NOTES: Final = ("_comment", "_ignore")
_NOT_SERVED: Final = frozenset(
    "consumers plugins certificates snis ca_certificates upstreams targets vaults keys key_sets "
    "filter_chains keyauth_credentials basicauth_credentials jwt_secrets hmacauth_credentials acls".split()
)
# `created_at` of entities that do not say: a constant, so that rereading changes nothing.
_CREATED_AT_S: Final = 1
_TYPE_NAMES: Final = {bool: "a boolean", str: "a string", list: "an array"}

_Fault = tuple[str, str]


@dataclass(eq=False, slots=True)
class _Declared:
    """One entity as it stands in the file."""

    kind: str
    path: str
    data: dict[str, Any]
    parent: _Declared | None
    id: str


def load_declarative(path: Path) -> dict[str, list[Row]]:
    """Read *path* and return its rows by kind, validated, with all references resolved.

    Raises:
        DeclarativeError: with all faults and their paths in the file.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise DeclarativeError(str(path), [("the file", (error.strerror or str(error)).lower())]) from None
    if len(content) > FILE_LIMIT_BYTES:
        raise DeclarativeError(str(path), [("the file", f"is larger than {FILE_LIMIT_BYTES} bytes")])
    return parse_declarative(content, source=str(path), is_json=path.suffix == ".json")


def parse_declarative(content: bytes, *, source: str, is_json: bool = False) -> dict[str, list[Row]]:
    """The same from the text itself.

    Args:
        source: what messages call it.
        is_json: else YAML, of which nearly all JSON is a part.
    """
    document = _parse(content, source, is_json)
    if not isinstance(document, dict):
        raise DeclarativeError(source, [("the file", "expected a mapping of entity kinds to lists")])
    faults = list(_header_faults(document))
    declared: list[_Declared] = []
    for kind, items in document.items():
        if kind in ENTITIES:
            _collect(kind, items, kind, None, declared, faults)
    rows = _make_rows(declared, faults)
    if faults:
        raise DeclarativeError(source, faults)
    return rows


def derived_id(kind: str, key: str) -> str:
    """Derive the id that Kong gives to an entity of *kind* whose endpoint key is *key*."""
    return str(uuid.uuid5(uuid.uuid5(NAMESPACE, kind), key))


class _Loader(yaml.CSafeLoader):
    """PyYAML's safe loader in C, for which a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _parse(content: bytes, source: str, is_json: bool) -> Any:
    try:
        if is_json:
            return json.loads(content, object_pairs_hook=_unique_pairs)
        return yaml.load(content, _Loader)  # a subclass of the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark is not None else "the file"
        raise DeclarativeError(source, [(where, f"not YAML: {error.problem}")]) from None
    except yaml.YAMLError as error:
        raise DeclarativeError(source, [("the file", f"not YAML: {' '.join(str(error).split())}")]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise DeclarativeError(source, [(where, f"not JSON: {error.msg}")]) from None
    except RecursionError:
        raise DeclarativeError(source, [("the file", "nested too deeply")]) from None
    except ValueError as error:  # bad UTF-8 in JSON, a number or date that cannot be, a key that stands twice
        raise DeclarativeError(source, [("the file", str(error))]) from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"not JSON: the key '{key}' stands twice")
            seen.add(key)
    return mapping


def _header_faults(document: Mapping[Any, Any]) -> Iterator[_Fault]:
    version = document.get("_format_version")
    if version is None:
        yield "_format_version", "required field missing"
    elif not isinstance(version, str):
        yield "_format_version", f'expected a string: write "{FORMAT_VERSION}", in quotes'
    elif version in _OLDER_VERSIONS:
        yield (
            "_format_version",
            f"format {version} is not read in this version: write route paths that are regular expressions "
            f'with a leading ~, then set it to "{FORMAT_VERSION}"',
        )
    elif version != FORMAT_VERSION:
        yield "_format_version", f"expected one of: {', '.join((*_OLDER_VERSIONS, FORMAT_VERSION))}"
    for key, value in document.items():
        if key in ENTITIES or key == "_format_version":
            continue
        if key in _TOP_LEVEL_TYPES:
            if not isinstance(value, _TOP_LEVEL_TYPES[key]):
                yield key, f"expected {_TYPE_NAMES[_TOP_LEVEL_TYPES[key]]}"
        elif key in _NOT_SERVED:
            if value:
                yield key, "not served in this version of fastgw"
        else:
            yield str(key), "unknown field"


def _collect(
    kind: str,
    items: Any,
    path: str,
    parent: _Declared | None,
    declared: list[_Declared],
    faults: list[_Fault],
) -> None:
    """Add the entities of the list *items*, and those nested in them, to *declared*."""
    if items is None:
        return
    if not isinstance(items, list):
        faults.append((path, "expected an array"))
        return
    for place, item in enumerate(items):
        here = f"{path}[{place}]"
        if not isinstance(item, dict) or not all(isinstance(key, str) for key in item):
            faults.append((here, "expected a record"))
            continue
        data = {key: value for key, value in item.items() if key not in _NOTES}
        children = {child: data.pop(child) for child in _children_of(kind) if child in data}
        for child in data.keys() & _NOT_SERVED - ENTITIES[kind].fields.keys():
            if not data.pop(child):
                continue
            faults.append((f"{here}.{child}", "not served in this version of fastgw"))
        entity = _Declared(kind, here, data, parent, _choose_id(kind, data, place, parent))
        declared.append(entity)
        for child, child_items in children.items():
            _collect(child, child_items, f"{here}.{child}", entity, declared, faults)


def _children_of(kind: str) -> list[str]:
    return [name for name, entity in ENTITIES.items() if _parent_field(entity, kind) is not None]


def _parent_field(entity: Entity, parent_kind: str) -> str | None:
    """Name the field by which *entity* refers to a parent of *parent_kind*; None when there is none."""
    for name, field in entity.foreign_fields.items():
        if field.reference == parent_kind:
            return name
    return None


def _choose_id(kind: str, data: Mapping[str, Any], place: int, parent: _Declared | None) -> str:
    given = data.get("id")
    if isinstance(given, str):
        return given
    endpoint_key = ENTITIES[kind].endpoint_key
    key = data.get(endpoint_key) if endpoint_key is not None else None
    if isinstance(key, str):
        return derived_id(kind, key)
    # Kong draws these at random; from its place, an entity keeps its id from one reading to the next.
    return derived_id(kind, f"{parent.id if parent is not None else ''}:{place}")


def _make_rows(declared: list[_Declared], faults: list[_Fault]) -> dict[str, list[Row]]:
    known = _index(declared, faults)
    rows: dict[str, list[Row]] = {kind: [] for kind in ENTITIES}
    for item in declared:
        entity = ENTITIES[item.kind]
        resolved = _resolve(item, entity, known, faults)
        data = {"id": item.id, "created_at": _CREATED_AT_S, **item.data, **resolved}
        now_s = data["created_at"] if isinstance(data["created_at"], int) else _CREATED_AT_S
        try:
            rows[item.kind].append(make_row(entity, data, now_s=now_s))
        except ValidationError as error:
            faults.extend(_flatten(error.fields, item.path))
    return rows


def _index(declared: list[_Declared], faults: list[_Fault]) -> dict[tuple[str, str, str], _Declared]:
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
                faults.append((item.path, f"uniqueness violation: '{item.kind}' entity {clash}"))
                break  # of two with one name, the derived ids clash too
    return known


def _resolve(
    item: _Declared,
    entity: Entity,
    known: Mapping[tuple[str, str, str], _Declared],
    faults: list[_Fault],
) -> dict[str, Any]:
    """Return the reference fields of *item* as rows have them."""
    resolved: dict[str, Any] = {}
    for name, field in entity.foreign_fields.items():
        given = item.data.get(name)
        if item.parent is not None and name == _parent_field(entity, item.parent.kind):
            if given is not None:
                faults.append(
                    (f"{item.path}.{name}", "value must be null: it is nested in what it refers to")
                )
            resolved[name] = {"id": item.parent.id}
        elif given is not None and field.reference is not None and field.reference in ENTITIES:
            target = _find(field.reference, given, known)
            if target is None:
                shown = given if isinstance(given, str) else json.dumps(given, default=str)
                faults.append(
                    (
                        f"{item.path}.{name}",
                        f"invalid reference '{name}: {shown}' (no such entry in '{field.reference}')",
                    )
                )
            resolved[name] = None if target is None else {"id": target.id}
    return resolved


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


def _flatten(fields: Any, path: str) -> Iterator[_Fault]:
    """Turn a tree of faults into (path, message) pairs."""
    if isinstance(fields, Mapping):
        for name, fault in fields.items():
            if name == "@entity":
                yield from ((path, message) for message in fault)
            else:
                yield from _flatten(fault, f"{path}.{name}")
    elif isinstance(fields, list):
        for place, fault in enumerate(fields):
            if fault is not None:
                yield from _flatten(fault, f"{path}[{place}]")
    else:
        yield path, str(fields)
