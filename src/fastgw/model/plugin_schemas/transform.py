"""Plugins that change requests or responses."""

from __future__ import annotations

from typing import Final

from fastgw.model.fields import Field, each
from fastgw.model.plugin_schemas.schema import PluginSchema, choice, flag, record, text, texts

_JSON_TYPES: Final = ("boolean", "number", "string")


def _pairs(name: str) -> Field:
    """`name:value` pairs."""
    return Field(name, "array", default=[], elements=each("string"))


def _json_types() -> Field:
    return Field("json_types", "array", default=[], elements=each("string", one_of=_JSON_TYPES))


_IN_REQUEST: Final = ("body", "headers", "querystring")

SCHEMAS: Final = (
    PluginSchema(
        "request-transformer",
        801,
        (
            text("http_method"),
            record("remove", *map(_pairs, _IN_REQUEST)),
            record("rename", *map(_pairs, _IN_REQUEST)),
            record("replace", *map(_pairs, _IN_REQUEST), text("uri")),
            record("add", *map(_pairs, _IN_REQUEST)),
            record("append", *map(_pairs, _IN_REQUEST)),
        ),
    ),
    PluginSchema(
        "response-transformer",
        800,
        (
            record("remove", _pairs("json"), _pairs("headers")),
            record("rename", _pairs("headers"), _pairs("json")),
            record("replace", _pairs("json"), _json_types(), _pairs("headers")),
            record("add", _pairs("json"), _json_types(), _pairs("headers")),
            record("append", _pairs("json"), _json_types(), _pairs("headers")),
        ),
    ),
    PluginSchema(
        "correlation-id",
        100001,
        (
            text("header_name", "Kong-Request-ID"),
            choice("generator", "uuid#counter", "uuid", "uuid#counter", "tracker", required=True),
            flag("echo_downstream", False, required=True),
        ),
    ),
    PluginSchema("grpc-gateway", 998, (text("proto"),)),
    PluginSchema(
        "grpc-web",
        3,
        (text("proto"), flag("pass_stripped_path"), text("allow_origin_header", "*")),
    ),
    *(
        PluginSchema(
            name,
            priority,
            tuple(
                texts(phase, [])
                for phase in ("certificate", "rewrite", "access", "header_filter", "body_filter", "log")
            ),
        )
        for name, priority in (("pre-function", 1000000), ("post-function", -1000))
    ),
)
