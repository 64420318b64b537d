"""What the control plane may ask of a storage, and what every storage promises.

Contract. A write is one transaction: rows, version + 1 and the journal are kept together or not at all.
Versions come from one locked row, so the order of commits is the order of versions, without gaps. A read sees
one consistent state. Both storages, SQLite and PostgreSQL, pass the same test suite.

The one complication: a version is only worth something to a reader who knows that none is missing. So
`changes_since` gives whole versions or says that it cannot (None), and then `load_all` is the way.

Every method may raise `StorageUnavailable`: the database does not answer within its deadline or refuses us.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import msgspec

from fastgw.wire.messages import Answered

Row = dict[str, Any]
"""An entity in the Admin API's shape: every field present, null is None, a reference is {"id": "<uuid>"}."""

Operation = Literal["create", "update", "delete"]

CHANGES_LIMIT = 10_000


class Connection(Protocol):
    """One connection, inside a transaction that its owner began and will end."""

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[Sequence[Any]]: ...

    async def execute(self, sql: str, *arguments: Any) -> None: ...

    async def execute_later(self, sql: str, *arguments: Any) -> None:
        """Execute it before the next statement or the commit: if it fails, so does that one."""

    async def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None: ...


class Change(NamedTuple):
    """One journal row."""

    version: int
    seq: int
    """Grows by one from change to change, over all versions."""
    at: float
    """Unix seconds, by the database's clock, at which the transaction began."""
    actor: str
    entity: str
    id: str
    op: Operation
    after: Row | None
    """The row as it was written; None for a delete."""


class TagFilter(NamedTuple):
    """Rows that carry all of the tags, or any of them."""

    tags: tuple[str, ...]
    mode: Literal["all", "any"]


class VersionSummary(NamedTuple):
    """One version in the journal, in short."""

    version: int
    at: float
    actor: str
    created: int
    updated: int
    deleted: int


class ImportCounts(NamedTuple):
    """What an import did to rows."""

    created: int
    updated: int
    deleted: int
    unchanged: int


class TagRow(NamedTuple):
    """A tag and the row that carries it."""

    entity: str
    id: str
    tag: str

    @property
    def token(self) -> str:
        """What `list_tags` goes on after."""
        return f"{self.id} {self.entity} {self.tag}"


class DataPlaneRow(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a data plane; kept outside the journal, so that heartbeats make no versions."""

    id: str
    hostname: str
    ip: str
    last_seen: int
    """Unix seconds."""
    version: str | None = None
    """The program's version, not the configuration's."""
    config_hash: str | None = None
    sync_status: str = "unknown"
    applied_version: int | None = None
    applied_at: int | None = None
    """Unix seconds since when it runs that."""
    apply_ms: dict[str, float] | None = None
    wanted_version: int | None = None
    refused_version: int | None = None
    """The newest version that it refused for good."""
    last_error: str | None = None
    answered: Answered | None = None
    """What it has answered since its start; None from one that does not count."""
    answered_before: Answered | None = None
    """The same some minutes earlier, or as early as is known."""
    labels: dict[str, str] | None = None
    cert_expiry: int | None = None
    """Unix seconds at which the data plane's certificate ends."""
    connected: bool = False
    control_plane_id: str = ""
    """Of the control plane process that wrote the row: the one that it is linked to, or was last."""
    control_plane_hostname: str = ""


class Reader(ABC):
    """One consistent view; valid inside its `async with` only, for one task at a time."""

    @abstractmethod
    async def get(self, entity: str, id_: str) -> Row | None:
        """Fetch the row with this id."""

    @abstractmethod
    async def get_by(self, entity: str, field: str, value: str) -> Row | None:
        """Fetch the row that holds *value* in *field*, which is unique."""

    @abstractmethod
    async def get_by_key(self, entity: str, row: Mapping[str, Any]) -> Row | None:
        """Fetch the row with the same composite key as *row*, which need not hold more than that."""

    @abstractmethod
    async def list_tags(
        self, *, size: int, after: str | None = None, tag: str | None = None
    ) -> tuple[list[TagRow], str | None]:
        """Fetch up to *size* pairs of row and tag, by ascending id, and the `after` of the next page.

        Args:
            tag: only rows that carry it.
        """

    @abstractmethod
    async def page(
        self,
        entity: str,
        *,
        size: int,
        after: str | None = None,
        parent: tuple[str, str] | None = None,
        tags: TagFilter | None = None,
    ) -> tuple[list[Row], str | None]:
        """Fetch up to *size* rows in ascending order of id, and the `after` of the next page.

        Args:
            after: only ids above this one; it need not exist.
            parent: (reference field, id): only rows that point there.
            tags: only rows that carry these; not together with *parent*.

        Returns:
            The second value is None when there is nothing more.
        """

    @abstractmethod
    async def count(self, entity: str) -> int:
        """Count the rows of *entity*."""

    @abstractmethod
    async def get_many(self, entity: str, ids: Sequence[str]) -> dict[str, Row]:
        """Fetch those of the rows with these ids that exist, by id."""

    @abstractmethod
    async def touched_since(self, version: int) -> dict[str, dict[str, Row | None]] | None:
        """Load the rows that changed after *version* as they were at it, by entity and id.

        Returns:
            None in place of a row that did not exist then. None for all when the journal cannot tell: it is
            trimmed beyond what is needed, or *version* is unknown.
        """


class Writer(Reader):
    """A transaction. Reads in it see its own writes; writers wait for each other, so what was read holds.

    A violation raises before anything is written and leaves the transaction usable.
    """

    at: float
    """Unix seconds by the database's clock: the one for created_at and updated_at."""
    version: int
    """Inside: the version that a change will make. After exit: the version that stands."""
    changed: bool
    """Whether a row has been changed; if none, the version stays."""
    records: Connection
    """For what is kept beside entities and belongs to the same transaction; it makes no version."""

    @abstractmethod
    async def insert(self, entity: str, row: Row) -> None:
        """Add *row*.

        Raises:
            UniqueViolation: its id or a unique field is taken.
            ForeignViolation: a reference points nowhere.
        """

    @abstractmethod
    async def update(self, entity: str, row: Row) -> bool:
        """Replace the row of the same id; False when there is none. An equal row is no change.

        Raises:
            UniqueViolation: a unique field is taken by another row.
            ForeignViolation: a reference points nowhere.
        """

    @abstractmethod
    async def import_rows(
        self,
        rows: Mapping[str, Sequence[Row]],
        *,
        replace: bool,
        on_progress: Callable[[int, int], None] = lambda done, all_: None,
    ) -> ImportCounts:
        """Store many rows at once, by entity; rows that differ only in their timestamps stay as they are.

        The rows hold together among themselves: references and unique values were checked by the caller.

        Args:
            replace: remove every row that is not among them; else nothing is removed.
            on_progress: told now and then how many rows are written, and of how many.
        Raises:
            UniqueViolation: a row that stays holds a value of one that comes. Nothing is written then.
        """

    @abstractmethod
    async def restore_rows(self, rows: Mapping[str, Mapping[str, Row | None]]) -> ImportCounts:
        """Make rows what they were, by entity and id; None: the row did not exist.

        The rows come from `touched_since`, so that they hold together with all that are not named.
        """

    @abstractmethod
    async def trim_history(self) -> None:
        """Drop what the journal need not keep any longer. This is no change of the configuration."""

    @abstractmethod
    async def delete_expired(self) -> int:
        """Remove the rows whose time is over by now; return how many."""

    @abstractmethod
    async def delete(self, entity: str, id_: str) -> bool:
        """Remove the row, and those that point to it by a cascading reference; False when there is none.

        Raises:
            ReferencedViolation: a row points to it (or to one of the others) by a restricting reference.
        """


class Storage(ABC):
    """One database, opened once by one process."""

    dialect: ClassVar[str]

    @abstractmethod
    async def open(self) -> None:
        """Connect and check that the schema is this program's.

        Raises:
            NeedsBootstrap: the database is empty.
            PendingMigrations: its schema is older (or newer) than this program.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of every connection; waiting callers return."""

    @abstractmethod
    def read(self) -> AbstractAsyncContextManager[Reader]:
        """Open one consistent view."""

    @abstractmethod
    def write(self, actor: str) -> AbstractAsyncContextManager[Writer]:
        """Open a transaction: commits at exit, rolls back when an exception leaves it.

        Args:
            actor: who asked for it, for the journal.
        """

    @abstractmethod
    async def version(self) -> int:
        """Read the version that stands; 0 before the first change."""

    @abstractmethod
    async def load_all(self) -> tuple[int, dict[str, list[Row]]]:
        """Load the version and every row, by entity, in ascending order of id, in one consistent view."""

    @abstractmethod
    async def load_newest(self) -> tuple[int, float | None, dict[str, list[Row]]]:
        """Load as `load_all` does, and in between when the version was written, if the journal tells."""

    @abstractmethod
    async def changes_since(
        self, version: int, limit: int = CHANGES_LIMIT, *, at: float | None = None
    ) -> list[Change] | None:
        """Load what happened after *version*, oldest first: whole versions, at most *limit* changes.

        Args:
            at: when *version* was written, as far as is known; a version of that number that was written at
                another time is not the one meant, and the journal cannot tell.
        Returns:
            None when the journal cannot tell: it is trimmed beyond *version*, the next version alone holds
            more than *limit* changes, or *version* lies in the future (the database was put back to an
            earlier state).
        """

    @abstractmethod
    async def history(self, *, before: int | None, size: int) -> list[Change]:
        """Load the newest changes, newest first, of those with a `seq` below *before*."""

    @abstractmethod
    async def versions(self, *, before: int | None, size: int) -> list[VersionSummary]:
        """Load the newest versions, newest first, of those below *before*."""

    @abstractmethod
    async def rows_at(self, version: int) -> dict[str, list[Row]] | None:
        """Load the configuration as it stood at *version*, by entity.

        Returns:
            None when the journal cannot tell: it is trimmed beyond what is needed, or *version* is unknown.
        """

    @abstractmethod
    async def wait_version_above(self, version: int, timeout_s: float, *, at: float | None = None) -> int:
        """Wait until a version above *version* stands; return what stands then, or after *timeout_s*.

        Wakes at once for commits of this process and of others. While the database is away it waits. Should
        the database be put back to an earlier state, every waiter wakes and is told the lower version; and
        who names *at*, when *version* was written, wakes when it `is_replaced`.
        """

    @abstractmethod
    def is_replaced(self, version: int, at: float | None) -> bool:
        """Whether a version of this number that was written at another time is known to stand.

        That is so when a database lost its last versions, as by a fail-over to a copy that was behind, and
        their numbers have been given again.
        """

    @abstractmethod
    async def put_data_planes(
        self, rows: Sequence[DataPlaneRow], *, claims: AbstractSet[str] = frozenset()
    ) -> None:
        """Store these rows in one go; the caller batches.

        The row of another control plane stays as it is where it is of a later second, or says that the data
        plane is linked there while the new one says that it is linked no more.

        Args:
            claims: ids of those that have just connected: their rows are stored whatever was there.
        """

    @abstractmethod
    async def list_data_planes(
        self, size: int, after: str | None = None
    ) -> tuple[list[DataPlaneRow], str | None]:
        """Fetch a page by ascending id, as `Reader.page` does."""

    @abstractmethod
    async def purge_data_planes(self, before_s: int) -> int:
        """Forget data planes last seen before this Unix second; return how many."""

    @abstractmethod
    async def cluster_id(self) -> str:
        """Read the UUID that was given to this database when it was bootstrapped."""

    @abstractmethod
    async def ping(self) -> None:
        """Ask the database for a sign of life."""
