"""What other entities say of services and routes: names that are upstreams', and plugins that are missing.

A plugin whose behaviour this version does not have makes its routes fail closed: they are answered 503, and
the Ack says so. A route carries the name of one such plugin in its record, so that others pay nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastgw.model.served import SERVED_PLUGINS
from fastgw.model.snapshot import Snapshot
from fastgw.routing.plugins import PluginIndex

KINDS: Final = frozenset({b"upstreams", b"plugins"})
"""Kinds whose rows change what is compiled of others: with one of them changed, all is compiled anew."""


class Surroundings:
    """The facts of one snapshot that are looked up while its services and routes are compiled."""

    def __init__(self, snapshot: Snapshot, served: frozenset[str] = SERVED_PLUGINS) -> None:
        """*served*: names of the plugins whose behaviour the data plane has."""
        self._snapshot = snapshot
        counts = snapshot.counts()
        self._served = served
        self.upstreams: Final = frozenset(
            row["name"] for row in (snapshot.rows("upstreams").values() if counts.get("upstreams") else ())
        )
        #: Names of missing plugins by the id of a route or service; None for all.
        self._missing: dict[str | None, set[str]] = {}
        plugins = snapshot.rows("plugins").values() if counts.get("plugins") else ()
        knows_consumers = any(row["enabled"] and row["name"] in served for row in plugins)
        for row in plugins:
            self._add_plugin(row, knows_consumers)
        self.plugins: Final = PluginIndex(plugins, served)
        """Those that are served."""
        self.has_plugins: Final = bool(self._missing or self.plugins.records)
        """Whether any route may need one, missing or not."""

    def _add_plugin(self, row: Mapping[str, Any], knows_consumers: bool) -> None:
        if not row["enabled"] or row["name"] in self._served:
            return
        if row["consumer"] is not None and not knows_consumers:
            # Without a plugin that finds out the consumer, nobody is one.
            return
        # With both, the route is the narrower one.
        scope = row["route"] or row["service"]
        self._missing.setdefault(None if scope is None else scope["id"], set()).add(row["name"])

    def has(self, kind: str, id_: str) -> bool:
        """Whether the snapshot has an entity."""
        return self._snapshot.line(f"{kind} {id_}".encode()) is not None

    def warnings(self) -> list[str]:
        """A line for each thing that is served otherwise than the snapshot says."""
        names = sorted({name for names in self._missing.values() for name in names})
        return [f"plugin '{name}' is not available here: its routes answer 503" for name in names]

    def missing_plugin(self, route: str, service: str | None) -> str | None:
        """The first by name of the missing plugins that a route would need; None when it needs none."""
        if not self._missing:
            return None
        scopes = {None, route, *([service] if service is not None else [])}
        return min((name for scope in scopes for name in self._missing.get(scope, ())), default=None)
