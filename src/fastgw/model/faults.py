"""How faults of an entity are put into words: Kong's one-line messages, made from the tree of messages.

A tree of faults mirrors the entity: a field has a message, a mapping for a record, or a list with one place
per element (None where it is good); `@entity` lists the messages that concern several fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

#: A fault of one field.
Fault = str | dict[str, Any] | list[Any]
#: The faults of one entity or record.
Faults = dict[str, Any]

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def summary(
    fields: Mapping[str, Any], *, one: str = "schema violation", many: str = "schema violations"
) -> str:
    """Kong's message for a tree of faults, e.g. `schema violation (host: required field missing)`.

    Source: `schema_violation` in kong/db/errors.lua.
    """
    items = [*fields.get("@entity", ()), *_items(fields)]
    joined = "; ".join(items)
    return f"{one} ({joined})" if len(items) == 1 else f"{len(items)} {many} ({joined})"


def _items(fields: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(fields):
        if name == "@entity":
            continue
        fault = fields[name]
        if isinstance(fault, str):
            yield f"{name}: {fault}"
            continue
        for key, sub_fault in _entries(fault):
            shown = sub_fault if isinstance(sub_fault, str) else _pretty(sub_fault, "")
            yield f"{name}.{key}: {shown}"


def _entries(table: Any) -> list[tuple[int | str, Any]]:
    """The entries of a mapping or list as Lua would number and sort them, without nulls."""
    if isinstance(table, Mapping):
        return [(key, table[key]) for key in sorted(table)]
    return [(place, value) for place, value in enumerate(table, 1) if value is not None]


def _pretty(value: Any, indent: str) -> str:
    """A Lua table over several lines, indented by two spaces."""
    if not isinstance(value, Mapping | list):
        return lua_literal(value)
    inner = indent + "  "
    lines = []
    expected = 1
    for key, sub_value in _entries(value):
        shown = _pretty(sub_value, inner)
        if key == expected:
            expected += 1
            lines.append(f"{inner}{shown}")
        else:
            lines.append(f"{inner}{_lua_key(key, ' = ')}{shown}")
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"


def lua_table(value: Mapping[str, Any]) -> str:
    """A mapping as Kong prints keys in messages: one line, sorted, `{id="..."}`, null as `null`."""
    entries = (f"{_lua_key(key, '=')}{lua_literal(value[key])}" for key in sorted(value))
    return "{" + ",".join(entries) + "}"


def lua_literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return lua_table(value)
    if isinstance(value, list):
        return "{" + ",".join(lua_literal(item) for item in value) + "}"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\\n") + '"'
    return str(value)


def _lua_key(key: int | str, equals: str) -> str:
    if isinstance(key, int):
        return f"[{key}]{equals}"
    return f"{key}{equals}" if _IDENTIFIER.fullmatch(key) else f"[{lua_literal(key)}]{equals}"
