"""`/clustering/status` and `/clustering/data-planes`: which data planes there are and what each has applied.

The first is Kong 2.0's shape, an object by id, kept for old tools; the second is a list of the newer shape
with our own fields beside Kong's (`connected`, `applied_version`, `applied_at`, `apply_ms`, `wanted_version`,
`last_error`, `control_plane`: the one that it is linked to, or was last).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from starlette.responses import Response

from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.paging import page_body, page_request
from fastgw.cp.applied import Standing
from fastgw.cp.identity import ControlPlaneIdentity
from fastgw.model.snapshot import Snapshot
from fastgw.routing.layered import LayeredImage

_STATUS_FIELDS = ("config_hash", "hostname", "ip", "last_seen")


class Capability(NamedTuple):
    """What a data plane said it can do."""

    id: str
    hostname: str
    version: str
    plugins: frozenset[str] | None
    """None: it did not say."""
    max_snapshot_bytes: int


class ClusterView(Protocol):
    """What the Admin API needs to know of the cluster."""

    @property
    def identity(self) -> ControlPlaneIdentity:
        """Who this control plane is."""

    async def data_planes(self) -> list[dict[str, Any]]:
        """All known data planes, each a row with `id` and the fields shown."""

    def capabilities(self) -> list[Capability]:
        """What each data plane that is linked here said it can do."""

    def publication(self) -> dict[str, Any]:
        """What is published to them: `version`, `config_hash`, `published_at`, and `refused`, the reasons
        why the newest version is not; None without any."""

    async def wait_applied(self, version: int, timeout_s: float) -> Standing:
        """Where *version* stands once that is settled, or after *timeout_s*."""

    def last_read(self) -> Snapshot | None:
        """The newest configuration that was read from the database; None before the first."""

    def open_image(self) -> LayeredImage | None:
        """The compiled routes of what is published; None before the first. Not for the event loop."""


def clustering_resources(cluster_view: ClusterView) -> Iterator[Resource]:
    async def status(call: Call) -> Response:
        rows = await cluster_view.data_planes()
        body = {row["id"]: {name: row.get(name) for name in _STATUS_FIELDS} for row in rows}
        return json_response(body, headers={"Deprecation": "true"})

    async def data_planes(call: Call) -> Response:
        page = page_request(call.arguments)
        rows = sorted(await cluster_view.data_planes(), key=lambda row: row["id"])
        if page.after is not None:
            rows = [row for row in rows if row["id"] > page.after]
        next_after = rows[page.size - 1]["id"] if len(rows) > page.size else None
        path = "/clustering/data-planes"
        repeated = {"size": call.arguments.get("size")}
        return json_response(
            page_body(rows[: page.size], path=path, next_after=next_after, repeated=repeated)
        )

    yield Resource("/clustering/status", {"GET": status})
    yield Resource("/clustering/data-planes", {"GET": data_planes})
