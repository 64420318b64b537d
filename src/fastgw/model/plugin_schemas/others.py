"""Plugins that call elsewhere."""

from __future__ import annotations

from typing import Final

from fastgw.model.plugin_schemas.schema import (
    PluginSchema,
    choice,
    flag,
    host,
    number,
    port,
    secret,
    text,
    timeout_ms,
    whole,
)

SCHEMAS: Final = (
    PluginSchema(
        "aws-lambda",
        750,
        (
            timeout_ms("timeout", 60000, required=True),
            number("keepalive", 60000, required=True),
            secret("aws_key"),
            secret("aws_secret"),
            secret("aws_assume_role_arn"),
            text("aws_role_session_name", "kong"),
            text("aws_sts_endpoint_url", format="url"),
            text("aws_region"),
            text("function_name"),
            text("qualifier"),
            choice("invocation_type", "RequestResponse", "RequestResponse", "Event", "DryRun", required=True),
            choice("log_type", "Tail", "Tail", "None", required=True),
            host("host"),
            port("port", 443),
            flag("disable_https", False),
            whole("unhandled_status", between=(100, 999)),
            flag("forward_request_method", False),
            flag("forward_request_uri", False),
            flag("forward_request_headers", False),
            flag("forward_request_body", False),
            flag("is_proxy_integration", False),
            flag("awsgateway_compatible", False),
            choice("awsgateway_compatible_payload_version", "1.0", "1.0", "2.0", required=True),
            text("proxy_url", format="url"),
            flag("skip_large_bodies", True),
            flag("base64_encode_body", True),
            choice("aws_imds_protocol_version", "v1", "v1", "v2", required=True),
            choice("empty_arrays_mode", "legacy", "legacy", "correct", required=True),
        ),
    ),
    PluginSchema(
        "azure-functions",
        749,
        (
            number("timeout", 600000),
            number("keepalive", 60000),
            flag("https", True),
            flag("https_verify", False),
            secret("apikey"),
            secret("clientid"),
            text("appname", required=True),
            text("hostdomain", "azurewebsites.net", required=True),
            text("routeprefix", "api"),
            text("functionname", required=True),
        ),
    ),
)
