"""Numbered migrations as data, and the steps that carry them out on either database.

A migration has two halves, as Kong's have: `up` adds what the new program needs and leaves what the old one
uses, so that both may run side by side; `finish` ends that and may take away. Between them it is *pending*.
`bootstrap` does both halves of all of them on an empty database.

Contract. A number and a name are never used again; a published migration is never edited. An entity's table
is brought to its present form by an `EntityTable` step, whichever migration it stands in, so a change of the
entity table's unique fields or references takes a new migration with such a step, and nothing else.

The one complication: two may start at the same moment (two pods of one deployment). Every step runs in one
transaction that excludes others, and looks at the state only inside it; the second then finds nothing to do.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Final, Protocol

from fastgw.cp.storage.contract import Connection
from fastgw.cp.storage.schema import REAL, TEXT, Dialect, Schema
from fastgw.errors import NeedsBootstrap, PendingMigrations, StorageError


class Sql:
    """A statement in both dialects; `{text}` and `{real}` stand for their types."""

    __slots__ = ("_postgres", "_sqlite")

    def __init__(self, sqlite: str, postgres: str | None = None) -> None:
        self._sqlite = sqlite
        self._postgres = sqlite if postgres is None else postgres

    def text(self, dialect: Dialect) -> str:
        text = self._sqlite if dialect == "sqlite" else self._postgres
        return text.replace("{text}", TEXT[dialect]).replace("{real}", REAL[dialect])


class EntityTable:
    """Make the table of an entity what the entity table says, from whatever it is."""

    __slots__ = ("entity",)

    def __init__(self, entity: str) -> None:
        self.entity = entity


Step = Sql | EntityTable


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    up: tuple[Step, ...]
    finish: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return f"{self.number:03d}_{self.name}"


# schema_migrations is made by the runner: it has to be there before the first migration is.
MIGRATIONS: Final[Sequence[Migration]] = (
    Migration(
        1,
        "base",
        up=(
            Sql(
                "CREATE TABLE cluster (one INTEGER PRIMARY KEY CHECK (one = 1), id {text} NOT NULL, "
                "version BIGINT NOT NULL, seq BIGINT NOT NULL, trimmed BIGINT NOT NULL)"
            ),
            Sql(
                "CREATE TABLE journal (seq BIGINT PRIMARY KEY, version BIGINT NOT NULL, at {real} NOT NULL, "
                "actor {text} NOT NULL, entity {text} NOT NULL, entity_id {text} NOT NULL, "
                "op {text} NOT NULL, after TEXT)"
            ),
            Sql("CREATE INDEX journal_version ON journal (version, seq)"),
            Sql(
                "CREATE TABLE entity_tags (entity {text} NOT NULL, tag {text} NOT NULL, "
                "entity_id {text} NOT NULL, PRIMARY KEY (entity, tag, entity_id))"
            ),
            Sql("CREATE INDEX entity_tags_id ON entity_tags (entity, entity_id)"),
            Sql(
                "CREATE TABLE data_planes (id {text} PRIMARY KEY, last_seen BIGINT NOT NULL, "
                "doc TEXT NOT NULL)"
            ),
            Sql("CREATE INDEX data_planes_last_seen ON data_planes (last_seen)"),
            # Before services, which point to them.
            EntityTable("certificates"),
            EntityTable("services"),
            EntityTable("routes"),
        ),
    ),
    Migration(
        2,
        "all_entities",
        up=(
            Sql("CREATE INDEX journal_entity ON journal (entity, entity_id, seq)"),
            Sql("CREATE INDEX entity_tags_by_id ON entity_tags (entity_id, entity, tag)"),
            *map(
                EntityTable,
                (
                    *("certificates", "ca_certificates", "snis", "services", "routes", "consumers"),
                    *("upstreams", "targets", "plugins", "vaults", "key_sets", "keys"),
                    *("keyauth_credentials", "basicauth_credentials", "jwt_secrets"),
                    *("hmacauth_credentials", "acls"),
                ),
            ),
        ),
    ),
    Migration(
        3,
        "authority",
        up=(
            Sql("CREATE TABLE pki_state (one INTEGER PRIMARY KEY CHECK (one = 1), revision BIGINT NOT NULL)"),
            Sql("CREATE TABLE pki_authorities (id {text} PRIMARY KEY, doc TEXT NOT NULL)"),
            Sql(
                "CREATE TABLE pki_tokens (id {text} PRIMARY KEY, expires_at {real} NOT NULL, "
                "doc TEXT NOT NULL)"
            ),
            Sql(
                "CREATE TABLE pki_certificates (serial {text} PRIMARY KEY, node_id {text} NOT NULL, "
                "not_after {real} NOT NULL, is_revoked INTEGER NOT NULL, doc TEXT NOT NULL)"
            ),
            Sql("CREATE INDEX pki_certificates_node ON pki_certificates (node_id, not_after)"),
            Sql("CREATE INDEX pki_certificates_end ON pki_certificates (not_after)"),
            # Keys that sign snapshots, beside those that sign certificates.
            Sql("CREATE TABLE pki_signing_keys (id {text} PRIMARY KEY, doc TEXT NOT NULL)"),
        ),
    ),
    Migration(
        4,
        "data_plane_holders",
        up=(
            # The control plane process that wrote the row.
            Sql("ALTER TABLE data_planes ADD COLUMN holder {text} NOT NULL DEFAULT ''"),
            Sql("ALTER TABLE data_planes ADD COLUMN is_connected INTEGER NOT NULL DEFAULT 0"),
        ),
    ),
    Migration(
        5,
        "rollouts",
        up=(
            # `running` is 1 or null: so the index lets one be on its way, and any number be over.
            Sql(
                "CREATE TABLE rollouts (id {text} PRIMARY KEY, running INTEGER, started_at {real} NOT NULL, "
                "base_version BIGINT NOT NULL, revision BIGINT NOT NULL, doc TEXT NOT NULL)"
            ),
            Sql("CREATE UNIQUE INDEX rollouts_running ON rollouts (running)"),
            Sql("CREATE INDEX rollouts_started_at ON rollouts (started_at)"),
            Sql(
                "CREATE TABLE rollout_bases (id {text} NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL, "
                "PRIMARY KEY (id, part))",
                "CREATE TABLE rollout_bases (id {text} NOT NULL, part INTEGER NOT NULL, data BYTEA NOT NULL, "
                "PRIMARY KEY (id, part))",
            ),
        ),
    ),
)

_CREATE_STATE: Final = Sql(
    "CREATE TABLE schema_migrations (number INTEGER PRIMARY KEY, name {text} NOT NULL, "
    "is_finished INTEGER NOT NULL, applied_at {real} NOT NULL)"
)


class Maintenance(Protocol):
    """What a database offers to the runner; each storage has one."""

    @property
    def dialect(self) -> Dialect: ...

    def transaction(self, *, exclusive: bool) -> AbstractAsyncContextManager[Connection | None]:
        """Open a transaction; an exclusive one waits for others of its kind, within a deadline.

        None is for a database that does not exist yet, where nothing exclusive was asked for.
        """

    async def columns(self, connection: Connection, table: str) -> list[str]:
        """List the columns of a table of ours; empty when there is no such table."""

    async def drop_all(self, connection: Connection) -> None:
        """Remove every table of ours."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Which migrations a database has seen."""

    needs_bootstrap: bool
    executed: tuple[Migration, ...] = ()
    pending: tuple[Migration, ...] = ()
    """Up, not finished: older programs may still use the database."""
    new: tuple[Migration, ...] = ()
    """Not even up."""
    unknown: tuple[str, ...] = ()
    """Finished by a newer program; this one must keep away."""

    @property
    def is_up_to_date(self) -> bool:
        return not (self.needs_bootstrap or self.pending or self.new or self.unknown)

    def check_usable(self) -> None:
        """Raise NeedsBootstrap or PendingMigrations unless this program may use the database."""
        if self.needs_bootstrap:
            raise NeedsBootstrap("the database is empty: run 'fastgw migrations bootstrap' first")
        if self.unknown:
            raise PendingMigrations(
                f"the database was upgraded by a newer fastgw ({', '.join(self.unknown)}): "
                "run that version here, or restore a backup"
            )
        if self.new:
            raise PendingMigrations(
                f"the database lacks {_names(self.new)}: run 'fastgw migrations up' first"
            )


class Migrator:
    """Runs migrations on one database."""

    def __init__(
        self, maintenance: Maintenance, schema: Schema, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        self._maintenance = maintenance
        self._schema = schema
        self._migrations = migrations

    async def state(self) -> SchemaState:
        async with self._maintenance.transaction(exclusive=False) as connection:
            if connection is None:
                return SchemaState(needs_bootstrap=True, new=tuple(self._migrations))
            return await self._state(connection)

    async def bootstrap(self, cluster_id: str | None = None) -> list[Migration]:
        """Fill an empty database; return what was run, nothing if it was not empty.

        Args:
            cluster_id: of the cluster that it is to be the database of; None: a new one.

        Raises:
            StorageError: the database was not empty, and is that of another cluster.
        """
        async with self._maintenance.transaction(exclusive=True) as connection:
            assert connection is not None
            if not (await self._state(connection)).needs_bootstrap:
                ((present,),) = await connection.fetch("SELECT id FROM cluster")
                if cluster_id is not None and present != cluster_id:
                    raise StorageError(
                        f"the database is that of the cluster {present} already: only an empty one can "
                        f"become that of {cluster_id}"
                    )
                return []
            await connection.execute(_CREATE_STATE.text(self._maintenance.dialect))
            for migration in self._migrations:
                await self._run(connection, (*migration.up, *migration.finish))
                await self._record(connection, migration, is_finished=True)
            await connection.execute(
                "INSERT INTO cluster (one, id, version, seq, trimmed) VALUES (1, $1, 0, 0, 0)",
                cluster_id or str(uuid.uuid4()),
            )
            return list(self._migrations)

    async def up(self) -> list[Migration]:
        """Run the first half of what is new; return what was run.

        Raises:
            NeedsBootstrap: the database is empty.
            PendingMigrations: a newer program has been here.
        """
        async with self._maintenance.transaction(exclusive=True) as connection:
            assert connection is not None
            state = await self._state(connection)
            replace(state, new=()).check_usable()
            for migration in state.new:
                await self._run(connection, migration.up)
                await self._record(connection, migration, is_finished=False)
            return list(state.new)

    async def finish(self) -> list[Migration]:
        """Run the second half of what is pending; return what was run. Raises as `up` does."""
        async with self._maintenance.transaction(exclusive=True) as connection:
            assert connection is not None
            state = await self._state(connection)
            replace(state, new=()).check_usable()
            for migration in state.pending:
                await self._run(connection, migration.finish)
                await connection.execute(
                    "UPDATE schema_migrations SET is_finished = 1 WHERE number = $1", migration.number
                )
            return list(state.pending)

    async def reset(self) -> bool:
        """Remove everything; False when there was nothing."""
        async with self._maintenance.transaction(exclusive=True) as connection:
            assert connection is not None
            if (await self._state(connection)).needs_bootstrap:
                return False
            await self._maintenance.drop_all(connection)
            return True

    async def _state(self, connection: Connection) -> SchemaState:
        if not await self._maintenance.columns(connection, "schema_migrations"):
            return SchemaState(needs_bootstrap=True, new=tuple(self._migrations))
        found = await connection.fetch("SELECT number, name, is_finished FROM schema_migrations")
        finished = {int(number): bool(is_finished) for number, _, is_finished in found}
        known = {migration.number for migration in self._migrations}
        return SchemaState(
            needs_bootstrap=False,
            executed=tuple(m for m in self._migrations if finished.get(m.number) is True),
            pending=tuple(m for m in self._migrations if finished.get(m.number) is False),
            new=tuple(m for m in self._migrations if m.number not in finished),
            unknown=tuple(
                f"{number:03d}_{name}"
                for number, name, is_finished in sorted(map(tuple, found))
                if is_finished and number not in known
            ),
        )

    async def _run(self, connection: Connection, steps: Sequence[Step]) -> None:
        dialect = self._maintenance.dialect
        for step in steps:
            if isinstance(step, Sql):
                await connection.execute(step.text(dialect))
                continue
            present = await self._maintenance.columns(connection, step.entity)
            for statement in self._schema.tables[step.entity].statements_to_reach(present, dialect):
                await connection.execute(statement)

    async def _record(self, connection: Connection, migration: Migration, *, is_finished: bool) -> None:
        await connection.execute(
            "INSERT INTO schema_migrations (number, name, is_finished, applied_at) VALUES ($1, $2, $3, $4)",
            migration.number,
            migration.name,
            int(is_finished),
            time.time(),
        )


def _names(migrations: Sequence[Migration]) -> str:
    return ", ".join(map(str, migrations))
