"""The `config_table` that is pushed to Kong's data planes, from our rows.

Contract. As Kong 3.9's export of a database: one array for each kind that has rows, flat; a foreign key is
the id as text; every field is there, null where it is unset; `_transform` is false, since what an entity
transforms (passwords) is stored transformed. Rows stand in the order of their ids, so equal configurations
have equal hashes. Disabled plugins and services are left out, with everything that depends on them: a data
plane refuses a whole configuration for one reference that points nowhere.

Source: kong/db/declarative/export.lua, 3.9.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from fastgw.model.entities import ENTITIES, Row
from fastgw.model.snapshot import Snapshot

FORMAT_VERSION: Final = "3.0"
WORKSPACE_ID: Final = "0dc6f45b-8f8d-40d2-a504-473544ee190b"
"""Of the default workspace; a data plane that is sent none makes one with this id."""
# A constant, so that it changes no hash.
_WORKSPACE_SINCE_S: Final = 1

Table = dict[str, Any]


def export_table(snapshot: Snapshot, cluster_id: str) -> Table:
    """The table of a snapshot; takes time in proportion to its size."""
    counts = snapshot.counts()
    return export_rows(
        {kind: snapshot.rows(kind).values() for kind in ENTITIES if counts.get(kind)}, cluster_id
    )


def export_rows(rows: Mapping[str, Iterable[Row]], cluster_id: str) -> Table:
    """The table of *rows* by kind, each as the Admin API shows it, in the order of their ids."""
    table: Table = {"_format_version": FORMAT_VERSION, "_transform": False}
    left_out: dict[str, set[str]] = {}
    for kind, entity in ENTITIES.items():
        foreign = {name: field.reference or "" for name, field in entity.foreign_fields.items()}
        kept = []
        for row in rows.get(kind, ()):
            flat = {
                name: value["id"] if name in foreign and value is not None else value
                for name, value in row.items()
            }
            if row.get("enabled") is False or any(
                flat.get(name) in left_out.get(reference, ()) for name, reference in foreign.items()
            ):
                left_out.setdefault(kind, set()).add(flat["id"])
            else:
                kept.append(flat)
        if kept:
            table[kind] = kept
    table["parameters"] = [{"created_at": None, "key": "cluster_id", "value": cluster_id}]
    table["workspaces"] = [
        {
            "id": WORKSPACE_ID,
            "name": "default",
            "comment": None,
            "config": {},
            "meta": {},
            "created_at": _WORKSPACE_SINCE_S,
            "updated_at": _WORKSPACE_SINCE_S,
        }
    ]
    return table


def count_expressions(table: Table) -> int:
    """How many routes of a table have an expression."""
    return sum(1 for row in table.get("routes", ()) if row.get("expression") is not None)


def configured_plugins(table: Table) -> frozenset[str]:
    """The names of plugins that a table has rows of."""
    return frozenset(row["name"] for row in table.get("plugins", ()))
