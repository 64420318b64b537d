"""`/fastgw/cluster`: how many data planes run what; and writes that are answered once all run them.

    GET  /fastgw/cluster                    in short
    GET  /fastgw/cluster/wait?version=N     answers when version N is settled, at the latest after `timeout`
    POST /services?wait=applied             any write: the same, before it is answered
    POST /services   Prefer: wait=10        the same with a time, in seconds (RFC 7240 §4.3)

A write that was answered is stored, whatever became of it on the way to data planes: so one that not all run
in time keeps its body, and its status becomes 202. The headers say where it stands.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import json_response
from fastgw.cp.admin.bodies import parse_urlencoded
from fastgw.cp.admin.clustering import ClusterView
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.applied import Standing
from fastgw.cp.rollout.conductor import Conductor
from fastgw.cp.storage.contract import Storage
from fastgw.errors import StorageError

DEFAULT_WAIT_S: Final = 30.0
LONGEST_WAIT_S: Final = 300.0
NAMED_LIMIT: Final = 20
"""Data planes that a header names; `/fastgw/cluster/wait` names all."""

_WRITES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PREFER: Final = re.compile(r'(?:^|[,;])\s*wait\s*=\s*"?([0-9]{1,9})"?\s*(?=$|[,;])', re.IGNORECASE)
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_SECONDS: Final = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?")


def cluster_resources(cluster_view: ClusterView, rollouts: Conductor) -> Iterator[Resource]:
    async def summary(_call: Call) -> Response:
        rows = [row for row in await cluster_view.data_planes() if row["connected"]]
        published = cluster_view.publication()
        versions = Counter((row["applied_version"], row["config_hash"]) for row in rows)
        holders = Counter(
            (holder["hostname"], holder["id"])
            for row in rows
            if (holder := row.get("control_plane")) is not None
        )
        own = cluster_view.identity
        holders.setdefault((own.hostname, own.id), 0)
        newest_first = sorted(versions.items(), key=lambda item: (-(item[0][0] or 0), item[0][1] or ""))
        rollout = rollouts.running
        body: dict[str, Any] = {
            "cluster_id": own.cluster_id,
            "control_plane": {"id": own.id, "hostname": own.hostname},
            "published": published,
            "rollout": None if rollout is None else rollout.shown(),
            "data_planes": {
                "connected": len(rows),
                "current": sum(row["applied_version"] == row["wanted_version"] for row in rows),
                "failing": sum(row["last_error"] is not None for row in rows),
            },
            "versions": [
                {"version": version, "config_hash": config_hash, "data_planes": count}
                for (version, config_hash), count in newest_first
            ],
            # Those that data planes are linked to, and this one.
            "control_planes": [
                {"id": id_, "hostname": hostname, "data_planes": count}
                for (hostname, id_), count in sorted(holders.items())
            ],
        }
        return json_response(body)

    async def wait(call: Call) -> Response:
        version = call.arguments.get("version")
        if not (isinstance(version, str) and _NUMBER.fullmatch(version)):
            raise answers.message(400, "say which version is waited for: /fastgw/cluster/wait?version=17")
        timeout = call.arguments.get("timeout", str(int(DEFAULT_WAIT_S)))
        if not (isinstance(timeout, str) and _SECONDS.fullmatch(timeout)):
            raise answers.message(400, f"timeout: {timeout!r} is no number of seconds")
        standing = await cluster_view.wait_applied(int(version), min(float(timeout), LONGEST_WAIT_S))
        return json_response(standing.shown())

    yield Resource("/fastgw/cluster", {"GET": summary})
    yield Resource("/fastgw/cluster/wait", {"GET": wait})


class WaitApplied:
    """The ASGI layer that holds back answers to writes until they are applied, where that is asked for."""

    def __init__(self, app: ASGIApp, storage: Storage, cluster_view: ClusterView) -> None:
        self._app = app
        self._storage = storage
        self._cluster_view = cluster_view

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] not in _WRITES:
            await self._app(scope, receive, send)
            return
        try:
            arguments = parse_urlencoded(scope["query_string"])
        except answers.Answer:
            await self._app(scope, receive, send)  # which refuses it in its turn
            return
        asked = [value for name, value in arguments if name == "wait"]
        prefer = _PREFER.search(",".join(Headers(scope=scope).getlist("prefer")))
        if not asked and prefer is None:
            await self._app(scope, receive, send)
            return
        if asked and asked != ["applied"]:
            refusal = {"message": f"wait: {asked[0]!r} is not known; 'applied' is"}
            await json_response(refusal, 400)(scope, receive, send)
            return
        timeout_s = DEFAULT_WAIT_S if prefer is None else min(float(prefer[1]), LONGEST_WAIT_S)

        async def send_later(message: Message) -> None:
            if message["type"] == "http.response.start" and 200 <= message["status"] < 300:
                await self._hold(message, timeout_s, is_preferred=prefer is not None)
            await send(message)

        await self._app({**scope, "query_string": _without_wait(scope["query_string"])}, receive, send_later)

    async def _hold(self, start: Message, timeout_s: float, *, is_preferred: bool) -> None:
        """Wait, and write into the head of the answer what came of it."""
        headers = MutableHeaders(scope=start)
        try:
            # That of this write, or of one that came after it and holds it as well.
            version = await self._storage.version()
        except StorageError:
            start["status"] = 202
            headers["X-Fastgw-Applied"] = "unknown"
            return
        standing = await self._cluster_view.wait_applied(version, timeout_s)
        headers["X-Fastgw-Version"] = str(version)
        headers["X-Fastgw-Applied"] = f"{standing.applied}/{standing.applied + len(standing.behind)}"
        if standing.held_back:
            headers["X-Fastgw-Held-Back"] = str(standing.held_back)
        if is_preferred:
            headers["Preference-Applied"] = f"wait={timeout_s:g}"
        if not standing.is_applied:
            start["status"] = 202
            headers["X-Fastgw-Not-Applied"] = _names(standing)


def _names(standing: Standing) -> str:
    if not standing.is_published:
        return "not published" if standing.refusal is None else "not published: it does not compile"
    named = [f"{row.hostname} ({row.id})" for row in standing.behind[:NAMED_LIMIT]]
    more = len(standing.behind) - len(named)
    return ", ".join([*named, *([f"and {more} more"] if more else [])])


def _without_wait(query: bytes) -> bytes:
    return b"&".join(part for part in query.split(b"&") if part.partition(b"=")[0] != b"wait")
