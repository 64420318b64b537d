"""Declarative files: rows as Kong would make them, or every fault with its path."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import DeclarativeError
from fastgw.model.declarative import derived_id, load_declarative, parse_declarative
from fastgw.model.declarative_paths import migrate_path
from fastgw.model.entities import ENTITIES, Row
from fastgw.model.snapshot import Snapshot

WHOLE = b"""
_format_version: "3.0"
_transform: false
_comment: a small shop
services:
- name: my-service
  _comment: the catalogue
  url: http://catalogue.example:8080/api
  routes:
  - name: my-route
    paths: [/catalogue]
  - methods: [GET]
    paths: [/c]
- id: 3e1c7a34-6d41-4d0c-b3d0-0b6a2b6f3f10
  host: stock.example
  routes: []
routes:
- name: by-name
  service: my-service
  hosts: [a.example]
- name: by-id
  service: 3e1c7a34-6d41-4d0c-b3d0-0b6a2b6f3f10
  hosts: [b.example]
- name: by-mapping
  service: {id: 0855b320-0dd2-547d-891d-601e9b38647f}
  hosts: [c.example]
- name: by-mapped-name
  service: {name: my-service}
  hosts: [d.example]
- name: alone
  hosts: [e.example]
"""


def parse(text: str | bytes) -> dict[str, list[dict[str, Any]]]:
    return parse_declarative(text.encode() if isinstance(text, str) else text, source="kong.yml")


def faults_of(text: str | bytes) -> list[tuple[str, str]]:
    with pytest.raises(DeclarativeError) as caught:
        parse(text)
    return [(re.sub(r" \(line [0-9]+\)$", "", where), text) for where, text in caught.value.faults]


def with_version(rest: str) -> str:
    return f'_format_version: "3.0"\n{rest}'


def test_services_routes_and_all_forms_of_reference() -> None:
    rows = parse(WHOLE)
    services = {row["host"]: row for row in rows["services"]}
    assert set(services) == {"catalogue.example", "stock.example"}
    catalogue = services["catalogue.example"]
    assert (catalogue["port"], catalogue["path"], catalogue["retries"]) == (8080, "/api", 5)
    parents = {row["name"]: row["service"] and row["service"]["id"] for row in rows["routes"]}
    assert parents == {
        "my-route": catalogue["id"],
        None: catalogue["id"],
        "by-name": catalogue["id"],
        "by-id": services["stock.example"]["id"],
        "by-mapping": catalogue["id"],
        "by-mapped-name": catalogue["id"],
        "alone": None,
    }


def test_ids_are_those_that_kong_derives() -> None:
    assert derived_id("services", "my-service") == "0855b320-0dd2-547d-891d-601e9b38647f"
    assert derived_id("routes", "my-route") == "481a9539-f49c-51b6-b2e2-fe99ee68866c"
    assert derived_id("consumers", "my-user") == "4b1b701d-de2b-5588-9aa2-3b97061d9f52"
    rows = parse(WHOLE)
    assert rows["services"][0]["id"] == derived_id("services", "my-service")
    assert rows["services"][1]["id"] == "3e1c7a34-6d41-4d0c-b3d0-0b6a2b6f3f10"
    assert rows["routes"][0]["id"] == derived_id("routes", "my-route")


def test_the_same_text_has_the_same_digest_and_yaml_the_same_as_json(tmp_path: Path) -> None:
    (tmp_path / "kong.yml").write_bytes(WHOLE)
    first = Snapshot.from_rows(1, load_declarative(tmp_path / "kong.yml"))
    second = Snapshot.from_rows(2, load_declarative(tmp_path / "kong.yml"))
    assert first.digest == second.digest
    document = {
        "_format_version": "3.0",
        "services": [{"name": "a", "host": "h.example", "routes": [{"paths": ["/x"]}]}],
    }
    (tmp_path / "kong.json").write_text(json.dumps(document, indent="\t"))
    (tmp_path / "same.yaml").write_text(
        with_version("services: [{name: a, host: h.example, routes: [{paths: [/x]}]}]")
    )
    assert load_declarative(tmp_path / "kong.json") == load_declarative(tmp_path / "same.yaml")


def test_an_empty_configuration_is_one() -> None:
    nothing: dict[str, list[Row]] = {kind: [] for kind in ENTITIES}
    assert parse(with_version("")) == nothing
    assert parse(with_version("services:\nroutes: []\nplugins: []\nfilter_chains: []\n")) == nothing


def test_created_at_is_kept_and_constant_where_it_is_not_given() -> None:
    rows = parse(with_version("services: [{host: a.example, created_at: 1700000000}, {host: b.example}]"))
    assert [row["created_at"] for row in rows["services"]] == [1700000000, 1]


def test_all_faults_are_told_at_once_each_with_its_path() -> None:
    text = """
_transform: 1
services:
- host: 3
  ports: 1
- name: x
  host: a.example
  routes:
  - paths: [good, /fine]
    service: x
  - 7
- name: x
  host: b.example
- host: c.example
  filter_chains: [{name: x}]
routes:
- name: lost
  paths: [/lost]
  service: nowhere
- name: odd
  paths: [/odd]
  service: {id: 1}
filter_chains: [{name: y}]
_workspace: default
"""
    assert sorted(faults_of(text)) == sorted(
        [
            ("_format_version", "required field missing"),
            ("_transform", "expected a boolean"),
            ("services[0].host", "expected a string"),
            ("services[0].ports", "unknown field"),
            (
                "services[1].routes[0].paths[0]",
                "should start with: / (fixed path) or ~/ (regex path)",
            ),
            ("services[1].routes[0].service", "value must be null: it is nested in what it refers to"),
            ("services[1].routes[1]", "expected a record"),
            (
                "services[2]",
                "uniqueness violation: 'services' entity with name set to 'x' already declared",
            ),
            ("services[3].filter_chains", "not served in this version of fastgw"),
            ("routes[0].service", "invalid reference 'service: nowhere' (no such entry in 'services')"),
            ("routes[1].service", "invalid reference 'service: {\"id\": 1}' (no such entry in 'services')"),
            ("filter_chains", "not served in this version of fastgw"),
            ("_workspace", "unknown field"),
        ]
    )


def test_as_one_line_the_first_hundred_faults_are_told() -> None:
    text = '_format_version: "3.0"\nservices:\n' + "- {host: 1}\n" * 150
    with pytest.raises(DeclarativeError) as caught:
        parse_declarative(text.encode(), source="kong.yml")
    assert len(caught.value.faults) == 150
    assert str(caught.value).endswith("services[99].host (line 102): expected a string; and 50 more")


def test_ids_that_stand_twice_are_refused() -> None:
    node = "3e1c7a34-6d41-4d0c-b3d0-0b6a2b6f3f10"
    text = with_version(f"services: [{{id: {node}, host: a.example}}, {{id: {node}, host: b.example}}]")
    assert faults_of(text) == [
        (
            "services[1]",
            f"uniqueness violation: 'services' entity with primary key set to '{node}' already declared",
        )
    ]
    assert faults_of(with_version("services: [{id: 7, host: a.example}]"))[0][0] == "services[0].id"


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ('"4.0"', "expected one of: 1.1, 2.1, 3.0"),
        ("3.0", 'expected a string: write "3.0", in quotes'),
        ("null", "required field missing"),
    ],
)
def test_other_format_versions_are_refused_clearly(version: str, reason: str) -> None:
    ((path, message),) = faults_of(f"_format_version: {version}\n")
    assert path == "_format_version"
    assert message.startswith(reason)


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ("a: [1\nb: 2", "line 2, column 2", "not YAML: did not find expected"),
        ('services: []\n"services": []', "line 2, column 1", "not YAML: the key 'services' stands twice"),
        (b"a: \xff", "the file", "not YAML: unacceptable character"),
        ("- 1", "the file", "expected a mapping"),
        ("", "the file", "expected a mapping"),
        ("a: !!python/object/apply:os.system [ls]", "line 1, column 4", "not YAML: could not determine"),
        ("a: !!timestamp 2024-13-45", "the file", "not YAML: month must be in 1..12"),
    ],
)
def test_what_is_no_yaml_says_where(text: str | bytes, where: str, reason: str) -> None:
    ((path, message),) = faults_of(text)
    assert path == where
    assert message.startswith(reason)


@pytest.mark.parametrize(
    ("text", "where", "reason"),
    [
        ('{"a": tru}', "line 1, column 7", "not JSON: "),
        ('{"a": 1, "a": 2}', "the file", "not JSON: the key 'a' stands twice"),
        (b'{"a": "\xff"}', "the file", "not JSON: 'utf-8' codec can't decode"),
        ('{"a":' * 100_000, "the file", "nested too deeply"),
    ],
)
def test_what_is_no_json_says_where(tmp_path: Path, text: str | bytes, where: str, reason: str) -> None:
    (tmp_path / "kong.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DeclarativeError) as caught:
        load_declarative(tmp_path / "kong.json")
    ((path, message),) = caught.value.faults
    assert path == where
    assert message.startswith(reason)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DeclarativeError, match=r"none\.yml: the file: no such file or directory"):
        load_declarative(tmp_path / "none.yml")


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["x", "/p", "a.b"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "id", "host", "service", "routes", "paths", "url", "tags", "services"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.fixed_dictionaries({"services": _values, "routes": _values}))
def test_arbitrary_documents_are_rows_or_faults(document: dict[str, Any]) -> None:
    content = json.dumps({"_format_version": "3.0", **document}).encode()
    faults = rows = None
    try:
        rows = parse_declarative(content, source="kong.json", is_json=True)
    except DeclarativeError as error:
        faults = error.faults
    if rows is not None:
        Snapshot.from_rows(1, rows)  # every id is there, and once
    else:
        assert faults
        assert all(path and message for path, message in faults)


def test_faults_say_their_lines() -> None:
    text = with_version(
        "services:\n- name: a\n  host: h\n- name: b\n  host: 'x y'\n  routes:\n  - paths: [b]\n"
    )
    with pytest.raises(DeclarativeError) as caught:
        parse(text)
    assert [where for where, _ in caught.value.faults] == [
        "services[1].host (line 6)",
        "services[1].routes[0].paths[0] (line 8)",
    ]
    assert caught.value.fields == {
        "services": [
            None,
            {
                "host": "invalid value: x y",
                "routes": [{"paths": ["should start with: / (fixed path) or ~/ (regex path)"]}],
            },
        ]
    }


def test_ids_of_composite_keys() -> None:
    rows = parse(
        with_version(
            "consumers: [{username: my-user, acls: [{group: g}]}]\n"
            "upstreams: [{name: u, targets: [{target: 'a:80'}]}]\n"
            "plugins: [{name: key-auth}]\n"
            "vaults: [{prefix: my-vault, name: env}]\n"
        )
    )
    user, upstream = rows["consumers"][0]["id"], rows["upstreams"][0]["id"]
    assert rows["acls"][0]["id"] == derived_id("acls", f"acls:*:{user}:g")
    assert rows["targets"][0]["id"] == derived_id("targets", f"targets:*:{upstream}:a:80")
    assert rows["plugins"][0]["id"] == derived_id("plugins", "plugins:*:key-auth:::")
    assert rows["vaults"][0]["id"] == derived_id("vaults", "vaults:*:my-vault")


def test_nested_and_flat_forms_give_the_same_rows() -> None:
    nested = parse(
        with_version(
            "services: [{name: s, host: h, routes: [{name: r, paths: [/], plugins: [{name: cors, id: "
            "3e1c7a34-6d41-4d0c-b3d0-0b6a2b6f3f10}]}]}]"
        )
    )
    flat = parse(
        with_version(
            "services: [{name: s, host: h}]\nroutes: [{name: r, paths: [/], service: s}]\n"
            "plugins: [{name: cors, route: r, id: 3e1c7a34-6d41-4d0c-b3d0-0b6a2b6f3f10}]"
        )
    )
    assert nested == flat


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/plain/path", "/plain/path"),
        ("/a/../b//c", "/b/c"),
        ("/%41%2d", "/A-"),
        ("/user/[0-9]+", "~/user/[0-9]+"),
        ("/a%2eb/(x)", r"~/a\.b/(x)"),
        ("/a%2fb/(x)", "~/a%2Fb/(x)"),
    ],
)
def test_paths_of_older_formats_become_those_of_3_0(old: str, new: str) -> None:
    assert migrate_path(old) == new


@pytest.mark.parametrize("version", ["1.1", "2.1"])
def test_older_formats_are_read(version: str) -> None:
    rows = parse(f'_format_version: "{version}"\nroutes: [{{paths: [/a/../b]}}]\n')
    assert rows["routes"][0]["paths"] == ["/b"]


def test_secrets_are_hashed_unless_they_are_already() -> None:
    text = "consumers: [{username: bob, basicauth_credentials: [{username: bob, password: secret}]}]\n"
    (hashed,) = parse(with_version(text))["basicauth_credentials"]
    salted = f"secret{hashed['consumer']['id']}".encode()
    assert hashed["password"] == hashlib.sha1(salted, usedforsecurity=False).hexdigest()
    (kept,) = parse(with_version("_transform: false\n" + text))["basicauth_credentials"]
    assert kept["password"] == "secret"


def test_notes_and_info_are_ignored() -> None:
    text = "_comment: x\n_ignore: [1]\n_info: {select_tags: [a]}\nservices: [{name: s, host: h, _comment: y}]"
    assert len(parse(with_version(text))["services"]) == 1
    assert faults_of(with_version("_info: {defaults: {service: {retries: 3}}}"))[0][0] == "_info.defaults"


def test_flattened_faults_name_their_entities() -> None:
    text = "services: [{name: s, host: h, tags: [t], routes: [{name: r1, protocols: [nope]}]}]"
    with pytest.raises(DeclarativeError) as caught:
        parse(with_version(text))
    assert caught.value.flattened == [
        {
            "entity_type": "route",
            "entity_name": "r1",
            "entity": {"name": "r1", "protocols": ["nope"]},
            "errors": [{"type": "field", "field": "protocols", "message": "unknown type: nope"}],
        }
    ]
