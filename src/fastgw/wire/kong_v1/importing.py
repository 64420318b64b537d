"""Our rows from the `config_table` that a Kong control plane pushed.

Contract. As Kong's data planes do, a table is taken whole or refused whole, with every reason. More tolerant
than they are, it leaves out what a newer release added where nothing can be served wrongly without it, and
says so in one line for each kind or field: kinds that we do not have, and fields of kinds that only name
things. An unknown field that is null asks for nothing. One with a value on a route, a service, a plugin or a
credential could narrow what they match or allow, so it refuses the table.

The one complication is plugins' fields with two names: Kong sends the old beside the new. The new one counts;
from an older control plane there is the old one alone.

Source: kong/db/declarative/{export,import}.lua and the shorthand fields of schemas, 2.8.5 to 3.9.1.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fastgw.errors import DeclarativeError
from fastgw.model.declarative import rows_of_document
from fastgw.model.entities import DEFAULT_FLAVOR, ENTITIES, Entity, Row
from fastgw.model.fields import Field
from fastgw.wire.kong_v1.added_fields import FLATTENED, RENAMED

_SILENT: Final = frozenset({"workspaces", "parameters"})
#: What could stand in the way of a request, and would not.
_REFUSED: Final = frozenset({"filter_chains", "plugins_partials"})
_TOLERANT: Final = frozenset({"upstreams", "targets", "consumers", "snis", "vaults", "keys", "key_sets"})
_OF_THE_STORAGE: Final = frozenset({"ws_id", "cache_key"})
#: Of plugins with a queue before 3.3; later releases send them beside `queue`.
_OF_OLD_QUEUES: Final = {"queue_size": "max_batch_size", "flush_timeout": "max_coalescing_delay"}
_OF_OTEL_QUEUES: Final = {"batch_span_count": "max_batch_size", "batch_flush_delay": "max_coalescing_delay"}
#: Longer than any life of a credential in seconds, shorter than any time since 1970.
_LONGEST_LIFE_S: Final = 100_000_000


class Imported(NamedTuple):
    rows: dict[str, list[Row]]
    warnings: list[str]

    @property
    def is_empty(self) -> bool:
        """No entity but workspaces: what Kong's data planes report as the all-zero hash."""
        return not any(self.rows.values())


def import_table(table: Mapping[str, Any], source: str, *, flavor: str = DEFAULT_FLAVOR) -> Imported:
    """Read a table; takes time in proportion to its size.

    Args:
        source: what messages call it.
        flavor: the `router_flavor` that routes are to be served under.
    Raises:
        DeclarativeError: with all reasons.
    """
    warnings: dict[str, None] = {}
    document: dict[str, Any] = {}
    ends: dict[tuple[str, str], int | None] = {}
    for kind, rows in table.items():
        if kind.startswith("_"):
            document[kind] = rows
        elif kind not in ENTITIES:
            _look_at_unknown(kind, rows, source, warnings)
        elif isinstance(rows, list):
            document[kind] = [_plain_row(kind, row, ends, warnings) for row in rows]
        elif rows:
            document[kind] = rows
    made = rows_of_document(document, source=source, flavor=flavor)
    for (kind, id_), end_s in ends.items():
        for row in made[kind]:
            if row["id"] == id_:
                row["ttl"] = end_s
    return Imported({kind: rows for kind, rows in made.items() if rows}, list(warnings))


def _look_at_unknown(kind: str, rows: Any, source: str, warnings: dict[str, None]) -> None:
    if kind in _SILENT or not rows:
        return
    if kind in _REFUSED:
        raise DeclarativeError(source, [(kind, "fastgw does not serve these, and nothing is served without")])
    warnings[f"{len(rows)} rows of {kind} are left out: fastgw does not know them"] = None


def _plain_row(
    kind: str, row: Any, ends: dict[tuple[str, str], int | None], warnings: dict[str, None]
) -> Any:
    """A row without what is none of its fields; what cannot be left out stays, and is a fault."""
    if not isinstance(row, dict):
        return row
    entity = ENTITIES[kind]
    known = {**entity.stored_fields, **entity.optional}
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if name in known or (name == "ttl" and entity.ttl):
            plain[name] = value
        elif name not in _OF_THE_STORAGE and value not in (None, [], {}):
            if kind in _TOLERANT:
                warnings[f"the field {name} of {kind} is left out: fastgw does not know it"] = None
            else:
                plain[name] = value
    if entity.ttl:
        ttl = plain.pop("ttl", None)
        if isinstance(ttl, int | float) and ttl > 0 and isinstance(row.get("id"), str):
            # Before 3.5, what was left at the moment of the push.
            ends[kind, row["id"]] = int(ttl if ttl > _LONGEST_LIFE_S else time.time() + ttl)
    if kind == "plugins" and isinstance(row.get("config"), dict):
        plain["config"] = _plain_config(entity, row["name"], row["config"])
    return plain


def _plain_config(entity: Entity, name: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    variant = entity.variants.get(name) if isinstance(name, str) else None
    if variant is None:
        return dict(config)
    fields = variant.fields["config"].fields
    if name == "http-log":
        config = {**config, "headers": _joined(config.get("headers"))}
    return _without_nulls(fields, _with_new_names(name, fields, config))


def _joined(headers: Any) -> Any:
    """The headers of http-log: lists of values in 2.8, of which 3.x makes one value."""
    if not isinstance(headers, dict):
        return headers
    joined = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in headers.items()
        if value != []
    }
    return joined or None


def _with_new_names(plugin: str, fields: Mapping[str, Field], config: Mapping[str, Any]) -> dict[str, Any]:
    """*config* with every field under its newest name only."""
    named = dict(config)
    if plugin in FLATTENED:
        _, record, names = FLATTENED[plugin]
        old = {key: named.pop(flat) for key, flat in names.items() if flat in named}
        if named.get(record) is None and old:
            named[record] = old
    if plugin in RENAMED:
        for new, flat in RENAMED[plugin][1].items():
            if flat in named and flat not in fields:
                value = named.pop(flat)
                if named.get(new) is None:
                    named[new] = value
    if "queue" in fields:
        old = {}
        for flat, key in {**_OF_OLD_QUEUES, **_OF_OTEL_QUEUES}.items():
            value = named.pop(flat, None) if flat not in fields else None
            if value is not None:
                old[key] = value
        if "retry_count" not in fields:
            named.pop("retry_count", None)
        if named.get("queue") is None and old:
            named["queue"] = old
    return named


def _without_nulls(fields: Mapping[str, Field], config: Mapping[str, Any]) -> dict[str, Any]:
    """*config* without unknown fields that ask for nothing, in records at any depth."""
    plain: dict[str, Any] = {}
    for name, value in config.items():
        field = fields.get(name)
        if field is None:
            if value in (None, [], {}):
                continue
        elif field.type == "record" and isinstance(value, dict):
            value = _without_nulls(field.fields, value)
        plain[name] = value
    return plain
