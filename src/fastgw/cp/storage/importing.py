"""What an import has to do to one table: which rows come, change, stay and go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastgw.cp.storage.contract import Row
from fastgw.cp.storage.schema import Table
from fastgw.errors import UniqueViolation

#: A row that differs in these alone is the same: files seldom say them.
_TIMES = ("created_at", "updated_at")


class ImportPlan(NamedTuple):
    table: Table
    created: list[Row]
    updated: list[Row]
    deleted: list[str]
    #: Ids of stored rows whose unique values others may take.
    freed: list[str]
    unchanged: int


def plan_import(table: Table, stored: Mapping[str, Row], rows: Sequence[Row], *, replace: bool) -> ImportPlan:
    """Compare *rows* with what is stored.

    Raises:
        UniqueViolation: a row that stays holds a value of one that comes.
    """
    plan = ImportPlan(table, [], [], [], [], 0)
    unchanged = 0
    coming = {row["id"] for row in rows}
    for row in rows:
        old = stored.get(row["id"])
        if old is None:
            plan.created.append(row)
        elif _without_times(old) == _without_times(row):
            unchanged += 1
        else:
            plan.updated.append(row)
            if _keys(table, old) != _keys(table, row):
                plan.freed.append(row["id"])
    if replace:
        plan.deleted.extend(id_ for id_ in stored if id_ not in coming)
        plan.freed.extend(plan.deleted)
    else:
        _check_others(table, (row for id_, row in stored.items() if id_ not in coming), rows)
    return plan._replace(unchanged=unchanged)


def plan_restore(table: Table, stored: Mapping[str, Row], wanted: Mapping[str, Row | None]) -> ImportPlan:
    """Say what leads from *stored* to *wanted*, where None is a row that goes; others are not concerned."""
    plan = ImportPlan(table, [], [], [], [], 0)
    unchanged = 0
    for id_, row in wanted.items():
        old = stored.get(id_)
        if old == row:
            unchanged += row is not None
        elif row is None:
            plan.deleted.append(id_)
            plan.freed.append(id_)
        elif old is None:
            plan.created.append(row)
        else:
            plan.updated.append(row)
            if _keys(table, old) != _keys(table, row):
                plan.freed.append(id_)
    return plan._replace(unchanged=unchanged)


def _check_others(table: Table, others: Any, rows: Sequence[Row]) -> None:
    held = {key for other in others for key in _keys(table, other)}
    for row in rows:
        for name, value in _keys(table, row):
            if (name, value) in held:
                names = table.entity.composite_key if name == "" else (name,)
                raise UniqueViolation(table.entity.name, {field: row[field] for field in names})


def _without_times(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in _TIMES}


def _keys(table: Table, row: Row) -> list[tuple[str, str]]:
    """The unique values of *row*, by field; the composite key under the empty name."""
    keys = [(name, row[name]) for name in table.unique if row.get(name) is not None]
    if table.entity.composite_key:
        keys.append(("", table.composite_key(row)))
    return keys
