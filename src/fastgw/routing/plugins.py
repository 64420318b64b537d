"""The plugins of a snapshot, and which of them each route needs.

Contract. For each plugin *name* at most one configuration serves a request: that of the narrowest scope. A
route gets its steps when it is compiled; only what depends on the consumer, who is known late, is left to
the request. Steps come in the order of names: priorities are the data plane's to know.

Source: proxying reference §5.2, §5.3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec


class PluginRecord(msgspec.Struct, array_like=True, frozen=True):
    """One configured plugin."""

    id: str
    name: str
    instance_name: str | None
    route: str | None
    """Id of what it is bound to; None: any."""
    service: str | None
    consumer: str | None
    config: dict[str, Any]

    @property
    def is_global(self) -> bool:
        return self.route is None and self.service is None and self.consumer is None


class StepRecord(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One plugin name on the way of a route's requests; numbers are those of `PluginRecord`s."""

    name: str
    plugin: int
    """For requests of no consumer, and of consumers that have none of their own; -1: none."""
    by_consumer: dict[str, int] = {}


class PluginIndex:
    """The plugins of one snapshot that are enabled and served."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], served: frozenset[str]) -> None:
        found = [_record(row) for row in rows if row["enabled"] and row["name"] in served]
        # Those that are for everything stand in front: a worker reads them with the image.
        found.sort(key=lambda record: (not record.is_global, record.id))
        self.records: Final = tuple(found)
        self._bound: Final = {
            bound for record in found for bound in (record.route, record.service) if bound is not None
        }
        self._steps: dict[tuple[str | None, str | None], tuple[StepRecord, ...]] = {}

    def steps(self, route: str, service: str | None) -> tuple[StepRecord, ...]:
        """What requests of *route*, which leads to *service*, pass; both are ids."""
        # Most routes have nothing of their own: they share what their service has, or all.
        key = (route if route in self._bound else None, service if service in self._bound else None)
        steps = self._steps.get(key)
        if steps is None:
            steps = self._steps[key] = tuple(self._make_steps(*key))
        return steps

    def _make_steps(self, route: str | None, service: str | None) -> Iterable[StepRecord]:
        # From wide to narrow, so that the narrowest stays; those for a consumer and a route or service win
        # over all, those for a consumer alone over all but route and service together.
        by_name: dict[str, dict[tuple[str | None, bool, bool], int]] = {}
        for number, record in enumerate(self.records):
            if record.route not in (None, route) or record.service not in (None, service):
                continue
            scopes = by_name.setdefault(record.name, {})
            scopes[record.consumer, record.route is not None, record.service is not None] = number
        for name in sorted(by_name):
            scopes = by_name[name]
            plain = _first(scopes, None, _NARROW_FIRST)
            consumers = sorted({consumer for consumer, _, _ in scopes if consumer is not None})
            chosen = {
                consumer: number
                for consumer in consumers
                if (number := _for_consumer(scopes, consumer)) != plain
            }
            yield StepRecord(name, plain, chosen)


_NARROW_FIRST: Final = ((True, True), (True, False), (False, True), (False, False))


def _first(
    scopes: Mapping[tuple[str | None, bool, bool], int],
    consumer: str | None,
    order: Iterable[tuple[bool, bool]],
) -> int:
    return next(
        (scopes[consumer, *bound] for bound in order if (consumer, *bound) in scopes),
        -1,
    )


def _for_consumer(scopes: Mapping[tuple[str | None, bool, bool], int], consumer: str) -> int:
    """The number that serves requests of *consumer*, in Kong's order of precedence."""
    number = _first(scopes, consumer, _NARROW_FIRST[:3])
    if number < 0:
        number = scopes.get((None, True, True), -1)
    if number < 0:
        number = scopes.get((consumer, False, False), -1)
    return number if number >= 0 else _first(scopes, None, _NARROW_FIRST)


def _record(row: Mapping[str, Any]) -> PluginRecord:
    def id_of(field: str) -> str | None:
        reference = row[field]
        return None if reference is None else str(reference["id"])

    return PluginRecord(
        id=row["id"],
        name=row["name"],
        instance_name=row["instance_name"],
        route=id_of("route"),
        service=id_of("service"),
        consumer=id_of("consumer"),
        config=row["config"],
    )
