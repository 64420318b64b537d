"""The one table of properties, written as the dataclass that holds their values.

Each field of `Settings` is a property: annotated with the type that readers see, made by `_property` with
its default as a user would write it, its parser, its help, and the roles that read it. Nothing stands here
that no process reads; `PROPERTIES` is the same table as data.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from fastgw.settings import parsers
from fastgw.settings.listen import Listen

Role = Literal["control_plane", "data_plane"]

CP: Final[tuple[Role, ...]] = ("control_plane",)
DP: Final[tuple[Role, ...]] = ("data_plane",)
BOTH: Final[tuple[Role, ...]] = ("control_plane", "data_plane")

_WHOLE: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Property:
    """One property: what `Settings` says about the field of the same name."""

    name: str
    default: str
    """As a user would write it; empty when there is none."""
    parse: Callable[[str], Any]
    """Raises ValueError with the rest of the sentence "the value is wrong: …"."""
    help: str
    roles: tuple[Role, ...]
    aliases: tuple[str, ...] = ()
    secret: bool = False


def default_prefix() -> str:
    """Say where state is kept by default: a system directory for root, else the user's state directory."""
    if os.geteuid() == 0:
        return "/var/lib/fastgw"
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "fastgw")


def _property(
    default: str,
    parse: Callable[[str], Any],
    help: str,
    roles: tuple[Role, ...] = BOTH,
    *,
    aliases: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    metadata = {"default": default, "parse": parse, "help": help, "roles": roles}
    return dataclasses.field(metadata={**metadata, "aliases": aliases, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """The settings of one process; `repr()` masks secrets."""

    role: Role = _property("", parsers.text, "control_plane or data_plane; must agree with the command")
    prefix: Path = _property("", parsers.path, "directory that holds state and logs")
    log_level: str = _property("notice", parsers.one_of(*parsers.LOG_LEVELS), "least level that is logged")

    admin_listen: tuple[Listen, ...] = _property(
        "127.0.0.1:8001, 127.0.0.1:8444 ssl", Listen.parse, "Admin API; with the flag ssl over TLS", CP
    )
    proxy_listen: tuple[Listen, ...] = _property(
        "0.0.0.0:8000 reuseport backlog=16384, 0.0.0.0:8443 ssl reuseport backlog=16384",
        Listen.parse,
        "proxy; flags ssl and proxy_protocol decide what clients speak",
        DP,
    )
    cluster_listen: tuple[Listen, ...] = _property(
        "0.0.0.0:8005", Listen.parse, "where data planes connect; always TLS", CP
    )
    status_listen: tuple[Listen, ...] = _property(
        "127.0.0.1:8007",
        Listen.parse,
        "/status, /status/ready, /metrics; a control plane has the first two, where this is set",
    )

    admin_access_log: str = _property("logs/admin_access.log", parsers.access_log, "path, or off", CP)
    admin_error_log: str = _property("logs/error.log", parsers.error_log, "the control plane's log", CP)
    admin_ssl_cert: tuple[str, ...] = _property(
        "",
        parsers.material,
        "certificates of the Admin API's ssl listeners: paths, PEM or base64; none: made at start",
        CP,
    )
    admin_ssl_cert_key: tuple[str, ...] = _property(
        "", parsers.material, "their keys, in the same order", CP, secret=True
    )
    admin_cors_origins: tuple[str, ...] = _property(
        "", parsers.origins, "origins of pages that may read and write through the Admin API", CP
    )
    plugins: frozenset[str] = _property(
        "bundled", parsers.plugins, "plugins that may be configured: names, bundled, or off", CP
    )
    missing_plugins: str = _property(
        "fail_closed",
        parsers.one_of("fail_closed", "refuse"),
        "plugins that data planes do not have: their routes answer 503, or the Admin API refuses them",
        CP,
    )
    admin_token_file: Path | None = _property(
        "", parsers.path, "file of tokens that callers of the Admin API need: `name:token[:read]` a line", CP
    )
    admin_rate_limit: int = _property(
        "0", parsers.integer(0, _WHOLE), "writes per second and caller of the Admin API; 0 is unlimited", CP
    )
    proxy_access_log: str = _property(
        "logs/access.log",
        parsers.proxy_access_log,
        "path, or off; with json behind the path each line is one JSON object",
        DP,
    )
    proxy_error_log: str = _property("logs/error.log", parsers.error_log, "the data plane's log", DP)

    database: str = _property(
        "sqlite", parsers.one_of("sqlite", "postgres", "off"), "sqlite or postgres; off on a data plane", CP
    )
    sqlite_path: Path = _property("fastgw.db", parsers.path_in_prefix, "relative to the prefix", CP)
    pg_host: str = _property("127.0.0.1", parsers.text, "name, address, or directory of the socket", CP)
    pg_port: int = _property("5432", parsers.integer(1, 65535), "", CP)
    pg_user: str = _property("kong", parsers.text, "", CP)
    pg_password: str = _property("", parsers.text, "empty for none", CP, secret=True)
    pg_database: str = _property("kong", parsers.text, "", CP)
    pg_timeout: int = _property("5000", parsers.integer(1, _WHOLE), "milliseconds, for connecting too", CP)
    pg_ssl: bool = _property("off", parsers.boolean, "talk TLS to PostgreSQL, or not at all", CP)
    pg_ssl_verify: bool = _property("off", parsers.boolean, "verify PostgreSQL's certificate", CP)

    history_versions: int = _property(
        "10000",
        parsers.integer(1, _WHOLE),
        "versions of the configuration that can be shown and restored",
        CP,
    )
    history_age: float = _property(
        "0",
        parsers.seconds,
        "seconds (or 90d) that versions are kept, the newest always; 0 is without end",
        CP,
    )

    db_update_frequency: float = _property(
        "5", parsers.seconds, "least seconds between two pushes to one Kong data plane", CP
    )
    cluster_control_plane: tuple[str, ...] = _property(
        "127.0.0.1:8005",
        parsers.host_ports,
        "the control planes of one cluster, `host:port, host:port`; each data plane has an order of its own",
        DP,
    )
    cluster_return_delay: float = _property(
        "5m",
        parsers.seconds,
        "seconds (or 5m) until a data plane linked elsewhere looks for its first control plane; 0: never",
        DP,
    )
    cluster_wire: str = _property(
        "auto",
        parsers.one_of("auto", "fastgw", "kong"),
        "auto: fastgw's own protocol, and Kong's with nodes of Kong; fastgw or kong: that one alone",
    )
    cluster_heartbeat: int = _property(
        "30",
        parsers.integer(1, 30),
        "seconds between two signs of life on the link, on which one and a half of that is silence",
        CP,
    )
    cluster_kong_version: str = _property(
        "3.9.1",
        parsers.kong_version,
        "what a Kong control plane is told; not above its own version",
        DP,
    )
    cluster_cert: str = _property("", parsers.text, "path, PEM text, or base64 of PEM text")
    cluster_cert_key: str = _property("", parsers.text, "the same forms as cluster_cert", secret=True)
    cluster_mtls: str = _property(
        "shared",
        parsers.one_of("shared", "pki", "pki_check_cn"),
        "one key pair on both sides, or certificates of an authority, or those with names that are allowed",
    )
    cluster_ca_cert: str = _property(
        "", parsers.text, "with pki: the authorities of the other side's certificates; forms as cluster_cert"
    )
    cluster_server_name: str = _property(
        "", parsers.text, "with pki: the control plane's name; none: the host that is dialled", DP
    )
    cluster_allowed_common_names: frozenset[str] = _property(
        "",
        parsers.names,
        "with pki_check_cn: data planes' names; none: those of the control plane's parent domain",
        CP,
    )
    cluster_token: str = _property(
        "", parsers.text, "with pki: a token of `fastgw pki token` to join with", DP, secret=True
    )
    cluster_signing_keys: str = _property(
        "", parsers.text, "take only configurations signed by these: keys, or a file with one a line", DP
    )
    store_secret: str = _property(
        "",
        parsers.text,
        "encrypts the configuration on a data plane's disk; 32 characters or more",
        DP,
        secret=True,
    )
    pki_secret: str = _property(
        "", parsers.text, "encrypts the keys of the built-in authority in the database", CP, secret=True
    )
    pki_certificate_lifetime: float = _property(
        "30d", parsers.lifetime, "how long certificates of the built-in authority are valid", CP
    )
    cluster_dp_labels: dict[str, str] = _property("", parsers.labels, "key:value, at most ten", DP)
    cluster_max_payload: int = _property(
        "16777216",
        parsers.integer(4194304, _WHOLE),
        "largest whole configuration that is taken, compressed, in bytes",
        DP,
    )
    cluster_data_plane_purge_delay: int = _property(
        "1209600", parsers.integer(60, _WHOLE), "seconds until a data plane not seen is forgotten", CP
    )
    router_flavor: str = _property(
        "traditional_compatible",
        parsers.one_of("traditional_compatible", "traditional", "expressions"),
        "how routes match and which one wins; the same on both sides",
    )
    declarative_config: Path | None = _property(
        "", parsers.path, "serve this file and connect to no control plane", DP
    )

    workers: int = _property(
        "auto",
        parsers.worker_count,
        "worker processes; auto is one per core",
        DP,
        aliases=("nginx_worker_processes", "nginx_main_worker_processes"),
    )
    worker_connections: int = _property(
        "16384",
        parsers.connection_count,
        "downstream connections of one worker",
        DP,
        aliases=("nginx_events_worker_connections",),
    )
    upstream_keepalive_pool_size: int = _property(
        "512", parsers.integer(0, 65536), "idle connections kept per target; 0 keeps none", DP
    )
    upstream_keepalive_max_requests: int = _property(
        "10000", parsers.integer(0, _WHOLE), "requests on one upstream connection; 0 is without end", DP
    )
    upstream_keepalive_idle_timeout: float = _property(
        "60", parsers.seconds, "seconds that an upstream connection stays idle; 0 is without end", DP
    )
    headers: frozenset[str] = _property(
        "server_tokens, latency_tokens, x-kong-request-id",
        parsers.header_tokens,
        "headers that are added to answers, or off",
    )
    allow_debug_header: bool = _property(
        "off", parsers.boolean, "a request header Kong-Debug has route and service named in the answer", DP
    )
    headers_upstream: frozenset[str] = _property(
        "x-kong-request-id", parsers.upstream_header_tokens, "headers that are added to requests, or off", DP
    )
    nginx_http_underscores_in_headers: bool = _property(
        "on", parsers.boolean, "pass on request headers with underscores in their names", DP
    )
    nginx_http_client_max_body_size: int = _property(
        "0", parsers.size_bytes, "bytes of a request body; 0 is unlimited", DP
    )
    nginx_http_keepalive_timeout: float = _property(
        "75", parsers.seconds, "seconds that a downstream connection stays idle", DP
    )
    nginx_http_keepalive_requests: int = _property(
        "10000", parsers.integer(1, _WHOLE), "requests on one downstream connection", DP
    )
    nginx_main_worker_shutdown_timeout: float = _property(
        "10", parsers.seconds, "seconds that requests in progress get when a data plane is stopped", DP
    )
    takeover_timeout: float = _property(
        "3600", parsers.seconds, "the same when another one has taken over (`fastgw dp --takeover`)", DP
    )
    nginx_http_client_header_timeout: float = _property(
        "10", parsers.seconds, "seconds from the first byte of a head to its last", DP
    )
    nginx_http_client_body_timeout: float = _property(
        "60", parsers.seconds, "seconds between two reads of a request body", DP
    )
    nginx_http_send_timeout: float = _property(
        "60", parsers.seconds, "seconds between two writes to a downstream", DP
    )
    proxy_body_rate: int = _property(
        "1024", parsers.integer(0, _WHOLE), "least bytes per second of a request body; 0 is any", DP
    )
    ssl_cert: tuple[str, ...] = _property(
        "", parsers.material, "certificates of ssl listeners: paths, PEM or base64; none: made at start", DP
    )
    ssl_cert_key: tuple[str, ...] = _property(
        "", parsers.material, "their keys, in the same order", DP, secret=True
    )
    ssl_cipher_suite: str = _property(
        "intermediate", parsers.cipher_suite, "modern, intermediate, or custom: the next three"
    )
    ssl_protocols: tuple[str, ...] = _property("TLSv1.2 TLSv1.3", parsers.tls_versions, "of the suite custom")
    ssl_ciphers: str = _property(
        "", parsers.text, "of the suite custom, for TLS 1.2; empty for those of intermediate"
    )
    ssl_prefer_server_ciphers: bool = _property("on", parsers.boolean, "of the suite custom")
    ssl_session_tickets: bool = _property("on", parsers.boolean, "let clients resume TLS sessions")
    trusted_ips: tuple[str, ...] = _property(
        "", parsers.networks, "peers whose word about their clients is taken: addresses, networks, unix:", DP
    )
    real_ip_header: str = _property(
        "X-Real-IP", parsers.field_name, "where such a peer names its client; or proxy_protocol", DP
    )
    real_ip_recursive: bool = _property(
        "off", parsers.boolean, "pass over trusted addresses in that header, from its end", DP
    )
    nginx_proxy_proxy_ssl_verify: bool = _property(
        "off", parsers.boolean, "verify upstreams whose service leaves tls_verify null", DP
    )
    nginx_proxy_proxy_ssl_verify_depth: int = _property(
        "1", parsers.integer(0, 64), "intermediate certificates allowed where tls_verify_depth is null", DP
    )
    nginx_proxy_proxy_ssl_trusted_certificate: str = _property(
        "system", parsers.text, "file of CA certificates for upstreams, or system", DP
    )
    dns_resolver: tuple[str, ...] = _property(
        "",
        parsers.name_servers,
        "name servers, address[:port]; none: resolv.conf's",
        DP,
        aliases=("resolver_address",),
    )
    dns_valid_ttl: float | None = _property(
        "", parsers.seconds, "seconds in place of every record's own", DP, aliases=("resolver_valid_ttl",)
    )
    dns_stale_ttl: float = _property(
        "3600",
        parsers.seconds,
        "seconds that an expired answer serves while a newer one is asked for",
        DP,
        aliases=("resolver_stale_ttl",),
    )
    dns_not_found_ttl: float = _property(
        "30", parsers.seconds, "seconds that a name without an address is remembered", DP
    )
    dns_error_ttl: float = _property(
        "1", parsers.seconds, "seconds between questions that fail", DP, aliases=("resolver_error_ttl",)
    )
    dns_cache_size: int = _property(
        "10000", parsers.integer(16, 10_000_000), "names kept", DP, aliases=("resolver_lru_cache_size",)
    )
    proxy_request_line_bytes: int = _property("8192", parsers.integer(256, 2**20), "longest request line", DP)
    proxy_head_bytes: int = _property("32768", parsers.integer(1024, 2**20), "largest request head", DP)
    proxy_field_bytes: int = _property(
        "8192", parsers.integer(256, 2**20), "longest header field of a request", DP
    )
    proxy_head_fields: int = _property("100", parsers.integer(8, 1000), "most header fields in a head", DP)

    warnings: tuple[str, ...] = ()
    """One line each, logged once by the process when it starts."""

    def log_destination(self, value: str) -> str | None:
        """Resolve a log property against the prefix; None when it is off."""
        return None if value == "off" else os.path.join(self.prefix, value.removesuffix(" json"))

    def __repr__(self) -> str:
        shown = (
            f"{item.name}='***'"
            if item.secret and getattr(self, item.name)
            else f"{item.name}={getattr(self, item.name)!r}"
            for item in PROPERTIES
        )
        return f"Settings({', '.join(shown)})"


PROPERTIES: Final[tuple[Property, ...]] = tuple(
    Property(name=field.name, **field.metadata) for field in dataclasses.fields(Settings) if field.metadata
)
