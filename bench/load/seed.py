"""Routes that are there before a benchmark begins, written to the storage before the control plane runs.

Through the Admin API a hundred thousand of them would take minutes; the storage takes them in a few seconds.
Each has a host and a path of its own, so that none matches what a benchmark asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from fastgw.cp.storage import make_storage
from fastgw.model.entities import ROUTES, SERVICES
from fastgw.model.validate import make_row
from fastgw.settings import load_settings

ROUTES_PER_SERVICE: Final = 100
_BATCH: Final = 5_000


def seed_routes(prefix: Path, count: int, *, upstream_port: int, **storage: str) -> None:
    """Fill the empty database of a control plane on *prefix* with *count* routes.

    Args:
        storage: its settings; SQLite by default.
    """
    prefix.mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.run(_seed(prefix, count, upstream_port, storage))


async def _seed(prefix: Path, count: int, upstream_port: int, storage_settings: dict[str, str]) -> None:
    flags = {"prefix": str(prefix), **storage_settings}
    settings = load_settings("control_plane", environ={}, flags=flags)
    storage = make_storage(settings)
    await storage.migrator().bootstrap()
    await storage.open()
    try:
        pending = list(_rows(count, upstream_port))
        for start in range(0, len(pending), _BATCH):
            async with storage.write("bench") as writer:
                for entity, row in pending[start : start + _BATCH]:
                    await writer.insert(entity, row)
    finally:
        await storage.close()


def _rows(count: int, upstream_port: int) -> Iterator[tuple[str, dict[str, Any]]]:
    service: dict[str, Any] = {}
    plain = make_row(ROUTES, {"paths": ["/"]}, now_s=1)
    for number in range(count):
        if number % ROUTES_PER_SERVICE == 0:
            body = {"name": f"seed-{number}", "host": "127.0.0.1", "port": upstream_port}
            service = make_row(SERVICES, body, now_s=1)
            yield "services", service
        yield (
            "routes",
            plain
            | {
                "id": f"00000000-0000-4000-8000-{number:012x}",
                "name": f"seed-{number}",
                "hosts": [f"host-{number}.example.com"],
                "paths": [f"/seed/{number}/items"],
                "service": {"id": service["id"]},
            },
        )
