"""The rows of a declarative document, for this node."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fastgw.errors import DeclarativeError
from fastgw.model.declarative import parse_declarative
from fastgw.model.entities import Row

SOURCE: Final = "the configuration"


def read_document(
    content: bytes, *, is_json: bool, created_at_s: float, refused_plugins: Mapping[str, str], flavor: str
) -> dict[str, list[Row]]:
    """The rows of a document.

    Raises:
        DeclarativeError: with all faults.
    """
    rows = parse_declarative(
        content, source=SOURCE, is_json=is_json, created_at_s=created_at_s, flavor=flavor
    )
    check_plugins(rows["plugins"], refused_plugins)
    return rows


def check_plugins(plugins: Iterable[Row], refused: Mapping[str, str]) -> None:
    """Refuse plugins that may not be configured on this node, as the Admin API does for one."""
    found = [(place, refused[row["name"]]) for place, row in enumerate(plugins) if row["name"] in refused]
    if found:
        faults = [(f"plugins[{place}].name", text) for place, text in found]
        raise DeclarativeError(SOURCE, faults, {"plugins": [text for _, text in found]})
