"""Rows written as a declarative document: format 3.0, flat lists, references as ids, nulls included.

Source: `kong config db_export` of release 3.9.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import yaml

from fastgw.model.declarative import FORMAT_VERSION
from fastgw.model.entities import ENTITIES, Entity, Row
from fastgw.model.fields import Field

MASK: Final = "******"
_USER_OF_URL: Final = re.compile(r"(?<=://)[^/?#]*@")


def export_document(
    rows: Mapping[str, Sequence[Row]], *, now_s: float, with_secrets: bool = True
) -> dict[str, Any]:
    """The document of *rows*; kinds without any are left out.

    Args:
        now_s: Unix seconds, from which what is left of a row's time is counted.
        with_secrets: else they are masked, and the document tells of a configuration rather than being one.
    """
    document: dict[str, Any] = {"_format_version": FORMAT_VERSION, "_transform": False}
    for name, entity in ENTITIES.items():
        found = rows.get(name)
        if found:
            shown = found if with_secrets else [masked(entity, row) for row in found]
            document[name] = [_flat(entity, row, now_s) for row in shown]
    return document


def _flat(entity: Entity, row: Row, now_s: float) -> Row:
    flat = dict(row)
    for name in entity.foreign_fields:
        reference = row[name]
        flat[name] = None if reference is None else reference["id"]
    if entity.ttl and row.get("ttl") is not None:
        flat["ttl"] = max(1, row["ttl"] - int(now_s))
    return flat


def masked(entity: Entity, row: Row) -> Row:
    """*row* with its secrets masked, those in a plugin's configuration too.

    Beside the fields that are declared secrets these are names and passwords in URLs, and the values of maps
    that a vault may hold: header fields that a plugin sends along, tokens among them.
    """
    masked_row: Row = _masked(entity.fields_of(row), row)
    return masked_row


def _masked(fields: Mapping[str, Field], value: Mapping[str, Any]) -> dict[str, Any]:
    shown = dict(value)
    for name, field in fields.items():
        held = value.get(name)
        if held is None:
            continue
        shown[name] = _masked_value(field, held)
    return shown


def _masked_value(field: Field, held: Any) -> Any:
    if field.encrypted:
        return MASK
    if field.type == "record" and isinstance(held, Mapping):
        return _masked(field.fields, held)
    if field.type == "map" and field.values is not None and field.values.referenceable:
        return dict.fromkeys(held, MASK)
    if field.format == "url" and isinstance(held, str):
        return _USER_OF_URL.sub(f"{MASK}@", held)
    return held


class _Dumper(yaml.CSafeDumper):
    """Writes no anchors: people and other tools read these files."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(document: Mapping[str, Any]) -> str:
    # Strings that YAML takes for numbers are quoted by the dumper, "3.0" among them.
    text: str = yaml.dump(
        dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**31 - 1
    )
    return text


def to_json(document: Mapping[str, Any]) -> str:
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
