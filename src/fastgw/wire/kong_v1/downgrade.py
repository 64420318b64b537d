"""A `config_table` as an older data plane of Kong takes it.

Contract. `downgrade` leaves the table that it is given as it is, copies what it changes, and tells what was
lost in Kong's words. What cannot be said to a data plane at all, and would change what it serves, is not left
out but told by `misfit`: then nothing is pushed. The hashes that travel with a table stay those of the whole.

Down to 3.x, this is what Kong does (and the fields that its list has let out). To 2.8, which no Kong control
plane of 3.x serves, paths change their form: there a path with any other character than letters, digits and
`.-_~/%` is a regex, and none is marked as one.

Source: kong/clustering/compat, 3.9.1; kong/router.lua, 2.8.5.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, Final

from fastgw.wire.kong_v1.added_fields import (
    FLATTENED,
    HEADER_TYPES,
    KINDS,
    PLUGIN_FIELDS,
    RENAMED,
    ROW_FIELDS,
    STATSD_METRICS_OF_2_8,
)
from fastgw.wire.kong_v1.export import Table
from fastgw.wire.kong_v1.versions import KONG_VERSION, KongVersion

_PLAIN_OF_2_8: Final = re.compile(r"[a-zA-Z0-9.\-_~/%]*\Z")
_SPECIAL: Final = re.compile(r"([\\^$.|?*+()\[\]{}#&\s])")
_HASH_INPUTS_OF_3_0: Final = frozenset({"path", "query_arg", "uri_capture"})
_JWT_ALGORITHMS_OF_3_7: Final = frozenset({"ES512", "PS256", "PS384", "PS512", "EdDSA"})
_TLS_FIELDS: Final = ("client_certificate", "tls_verify", "tls_verify_depth", "ca_certificates")
_RETRIES_OF_QUEUES: Final = 10

Notes = dict[str, None]
"""Lines for the log, each once, in order."""


def misfit(routes: int, with_expression: int, version: KongVersion, flavor: str) -> str | None:
    """Why a data plane cannot be sent a table with so many routes at all; None when it can.

    Args:
        with_expression: so many of them have one.
        flavor: the data plane's router_flavor.
    """
    if not with_expression:
        return None
    if flavor != "expressions" or version < (3, 0):
        return (
            f"{with_expression} routes have an expression, which a data plane of"
            f" {version.major}.{version.minor} with router_flavor {flavor} does not know"
        )
    if version < (3, 7) and with_expression != routes:
        return f"{version.major}.{version.minor} does not support mixed mode route"
    return None


def downgrade(table: Table, version: KongVersion, *, now_s: float) -> tuple[Table, list[str]]:
    """The table for a data plane of this version, and what it loses.

    Args:
        now_s: Unix seconds, for releases that count a credential's life from the push on.
    """
    notes: Notes = {}
    changed: Table = {}
    for kind, rows in table.items():
        if kind.startswith("_"):
            changed[kind] = rows
        elif version < KINDS.get(kind, version):
            _note(notes, f"contains configuration '{kind}'", version, "be removed")
        else:
            edits = _edits_of(kind, version, now_s)
            kept = [row for given in rows if (row := _edit(given, edits, notes)) is not None]
            if kept:
                changed[kind] = kept
    if version < (3, 0):
        changed["_format_version"] = "2.1"
    return changed, list(notes)


Edit = Callable[[dict[str, Any], Notes], bool]
"""Changes a row; False: the row is left out."""


def _edit(row: dict[str, Any], edits: list[Edit], notes: Notes) -> dict[str, Any] | None:
    if not edits:
        return row
    changed = copy.deepcopy(row)
    return changed if all(edit(changed, notes) for edit in edits) else None


def _edits_of(kind: str, version: KongVersion, now_s: float) -> list[Edit]:
    edits: list[Edit] = []
    fields = [name for since, kinds in ROW_FIELDS.items() if version < since for name in kinds.get(kind, ())]
    if kind == "plugins":
        edits.append(lambda row, notes: _edit_plugin(row, version, notes))
    if kind == "upstreams" and version < (3, 2):
        edits.append(lambda row, notes: _edit_upstream(row, version, notes))
    if kind == "services" and version < (3, 2):
        edits.append(lambda row, notes: _edit_service(row, version, notes))
    if kind == "vaults" and version < (3, 3):
        edits.append(_edit_vault)
    if kind == "routes" and version < (3, 0):
        edits.append(_edit_paths)
    if kind == "jwt_secrets" and version < (3, 7):
        edits.append(lambda row, notes: _keep_jwt(row, version, notes))
    if kind == "keyauth_credentials" and version < (3, 5):
        edits.append(lambda row, notes: _edit_ttl(row, now_s))
    if fields:
        edits.append(lambda row, notes: _remove_fields(row, kind, fields, version, notes))
    return edits


def _note(notes: Notes, what: str, version: KongVersion, action: str) -> None:
    notes[
        f"Kong Gateway v{KONG_VERSION} {what} which is incompatible with dataplane version"
        f" {version.major}.{version.minor} and will {action}."
    ] = None


def _remove_fields(
    row: dict[str, Any], kind: str, fields: list[str], version: KongVersion, notes: Notes
) -> bool:
    for name in fields:
        # Null or off it asks for nothing that could be lost, and a time of change is no loss.
        if _remove_path(row, name) and name != "updated_at":
            _note(notes, f"contains configuration '{kind}.{name}'", version, "be removed")
    return True


def _edit_upstream(row: dict[str, Any], version: KongVersion, notes: Notes) -> bool:
    if row["algorithm"] == "latency":
        row["algorithm"] = "round-robin"
        what = "configuration 'upstream.algorithm' contains 'latency' option"
        _note(notes, what, version, "fall back to 'round-robin'")
    if version < (3, 0) and {row["hash_on"], row["hash_fallback"]} & _HASH_INPUTS_OF_3_0:
        if row["hash_on"] in _HASH_INPUTS_OF_3_0:
            row["hash_on"] = "none"
            row["algorithm"] = "round-robin"
        row["hash_fallback"] = "none"
        what = "configuration 'upstream.hash_on' contains a path, query_arg or uri_capture option"
        _note(notes, what, version, "fall back to 'none'")
    return True


def _edit_service(row: dict[str, Any], version: KongVersion, notes: Notes) -> bool:
    if row["protocol"] == "tls" and any(row.get(name) for name in _TLS_FIELDS):
        row.update(dict.fromkeys(_TLS_FIELDS))
        named = "' or 'service.".join(_TLS_FIELDS)
        _note(notes, f"tls protocol service contains configuration 'service.{named}'", version, "be removed")
    return True


def _edit_vault(row: dict[str, Any], notes: Notes) -> bool:
    prefix = row["config"].get("prefix")
    if row["name"] == "env" and isinstance(prefix, str):
        row["config"]["prefix"] = prefix.replace("-", "_")
    return True


def _edit_paths(row: dict[str, Any], notes: Notes) -> bool:
    if row["paths"] is not None:
        row["paths"] = [path_of_2_8(path) for path in row["paths"]]
    return True


def path_of_2_8(path: str) -> str:
    """A path of 3.x as 2.8 reads it: regexes by what they look like, and everything else by its text."""
    is_plain = _PLAIN_OF_2_8.match(path.removeprefix("~")) is not None
    if path.startswith("~"):
        # An empty group changes no regex, and makes it look like one.
        return f"{path[1:]}(?:)" if is_plain else path[1:]
    return path if is_plain else _SPECIAL.sub(r"\\\1", path)


def _keep_jwt(row: dict[str, Any], version: KongVersion, notes: Notes) -> bool:
    if row["algorithm"] not in _JWT_ALGORITHMS_OF_3_7:
        return True
    _note(
        notes,
        f"contains 'jwt_secrets' with algorithm {row['algorithm']}",
        version,
        "leave those credentials out",
    )
    return False


def _edit_ttl(row: dict[str, Any], now_s: float) -> bool:
    """Before 3.5 a `ttl` is what is left when it is pushed; rows that have ended do not travel."""
    if row.get("ttl") is None:
        return True
    row["ttl"] = int(row["ttl"] - now_s)
    return bool(row["ttl"] > 0)


def _edit_plugin(row: dict[str, Any], version: KongVersion, notes: Notes) -> bool:
    name, config = row["name"], row["config"]
    _keep_queue(name, config, version)
    _rename(name, config, version)
    _keep_header_types(name, config, version, notes)
    if version < (3, 0):
        _keep_what_2_8_knows(name, config, notes)
    for since, plugins in PLUGIN_FIELDS.items():
        if version < since:
            for path in plugins.get(name, ()):
                if _remove_path(config, path) is not None:
                    told = f"{name.replace('-', '_')} plugin contains configuration '{path}'"
                    notes[f"{told} which is incompatible with dataplane and will be ignored"] = None
    return True


def _keep_what_2_8_knows(name: str, config: dict[str, Any], notes: Notes) -> None:
    if name == "http-log" and config.get("headers"):
        config["headers"] = {key: [value] for key, value in config["headers"].items()}
    if name == "statsd" and config.get("metrics"):
        metrics = config["metrics"]
        config["metrics"] = [metric for metric in metrics if metric["name"] in STATSD_METRICS_OF_2_8]
        for metric in metrics:
            if metric["name"] not in STATSD_METRICS_OF_2_8:
                _note(notes, f"configures statsd with {metric['name']}", KongVersion(2, 8), "be removed")


def _rename(name: str, config: dict[str, Any], version: KongVersion) -> None:
    if name in FLATTENED:
        since, record, names = FLATTENED[name]
        if version < since and isinstance(config.get(record), dict):
            inner = config.pop(record)
            config.update({flat: inner[key] for key, flat in names.items() if key in inner})
    if name in RENAMED:
        since, names = RENAMED[name]
        if version < since:
            config.update({old: config.pop(new) for new, old in names.items() if new in config})
            if config.get("cookie_samesite") == "Default":
                config["cookie_samesite"] = "Lax"


def _keep_queue(name: str, config: dict[str, Any], version: KongVersion) -> None:
    """Before 3.3 each plugin had a queue of its own, of which these two are told in the same units."""
    queue = config.get("queue")
    if version >= (3, 3) or not isinstance(queue, dict):
        return
    if name == "http-log" or (name in ("statsd", "datadog") and version >= (3, 1)):
        config["retry_count"] = _RETRIES_OF_QUEUES
        config["queue_size"] = queue["max_batch_size"]
        config["flush_timeout"] = queue["max_coalescing_delay"]
    elif name == "opentelemetry":
        config["batch_span_count"] = queue["max_batch_size"]
        config["batch_flush_delay"] = queue["max_coalescing_delay"]


def _keep_header_types(name: str, config: dict[str, Any], version: KongVersion, notes: Notes) -> None:
    unknown = {kind for kind, since in HEADER_TYPES.items() if version < since}
    if name not in ("zipkin", "opentelemetry") or not unknown:
        return
    for field, default in (("header_type", "preserve"), ("default_header_type", "b3")):
        value = config.get(field)
        if value in unknown:
            config[field] = default
            action = f"overwritten with default value `{default}`"
            _note(notes, f"configures {name} plugin with: {field} == {value}", version, action)


def _remove_path(config: dict[str, Any], path: str) -> Any:
    """Remove *path*; gives the value that was there, the first one of several."""
    name, _, rest = path.partition(".")
    if name.endswith("[]"):
        elements = config.get(name.removesuffix("[]")) or ()
        removed = [_remove_path(element, rest) for element in elements]
        return next((value for value in removed if value is not None), None)
    if rest:
        inner = config.get(name)
        return _remove_path(inner, rest) if isinstance(inner, dict) else None
    return config.pop(name, None)
