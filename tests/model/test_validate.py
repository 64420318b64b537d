"""Rows from data: Kong's faults word for word, defaults, PATCH, and that rows survive their own JSON."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import ValidationError
from fastgw.model.entities import ENTITIES, PROTOCOLS, ROUTES, SERVICES, Entity, Row, flavored
from fastgw.model.faults import summary
from fastgw.model.fields import AtLeastOneOf, Field, Variant, by_name, each, rule
from fastgw.model.formats import is_uuid
from fastgw.model.validate import check_field, make_row, merge_row
from tests.model.strategies import entity_bodies

NOW = 1_700_000_000
ID = "7fca84d6-7d37-4a74-a7b0-93e576089a41"
ONE_OF_PROTOCOLS = f"expected one of: {', '.join(PROTOCOLS)}"
ROUTE_MATCHERS = "must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https'"


def faults_of(entity: Entity, data: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(ValidationError) as caught:
        make_row(entity, data, now_s=NOW)
    return caught.value.fields


def service(**data: Any) -> Row:
    return make_row(SERVICES, {"host": "example.com", **data}, now_s=NOW)


def route(**data: Any) -> Row:
    return make_row(ROUTES, {"paths": ["/"], **data}, now_s=NOW)


# Kong's own examples: data, message, fields.
EXAMPLES: list[tuple[Entity, dict[str, Any], str, dict[str, Any]]] = [
    (SERVICES, {}, "schema violation (host: required field missing)", {"host": "required field missing"}),
    (
        SERVICES,
        {"host": "a b", "port": 70000, "protocol": "foo", "foo": 1},
        "4 schema violations (foo: unknown field; host: invalid value: a b; port: value should be between 0 "
        f"and 65535; protocol: {ONE_OF_PROTOCOLS})",
        {
            "foo": "unknown field",
            "host": "invalid value: a b",
            "port": "value should be between 0 and 65535",
            "protocol": ONE_OF_PROTOCOLS,
        },
    ),
    (
        SERVICES,
        {"host": "example.com", "protocol": "tcp", "path": "/x"},
        "2 schema violations (failed conditional validation given value of field 'protocol'; "
        "path: value must be null)",
        {
            "@entity": ["failed conditional validation given value of field 'protocol'"],
            "path": "value must be null",
        },
    ),
    (
        SERVICES,
        {"host": "example.com", "id": "abc"},
        "schema violation (id: expected a valid UUID)",
        {"id": "expected a valid UUID"},
    ),
    (ROUTES, {}, f"schema violation ({ROUTE_MATCHERS})", {"@entity": [ROUTE_MATCHERS]}),
    (
        ROUTES,
        {"paths": ["/a", "~x"]},
        "schema violation (paths.2: should start with: / (fixed path) or ~/ (regex path))",
        {"paths": [None, "should start with: / (fixed path) or ~/ (regex path)"]},
    ),
    (
        ROUTES,
        {"protocols": ["http"], "paths": ["/a"], "snis": ["a.com"]},
        "2 schema violations ('snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or "
        "'tls_passthrough'; snis: length must be 0)",
        {
            "@entity": [
                "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'"
            ],
            "snis": "length must be 0",
        },
    ),
    (
        ROUTES,
        {"protocols": ["http", "tcp"], "paths": ["/a"]},
        "schema violation (protocols: these sets are mutually exclusive: ('http', 'https'), "
        "('tcp', 'tls', 'udp'))",
        {"protocols": "these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp')"},
    ),
    (
        ROUTES,
        {"protocols": ["tcp"], "sources": [{}]},
        'schema violation (sources.1: {\n  ["@entity"] = {\n'
        "    \"at least one of these fields must be non-empty: 'ip', 'port'\"\n  }\n})",
        {"sources": [{"@entity": ["at least one of these fields must be non-empty: 'ip', 'port'"]}]},
    ),
    (
        ROUTES,
        {"paths": ["/"], "service": {"id": "x"}},
        "schema violation (service.id: expected a valid UUID)",
        {"service": {"id": "expected a valid UUID"}},
    ),
    (
        ROUTES,
        {"paths": ["/"], "service": "x"},
        "schema violation (service.id: missing primary key)",
        {"service": {"id": "missing primary key"}},
    ),
    (
        ROUTES,
        {"paths": ["/"], "service": {"protocol": "x"}},
        f"schema violation (service.protocol: {ONE_OF_PROTOCOLS})",
        {"service": {"protocol": ONE_OF_PROTOCOLS}},
    ),
]


@pytest.mark.parametrize(("entity", "data", "message", "fields"), EXAMPLES)
def test_kongs_examples(entity: Entity, data: dict[str, Any], message: str, fields: dict[str, Any]) -> None:
    found = faults_of(entity, data)
    assert found == fields
    assert summary(found) == message


MESSAGES: list[tuple[Entity, dict[str, Any], dict[str, Any]]] = [
    # types
    (SERVICES, {"host": 1}, {"host": "expected a string"}),
    (SERVICES, {"host": ""}, {"host": "length must be at least 1"}),
    (SERVICES, {"port": "80"}, {"port": "expected an integer"}),
    (SERVICES, {"port": 80.5}, {"port": "expected an integer"}),
    (SERVICES, {"port": True}, {"port": "expected an integer"}),
    (SERVICES, {"enabled": "true"}, {"enabled": "expected a boolean"}),
    (SERVICES, {"tags": "a"}, {"tags": "expected a set"}),
    (SERVICES, {"tags": ["a", None]}, {"tags": [None, "required field missing"]}),
    (SERVICES, {"ca_certificates": {"1": "x"}}, {"ca_certificates": "expected an array"}),
    (SERVICES, {"url": 5}, {"url": "expected a string"}),
    (SERVICES, {"name": "\udcff"}, {"name": "invalid utf-8 character sequence detected at position 1"}),
    (SERVICES, {"ttl": 5}, {"ttl": "unknown field"}),
    (
        ROUTES,
        {"regex_priority": 2**63},
        {"regex_priority": f"value should be between {-(2**63)} and {2**63 - 1}"},
    ),
    (ROUTES, {"paths": ["/"] * 65536}, {"paths": "length must be at most 65535"}),
    (ROUTES, {"tags": ["a"] * 65536}, {"tags": "length must be at most 65535"}),
    # a rule that backtracks would take hours here
    (
        ROUTES,
        {"hosts": ["a" * 500_000 + "*b*"]},
        {"hosts": ["invalid wildcard: must have at most one wildcard"]},
    ),
    (ROUTES, {"headers": ["x"]}, {"headers": "expected a map"}),
    (ROUTES, {"service": 5}, {"service": {"id": "missing primary key"}}),
    # null
    (SERVICES, {"protocol": None}, {"protocol": "required field missing"}),
    (SERVICES, {"id": None}, {"id": "required field missing"}),
    (ROUTES, {"protocols": None}, {"protocols": "required field missing"}),
    # ranges
    (SERVICES, {"retries": 32768}, {"retries": "value should be between 0 and 32767"}),
    (SERVICES, {"read_timeout": 0}, {"read_timeout": "value should be between 1 and 2147483646"}),
    (SERVICES, {"created_at": 0}, {"created_at": "expected a valid timestamp"}),
    # text
    (SERVICES, {"path": "x"}, {"path": "should start with: /"}),
    (SERVICES, {"path": "/a//b"}, {"path": "must not have empty segments"}),
    (SERVICES, {"url": "foo"}, {"host": "required field missing", "path": "should start with: /"}),
    (SERVICES, {"url": "http://a.com?x=1"}, {"host": "invalid value: a.com?x=1"}),
    (
        ROUTES,
        {"methods": ["GET\n", "get", "GET"]},
        {"methods": ["invalid value: GET\n", "invalid value: get"]},
    ),
    (
        ROUTES,
        {"hosts": ["a.*.b"]},
        {"hosts": ["invalid wildcard: must be placed at leftmost or rightmost label"]},
    ),
    (ROUTES, {"hosts": ["*.*"]}, {"hosts": ["invalid wildcard: must have at most one wildcard"]}),
    (
        ROUTES,
        {"headers": {"HOST": ["a"]}},
        {"headers": "cannot contain 'host' header, which must be specified in the 'hosts' attribute"},
    ),
    (ROUTES, {"headers": {"x": "a"}}, {"headers": "expected an array"}),
    (ROUTES, {"headers": {"x": ["a", 1]}}, {"headers": [None, "expected a string"]}),
    (
        ROUTES,
        {"https_redirect_status_code": 200},
        {"https_redirect_status_code": "expected one of: 426, 301, 302, 307, 308"},
    ),
    # variants of a route
    (ROUTES, {"protocols": []}, {"protocols": "unknown type: nil"}),
    (ROUTES, {"protocols": ["x"], "foo": 1}, {"protocols": "unknown type: x"}),
    (ROUTES, {"protocols": "http"}, {"protocols": "expected a set"}),
    (ROUTES, {"protocols": 5}, {"protocols": "expected a set"}),
    (ROUTES, {"protocols": ["x", "http"]}, {"protocols": [ONE_OF_PROTOCOLS]}),
    (ROUTES, {"sources": []}, {"sources": "cannot set 'sources' when 'protocols' is 'http' or 'https'"}),
    (
        ROUTES,
        {"protocols": ["http"], "paths": []},
        {"@entity": ["must set one of 'methods', 'hosts', 'headers', 'paths' when 'protocols' is 'http'"]},
    ),
    (
        ROUTES,
        {"protocols": ["tcp"]},
        {
            "@entity": [
                "must set one of 'sources', 'destinations', 'snis' when 'protocols' is 'tcp', 'tls' or 'udp'"
            ],
            "paths": "cannot set 'paths' when 'protocols' is 'tcp', 'tls', 'tls_passthrough' or 'udp'",
        },
    ),
    (
        ROUTES,
        {"protocols": ["tls_passthrough"], "paths": None},
        {"@entity": ["must set snis when 'protocols' is 'tls_passthrough'"]},
    ),
    (
        ROUTES,
        {"protocols": ["grpc"], "paths": None, "methods": ["GET"], "strip_path": True},
        {
            "@entity": ["must set one of 'hosts', 'headers', 'paths' when 'protocols' is 'grpc'"],
            "methods": "cannot set 'methods' when 'protocols' is 'grpc' or 'grpcs'",
            "strip_path": "cannot set 'strip_path' when 'protocols' is 'grpc' or 'grpcs'",
        },
    ),
    (
        ROUTES,
        {"protocols": ["grpcs"], "paths": None},
        {"@entity": ["must set one of 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'grpcs'"]},
    ),
]


@pytest.mark.parametrize(("entity", "data", "fields"), MESSAGES)
def test_field_messages(entity: Entity, data: dict[str, Any], fields: dict[str, Any]) -> None:
    base: dict[str, Any] = {"host": "example.com"} if entity is SERVICES else {"paths": ["/"]}
    assert faults_of(entity, {**base, **data}) == fields


def test_a_service_has_kongs_defaults() -> None:
    row = service()
    assert is_uuid(row.pop("id"))
    assert row == {
        "created_at": NOW,
        "updated_at": NOW,
        "name": None,
        "retries": 5,
        "protocol": "http",
        "host": "example.com",
        "port": 80,
        "path": None,
        "connect_timeout": 60000,
        "write_timeout": 60000,
        "read_timeout": 60000,
        "tags": None,
        "client_certificate": None,
        "tls_verify": None,
        "tls_verify_depth": None,
        "ca_certificates": None,
        "enabled": True,
    }


def test_a_row_keeps_the_order_of_the_table() -> None:
    assert list(service(name="x")) == list(SERVICES.fields)
    assert list(route()) == list(ROUTES.fields)


def test_null_is_kept_even_where_there_is_a_default() -> None:
    assert service(retries=None)["retries"] is None


def test_defaults_are_not_shared_between_rows() -> None:
    first = route()
    first["protocols"].append("x")
    assert route()["protocols"] == ["http", "https"]


def test_spellings_of_the_same_value_become_one() -> None:
    row = route(methods=["GET", "POST", "GET"], regex_priority=7.0, tags={}, hosts=["a", "a"], headers=[])
    assert row["methods"] == ["GET", "POST"]
    assert row["regex_priority"] == 7
    assert isinstance(row["regex_priority"], int)
    assert row["tags"] == []
    assert row["hosts"] == ["a", "a"]
    assert row["headers"] == {}
    assert service(id=ID.upper())["id"] == ID


def test_timestamps() -> None:
    assert service(created_at=5, updated_at=5)["created_at"] == 5
    assert service(created_at=5, updated_at=5)["updated_at"] == NOW
    assert service(created_at=None)["created_at"] == NOW


def test_the_id_argument_wins() -> None:
    assert make_row(SERVICES, {"host": "a", "id": "junk"}, now_s=NOW, id=ID)["id"] == ID


def test_of_a_parent_only_the_id_is_kept() -> None:
    assert route(service={"id": ID.upper(), "name": "x", "foo": 1})["service"] == {"id": ID}


def test_url_overrides_its_parts() -> None:
    row = service(url="http://b.com:81/p", port=5, path="/q", protocol="tcp")
    assert (row["protocol"], row["host"], row["port"], row["path"]) == ("http", "b.com", 81, "/p")
    assert "url" not in row


UNSERVED: list[tuple[Entity, dict[str, Any], str]] = [
    (SERVICES, {"protocol": "grpcs"}, "protocol"),
    (SERVICES, {"url": "tcp://a.com:1"}, "protocol"),
    (ROUTES, {"protocols": ["grpc"]}, "protocols"),
    (ROUTES, {"protocols": ["tcp"], "paths": None, "sources": [{"ip": "1.2.3.4"}]}, "sources"),
    (ROUTES, {"protocols": ["tcp"], "paths": None, "destinations": [{"port": 1}]}, "destinations"),
    (SERVICES, {"host": "a" * 255}, "host"),
    (SERVICES, {"path": "/" + "a" * 65535}, "path"),
    (ROUTES, {"paths": ["/" + "é" * 32768]}, "paths"),
    (ROUTES, {"methods": ["A" * 65536]}, "methods"),
    (ROUTES, {"hosts": ["*."]}, "hosts"),
    (ROUTES, {"hosts": ["*.:80"]}, "hosts"),
    (ROUTES, {"hosts": ["a." * 32768]}, "hosts"),
]


@pytest.mark.parametrize(("entity", "data", "field"), UNSERVED)
def test_what_is_not_served_is_refused_by_name(entity: Entity, data: dict[str, Any], field: str) -> None:
    base: dict[str, Any] = {"host": "example.com"} if entity is SERVICES else {"paths": ["/"]}
    found = faults_of(entity, {**base, **data})
    assert field in found
    assert "fastgw does not" in summary(found)


def test_a_list_names_the_element_that_is_not_served() -> None:
    assert faults_of(ROUTES, {"paths": ["/ok", r"~/(a)\1", "/too"]}) == {
        "paths": [
            None,
            r"invalid regex: '/(a)\1' (RE2 does not know a back-reference, '\1' at character 5: "
            "write out the alternatives)",
        ]
    }


def test_what_is_not_served_depends_on_the_flavor() -> None:
    old = flavored(ROUTES, "traditional")
    beyond = {"paths": ["~/a(?!b)"], "headers": {"x-team": ["~*a(?!b)"]}}
    assert sorted(faults_of(ROUTES, beyond)) == ["headers", "paths"]
    assert make_row(old, beyond, now_s=NOW)["paths"] == ["~/a(?!b)"]
    wild = {"paths": ["/"], "protocols": ["https"], "snis": ["a.com", "*.a.com"]}
    assert make_row(ROUTES, wild, now_s=NOW)["snis"] == ["a.com", "*.a.com"]
    assert faults_of(old, wild) == {
        "snis": [
            None,
            "router_flavor 'traditional' matches exact names only: name them, or choose another flavor",
        ]
    }
    assert faults_of(old, {"protocols": ["http"], "expression": 'http.path ^= "/"'}) == {
        "expression": "router_flavor 'traditional' has no expressions: use the fields, or choose another flavor"
    }


def test_headers_need_values_and_regexes_that_can_be_served() -> None:
    assert faults_of(ROUTES, {"headers": {"x-team": []}}) == {
        "headers": "header 'x-team' needs at least one value"
    }
    found = faults_of(ROUTES, {"headers": {"x-team": ["~*a(?!b)"]}})
    assert found["headers"].startswith("invalid regex: 'a(?!b)' (RE2 does not know look-around")


def test_patch_replaces_what_it_names_and_keeps_the_rest() -> None:
    stored = service(name="a", path="/x", tags=["t"])
    row = merge_row(SERVICES, stored, {"name": "b", "tags": None}, now_s=NOW + 1)
    assert row == {**stored, "name": "b", "tags": None, "updated_at": NOW + 1}


def test_patch_by_url_replaces_all_four_parts() -> None:
    stored = service(path="/x", port=81)
    row = merge_row(SERVICES, stored, {"url": "http://b.com"}, now_s=NOW)
    assert (row["host"], row["port"], row["path"]) == ("b.com", 80, None)


def test_patch_cannot_change_the_id() -> None:
    stored = service()
    other = "11111111-1111-1111-1111-111111111111"
    assert merge_row(SERVICES, stored, {"id": other}, now_s=NOW)["id"] == stored["id"]


@pytest.mark.parametrize(
    ("patch", "fields"),
    [
        ({"host": None}, {"host": "required field missing"}),
        ({"created_at": None}, {"created_at": "required field missing"}),
        ({"url": 5}, {"url": "expected a string"}),
        (
            {"protocol": "tcp"},
            {
                "@entity": ["failed conditional validation given value of field 'protocol'"],
                "path": "value must be null",
            },
        ),
    ],
)
def test_patch_is_validated_as_a_whole(patch: dict[str, Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        merge_row(SERVICES, service(path="/x"), patch, now_s=NOW)
    assert caught.value.fields == fields


# What later entities need and these two do not use: nested records, numbers, and further rules.
GENERAL = Entity(
    "general",
    by_name(
        Field("id", "string", auto=True, uuid=True, nullable=False),
        Field("created_at", "integer", auto=True, nullable=False),
        Field("updated_at", "integer", auto=True, nullable=False),
        Field("threshold", "number", default=0, between=(0, 100)),
        Field(
            "config",
            "record",
            required=True,
            fields=by_name(
                Field("active", "record", required=True, fields=by_name(Field("n", "integer", default=1))),
                Field("minute", "integer"),
                Field("statuses", "array", default=[200], len_min=1, len_max=3, elements=each("integer")),
            ),
            checks=(AtLeastOneOf(("minute", "statuses")),),
        ),
        Field("word", "string", not_one_of=("env",), len_eq=3),
        Field("kind", "string", default="plain"),
        Field("fixed", "string", must_be="x"),
        Field("free", "any", must_not_be=True),
    ),
    admin_path="general",
    nested_name="general",
    checks=(AtLeastOneOf(("word", "free")),),
    variant_key="kind",
    variants={
        "plain": Variant(),
        "other": Variant(fields=by_name(Field("word", "string", message="no", must_be=None))),
    },
)


def test_records_are_filled_with_their_nested_defaults() -> None:
    row = make_row(GENERAL, {"word": "abc", "fixed": "x"}, now_s=NOW)
    assert row["config"] == {"active": {"n": 1}, "minute": None, "statuses": [200]}
    row = make_row(GENERAL, {"word": "abc", "fixed": "x", "config": {"minute": 5}}, now_s=NOW)
    assert row["config"] == {"active": {"n": 1}, "minute": 5, "statuses": [200]}


def test_patch_merges_records_key_by_key() -> None:
    stored = make_row(GENERAL, {"word": "abc", "fixed": "x", "config": {"minute": 5}}, now_s=NOW)
    row = merge_row(GENERAL, stored, {"config": {"active": {"n": 2}, "statuses": [1]}}, now_s=NOW)
    assert row["config"] == {"active": {"n": 2}, "minute": 5, "statuses": [1]}


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        ({"config": None}, {"config": "required field missing"}),
        ({"config": 1}, {"config": "expected a record"}),
        (
            {"config": {"foo": 1, "minute": "x"}},
            {"config": {"foo": "unknown field", "minute": "expected an integer"}},
        ),
        ({"config": {"active": {"n": "x"}}}, {"config": {"active": {"n": "expected an integer"}}}),
        ({"config": {"statuses": []}}, {"config": {"statuses": "length must be at least 1"}}),
        ({"config": {"statuses": [1, 2, 3, 4]}}, {"config": {"statuses": "length must be at most 3"}}),
        (
            {"config": {"statuses": None}},
            {"config": {"@entity": ["at least one of these fields must be non-empty: 'minute', 'statuses'"]}},
        ),
        ({"threshold": 100.5}, {"threshold": "value should be between 0 and 100"}),
        ({"threshold": "1"}, {"threshold": "expected a number"}),
        ({"word": "env"}, {"word": "must not be one of: env"}),
        ({"word": "abcd"}, {"word": "length must be 3"}),
        ({"fixed": "y"}, {"fixed": "value must be x"}),
        ({"fixed": None}, {"fixed": "value must be x"}),
        ({"free": True}, {"free": "value must not be true"}),
        ({"kind": "other"}, {"word": "no"}),
        ({"kind": "third"}, {"kind": "unknown type: third"}),
        ({"word": None}, {"@entity": ["at least one of these fields must be non-empty: 'word', 'free'"]}),
    ],
)
def test_general_rules(data: dict[str, Any], fields: dict[str, Any]) -> None:
    assert faults_of(GENERAL, {"word": "abc", "fixed": "x", **data}) == fields


def test_at_least_one_of_is_told_differently_on_patch() -> None:
    stored = make_row(GENERAL, {"word": "abc", "fixed": "x"}, now_s=NOW)
    with pytest.raises(ValidationError) as caught:
        merge_row(GENERAL, stored, {"word": None}, now_s=NOW)
    assert caught.value.fields == {
        "@entity": ["when updating, at least one of these fields must be non-empty: 'word', 'free'"]
    }


def test_check_field_judges_one_value() -> None:
    assert check_field(SERVICES, "name", "ok") is None
    assert check_field(SERVICES, "name", "") == "length must be at least 1"
    assert check_field(SERVICES, "port", 5) is None


def test_contains_rule() -> None:
    entity = Entity(
        "e",
        by_name(Field("set", "set", elements=each("string"), contains="a"), Field("n", "integer")),
        admin_path="e",
        nested_name="e",
        checks=(AtLeastOneOf(("n",), when_field="set", when=rule(contains="b"), message="n!"),),
    )
    assert faults_of(entity, {"set": ["x"], "updated_at": 1})["set"] == "expected to contain: a"
    assert faults_of(entity, {"set": ["a", "b"]})["@entity"] == ["n!"]


# Valid data for a service and a route, with every field that is served.
names = st.text(st.sampled_from("abcXYZ019._~-é"), min_size=1, max_size=12)
tag_text = st.text(st.sampled_from("aZ0 !~.-_é漢"), min_size=1, max_size=5)
tags = st.none() | st.lists(tag_text, max_size=3)
hosts = st.from_regex(r"[a-z][a-z0-9]{0,7}(\.[a-z]{2,5}){0,2}", fullmatch=True)
plain_paths = st.from_regex(r"/([a-z0-9_~-]{1,6}/?){0,3}", fullmatch=True)
timeouts = st.none() | st.integers(1, 2147483646)
service_data = st.fixed_dictionaries(
    {"host": hosts},
    optional={
        "id": st.uuids().map(str),
        "name": st.none() | names,
        "retries": st.none() | st.integers(0, 32767),
        "port": st.integers(0, 65535) | st.integers(0, 65535).map(float),
        "path": st.none() | plain_paths,
        "connect_timeout": timeouts,
        "write_timeout": timeouts,
        "read_timeout": timeouts,
        "tags": tags,
        "enabled": st.booleans(),
        "created_at": st.integers(1, 2**53),
        "updated_at": st.just("ignored"),
    },
)
route_data = st.fixed_dictionaries(
    {"paths": st.lists(plain_paths, min_size=1, max_size=3)},
    optional={
        "protocols": st.sampled_from([["http"], ["http", "https"], ["https", "http"]]),
        "hosts": st.none()
        | st.lists(hosts | hosts.map("*.{}".format) | hosts.map("{}.*".format), max_size=3),
        "methods": st.none() | st.lists(st.sampled_from(["GET", "PUT", "QUERY"]), max_size=4),
        "strip_path": st.booleans(),
        "preserve_host": st.booleans(),
        "regex_priority": st.none() | st.integers(-(2**53), 2**53),
        "path_handling": st.none() | st.sampled_from(["v0", "v1"]),
        "service": st.none() | st.fixed_dictionaries({"id": st.uuids().map(str)}),
        "tags": tags,
    },
)


@given(st.tuples(st.just(SERVICES), service_data) | st.tuples(st.just(ROUTES), route_data))
def test_a_row_survives_its_own_json(made: tuple[Entity, dict[str, Any]]) -> None:
    entity, data = made
    row = make_row(entity, data, now_s=NOW)
    assert list(row) == list(entity.fields)
    read_back = msgspec.json.decode(msgspec.json.encode(row))
    assert make_row(entity, read_back, now_s=NOW) == row
    assert merge_row(entity, row, {}, now_s=NOW) == row


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from([SERVICES, ROUTES, GENERAL]).flatmap(
        lambda entity: st.tuples(
            st.just(entity),
            st.dictionaries(
                st.sampled_from([*entity.fields, *entity.shorthands, "zz"]), json_values, max_size=8
            ),
        )
    )
)
def test_any_json_is_a_row_or_is_refused_with_words(made: tuple[Entity, dict[str, Any]]) -> None:
    entity, data = made
    row, error = _try_row(entity, data)
    if error is not None:
        assert error.fields
        assert re.fullmatch(
            r"(schema violation|([2-9]|[1-9][0-9]+) schema violations) \(.+\)",
            summary(error.fields),
            re.DOTALL,
        )
        assert msgspec.json.encode(error.fields)
    assert row is None or make_row(entity, row, now_s=NOW) == row


def _try_row(entity: Entity, data: dict[str, Any]) -> tuple[Row | None, ValidationError | None]:
    try:
        return make_row(entity, data, now_s=NOW), None
    except ValidationError as error:
        return None, error


@given(
    st.sampled_from(sorted(ENTITIES)).flatmap(
        lambda kind: st.tuples(st.just(kind), entity_bodies(ENTITIES[kind]))
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_an_exported_row_comes_back_as_it_was(drawn: tuple[str, dict[str, Any]]) -> None:
    kind, body = drawn
    entity = ENTITIES[kind]
    try:
        row = make_row(entity, body, now_s=1)
    except ValidationError:
        return
    row.pop("ttl", None)
    again = make_row(entity, row, now_s=1, is_transformed=True)
    again.pop("ttl", None)
    assert again == row


def test_what_is_hashed_and_how_is_balanced_change_each_other_but_not_when_imported() -> None:
    entity = ENTITIES["upstreams"]
    given = {"name": "u", "hash_on": "none", "algorithm": "consistent-hashing"}
    assert make_row(entity, given, now_s=1)["algorithm"] == "round-robin"
    assert make_row(entity, given, now_s=1, is_transformed=True)["algorithm"] == "consistent-hashing"
