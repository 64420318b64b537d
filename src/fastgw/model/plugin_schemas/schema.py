"""What a plugin's schema is, and short words to write one in.

`text("realm")` is a string without default, `flag("anonymous", False)` a boolean: most fields need no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

from fastgw.model.fields import UNSET, Check, Field, Variant, by_name, each

HTTP_PROTOCOLS: Final = ("grpc", "grpcs", "http", "https")
STREAM_PROTOCOLS: Final = ("tcp", "tls", "tls_passthrough", "udp")


@dataclass(frozen=True, slots=True)
class PluginSchema:
    name: str
    #: Larger ones run first.
    priority: int
    config: tuple[Field, ...] = field(repr=False)
    _: KW_ONLY
    checks: tuple[Check, ...] = field(default=(), repr=False)
    #: Scopes that it cannot have: `consumer`, `service`, `route`.
    without: tuple[str, ...] = ()
    #: Old names in `config`, and the paths below it that replace them.
    renamed: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    #: Which protocols it may serve.
    protocols: tuple[str, ...] = HTTP_PROTOCOLS

    @property
    def config_field(self) -> Field:
        return Field(
            "config",
            "record",
            required=True,
            fields=by_name(*self.config),
            renamed=self.renamed,
            checks=self.checks,
        )

    @property
    def variant(self) -> Variant:
        """How the plugin entity differs for this plugin."""
        return Variant(
            fields=by_name(
                self.config_field,
                protocols_field(self.protocols),
                *(Field(scope, "foreign", reference=f"{scope}s", must_be=None) for scope in self.without),
            )
        )


def protocols_field(allowed: tuple[str, ...]) -> Field:
    return Field(
        "protocols",
        "set",
        required=True,
        default=[protocol for protocol in HTTP_PROTOCOLS if protocol in allowed],
        elements=each("string", one_of=tuple(sorted(allowed))),
    )


def text(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "string", default=default, **rules)


def secret(name: str, **rules: Any) -> Field:
    return Field(name, "string", referenceable=True, encrypted=True, **rules)


def flag(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "boolean", default=default, **rules)


def whole(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "integer", default=default, **rules)


def number(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "number", default=default, **rules)


def texts(
    name: str, default: Any = UNSET, *, element: Mapping[str, Any] | None = None, **rules: Any
) -> Field:
    return Field(name, "array", default=default, elements=each("string", **(element or {})), **rules)


def text_set(
    name: str, default: Any = UNSET, *, element: Mapping[str, Any] | None = None, **rules: Any
) -> Field:
    return Field(name, "set", default=default, elements=each("string", **(element or {})), **rules)


def choice(name: str, default: Any, *values: str, **rules: Any) -> Field:
    return Field(name, "string", default=default, one_of=values, **rules)


def record(name: str, *fields: Field, **rules: Any) -> Field:
    return Field(name, "record", required=True, fields=by_name(*fields), **rules)


def text_map(name: str, **rules: Any) -> Field:
    return Field(name, "map", keys=each("string"), values=each("string", **rules))


def host(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "string", default=default, format="host", **rules)


def port(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "integer", default=default, between=(0, 65535), **rules)


def timeout_ms(name: str, default: Any = UNSET, **rules: Any) -> Field:
    return Field(name, "integer", default=default, between=(0, 2147483646), **rules)


REDIS: Final = record(
    "redis",
    host("host"),
    port("port", 6379),
    timeout_ms("timeout", 2000),
    Field("username", "string", referenceable=True),
    secret("password", len_min=0),
    whole("database", 0),
    flag("ssl", False),
    flag("ssl_verify", False),
    text("server_name", format="sni"),
)


#: What these fields were called before 3.8.
REDIS_RENAMED: Final = {
    f"redis_{name}": ("redis", name)
    for name in (
        *("host", "port", "username", "password", "ssl", "ssl_verify", "server_name", "timeout", "database"),
    )
}


def queue(max_batch_size: int = 1) -> Field:
    return record(
        "queue",
        whole("max_batch_size", max_batch_size, between=(1, 1000000)),
        number("max_coalescing_delay", 1, between=(0, 3600)),
        whole("max_entries", 10000, between=(1, 1000000)),
        whole("max_bytes"),
        number("max_retry_time", 60),
        number("initial_retry_delay", 0.01, between=(0.001, 1000000)),
        number("max_retry_delay", 60, between=(0.001, 1000000)),
        whole("concurrency_limit", 1, one_of=(-1, 1)),
    )
