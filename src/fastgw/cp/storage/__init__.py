"""Where entities, versions and the journal live: one contract, SQLite and PostgreSQL behind it.

1. `contract` is the page for callers.
2. `schema` derives tables and statements from the entity table; `session` reads and writes with them.
3. `migrations` brings a database to the form that this program needs.
4. `base` is all of the contract that is SQL; `sqlite` and `postgres` add connections, locks and waking up.
"""

from __future__ import annotations

from fastgw.cp.storage.base import SqlStorage
from fastgw.cp.storage.contract import (
    Change,
    DataPlaneRow,
    Reader,
    Row,
    Storage,
    TagFilter,
    Writer,
)
from fastgw.cp.storage.postgres import PostgresStorage
from fastgw.cp.storage.postgres_server import PostgresServer
from fastgw.cp.storage.session import JournalLimits
from fastgw.cp.storage.sqlite import SqliteStorage
from fastgw.settings import Settings

__all__ = [
    "Change",
    "DataPlaneRow",
    "Reader",
    "Row",
    "SqlStorage",
    "Storage",
    "TagFilter",
    "Writer",
    "make_storage",
]


def make_storage(settings: Settings) -> SqlStorage:
    """Make the storage that a control plane's *settings* name; nothing is opened yet."""
    limits = JournalLimits(keep_versions=settings.history_versions, keep_s=settings.history_age)
    if settings.database == "postgres":
        return PostgresStorage(PostgresServer.from_settings(settings), limits=limits)
    return SqliteStorage(settings.sqlite_path, limits=limits)
