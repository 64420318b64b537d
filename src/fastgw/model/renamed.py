"""Fields of records under their old names, which clients go on sending.

Contract. Rows hold the new names only. An old one is taken beside the new one, unless the two say different
things. Source: shorthand fields with `deprecation.replaced_with` in Kong 3.9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgw.model.faults import Faults
from fastgw.model.fields import Field


def old_fields(record: Field) -> dict[str, Field]:
    """What *record* declares under old names."""
    return {old: _declared(record, path) for old, path in record.renamed.items()}


def with_new_names(record: Field, value: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    """*value* with what stands under old names moved to the new ones.

    Args:
        faults: gets one for each old name that contradicts its new one.
    """
    moved = dict(value)
    for old, path in record.renamed.items():
        if old not in moved:
            continue
        given = moved.pop(old)
        new = _at(moved, path)
        if new is None:
            _put(moved, path, given)
        elif given is not None and given != new:
            name = ".".join(path)
            faults[old] = (
                "both deprecated and new field are used but their values mismatch: "
                f"{old} = {_shown(given)} vs {name} = {_shown(new)}"
            )
    return moved


def _declared(record: Field, path: tuple[str, ...]) -> Field:
    field = record
    for step in path:
        field = field.fields[step]
    return field


def _at(value: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    found: Any = value
    for step in path:
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _put(value: dict[str, Any], path: tuple[str, ...], given: Any) -> None:
    """Set what stands at *path*; records on the way are made or copied, and others are left to be refused."""
    *records, last = path
    node = value
    for step in records:
        below = node.get(step)
        if below is not None and not isinstance(below, Mapping):
            return
        node[step] = node = dict(below or {})
    node[last] = given


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
