"""Kong 3.9's property names (open source and Enterprise) that have no meaning in this version.

They are accepted from every source, so that a Kong user's environment and file start unchanged, and named
in one warning. A row goes when the property gains a meaning here. Those that would leave a door open which
Kong closes are refused instead. Source: Kong's list of properties, 3.9.
"""

from __future__ import annotations

from typing import Final

# Families: every name that begins so. nginx_ is Kong's door for injecting any nginx directive.
_FAMILIES: Final = (
    "_debug_pg_",
    "admin_gui_",
    "admin_ssl_",
    "analytics_",
    "audit_log",
    "cassandra_",
    "client_ssl",
    "cluster_fallback_config_",
    "cluster_telemetry_",
    "db_",
    "debug_",
    "dns_",
    "keyring_",
    "lmdb_",
    "lua_",
    "nginx_",
    "openresty_",
    "opentelemetry_",
    "pg_ro_",
    "pluginserver_",
    "portal",
    "proxy_stream_",
    "rbac_",
    "resolver_",
    "smtp_",
    "ssl_",
    "status_access_",
    "status_error_",
    "status_ssl_",
    "tracing",
    "untrusted_lua",
    "vault_",
    "vitals",
    "wasm",
)

_NAMES: Final = frozenset(
    """
    admin_api_uri admin_approved_email admin_emails_from admin_emails_reply_to admin_invitation_expiry
    allow_inconsistent_data_plane_plugins anonymous_reports client_body_buffer_size
    client_max_body_size cluster_cjson
    cluster_incremental_sync cluster_ocsp cluster_rpc cluster_rpc_sync
    cluster_use_proxy cluster_v2 concurrency_timeout
    declarative_config_encryption_mode declarative_config_string dedicated_config_processing
    enforce_rbac enforce_route_path_pattern error_default_type error_template_html error_template_json
    error_template_plain error_template_xml event_hooks_enabled fips generate_trace_details
    host_ports kic konnect_mode legacy_dns_client legacy_hybrid_protocol legacy_worker_events
    mem_cache_size new_dns_client node_id pg_backlog pg_iam_auth
    pg_iam_auth_assume_role_arn pg_iam_auth_role_session_name pg_iam_auth_sts_endpoint_url
    pg_keepalive_timeout pg_max_concurrent_queries pg_pool_size pg_schema pg_semaphore_timeout pg_ssl_cert
    pg_ssl_cert_key pg_ssl_required pg_ssl_version port_maps privileged_agent privileged_worker
    proxy_server proxy_server_ssl_verify proxy_url
    request_debug request_debug_token route_validation_strategy
    router_consistency stream_listen
    vaults worker_consistency worker_events_max_payload worker_state_update_frequency
    feature_conf_path
    """.split()
)


_REFUSED: Final = {
    ("cluster_ocsp", "on"): (
        "no OCSP responder is asked here, and revoked data planes would get in: set it to off, and revoke by "
        "'fastgw pki revoke' (docs/pki.md) or by another authority"
    ),
}


def refusal_of(name: str, value: str) -> str | None:
    """Why *value* of this property of Kong's must not be ignored; None when it may be."""
    return _REFUSED.get((name, value.strip().lower()))


def is_kong_name(name: str) -> bool:
    """Whether Kong 3.9 knows *name* (lower case) and this version has no use for it."""
    return name in _NAMES or name.startswith(_FAMILIES)
