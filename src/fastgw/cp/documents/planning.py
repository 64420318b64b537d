"""What storing some rows would do: to rows, to the routes that others have, and to what data planes compile.

Nothing here writes, and nothing knows of requests; it runs in `child`, as it may take seconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastgw.cp.documents.jobs import Planned
from fastgw.cp.storage.importing import ImportPlan, plan_import
from fastgw.cp.storage.schema import Schema
from fastgw.errors import CompileError
from fastgw.model.declarative_export import masked
from fastgw.model.entities import ENTITIES, Row
from fastgw.model.snapshot import EntityChange, Snapshot
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.jobs import make_sealed_memfd
from fastgw.routing.layered import LayeredImage
from fastgw.routing.lint import lint

MOST_CHANGES: Final = 1000
MOST_FAULTS: Final = 100
_TIMES: Final = frozenset({"created_at", "updated_at"})
_SCHEMA: Final = Schema(ENTITIES)


def plan_rows(stands: Snapshot, rows: Mapping[str, Sequence[Row]], *, flavor: str, replace: bool) -> Planned:
    """Say what storing *rows* would do to what *stands*.

    Raises:
        UniqueViolation: as storing them would.
    """
    stored: dict[str, dict[str, Row]] = {}
    plans: list[ImportPlan] = []
    for name, table in _SCHEMA.tables.items():
        stored[name] = dict(stands.rows(name))
        plans.append(plan_import(table, stored[name], rows.get(name, ()), replace=replace))
    changes = [change for plan in plans for change in _changes_of(plan, stored[plan.table.entity.name])]
    would = _apply(stands, plans)
    faults, findings = _judge(stands, would, flavor, is_changed=bool(changes))
    enabled = [row["name"] for row in would.rows("plugins").values() if row["enabled"]]
    return Planned(
        counts={
            "created": sum(len(plan.created) for plan in plans),
            "updated": sum(len(plan.updated) for plan in plans),
            "deleted": sum(len(plan.deleted) for plan in plans),
            "unchanged": sum(plan.unchanged for plan in plans),
        },
        changes=[_shown(*change) for change in changes[:MOST_CHANGES]],
        left_out=max(0, len(changes) - MOST_CHANGES),
        faults=faults[:MOST_FAULTS],
        shadowed=findings["shadowed"],
        duplicates=findings["duplicates"],
        plugins={name: enabled.count(name) for name in sorted(set(enabled))},
        packed_bytes=len(would.pack()),
    )


_Change = tuple[str, str, Row | None, Row | None]


def _changes_of(plan: ImportPlan, stored: Mapping[str, Row]) -> list[_Change]:
    kind = plan.table.entity.name
    made: list[_Change] = [(kind, row["id"], None, row) for row in plan.created]
    made += [(kind, row["id"], stored[row["id"]], row) for row in plan.updated]
    return made + [(kind, id_, stored[id_], None) for id_ in plan.deleted]


def _shown(kind: str, id_: str, before: Row | None, after: Row | None) -> dict[str, Any]:
    entity = ENTITIES[kind]
    op = "create" if before is None else "delete" if after is None else "update"
    change: dict[str, Any] = {"entity": kind, "id": id_, "op": op}
    if before is not None and after is not None:
        differing = (name for name in {**before, **after} if before.get(name) != after.get(name))
        change["fields"] = sorted(set(differing) - _TIMES)
    change["before"] = None if before is None else masked(entity, before)
    change["after"] = None if after is None else masked(entity, after)
    return change


def _apply(stands: Snapshot, plans: Sequence[ImportPlan]) -> Snapshot:
    version = stands.version + 1
    changes = [
        EntityChange(version, plan.table.entity.name, id_, row)
        for plan in plans
        for id_, row in (
            *((row["id"], row) for row in (*plan.created, *plan.updated)),
            *((id_, None) for id_ in plan.deleted),
        )
    ]
    return stands.apply(changes, version=version)


def _judge(
    stands: Snapshot, would: Snapshot, flavor: str, *, is_changed: bool
) -> tuple[list[dict[str, str]], dict[str, list[Any]]]:
    """The faults of *would*, and what its routes have that those of *stands* have not."""
    nothing: dict[str, list[Any]] = {"shadowed": [], "duplicates": []}
    if not is_changed:
        return [], nothing
    try:
        found = _lint(would, flavor)
    except CompileError as error:
        return error.faults, nothing
    try:
        known = _lint(stands, flavor)
    except CompileError:
        known = nothing
    findings = {
        "shadowed": [one for one in found["shadowed"] if one not in known["shadowed"]],
        "duplicates": [one for one in found["duplicates"] if one not in known["duplicates"]],
    }
    return [], findings


def _lint(snapshot: Snapshot, flavor: str) -> dict[str, Any]:
    fd = make_sealed_memfd("fastgw-plan", compile_snapshot(snapshot, flavor=flavor))
    try:
        return lint(LayeredImage(Image.open(fd)))
    finally:
        os.close(fd)
