"""Which release of Kong brought which field: what has to go from a push to an older data plane.

A data plane refuses a whole configuration for one field that it does not know. Only fields of kinds and
plugins that we have stand here. Kong keeps such a list by hand and lets some out (`response_headers` of
proxy-cache stands there under 3.4, and came with 3.5); this one was made from the schemas of each release.

Source: schemas of Kong 2.8.5 to 3.9.1; kong/clustering/compat/{removed_fields,checkers}.lua, 3.9.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from fastgw.wire.kong_v1.versions import KongVersion

_QUEUED: Final = ("http-log", "statsd", "datadog", "zipkin", "opentelemetry")
_WITH_REALM_SINCE_3_8: Final = ("ldap-auth", "hmac-auth", "jwt", "oauth2")

#: Fields of plugins' `config`, by the release that brought them. `[]` is every element of an array.
PLUGIN_FIELDS: Final[Mapping[KongVersion, Mapping[str, tuple[str, ...]]]] = {
    KongVersion(3, 0): {
        "aws-lambda": ("aws_assume_role_arn", "aws_role_session_name"),
        "prometheus": (
            *("status_code_metrics", "latency_metrics", "bandwidth_metrics", "upstream_health_metrics"),
        ),
        "statsd": (
            *("allow_status_codes", "udp_packet_size", "use_tcp", "hostname_in_prefix"),
            *("consumer_identifier_default", "service_identifier_default", "workspace_identifier_default"),
            *("metrics[].service_identifier", "metrics[].workspace_identifier"),
        ),
        "zipkin": ("http_span_name", "connect_timeout", "send_timeout", "read_timeout"),
    },
    KongVersion(3, 1): {
        "rate-limiting": ("error_code", "error_message"),
        "response-ratelimiting": ("redis_ssl", "redis_ssl_verify", "redis_server_name"),
        "session": ("cookie_persistent",),
        "zipkin": ("http_response_header_for_traceid",),
    },
    KongVersion(3, 2): {
        "aws-lambda": ("aws_imds_protocol_version",),
        "session": (
            *("audience", "absolute_timeout", "remember_cookie_name", "remember_rolling_timeout"),
            *("remember_absolute_timeout", "response_headers", "request_headers"),
        ),
        "statsd": ("tag_style",),
        "zipkin": ("phase_duration_flavor",),
    },
    KongVersion(3, 3): {
        "aws-lambda": ("disable_https",),
        "opentelemetry": ("http_response_header_for_traceid", "header_type", "queue"),
        "proxy-cache": ("ignore_uri_case",),
        **{name: ("queue",) for name in _QUEUED if name != "opentelemetry"},
    },
    KongVersion(3, 4): {"rate-limiting": ("sync_rate",)},
    KongVersion(3, 5): {
        "cors": ("private_network",),
        "proxy-cache": ("response_headers",),
        "session": ("read_body_for_logout",),
    },
    KongVersion(3, 6): {"basic-auth": ("realm",), "opentelemetry": ("sampling_rate",)},
    KongVersion(3, 7): {
        "key-auth": ("realm",),
        "opentelemetry": ("propagation",),
        "zipkin": ("propagation",),
    },
    KongVersion(3, 8): {
        "acl": ("always_use_authenticated_groups",),
        "aws-lambda": ("empty_arrays_mode", "aws_sts_endpoint_url"),
        "prometheus": ("ai_metrics",),
        "response-transformer": ("rename.json",),
        **{name: ("realm",) for name in _WITH_REALM_SINCE_3_8},
        **{name: ("queue.concurrency_limit",) for name in _QUEUED},
        "opentelemetry": ("logs_endpoint", "queue.concurrency_limit"),
    },
    # Ours have them; no release that may join a control plane of 3.9 does.
    KongVersion(3, 10): {
        "aws-lambda": ("awsgateway_compatible_payload_version",),
        "oauth2": ("persistent_refresh_token",),
        "session": ("hash_subject", "store_metadata"),
    },
}

#: Kinds, by the release that brought them.
KINDS: Final[Mapping[str, KongVersion]] = {
    "vaults": KongVersion(3, 0),
    "keys": KongVersion(3, 1),
    "key_sets": KongVersion(3, 1),
}

#: Fields of kinds, by the release that brought them; dots lead into records.
ROW_FIELDS: Final[Mapping[KongVersion, Mapping[str, tuple[str, ...]]]] = {
    KongVersion(3, 0): {
        "upstreams": (
            *("hash_on_query_arg", "hash_fallback_query_arg"),
            *("hash_on_uri_capture", "hash_fallback_uri_capture"),
            "healthchecks.active.headers",
        )
    },
    KongVersion(3, 1): {"upstreams": ("use_srv_name",)},
    KongVersion(3, 2): {"plugins": ("instance_name",)},
    KongVersion(3, 3): {
        kind: ("updated_at",)
        for kind in (
            *("ca_certificates", "certificates", "consumers", "targets"),
            *("upstreams", "plugins", "workspaces", "snis"),
        )
    },
}

#: Values of `header_type` and `default_header_type` of tracing plugins, by the release that brought them.
#: Kong's own list lacks the last.
HEADER_TYPES: Final[Mapping[str, KongVersion]] = {
    "aws": KongVersion(3, 4),
    "gcp": KongVersion(3, 5),
    "datadog": KongVersion(3, 7),
}

#: What statsd of 2.8 can measure.
STATSD_METRICS_OF_2_8: Final = frozenset(
    """
    kong_latency latency request_count request_per_user request_size response_size status_count
    status_count_per_user unique_users upstream_latency
    """.split()
)

#: Records of a plugin's `config` that stood flat before a release, and the names that they had.
FLATTENED: Final[Mapping[str, tuple[KongVersion, str, Mapping[str, str]]]] = {
    name: (
        KongVersion(3, 6),
        "redis",
        {
            key: f"redis_{key}"
            for key in (
                *("host", "port", "username", "password", "database", "timeout"),
                *("ssl", "ssl_verify", "server_name"),
            )
        },
    )
    for name in ("rate-limiting", "response-ratelimiting")
}

#: Fields of a plugin's `config` that a release gave another name, new name first.
RENAMED: Final[Mapping[str, tuple[KongVersion, Mapping[str, str]]]] = {
    "session": (
        KongVersion(3, 2),
        {
            "idling_timeout": "cookie_idletime",
            "rolling_timeout": "cookie_lifetime",
            "stale_ttl": "cookie_discard",
            "cookie_same_site": "cookie_samesite",
            "cookie_http_only": "cookie_httponly",
            "remember": "cookie_persistent",
        },
    ),
    "opentelemetry": (KongVersion(3, 8), {"traces_endpoint": "endpoint"}),
}
