"""`/` and `/status`: what node this is and how it fares.

Source: kong/api/routes/kong.lua and kong/api/routes/health.lua, release 3.9.1.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from starlette.responses import Response

from fastgw import KONG_VERSION, __version__
from fastgw.cp.admin.answers import json_response, message
from fastgw.cp.admin.clustering import ClusterView
from fastgw.cp.admin.dispatch import Call, Resource
from fastgw.cp.admin.guard import Requests
from fastgw.cp.admin.hooks import loaded_plugins
from fastgw.cp.admin.special import all_of
from fastgw.cp.storage.contract import Storage
from fastgw.errors import StorageError
from fastgw.model.plugin_schemas import PLUGIN_SCHEMAS
from fastgw.settings import PROPERTIES, Settings

_UNITS: Final = {"b": (1, "B"), "k": (2**10, "KiB"), "m": (2**20, "MiB"), "g": (2**30, "GiB")}


def info_resources(
    *,
    storage: Storage,
    settings: Settings,
    requests: Requests,
    cluster_view: ClusterView,
    node_id: str,
    started_at: float,
) -> Iterator[Resource]:
    info = _Info(storage, settings, requests, cluster_view, node_id, started_at)
    yield Resource("/", {"GET": info.root})
    yield Resource("/status", {"GET": info.status})
    yield Resource("/status/ready", {"GET": info.ready})
    yield Resource("/plugins/enabled", {"GET": info.plugins_enabled})
    yield Resource("/timers", {"GET": info.timers})
    yield Resource("/robots.txt", {"GET": info.robots})


class _Info:
    def __init__(
        self,
        storage: Storage,
        settings: Settings,
        requests: Requests,
        cluster_view: ClusterView,
        node_id: str,
        started_at: float,
    ) -> None:
        self._storage = storage
        self._cluster_view = cluster_view
        self._requests = requests
        self._plugins = loaded_plugins(settings)
        self._configuration = {
            prop.name: "******" if prop.secret and getattr(settings, prop.name) else _plain(value)
            for prop in PROPERTIES
            for value in (getattr(settings, prop.name),)
        }
        self._node_id = node_id
        self._started_at = started_at

    async def root(self, call: Call) -> Response:
        """What node this is. `version` is the Kong release whose interface we keep: its tools read it."""
        return json_response(
            {
                "tagline": "Welcome to fastgw",
                "version": KONG_VERSION,
                "edition": "community",
                "fastgw": {
                    "version": __version__,
                    "storage": self._storage.dialect,
                    "started_at": int(self._started_at),
                    "uptime_s": int(time.time() - self._started_at),
                },
                "hostname": socket.gethostname(),
                "node_id": self._node_id,
                "timers": {"running": 0, "pending": 0},
                "plugins": {
                    "available_on_server": {
                        name: {"version": KONG_VERSION, "priority": PLUGIN_SCHEMAS[name].priority}
                        for name in sorted(self._plugins)
                    },
                    "enabled_in_cluster": await self._configured_plugins(call),
                },
                "lua_version": f"none ({platform.python_implementation()} {platform.python_version()})",
                "configuration": self._configuration,
                "pids": {"master": os.getpid(), "workers": [os.getpid()]},
            }
        )

    async def plugins_enabled(self, call: Call) -> Response:
        return json_response({"enabled_plugins": sorted(self._plugins)})

    async def ready(self, call: Call) -> Response:
        try:
            await self._storage.ping()
        except StorageError:
            raise message(503, "failed to connect to database") from None
        return json_response({"message": "ready"})

    async def timers(self, call: Call) -> Response:
        """Kong's timers; there are none of the kind here."""
        counts = dict.fromkeys(("total", "runs", "running", "pending", "waiting"), 0)
        graphs = dict.fromkeys(("running", "pending", "elapsed_time"), "")
        stats = {"sys": counts, "timers": {}, "flamegraph": graphs}
        return json_response({"worker": {"id": 0, "count": 1}, "stats": stats})

    async def robots(self, call: Call) -> Response:
        return Response("User-agent: *\nDisallow: /", media_type="text/plain")

    async def _configured_plugins(self, call: Call) -> list[str]:
        async with call.reading(self._storage) as reader:
            return sorted({row["name"] for row in await all_of(reader, "plugins")})

    async def status(self, call: Call) -> Response:
        """How the node fares, and whether the newest configuration is published.

        The server's counts are of requests: a request being answered counts as one connection, since the
        server under this application tells nothing of idle ones.
        """
        unit, scale = _unit(call.arguments.get("unit")), _scale(call.arguments.get("scale"))
        try:
            await self._storage.ping()
            reachable = True
        except StorageError:
            reachable = False
        active, total = self._requests.active, self._requests.total
        return json_response(
            {
                "memory": {
                    "workers_lua_vms": [
                        {"http_allocated_gc": _size(_resident_bytes(), unit, scale), "pid": os.getpid()}
                    ],
                    "lua_shared_dicts": {},
                },
                "server": {
                    "connections_active": active,
                    "connections_reading": 0,
                    "connections_writing": active,
                    "connections_waiting": 0,
                    "connections_accepted": total,
                    "connections_handled": total,
                    "total_requests": total,
                },
                "database": {"reachable": reachable},
                "fastgw": {"publication": self._cluster_view.publication()},
            }
        )


def _plain(value: Any) -> Any:
    """A setting as JSON shows it."""
    if isinstance(value, bool | int | float | str | dict) or value is None:
        return value
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [str(item) for item in value]
    return str(value)


def _unit(given: Any) -> str:
    unit = str(given).lower() if given is not None else "m"
    if unit not in _UNITS:
        raise message(400, f"invalid unit '{given}' (expected 'k/K', 'm/M', or 'g/G')")
    return unit


def _scale(given: Any) -> int:
    if given is None:
        return 2
    if not isinstance(given, str) or not re.fullmatch("[0-9]", given):
        raise message(400, f"invalid scale '{given}' (expected 0 to 9)")
    return int(given)


def _size(size_bytes: int, unit: str, scale: int) -> str | int:
    divisor, name = _UNITS[unit]
    return size_bytes if unit == "b" else f"{size_bytes / divisor:.{scale}f} {name}"


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
