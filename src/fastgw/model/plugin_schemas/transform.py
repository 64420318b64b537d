"""Plugins that change requests or responses."""

from __future__ import annotations

from typing import Any, Final

from fastgw.model.fields import Field, each, pattern
from fastgw.model.plugin_schemas.schema import PluginSchema, choice, flag, record, text, texts

_JSON_TYPES: Final = ("boolean", "number", "string")
_COLON: Final = pattern(r"(?s)^[^:]+:.*$")


def _list(name: str, **rules: Any) -> Field:
    return Field(name, "array", required=True, default=[], elements=each("string", **rules))


def _json_types() -> Field:
    return _list("json_types", one_of=_JSON_TYPES)


def _of_request(name: str, headers: Field, *more: Field, **rules: Any) -> Field:
    return record(name, _list("body", **rules), headers, _list("querystring", **rules), *more)


def _values_of_request(name: str, *more: Field) -> Field:
    """`name:value` pairs, for each part of a request."""
    headers = _list("headers", match=_COLON, format="pair_of_header")
    return _of_request(name, headers, *more, format="pair")


SCHEMAS: Final = (
    PluginSchema(
        "request-transformer",
        801,
        (
            text("http_method", match=pattern(r"^[A-Z]+\Z")),
            _of_request("remove", _list("headers", format="pair_of_header")),
            _of_request("rename", _list("headers", match=_COLON, format="pair_of_headers"), format="pair"),
            _values_of_request("replace", text("uri")),
            _values_of_request("add"),
            _values_of_request("append"),
        ),
    ),
    PluginSchema(
        "response-transformer",
        800,
        (
            record("remove", _list("json"), _list("headers")),
            record(
                "rename",
                _list("headers", match=_COLON, format="pair_of_headers"),
                _list("json", match=_COLON),
            ),
            *(
                record(name, _list("json", match=_COLON), _json_types(), _list("headers", match=_COLON))
                for name in ("replace", "add", "append")
            ),
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
