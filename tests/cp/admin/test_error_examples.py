"""Kong's errors, word for word: each example of its reference by what the client sends.

Source: the Admin API's errors of release 3.9.1, as Kong's own code produces them.
"""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest

ID: Final = "7fca84d6-7d37-4a74-a7b0-93e576089a41"
PROTOCOLS: Final = "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp"
CONDITIONAL: Final = "failed conditional validation given value of field 'protocol'"
CONSUMER: Final = "at least one of these fields must be non-empty: 'custom_id', 'username'"
MATCHERS: Final = "must set one of 'methods', 'hosts', 'headers', 'paths', 'snis' when 'protocols' is 'https'"
PATH: Final = "should start with: / (fixed path) or ~/ (regex path)"
SNIS: Final = "'snis' can only be set when 'protocols' is 'grpcs', 'https', 'tls' or 'tls_passthrough'"
EXCLUSIVE: Final = "these sets are mutually exclusive: ('http', 'https'), ('tcp', 'tls', 'udp')"
SOURCE: Final = "at least one of these fields must be non-empty: 'ip', 'port'"
NOT_ENABLED: Final = "plugin 'nope' not enabled; add it to the 'plugins' configuration property"

SCHEMA_VIOLATIONS: Final[dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]]] = {
    "missing_required_field": (
        "/services",
        {},
        "schema violation (host: required field missing)",
        {"host": "required field missing"},
    ),
    "several_fields": (
        "/services",
        {"host": "a b", "port": 70000, "protocol": "foo", "foo": 1},
        "4 schema violations (foo: unknown field; host: invalid value: a b; "
        f"port: value should be between 0 and 65535; protocol: {PROTOCOLS})",
        {
            "foo": "unknown field",
            "host": "invalid value: a b",
            "port": "value should be between 0 and 65535",
            "protocol": PROTOCOLS,
        },
    ),
    "conditional_check": (
        "/services",
        {"host": "example.com", "protocol": "tcp", "path": "/x"},
        f"2 schema violations ({CONDITIONAL}; path: value must be null)",
        {"@entity": [CONDITIONAL], "path": "value must be null"},
    ),
    "at_least_one_of": ("/consumers", {}, f"schema violation ({CONSUMER})", {"@entity": [CONSUMER]}),
    "route_without_matcher": ("/routes", {}, f"schema violation ({MATCHERS})", {"@entity": [MATCHERS]}),
    "list_element": (
        "/routes",
        {"paths": ["/a", "~x"]},
        f"schema violation (paths.2: {PATH})",
        {"paths": [None, PATH]},
    ),
    "sni_rule": (
        "/routes",
        {"protocols": ["http"], "paths": ["/a"], "snis": ["a.com"]},
        f"2 schema violations ({SNIS}; snis: length must be 0)",
        {"@entity": [SNIS], "snis": "length must be 0"},
    ),
    "mixed_protocols": (
        "/routes",
        {"protocols": ["http", "tcp"], "paths": ["/a"]},
        f"schema violation (protocols: {EXCLUSIVE})",
        {"protocols": EXCLUSIVE},
    ),
    "entity_check_inside_a_list": (
        "/routes",
        {"protocols": ["tcp"], "sources": [{}]},
        f'schema violation (sources.1: {{\n  ["@entity"] = {{\n    "{SOURCE}"\n  }}\n}})',
        {"sources": [{"@entity": [SOURCE]}]},
    ),
    "plugin_configuration": (
        "/plugins",
        {"name": "key-auth", "config": {"foo": 1, "key_in_header": "x"}},
        "2 schema violations (config.foo: unknown field; config.key_in_header: expected a boolean)",
        {"config": {"foo": "unknown field", "key_in_header": "expected a boolean"}},
    ),
    "plugin_not_enabled": (
        "/plugins",
        {"name": "nope"},
        f"schema violation (name: {NOT_ENABLED})",
        {"name": NOT_ENABLED},
    ),
    "plugin_without_name": (
        "/plugins",
        {"foo": 1},
        "schema violation (name: required field missing)",
        {"name": "required field missing"},
    ),
    "bad_uuid_in_a_body": (
        "/services",
        {"host": "example.com", "id": "abc"},
        "schema violation (id: expected a valid UUID)",
        {"id": "expected a valid UUID"},
    ),
    "bad_uuid_in_a_foreign_key": (
        "/routes",
        {"paths": ["/"], "service": {"id": "x"}},
        "schema violation (service.id: expected a valid UUID)",
        {"service": {"id": "expected a valid UUID"}},
    ),
    "foreign_key_with_faults_of_its_own": (
        "/routes",
        {"paths": ["/"], "service": {"protocol": "nope"}},
        f"schema violation (service.protocol: {PROTOCOLS})",
        {"service": {"protocol": PROTOCOLS}},
    ),
    "foreign_key_without_usable_key": (
        "/routes",
        {"paths": ["/"], "service": "name"},
        "schema violation (service.id: missing primary key)",
        {"service": {"id": "missing primary key"}},
    ),
}


@pytest.mark.parametrize("example", SCHEMA_VIOLATIONS)
def test_schema_violation(admin: httpx.Client, example: str) -> None:
    path, body, message, fields = SCHEMA_VIOLATIONS[example]
    answer = admin.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json() == {"code": 2, "name": "schema violation", "message": message, "fields": fields}


def test_at_least_one_of_when_updating(admin: httpx.Client) -> None:
    admin.post("/consumers", json={"username": "bob"})
    answer = admin.patch("/consumers/bob", json={"username": None})
    assert answer.json()["fields"] == {"@entity": [f"when updating, {CONSUMER}"]}


def test_invalid_primary_key(admin: httpx.Client) -> None:
    answer = admin.get("/ca_certificates/foo")
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 1,
        "name": "invalid primary key",
        "message": "invalid primary key: '{id=\"expected a valid UUID\"}'",
        "fields": {"id": "expected a valid UUID"},
    }


def test_primary_key_violation(admin: httpx.Client) -> None:
    admin.post("/services", json={"id": ID, "host": "h"})
    answer = admin.post("/services", json={"id": ID, "host": "h"})
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 3,
        "name": "primary key violation",
        "message": f"primary key violation on key '{{id=\"{ID}\"}}'",
        "fields": {"id": ID},
    }


def test_foreign_key_to_nothing(admin: httpx.Client) -> None:
    answer = admin.post("/routes", json={"paths": ["/"], "service": {"id": ID}})
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 4,
        "name": "foreign key violation",
        "message": f"the foreign key '{{id=\"{ID}\"}}' does not reference an existing 'services' entity.",
        "fields": {"service": {"id": ID}},
    }


def test_a_referenced_parent(admin: httpx.Client) -> None:
    admin.post("/services", json={"name": "s", "host": "h"})
    admin.post("/services/s/routes", json={"paths": ["/"]})
    answer = admin.delete("/services/s")
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 4,
        "name": "foreign key violation",
        "message": "an existing 'routes' entity references this 'services' entity",
        "fields": {"@referenced_by": "routes"},
    }


def test_unique_violation(admin: httpx.Client) -> None:
    admin.post("/services", json={"name": "a", "host": "h"})
    answer = admin.post("/services", json={"name": "a", "host": "h"})
    assert answer.status_code == 409
    assert answer.json() == {
        "code": 5,
        "name": "unique constraint violation",
        "message": "UNIQUE violation detected on '{name=\"a\"}'",
        "fields": {"name": "a"},
    }


def test_plugin_uniqueness(admin: httpx.Client) -> None:
    admin.put(f"/services/{ID}", json={"host": "h"})
    admin.post(f"/services/{ID}/plugins", json={"name": "key-auth"})
    answer = admin.post(f"/services/{ID}/plugins", json={"name": "key-auth"})
    assert answer.status_code == 409
    shown = f'{{consumer=null,name="key-auth",route=null,service={{id="{ID}"}}}}'
    assert answer.json() == {
        "code": 5,
        "name": "unique constraint violation",
        "message": f"UNIQUE violation detected on '{shown}'",
        "fields": {"consumer": None, "name": "key-auth", "route": None, "service": {"id": ID}},
    }


def test_a_missing_row(admin: httpx.Client) -> None:
    answer = admin.patch("/services/x", json={})
    assert answer.status_code == 404
    assert answer.json() == {
        "code": 6,
        "name": "not found",
        "message": "could not find the entity with '{name=\"x\"}'",
        "fields": {"name": "x"},
    }


def test_foreign_keys_unresolved(admin: httpx.Client) -> None:
    answer = admin.post("/routes", json={"paths": ["/"], "service": {"name": "x"}})
    fault = "the foreign key cannot be resolved with '{name=\"x\"}' for an existing 'services' entity"
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 13,
        "name": "foreign keys unresolved",
        "message": f"foreign key unresolved (service.name: {fault})",
        "fields": {"service": {"name": fault}},
    }


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("size=x", {"code": 9, "name": "invalid size", "message": "size must be a number"}),
        (
            "size=0",
            {"code": 9, "name": "invalid size", "message": "size must be an integer between 1 and 1000"},
        ),
        (
            "offset=x",
            {
                "code": 7,
                "name": "invalid offset",
                "message": "'x' is not a valid offset: bad base64 encoding",
            },
        ),
        (
            "offset=e30",
            {
                "code": 7,
                "name": "invalid offset",
                "message": "'e30' is not a valid offset: bad json encoding",
            },
        ),
        (
            "size=1001",
            {"code": 9, "name": "invalid size", "message": "size must be an integer between 1 and 1000"},
        ),
        (
            "tags=a,b/c",
            {
                "code": 11,
                "name": "invalid options",
                "message": "invalid option (tags: invalid filter syntax)",
                "options": {"tags": "invalid filter syntax"},
            },
        ),
        (
            "tags=a,b,c,d,e,f",
            {
                "code": 11,
                "name": "invalid options",
                "message": "invalid option (tags: cannot query more than 5 tags)",
                "options": {"tags": "cannot query more than 5 tags"},
            },
        ),
        (
            "tags=",
            {
                "code": 11,
                "name": "invalid options",
                "message": "invalid option (tags: cannot be null)",
                "options": {"tags": "cannot be null"},
            },
        ),
    ],
)
def test_list_arguments(admin: httpx.Client, query: str, body: dict[str, Any]) -> None:
    answer = admin.get(f"/services?{query}")
    assert (answer.status_code, answer.json()) == (400, body)


def test_an_endpoint_key_of_bad_format(admin: httpx.Client) -> None:
    answer = admin.put("/upstreams/1.2.3.4", json={})
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 10,
        "name": "invalid unique name",
        "message": "Invalid name ('1.2.3.4'); no ip addresses allowed",
    }


def test_target_uniqueness(admin: httpx.Client) -> None:
    upstream = admin.post("/upstreams", json={"name": "u"}).json()["id"]
    admin.post("/upstreams/u/targets", json={"target": "a:80"})
    answer = admin.post("/upstreams/u/targets", json={"target": "a:80"})
    assert answer.status_code == 409
    assert answer.json() == {
        "code": 5,
        "name": "unique constraint violation",
        "message": f'UNIQUE violation detected on \'{{target="a:80",upstream={{id="{upstream}"}}}}\'',
        "fields": {"target": "a:80", "upstream": {"id": upstream}},
    }


def test_a_missing_row_by_its_id(admin: httpx.Client) -> None:
    answer = admin.patch(f"/services/{ID}", json={})
    assert (answer.status_code, answer.json()) == (
        404,
        {
            "code": 6,
            "name": "not found",
            "message": f"could not find the entity with primary key '{{id=\"{ID}\"}}'",
            "fields": {"id": ID},
        },
    )


def test_an_option_of_a_credential(admin: httpx.Client) -> None:
    admin.post("/consumers", json={"username": "bob"})
    answer = admin.post("/consumers/bob/key-auth", json={"ttl": -1})
    fault = "must be an integer between 0 and 100000000"
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "code": 11,
            "name": "invalid options",
            "message": f"invalid option (ttl: {fault})",
            "options": {"ttl": fault},
        },
    )


def test_an_invalid_declarative_configuration(admin: httpx.Client) -> None:
    document = {"_format_version": "3.0", "services": [{"port": 70000}]}
    answer = admin.post("/config", json=document)
    assert (answer.status_code, answer.json()) == (
        400,
        {
            "code": 14,
            "name": "invalid declarative configuration",
            "message": 'declarative config is invalid: {services={{host="required field missing",'
            'port="value should be between 0 and 65535"}}}',
            "fields": {
                "services": [
                    {"host": "required field missing", "port": "value should be between 0 and 65535"}
                ]
            },
        },
    )


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/nothing", 404, "Not found"),
        ("GET", "/services/none", 404, "Not found"),
        ("PUT", "/services", 405, "Method not allowed"),
        ("GET", "/certificates/none.example", 404, "SNI not found"),
        ("GET", "/schemas/none", 404, "No entity named 'none'"),
        ("GET", "/schemas/plugins/none", 404, "No plugin named 'none'"),
        ("GET", "/schemas/vaults/none", 404, "No vault named 'none'"),
        ("GET", "/consumers?custom_id=", 400, "custom_id must be an unempty string"),
    ],
)
def test_short_messages(admin: httpx.Client, method: str, path: str, status: int, text: str) -> None:
    answer = admin.request(method, path)
    assert (answer.status_code, answer.json()) == (status, {"message": text})


def test_a_body_that_is_no_json(admin: httpx.Client) -> None:
    answer = admin.post("/services", content="{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (400, {"message": "Cannot parse JSON body"})
