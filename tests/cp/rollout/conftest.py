"""The databases of the storage's tests: each test that asks for `database` runs on both."""

from __future__ import annotations

from tests.cp.storage.conftest import anyio_backend, database, dialect, pg_bootstrapped, place

__all__ = ["anyio_backend", "database", "dialect", "pg_bootstrapped", "place"]
