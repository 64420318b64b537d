"""Plugins that limit, end, redirect, cache or allow across origins."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from fastgw.model.fields import AtLeastOneOf, Conditional, Field, Judged, by_name, each, rule
from fastgw.model.plugin_schemas.schema import (
    REDIS,
    REDIS_RENAMED,
    PluginSchema,
    choice,
    flag,
    number,
    record,
    secret,
    text,
    text_set,
    texts,
    whole,
)

PERIODS: Final = ("second", "minute", "hour", "day", "month", "year")
_PERIOD_FIELDS: Final = tuple(number(period, gt=0) for period in PERIODS)


def _growing(*limits: Any) -> str | None:
    """Whether each period allows at least as much as every shorter one."""
    set_ones = [(period, limit) for period, limit in zip(PERIODS, limits, strict=True) if limit is not None]
    for (shorter, less), (longer, more) in pairwise(set_ones):
        if less > more:
            upper = f"The limit for {longer}({_shown(more)})"
            return f"{upper} cannot be lower than the limit for {shorter}({_shown(less)})"
    return None


def _shown(limit: float) -> str:
    return f"{limit:.1f}"


def _limits_by_name(limits: Any) -> str | None:
    if not isinstance(limits, dict):
        return None
    return next(
        (
            fault
            for periods in limits.values()
            if (fault := _growing(*(periods.get(period) for period in PERIODS)))
        ),
        None,
    )


_ORIGIN_METHODS: Final = (*("GET", "HEAD", "PUT", "PATCH", "POST", "DELETE", "OPTIONS", "TRACE", "CONNECT"),)

SCHEMAS: Final = (
    PluginSchema(
        "rate-limiting",
        910,
        (
            *_PERIOD_FIELDS,
            choice("limit_by", "consumer", "consumer", "credential", "ip", "service", "header", "path"),
            text("header_name", format="header_name"),
            text("path", starts_with="/", format="path"),
            choice("policy", "local", "local", "cluster", "redis", len_min=0),
            flag("fault_tolerant", True, required=True),
            REDIS,
            flag("hide_client_headers", False, required=True),
            number("error_code", 429, gt=0),
            text("error_message", "API rate limit exceeded"),
            number("sync_rate", -1, required=True),
        ),
        checks=(
            AtLeastOneOf(PERIODS),
            Judged(PERIODS, _growing, with_nulls=True),
            Conditional("limit_by", rule(must_be="header"), "header_name", rule(required=True)),
            Conditional("limit_by", rule(must_be="path"), "path", rule(required=True)),
        ),
        renamed=REDIS_RENAMED,
    ),
    PluginSchema(
        "response-ratelimiting",
        900,
        (
            text("header_name", "x-kong-limit"),
            choice("limit_by", "consumer", "consumer", "credential", "ip"),
            choice("policy", "local", "local", "cluster", "redis"),
            flag("fault_tolerant", True, required=True),
            REDIS,
            flag("block_on_first_violation", False, required=True),
            flag("hide_client_headers", False, required=True),
            Field(
                "limits",
                "map",
                required=True,
                len_min=1,
                keys=each("string"),
                values=each(
                    "record",
                    required=True,
                    fields=by_name(*_PERIOD_FIELDS),
                    checks=(AtLeastOneOf(PERIODS),),
                ),
            ),
        ),
        checks=(Judged(("limits",), _limits_by_name),),
        renamed=REDIS_RENAMED,
    ),
    PluginSchema(
        "request-size-limiting",
        951,
        (
            whole("allowed_payload_size", 128),
            choice("size_unit", "megabytes", "megabytes", "kilobytes", "bytes", required=True),
            flag("require_content_length", False, required=True),
        ),
    ),
    PluginSchema(
        "request-termination",
        2,
        (
            whole("status_code", 503, required=True, between=(100, 599)),
            text("message"),
            text("content_type"),
            text("body"),
            flag("echo", False, required=True),
            text("trigger", format="header_name"),
        ),
        checks=(
            Judged(
                ("message", "content_type", "body"),
                lambda message, content_type, body: (
                    "message cannot be used with content_type or body"
                    if message is not None and (content_type is not None or body is not None)
                    else None
                ),
                with_nulls=True,
            ),
            Judged(
                ("content_type", "body"),
                lambda content_type, body: (
                    "content_type requires a body" if content_type is not None and body is None else None
                ),
                with_nulls=True,
            ),
            Judged(
                ("echo", "message", "body"),
                lambda echo, message, body: (
                    "echo cannot be used with message and body"
                    if echo and (message is not None or body is not None)
                    else None
                ),
                with_nulls=True,
            ),
        ),
    ),
    PluginSchema(
        "redirect",
        779,
        (
            whole("status_code", 301, required=True, between=(100, 599)),
            text("location", required=True, format="url"),
            flag("keep_incoming_path", False),
        ),
    ),
    PluginSchema(
        "cors",
        2000,
        (
            texts("origins"),
            texts("headers"),
            texts("exposed_headers"),
            text_set("methods", list(_ORIGIN_METHODS), element={"one_of": _ORIGIN_METHODS}),
            number("max_age"),
            flag("credentials", False, required=True),
            flag("preflight_continue", False, required=True),
            flag("private_network", False, required=True),
        ),
        without=("consumer",),
    ),
    PluginSchema(
        "proxy-cache",
        100,
        (
            Field(
                "response_code",
                "array",
                required=True,
                default=[200, 301, 404],
                len_min=1,
                elements=each("integer", between=(100, 900)),
            ),
            texts(
                "request_method",
                ["GET", "HEAD"],
                required=True,
                element={"one_of": ("HEAD", "GET", "POST", "PATCH", "PUT")},
            ),
            texts("content_type", ["text/plain", "application/json"], required=True),
            whole("cache_ttl", 300, gt=0),
            choice("strategy", None, "memory", required=True),
            flag("cache_control", False, required=True),
            flag("ignore_uri_case", False),
            whole("storage_ttl"),
            record("memory", text("dictionary_name", "kong_db_cache", required=True)),
            texts("vary_query_params"),
            texts("vary_headers"),
            record(
                "response_headers",
                flag("age", True),
                flag("X-Cache-Status", True),
                flag("X-Cache-Key", True),
            ),
        ),
    ),
    PluginSchema(
        "standard-webhooks",
        760,
        (secret("secret_v1", required=True), whole("tolerance_second", 300, required=True)),
        without=("consumer",),
    ),
)
