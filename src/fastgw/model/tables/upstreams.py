"""Upstreams and their targets: names for groups of addresses, how load is shared, what counts as healthy.

Source: kong/db/schema/entities/{upstreams,targets}.lua and kong/db/dao/targets.lua, release 3.9.1.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.model.entity import Entity
from fastgw.model.fields import Conditional, Distinct, Field, by_name, each, rule
from fastgw.model.formats import normal_target
from fastgw.model.tables.common import CREATED_AT, ID, NO_EMPTY_SEGMENTS, TAGS, UPDATED_AT

_HASH_INPUTS: Final = ("none", "consumer", "ip", "header", "cookie", "path", "query_arg", "uri_capture")


def _path(name: str) -> Field:
    return Field(name, "string", default="/", starts_with="/", match_none=(NO_EMPTY_SEGMENTS,), format="path")


def _count(name: str) -> Field:
    return Field(name, "integer", default=0, between=(0, 255))


def _statuses(*statuses: int) -> Field:
    return Field(
        "http_statuses", "array", default=list(statuses), elements=each("integer", between=(100, 999))
    )


def _seconds(name: str, default: int) -> Field:
    return Field(name, "number", default=default, between=(0, 65535))


def _record(name: str, *fields: Field) -> Field:
    return Field(name, "record", required=True, fields=by_name(*fields))


_PROBE: Final = Field("type", "string", default="http", one_of=("tcp", "http", "https", "grpc", "grpcs"))

_PASSIVE: Final = _record(
    "passive",
    _PROBE,
    _record("healthy", _count("successes"), _statuses(*range(200, 209), 226, *range(300, 309))),
    _record(
        "unhealthy",
        _count("http_failures"),
        _count("timeouts"),
        _count("tcp_failures"),
        _statuses(429, 500, 503),
    ),
)
_ACTIVE: Final = _record(
    "active",
    _record(
        "unhealthy",
        _count("tcp_failures"),
        _count("timeouts"),
        _count("http_failures"),
        _statuses(429, 404, 500, 501, 502, 503, 504, 505),
        _seconds("interval", 0),
    ),
    _seconds("timeout", 1),
    _PROBE,
    Field("concurrency", "integer", default=10, between=(1, 2147483648)),
    _path("http_path"),
    Field("https_sni", "string", format="sni"),
    Field("https_verify_certificate", "boolean", required=True, default=True),
    _record("healthy", _count("successes"), _seconds("interval", 0), _statuses(200, 302)),
    Field(
        "headers",
        "map",
        keys=each("string", format="header_name"),
        values=each("array", elements=each("string")),
    ),
)


def _needs(field: str, value: str, needed: str) -> Conditional:
    return Conditional(field, rule(must_be=value), needed, rule(required=True))


def _fallback(value: str, *allowed: str) -> Conditional:
    return Conditional("hash_on", rule(must_be=value), "hash_fallback", rule(one_of=allowed))


def _settle_hashing(given: dict[str, Any]) -> None:
    """What to hash and how to balance go together: each, when sent by a user, changes the other.

    Source: the shorthand fields of kong/db/schema/entities/upstreams.lua.
    """
    if "hash_on" in given:
        if given["hash_on"] is None:
            given["hash_on"] = "none"
        if given.get("algorithm") not in ("least-connections", "latency"):
            given["algorithm"] = "round-robin" if given["hash_on"] == "none" else "consistent-hashing"
    if given.get("algorithm") in ("least-connections", "latency"):
        given["hash_on"] = "none"


UPSTREAMS: Final = Entity(
    "upstreams",
    by_name(
        ID,
        CREATED_AT,
        UPDATED_AT,
        Field("name", "string", required=True, unique=True, format="upstream_name"),
        Field(
            "algorithm",
            "string",
            default="round-robin",
            one_of=("consistent-hashing", "least-connections", "round-robin", "latency"),
        ),
        Field("hash_on", "string", default="none", one_of=_HASH_INPUTS),
        Field("hash_fallback", "string", default="none", one_of=_HASH_INPUTS),
        Field("hash_on_header", "string", format="header_name"),
        Field("hash_fallback_header", "string", format="header_name"),
        Field("hash_on_cookie", "string", format="cookie_name"),
        _path("hash_on_cookie_path"),
        Field("hash_on_query_arg", "string", len_min=1),
        Field("hash_fallback_query_arg", "string", len_min=1),
        Field("hash_on_uri_capture", "string", len_min=1),
        Field("hash_fallback_uri_capture", "string", len_min=1),
        Field("slots", "integer", default=10000, between=(10, 65536)),
        _record(
            "healthchecks",
            _PASSIVE,
            _ACTIVE,
            Field("threshold", "number", default=0, between=(0, 100)),
        ),
        TAGS,
        Field("host_header", "string", format="host_with_optional_port"),
        Field("client_certificate", "foreign", reference="certificates"),
        Field("use_srv_name", "boolean", default=False),
    ),
    endpoint_key="name",
    admin_path="upstreams",
    nested_name="upstreams",
    side_effects=_settle_hashing,
    checks=(
        _needs("hash_on", "header", "hash_on_header"),
        _needs("hash_fallback", "header", "hash_fallback_header"),
        _needs("hash_on", "cookie", "hash_on_cookie"),
        _needs("hash_fallback", "cookie", "hash_on_cookie"),
        _needs("hash_on", "query_arg", "hash_on_query_arg"),
        _needs("hash_fallback", "query_arg", "hash_fallback_query_arg"),
        _needs("hash_on", "uri_capture", "hash_on_uri_capture"),
        _needs("hash_fallback", "uri_capture", "hash_fallback_uri_capture"),
        _fallback("none", "none"),
        _fallback("cookie", "none"),
        _fallback("consumer", "none", "ip", "header", "cookie", "path", "query_arg", "uri_capture"),
        _fallback("ip", "none", "consumer", "header", "cookie", "path", "query_arg", "uri_capture"),
        _fallback("path", "none", "consumer", "header", "cookie", "query_arg", "ip", "uri_capture"),
        Distinct(("hash_on_header", "hash_fallback_header")),
        Distinct(("hash_on_query_arg", "hash_fallback_query_arg")),
        Distinct(("hash_on_uri_capture", "hash_fallback_uri_capture")),
    ),
)


def _normalise_target(given: dict[str, Any]) -> None:
    target = given.get("target")
    if isinstance(target, str):
        given["target"] = normal_target(target) or target


TARGETS: Final = Entity(
    "targets",
    by_name(
        ID,
        # To the millisecond: targets are listed in the order in which they were made.
        Field("created_at", "number", auto=True, timestamp=True, nullable=False),
        Field("updated_at", "number", auto=True, timestamp=True, nullable=False),
        Field("upstream", "foreign", required=True, reference="upstreams", on_delete="cascade"),
        Field("target", "string", required=True, format="target_address"),
        Field("weight", "integer", default=100, between=(0, 65535)),
        TAGS,
    ),
    endpoint_key="target",
    composite_key=("upstream", "target"),
    cache_key=("upstream", "target"),
    is_top_level=False,
    admin_path="targets",
    nested_name="targets",
    prepare=_normalise_target,
)
