"""Migrations: each state of a database and what each step makes of it, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fastgw.cp.storage.migrations import MIGRATIONS, EntityTable, Migration, Sql
from fastgw.cp.storage.schema import Schema
from fastgw.errors import NeedsBootstrap, PendingMigrations, UniqueViolation
from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import by_name
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import LABELS, WITH_LABELS, insert, make_label, make_service

pytestmark = pytest.mark.anyio

_SECOND = Migration(
    2,
    "extras",
    up=(Sql("CREATE TABLE extras (id {text} PRIMARY KEY, weight {real})"),),
    finish=(Sql("DROP TABLE extras"),),
)
_BOTH: dict[str, Any] = {"migrations": (*MIGRATIONS, _SECOND)}


def test_numbers_are_in_order_and_used_once() -> None:
    numbers = [migration.number for migration in MIGRATIONS]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1


def test_every_entity_table_is_in_a_migration_after_those_that_it_points_to() -> None:
    steps = [step for migration in MIGRATIONS for step in migration.up if isinstance(step, EntityTable)]
    made = [step.entity for step in steps]
    assert set(made) == set(ENTITIES)
    for name, table in Schema(ENTITIES).tables.items():
        for field in table.foreign.values():
            assert field.reference is not None
            assert made.index(field.reference) <= made.index(name)


def test_what_the_last_migration_knows_is_what_the_entity_table_says() -> None:
    """A change of unique fields or references needs a migration: make it, then change this table."""
    columns = {name: (table.unique, tuple(table.foreign)) for name, table in Schema(ENTITIES).tables.items()}
    assert (MIGRATIONS[-1].number, columns) == (
        1,
        {"services": (("name",), ()), "routes": (("name",), ("service",))},
    )


async def test_an_empty_database(empty: Database) -> None:
    migrator = empty.make().migrator()
    state = await migrator.state()
    assert state.needs_bootstrap
    assert not state.is_up_to_date
    assert state.new == tuple(MIGRATIONS)
    for step in (migrator.up, migrator.finish):
        with pytest.raises(NeedsBootstrap):
            await step()
    assert not await migrator.reset()
    assert (await migrator.state()).needs_bootstrap


async def test_bootstrap_does_all_and_only_once(empty: Database) -> None:
    migrator = empty.make(**_BOTH).migrator()
    assert await migrator.bootstrap() == list(_BOTH["migrations"])
    state = await migrator.state()
    assert state.is_up_to_date
    assert state.executed == tuple(_BOTH["migrations"])
    assert await migrator.bootstrap() == []
    assert await migrator.up() == []
    assert await migrator.finish() == []


async def test_an_upgrade(empty: Database) -> None:
    await empty.make().migrator().bootstrap()
    migrator = empty.make(**_BOTH).migrator()
    assert (await migrator.state()).new == (_SECOND,)
    with pytest.raises(PendingMigrations, match=r"lacks 002_extras: run 'fastgw migrations up' first"):
        await empty.make(**_BOTH).open()
    assert await migrator.finish() == []

    assert await migrator.up() == [_SECOND]
    assert await migrator.up() == []
    state = await migrator.state()
    assert (state.executed, state.pending, state.new) == (tuple(MIGRATIONS), (_SECOND,), ())
    assert not state.is_up_to_date
    # Old and new may run side by side now.
    state.check_usable()
    old = empty.make().migrator()
    assert (await old.state()).is_up_to_date

    assert await migrator.finish() == [_SECOND]
    assert await migrator.finish() == []
    assert (await migrator.state()).is_up_to_date
    # And now the old one must keep away.
    with pytest.raises(PendingMigrations, match=r"upgraded by a newer fastgw \(002_extras\)"):
        await empty.make().open()
    for step in (old.up, old.finish):
        with pytest.raises(PendingMigrations):
            await step()


async def test_reset_removes_everything(empty: Database) -> None:
    storage = await empty.open()
    await insert(storage, "services", make_service("a"))
    await storage.close()
    migrator = storage.migrator()
    assert await migrator.reset()
    assert (await migrator.state()).needs_bootstrap
    assert not await migrator.reset()
    again = await empty.open()
    assert await again.load_all() == (0, {"services": [], "routes": []})
    assert await again.cluster_id() != ""


async def test_a_step_that_fails_leaves_nothing(empty: Database) -> None:
    broken = Migration(2, "broken", up=(_SECOND.up[0], Sql("CREATE TABLE cluster (id INTEGER)")))
    await empty.make().migrator().bootstrap()
    migrator = empty.make(migrations=(*MIGRATIONS, broken)).migrator()
    with pytest.raises(Exception, match="already exists"):
        await migrator.up()
    assert (await migrator.state()).new == (broken,)
    assert await empty.make(**_BOTH).migrator().up() == [_SECOND]


async def test_several_at_once(empty: Database) -> None:
    async def bootstrap() -> int:
        return len(await empty.make().migrator().bootstrap())

    assert sorted(await asyncio.gather(*(bootstrap() for _ in range(4)))) == [0, 0, 0, 1]

    async def up() -> int:
        return len(await empty.make(**_BOTH).migrator().up())

    assert sorted(await asyncio.gather(*(up() for _ in range(4)))) == [0, 0, 0, 1]


async def test_a_table_grows_with_its_entity(empty: Database) -> None:
    """Columns, their values, and the rules that they carry come to a table that has rows already."""
    fields = [field for name, field in LABELS.fields.items() if name in ("id", "created_at", "tags")]
    small = Entity("labels", by_name(*fields), admin_path="labels", nested_name="labels")
    storage = await empty.open(**{**WITH_LABELS, "entities": {**ENTITIES, "labels": small}})
    service = make_service("s")
    label = make_label(group="g", service={"id": service["id"]})
    await insert(storage, "services", service)
    await insert(storage, "labels", label)
    await storage.close()

    grown = Migration(3, "labels_grown", up=(EntityTable("labels"),))
    arguments = {**WITH_LABELS, "migrations": (*WITH_LABELS["migrations"], grown)}
    assert await empty.make(**arguments).migrator().up() == [grown]
    storage = await empty.open(**arguments)
    async with storage.read() as reader:
        assert await reader.get_by("labels", "group", "g") == label
        found, _ = await reader.page("labels", size=9, parent=("service", service["id"]))
        assert found == [label]
    with pytest.raises(UniqueViolation):
        await insert(storage, "labels", make_label(group="g"))
    async with storage.write("tests") as writer:
        assert await writer.delete("services", service["id"])
    assert (await storage.load_all())[1]["labels"] == []
