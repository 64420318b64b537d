"""Plugins that tell of requests: logs, metrics, traces."""

from __future__ import annotations

from typing import Final

from fastgw.model.fields import AtLeastOneOf, Field, by_name, each
from fastgw.model.plugin_schemas.schema import (
    HTTP_PROTOCOLS,
    STREAM_PROTOCOLS,
    PluginSchema,
    choice,
    flag,
    host,
    number,
    port,
    queue,
    record,
    text,
    text_map,
    texts,
    timeout_ms,
    whole,
)

_ALL: Final = (*HTTP_PROTOCOLS, *STREAM_PROTOCOLS)
_BY_LUA: Final = Field(
    "custom_fields_by_lua", "map", keys=each("string", len_min=1), values=each("string", len_min=1)
)
_SEVERITIES: Final = ("debug", "info", "notice", "warning", "err", "crit", "alert", "emerg")
_FACILITIES: Final = (
    *("auth", "authpriv", "cron", "daemon", "ftp", "kern", "lpr", "mail", "news", "syslog", "user", "uucp"),
    *(f"local{number}" for number in range(8)),
)
_PROPAGATED: Final = ("w3c", "b3", "b3-single", "jaeger", "ot", "aws", "datadog", "gcp")
_TAGS: Final = each("record", fields=by_name(text("name", required=True), text("value", required=True)))


def _severity(name: str) -> Field:
    return choice(name, "info", *_SEVERITIES)


def _propagation(default_format: str) -> Field:
    return record(
        "propagation",
        texts("extract", element={"one_of": (*_PROPAGATED,)}),
        texts("clear"),
        texts("inject", element={"one_of": ("preserve", *_PROPAGATED)}),
        choice("default_format", default_format, *_PROPAGATED, required=True),
    )


_HEADER_TYPES: Final = (
    "preserve",
    "ignore",
    "b3",
    "b3-single",
    "w3c",
    "jaeger",
    "ot",
    "aws",
    "datadog",
    "gcp",
)

SCHEMAS: Final = (
    PluginSchema(
        "file-log",
        9,
        (
            text("path", required=True),
            flag("reopen", False, required=True),
            _BY_LUA,
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "http-log",
        12,
        (
            text("http_endpoint", required=True, referenceable=True, encrypted=True, format="url"),
            choice("method", "POST", "POST", "PUT", "PATCH"),
            text("content_type", "application/json"),
            number("timeout", 10000),
            number("keepalive", 60000),
            text_map("headers", referenceable=True),
            queue(),
            _BY_LUA,
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "tcp-log",
        7,
        (
            host("host", required=True),
            port("port", required=True),
            number("timeout", 10000),
            number("keepalive", 60000),
            flag("tls", False, required=True),
            text("tls_sni"),
            _BY_LUA,
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "udp-log",
        8,
        (host("host", required=True), port("port", required=True), number("timeout", 10000), _BY_LUA),
        protocols=_ALL,
    ),
    PluginSchema(
        "syslog",
        4,
        (
            _severity("log_level"),
            _severity("successful_severity"),
            _severity("client_errors_severity"),
            _severity("server_errors_severity"),
            choice("facility", "user", *_FACILITIES),
            _BY_LUA,
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "loggly",
        6,
        (
            host("host", "logs-01.loggly.com"),
            port("port", 514),
            text("key", required=True, referenceable=True, encrypted=True),
            Field("tags", "set", default=["kong"], elements=each("string")),
            _severity("log_level"),
            _severity("successful_severity"),
            _severity("client_errors_severity"),
            _severity("server_errors_severity"),
            number("timeout", 10000),
            _BY_LUA,
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "statsd",
        11,
        (
            host("host", "localhost"),
            port("port", 8125),
            text("prefix", "kong"),
            Field(
                "metrics",
                "array",
                elements=each(
                    "record",
                    fields=by_name(
                        text("name", required=True),
                        choice(
                            "stat_type",
                            None,
                            "counter",
                            "gauge",
                            "histogram",
                            "meter",
                            "set",
                            "timer",
                            required=True,
                        ),
                        number("sample_rate", gt=0),
                        choice("consumer_identifier", None, "consumer_id", "custom_id", "username"),
                        choice(
                            "service_identifier",
                            None,
                            "service_id",
                            "service_name",
                            "service_host",
                            "service_name_or_host",
                        ),
                        choice("workspace_identifier", None, "workspace_id", "workspace_name"),
                    ),
                ),
            ),
            texts("allow_status_codes"),
            number("udp_packet_size", 0, between=(0, 65507)),
            flag("use_tcp", False),
            flag("hostname_in_prefix", False),
            choice(
                "consumer_identifier_default",
                "custom_id",
                "consumer_id",
                "custom_id",
                "username",
                required=True,
            ),
            choice(
                "service_identifier_default",
                "service_name_or_host",
                *("service_id", "service_name", "service_host", "service_name_or_host"),
                required=True,
            ),
            choice(
                "workspace_identifier_default",
                "workspace_id",
                "workspace_id",
                "workspace_name",
                required=True,
            ),
            choice("tag_style", None, "dogstatsd", "influxdb", "librato", "signalfx"),
            queue(),
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "datadog",
        10,
        (
            Field("host", "string", default="localhost", referenceable=True, format="host"),
            port("port", 8125),
            text("prefix", "kong"),
            text("service_name_tag", "name"),
            text("status_tag", "status"),
            text("consumer_tag", "consumer"),
            Field(
                "metrics",
                "array",
                elements=each(
                    "record",
                    fields=by_name(
                        choice(
                            "name",
                            None,
                            *(
                                "kong_latency",
                                "latency",
                                "request_count",
                                "request_size",
                                "response_size",
                                "upstream_latency",
                            ),
                            required=True,
                        ),
                        choice(
                            "stat_type",
                            None,
                            "counter",
                            "gauge",
                            "histogram",
                            "set",
                            "timer",
                            "distribution",
                            required=True,
                        ),
                        Field("tags", "array", elements=each("string")),
                        number("sample_rate", between=(0, 1)),
                        choice("consumer_identifier", None, "consumer_id", "custom_id", "username"),
                    ),
                ),
            ),
            queue(),
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "prometheus",
        13,
        tuple(
            flag(name, False)
            for name in (
                *("per_consumer", "status_code_metrics", "ai_metrics"),
                *("latency_metrics", "bandwidth_metrics", "upstream_health_metrics"),
            )
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "zipkin",
        100000,
        (
            text("local_service_name", "kong", required=True),
            Field("http_endpoint", "string", referenceable=True, format="url"),
            number("sample_ratio", 0.001, between=(0, 1)),
            text("default_service_name"),
            flag("include_credential", True, required=True),
            whole("traceid_byte_count", 16, required=True, one_of=(8, 16)),
            choice("header_type", "preserve", *_HEADER_TYPES, required=True),
            choice("default_header_type", "b3", *_HEADER_TYPES[2:], required=True),
            text("tags_header", "Zipkin-Tags", required=True),
            Field("static_tags", "array", elements=_TAGS),
            choice("http_span_name", "method", "method", "method_path", required=True),
            timeout_ms("connect_timeout", 2000),
            timeout_ms("send_timeout", 5000),
            timeout_ms("read_timeout", 5000),
            text("http_response_header_for_traceid"),
            choice("phase_duration_flavor", "annotations", "annotations", "tags", required=True),
            queue(),
            _propagation("b3"),
        ),
        protocols=_ALL,
    ),
    PluginSchema(
        "opentelemetry",
        14,
        (
            Field("traces_endpoint", "string", referenceable=True, format="url"),
            Field("logs_endpoint", "string", referenceable=True, format="url"),
            text_map("headers", referenceable=True),
            text_map("resource_attributes"),
            queue(200),
            whole("batch_span_count"),
            whole("batch_flush_delay"),
            timeout_ms("connect_timeout", 1000),
            timeout_ms("send_timeout", 5000),
            timeout_ms("read_timeout", 5000),
            text("http_response_header_for_traceid"),
            choice("header_type", "preserve", *_HEADER_TYPES),
            number("sampling_rate", between=(0, 1)),
            _propagation("w3c"),
        ),
        checks=(AtLeastOneOf(("traces_endpoint", "logs_endpoint")),),
        renamed={"endpoint": ("traces_endpoint",)},
    ),
)
