"""Migrations: each state of a database and what each step makes of it, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from fastgw.cp.storage.contract import TagRow
from fastgw.cp.storage.migrations import MIGRATIONS, EntityTable, Migration, Sql
from fastgw.cp.storage.schema import Schema
from fastgw.errors import NeedsBootstrap, PendingMigrations, UniqueViolation
from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import by_name
from fastgw.model.validate import make_row
from tests.cp.storage.conftest import Database
from tests.cp.storage.rows import LABELS, WITH_LABELS, insert, loaded, make_label, make_service

pytestmark = pytest.mark.anyio

_EXTRAS = Migration(
    900,
    "extras",
    up=(Sql("CREATE TABLE extras (id {text} PRIMARY KEY, weight {real})"),),
    finish=(Sql("DROP TABLE extras"),),
)
_BOTH: dict[str, Any] = {"migrations": (*MIGRATIONS, _EXTRAS)}


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


def test_what_the_last_migration_of_entities_knows_is_what_the_entity_table_says() -> None:
    """A change of unique fields or references needs a migration: make it, then change this table."""
    columns = {
        name: (*table.unique, *table.foreign, *(["composite_key"] if table.entity.composite_key else []))
        for name, table in Schema(ENTITIES).tables.items()
    }
    of_entities = [one for one in MIGRATIONS if any(isinstance(step, EntityTable) for step in one.up)]
    assert (of_entities[-1].number, columns) == (
        2,
        {
            "certificates": (),
            "ca_certificates": ("cert_digest",),
            "snis": ("name", "certificate"),
            "services": ("name", "client_certificate"),
            "routes": ("name", "service"),
            "consumers": ("username", "custom_id"),
            "upstreams": ("name", "client_certificate"),
            "targets": ("upstream", "composite_key"),
            "plugins": ("instance_name", "route", "service", "consumer", "composite_key"),
            "vaults": ("prefix",),
            "key_sets": ("name",),
            "keys": ("name", "set", "composite_key"),
            "keyauth_credentials": ("key", "consumer"),
            "basicauth_credentials": ("username", "consumer"),
            "jwt_secrets": ("key", "consumer"),
            "hmacauth_credentials": ("username", "consumer"),
            "acls": ("consumer", "composite_key"),
        },
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
    assert (await migrator.state()).new == (_EXTRAS,)
    with pytest.raises(PendingMigrations, match=r"lacks 900_extras: run 'fastgw migrations up' first"):
        await empty.make(**_BOTH).open()
    assert await migrator.finish() == []

    assert await migrator.up() == [_EXTRAS]
    assert await migrator.up() == []
    state = await migrator.state()
    assert (state.executed, state.pending, state.new) == (tuple(MIGRATIONS), (_EXTRAS,), ())
    assert not state.is_up_to_date
    # Old and new may run side by side now.
    state.check_usable()
    old = empty.make().migrator()
    assert (await old.state()).is_up_to_date

    assert await migrator.finish() == [_EXTRAS]
    assert await migrator.finish() == []
    assert (await migrator.state()).is_up_to_date
    # And now the old one must keep away.
    with pytest.raises(PendingMigrations, match=r"upgraded by a newer fastgw \(900_extras\)"):
        await empty.make().open()
    for step in (old.up, old.finish):
        with pytest.raises(PendingMigrations):
            await step()


async def test_the_first_database_becomes_the_second(empty: Database) -> None:
    """Rows of a database that knew services and routes alone stay, and may then point to what is new."""
    references = ("client_certificate",)
    services = replace(
        ENTITIES["services"],
        fields={name: field for name, field in ENTITIES["services"].fields.items() if name not in references},
    )
    first = Migration(1, "base", up=tuple(step for step in MIGRATIONS[0].up if _is_of_the_first(step)))
    old = await empty.open(entities={"services": services, "routes": ENTITIES["routes"]}, migrations=(first,))
    service = make_service("kept", tags=["t"])
    await insert(old, "services", service)
    await old.close()

    assert await empty.make().migrator().up() == list(MIGRATIONS[1:])
    storage = await empty.open()
    assert (await loaded(storage))[1]["services"] == [service]
    consumer = make_row(ENTITIES["consumers"], {"username": "bob"}, now_s=1)
    assert await insert(storage, "consumers", consumer) == 2
    async with storage.read() as reader:
        assert await reader.list_tags(size=10) == ([TagRow("services", service["id"], "t")], None)


def _is_of_the_first(step: object) -> bool:
    return not isinstance(step, EntityTable) or step.entity != "certificates"


async def test_reset_removes_everything(empty: Database) -> None:
    storage = await empty.open()
    await insert(storage, "services", make_service("a"))
    await storage.close()
    migrator = storage.migrator()
    assert await migrator.reset()
    assert (await migrator.state()).needs_bootstrap
    assert not await migrator.reset()
    again = await empty.open()
    assert await loaded(again) == (0, {"services": [], "routes": []})
    assert await again.cluster_id() != ""


async def test_a_step_that_fails_leaves_nothing(empty: Database) -> None:
    broken = Migration(900, "broken", up=(_EXTRAS.up[0], Sql("CREATE TABLE cluster (id INTEGER)")))
    await empty.make().migrator().bootstrap()
    migrator = empty.make(migrations=(*MIGRATIONS, broken)).migrator()
    with pytest.raises(Exception, match="already exists"):
        await migrator.up()
    assert (await migrator.state()).new == (broken,)
    assert await empty.make(**_BOTH).migrator().up() == [_EXTRAS]


async def test_several_at_once(empty: Database) -> None:
    async def bootstrap() -> int:
        return len(await empty.make().migrator().bootstrap())

    assert sorted(await asyncio.gather(*(bootstrap() for _ in range(4)))) == [0, 0, 0, len(MIGRATIONS)]

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

    grown = Migration(901, "labels_grown", up=(EntityTable("labels"),))
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
