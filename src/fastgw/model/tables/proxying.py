"""Services and routes: what is proxied, and which requests are.

Source: kong/db/schema/entities/{services,routes,routes_subschemas}.lua, release 3.9.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from fastgw.model.entity import Entity, Shorthand
from fastgw.model.fields import (
    AtLeastOneOf,
    Conditional,
    Excluding,
    Field,
    Pattern,
    Variant,
    by_name,
    each,
    pattern,
    rule,
)
from fastgw.model.shorthands import expand_url
from fastgw.model.tables.common import CREATED_AT, ID, NAME, NO_EMPTY_SEGMENTS, PROTOCOLS, TAGS, UPDATED_AT


def _timeout(name: str) -> Field:
    """Milliseconds."""
    return Field(name, "integer", default=60000, between=(1, 2147483646))


def _null_unless_tls(name: str) -> Conditional:
    return Conditional("protocol", rule(not_one_of=("https", "tls")), name, rule(must_be=None))


SERVICES: Final = Entity(
    "services",
    by_name(
        ID,
        CREATED_AT,
        UPDATED_AT,
        NAME,
        Field("retries", "integer", default=5, between=(0, 32767)),
        Field("protocol", "string", required=True, default="http", one_of=PROTOCOLS),
        Field("host", "string", required=True, format="host"),
        Field("port", "integer", required=True, default=80, between=(0, 65535)),
        Field("path", "string", starts_with="/", match_none=(NO_EMPTY_SEGMENTS,), format="path"),
        _timeout("connect_timeout"),
        _timeout("write_timeout"),
        _timeout("read_timeout"),
        TAGS,
        Field("client_certificate", "foreign", reference="certificates"),
        Field("tls_verify", "boolean"),
        Field("tls_verify_depth", "integer", default=None, between=(0, 64)),
        Field("ca_certificates", "array", elements=each("string", uuid=True)),
        Field("enabled", "boolean", required=True, default=True),
    ),
    endpoint_key="name",
    admin_path="services",
    nested_name="services",
    checks=(
        Conditional(
            "protocol", rule(one_of=("tcp", "tls", "udp", "grpc", "grpcs")), "path", rule(must_be=None)
        ),
        _null_unless_tls("client_certificate"),
        _null_unless_tls("tls_verify"),
        _null_unless_tls("tls_verify_depth"),
        _null_unless_tls("ca_certificates"),
    ),
    shorthands={"url": Shorthand(Field("url", "string"), expand_url)},
)


def _endpoints(name: str) -> Field:
    """Addresses of one side of a stream connection."""
    return Field(
        name,
        "set",
        elements=each(
            "record",
            fields=by_name(
                Field("ip", "string", format="ip_or_cidr"),
                Field("port", "integer", between=(0, 65535)),
            ),
            checks=(AtLeastOneOf(("ip", "port")),),
        ),
    )


def _forbidden(names: tuple[str, ...], protocols: str) -> Mapping[str, Field]:
    return by_name(
        *(
            Field(name, "any", must_be=None, message=f"cannot set '{name}' when 'protocols' is {protocols}")
            for name in names
        )
    )


def _matchers(when: Field, protocol: str, *names: str) -> AtLeastOneOf:
    listed = ", ".join(f"'{name}'" for name in names)
    return AtLeastOneOf(
        names,
        when_field="protocols",
        when=when,
        message=f"must set one of {listed} when 'protocols' is {protocol}",
        unless="expression",
    )


def _only(*protocols: str) -> Field:
    return rule(elements=each("string", one_of=protocols))


_HTTP = Variant(
    fields=_forbidden(("sources", "destinations"), "'http' or 'https'"),
    checks=(
        _matchers(rule(contains="https"), "'https'", "methods", "hosts", "headers", "paths", "snis"),
        # The sets of protocols exclude each other, so without https this is http alone.
        _matchers(_only("http"), "'http'", "methods", "hosts", "headers", "paths"),
    ),
)
_STREAM = Variant(
    fields=_forbidden(("methods", "hosts", "paths", "headers"), "'tcp', 'tls', 'tls_passthrough' or 'udp'"),
    checks=(
        _matchers(_only("tcp", "tls", "udp"), "'tcp', 'tls' or 'udp'", "sources", "destinations", "snis"),
        AtLeastOneOf(
            ("snis",),
            when_field="protocols",
            when=_only("tls_passthrough"),
            message="must set snis when 'protocols' is 'tls_passthrough'",
        ),
    ),
)
_GRPC = Variant(
    fields={
        **_forbidden(("methods", "sources", "destinations"), "'grpc' or 'grpcs'"),
        "strip_path": Field(
            "strip_path",
            "boolean",
            required=True,
            default=False,
            must_not_be=True,
            message="cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
        ),
    },
    checks=(
        _matchers(rule(contains="grpcs"), "'grpcs'", "hosts", "headers", "paths", "snis"),
        _matchers(_only("grpc"), "'grpc'", "hosts", "headers", "paths"),
    ),
)

ROUTES: Final = Entity(
    "routes",
    by_name(
        ID,
        CREATED_AT,
        UPDATED_AT,
        NAME,
        Field(
            "protocols",
            "set",
            required=True,
            default=["http", "https"],
            len_min=1,
            exclusive_subsets=(
                ("http", "https"),
                ("tcp", "tls", "udp"),
                ("tls_passthrough",),
                ("grpc", "grpcs"),
            ),
            elements=each("string", one_of=PROTOCOLS),
        ),
        Field(
            "https_redirect_status_code",
            "integer",
            required=True,
            default=426,
            one_of=(426, 301, 302, 307, 308),
        ),
        Field("strip_path", "boolean", required=True, default=True),
        Field("preserve_host", "boolean", required=True, default=False),
        Field("request_buffering", "boolean", required=True, default=True),
        Field("response_buffering", "boolean", required=True, default=True),
        TAGS,
        Field("service", "foreign", reference="services"),
        Field("snis", "set", elements=each("string", format="wildcard_host")),
        _endpoints("sources"),
        _endpoints("destinations"),
        Field("methods", "set", elements=each("string", match=pattern(r"^[A-Z]+\Z"))),
        Field(
            "hosts",
            "array",
            elements=each(
                "string",
                match_all=(
                    pattern(r"^[^*]*+\*?[^*]*+\Z", "invalid wildcard: must have at most one wildcard"),
                ),
                match_any=(
                    (re.compile(r"^\*\."), re.compile(r"\.\*\Z"), re.compile(r"^[^*]*+\Z")),
                    "invalid wildcard: must be placed at leftmost or rightmost label",
                ),
                format="route_host",
            ),
        ),
        Field(
            "paths",
            "array",
            elements=each(
                "string",
                match_none=(NO_EMPTY_SEGMENTS,),
                match_any=(
                    (re.compile("^/"), re.compile("^~/")),
                    "should start with: / (fixed path) or ~/ (regex path)",
                ),
                format="route_path",
            ),
        ),
        Field(
            "headers",
            "map",
            keys=each(
                "string",
                match_none=(
                    Pattern(
                        re.compile(r"^host\Z", re.IGNORECASE),
                        "cannot contain 'host' header, which must be specified in the 'hosts' attribute",
                    ),
                ),
                format="header_name",
            ),
            values=each("array", elements=each("string")),
        ),
        Field("regex_priority", "integer", default=0),
        Field("path_handling", "string", default="v0", one_of=("v0", "v1")),
    ),
    endpoint_key="name",
    admin_path="routes",
    nested_name="routes",
    optional=by_name(
        Field("expression", "string", format="expression"),
        Field("priority", "integer", between=(0, 2**46 - 1)),
    ),
    checks=(
        Excluding(
            "expression",
            ("methods", "hosts", "paths", "headers", "snis", "sources", "destinations"),
            "Router Expression failed validation: cannot set 'expression' with 'methods', 'hosts', 'paths', "
            "'headers', 'snis', 'sources' or 'destinations' simultaneously",
        ),
        Excluding(
            "expression",
            ("regex_priority",),
            "Router Expression failed validation: cannot set 'regex_priority' with 'expression' "
            "simultaneously",
        ),
        Excluding(
            "priority",
            ("methods", "hosts", "paths", "headers", "snis", "sources", "destinations"),
            "Router Expression failed validation: cannot set 'priority' with 'methods', 'hosts', 'paths', "
            "'headers', 'snis', 'sources' or 'destinations' simultaneously",
        ),
        Conditional(
            "protocols",
            rule(elements=each("string", not_one_of=("grpcs", "https", "tls", "tls_passthrough"))),
            "snis",
            rule(len_eq=0),
            message="'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'",
        ),
    ),
    variant_key="protocols",
    variants={
        "http": _HTTP,
        "https": _HTTP,
        "tcp": _STREAM,
        "tls": _STREAM,
        "tls_passthrough": _STREAM,
        "udp": _STREAM,
        "grpc": _GRPC,
        "grpcs": _GRPC,
    },
)
