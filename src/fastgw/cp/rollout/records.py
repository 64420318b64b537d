"""What the database keeps of rollouts, and the statements that read and write it.

Contract. Every function takes a connection inside a transaction; what changes a rollout is called with the
version row locked (`Writer.records`), and changes it only if it is still as it was read. The base is kept
whole beside a rollout that runs: the journal may know of a row only that it was there before.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from fastgw.cp.rollout.record import Rollout
from fastgw.cp.storage.contract import Connection
from fastgw.cp.storage.schema import Dialect

KEEP_ROLLOUTS: Final = 100
"""So many that are over are kept."""
_PART_BYTES: Final = 1024 * 1024
_NOW: Final = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgres": "extract(epoch FROM clock_timestamp())::float8",
}

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Rollout).decode


class Standing(NamedTuple):
    """What stands in the database at one moment."""

    running: Rollout | None
    now: float
    """Unix seconds by the database's clock."""
    is_any: bool
    """Whether there is any rollout, over or not."""


async def fetch_standing(connection: Connection, dialect: Dialect) -> Standing:
    ((doc, now, is_any),) = await connection.fetch(
        f"SELECT (SELECT doc FROM rollouts WHERE running = 1), {_NOW[dialect]}, "
        "EXISTS (SELECT 1 FROM rollouts)"
    )
    return Standing(None if doc is None else _decode(doc), float(now), bool(is_any))


async def fetch_running(connection: Connection) -> Rollout | None:
    found = await connection.fetch("SELECT doc FROM rollouts WHERE running = 1")
    return _decode(found[0][0]) if found else None


async def fetch(connection: Connection, id_: str) -> Rollout | None:
    found = await connection.fetch("SELECT doc FROM rollouts WHERE id = $1", id_)
    return _decode(found[0][0]) if found else None


async def list_newest(connection: Connection, size: int) -> list[Rollout]:
    """The newest, newest first."""
    found = await connection.fetch("SELECT doc FROM rollouts ORDER BY started_at DESC, id LIMIT $1", size)
    return [_decode(doc) for (doc,) in found]


async def insert(connection: Connection, rollout: Rollout, base: bytes) -> None:
    """Add a rollout that runs, with its packed base; forget the oldest of those that are over."""
    await connection.execute(
        "INSERT INTO rollouts (id, running, started_at, base_version, revision, doc) "
        "VALUES ($1, 1, $2, $3, $4, $5)",
        rollout.id,
        rollout.started_at,
        rollout.base_version,
        rollout.revision,
        _encode(rollout).decode(),
    )
    parts = [base[start : start + _PART_BYTES] for start in range(0, len(base), _PART_BYTES)]
    await connection.execute_many(
        "INSERT INTO rollout_bases (id, part, data) VALUES ($1, $2, $3)",
        [(rollout.id, number, part) for number, part in enumerate(parts)],
    )
    await connection.execute(
        "DELETE FROM rollouts WHERE running IS NULL AND id NOT IN "
        "(SELECT id FROM rollouts ORDER BY started_at DESC, id LIMIT $1)",
        KEEP_ROLLOUTS + 1,
    )


async def replace(connection: Connection, rollout: Rollout) -> bool:
    """Store what follows on the revision before; False if that is not what is there any more."""
    changed = await connection.fetch(
        "UPDATE rollouts SET running = $3, revision = $4, doc = $5 WHERE id = $1 AND revision = $2 "
        "RETURNING id",
        rollout.id,
        rollout.revision - 1,
        None if rollout.is_over else 1,
        rollout.revision,
        _encode(rollout).decode(),
    )
    if changed and rollout.is_over:
        await connection.execute("DELETE FROM rollout_bases WHERE id = $1", rollout.id)
    return bool(changed)


async def load_base(connection: Connection, id_: str) -> bytes:
    """The packed base of a rollout that runs; empty if it does not."""
    found = await connection.fetch("SELECT data FROM rollout_bases WHERE id = $1 ORDER BY part", id_)
    return b"".join(data for (data,) in found)


async def changed_since(connection: Connection, version: int) -> dict[str, list[str]]:
    """The ids of the rows that were written after *version*, by entity."""
    found = await connection.fetch(
        "SELECT DISTINCT entity, entity_id FROM journal WHERE version > $1", version
    )
    changed: dict[str, list[str]] = {}
    for entity, id_ in found:
        changed.setdefault(entity, []).append(id_)
    return changed
