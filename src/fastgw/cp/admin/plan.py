"""`POST /fastgw/plan`: what a declarative document would change, and what speaks against it.

Nothing is changed by asking. The document comes as to `/config`. It is compared with what the database holds,
compiled as a data plane would, its routes are linted, and it is held against what each data plane that is
linked here said it can do.
`?mode=merge` leaves rows alone that are not in the document, as `fastgw config import` without `--replace`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.clustering import Capability, ClusterView
from fastgw.cp.admin.config import YAML_TYPES, refusal, refused_plugins, sent_document, version_tag
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.hooks import Hooks
from fastgw.cp.documents.jobs import Base, Planned
from fastgw.cp.documents.process import plan_document
from fastgw.cp.storage.contract import Storage
from fastgw.errors import DeclarativeError
from fastgw.model.snapshot import Snapshot
from fastgw.settings import Settings

_MODES = ("replace", "merge")


def plan_resources(
    storage: Storage, settings: Settings, hooks: Mapping[str, Hooks], cluster_view: ClusterView
) -> Iterator[Resource]:
    one_at_a_time = asyncio.Lock()

    async def plan(call: Call) -> Response:
        mode = call.arguments.get("mode", "replace")
        if mode not in _MODES:
            raise answers.message(400, f"mode must be one of {', '.join(_MODES)}")
        if one_at_a_time.locked():
            raise answers.message(429, "Another plan is being made")
        async with one_at_a_time:
            content, is_json, _ = sent_document(call)
            stands = await what_stands(storage, cluster_view)
            base = Base(
                stands.version,
                await asyncio.to_thread(stands.pack),
                mode == "replace",
            )
            try:
                planned = await plan_document(
                    content,
                    is_json=is_json,
                    refused_plugins=refused_plugins(hooks),
                    flavor=settings.router_flavor,
                    base=base,
                )
            except DeclarativeError as error:
                raise refusal(error, call) from None
        data_planes = judge_data_planes(planned, cluster_view.capabilities())
        body = {"version": stands.version, **msgspec.structs.asdict(planned), "data_planes": data_planes}
        return json_response(body, headers={"ETag": version_tag(stands.version)})

    yield Resource("/fastgw/plan", {"POST": plan}, content_types=YAML_TYPES)


async def what_stands(storage: Storage, cluster_view: ClusterView) -> Snapshot:
    """What the database holds, from memory where that is the same."""
    known = cluster_view.last_read()
    if known is not None and known.version == await storage.version():
        return known
    version, rows = await storage.load_all()
    return await asyncio.to_thread(Snapshot.from_rows, version, rows)


def judge_data_planes(planned: Planned, capabilities: Sequence[Capability]) -> list[dict[str, Any]]:
    """What each data plane would refuse (`refuses`), or serve as 503 (`lacks`); those that would do neither
    have two empty lists."""
    judged = []
    for one in capabilities:
        refuses = []
        if planned.packed_bytes > one.max_snapshot_bytes:
            refuses.append(
                f"the configuration would be {planned.packed_bytes} bytes compressed, more than its "
                f"cluster_max_payload of {one.max_snapshot_bytes}"
            )
        lacks = [] if one.plugins is None else [name for name in planned.plugins if name not in one.plugins]
        judged.append(
            {
                **{"id": one.id, "hostname": one.hostname, "version": one.version},
                "refuses": refuses,
                "lacks": [f"plugin '{name}' is not available there: its routes answer 503" for name in lacks],
            }
        )
    return judged
