"""Changes of rows as lines for people: what is new (+), gone (-) and different (~), and how."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

_SIGNS: Final = {"create": "+", "update": "~", "delete": "-"}
_TIMES: Final = frozenset({"created_at", "updated_at"})
_LONGEST: Final = 60
"""Characters of a value."""


def lines_of(changes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """One line for each change, and for an update one for each field.

    Args:
        changes: each with `entity`, `id`, `op`, and of `before`, `after` those that there are.
    """
    for change in changes:
        before, after = change.get("before"), change.get("after")
        shown = name_of(after or before or {}) or change["id"]
        yield f"{_SIGNS[change['op']]} {change['entity']} {shown}"
        for field in change.get("fields", ()):
            if field not in _TIMES:
                was, now = ((row or {}).get(field) for row in (before, after))
                yield f"    {field}: {_short(was)} -> {_short(now)}"


def name_of(row: Mapping[str, Any]) -> str | None:
    """What people call *row*, if anything."""
    keys = ("name", "username", "prefix", "target", "key", "group")
    return next((row[key] for key in keys if isinstance(row.get(key), str)), None)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
