"""Rows from what a Kong control plane pushed: recorded tables, old names, what is newer, and faults."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.errors import DeclarativeError
from fastgw.model.snapshot import Snapshot
from fastgw.wire.kong_v1.downgrade import downgrade
from fastgw.wire.kong_v1.export import export_table
from fastgw.wire.kong_v1.importing import Imported, import_table
from fastgw.wire.kong_v1.versions import KongVersion
from tests.wire.kong_v1.recorded import GIVEN, PUSHES
from tests.wire.kong_v1.rows import CLUSTER_ID, NOW_S, plugin, ref, row_of, snapshot_of, some_rows

HEAD = {"_format_version": "3.0", "_transform": False}


def read(table: dict[str, Any]) -> Imported:
    return import_table(copy.deepcopy(table), "the push")


@pytest.mark.parametrize("push", PUSHES)
def test_recorded_pushes(push: dict[str, Any]) -> None:
    rows, warnings = read(push["config_table"])
    assert warnings == []
    assert {kind: len(of_kind) for kind, of_kind in rows.items()} == {
        "services": 2,
        "routes": 3,
        "upstreams": 1,
        "targets": 1,
        "consumers": 1,
        "keyauth_credentials": 1,
        "plugins": 2,
    }
    alpha = next(row for row in rows["services"] if row["name"] == "alpha")
    route = next(row for row in rows["routes"] if row["name"] == "ra")
    assert route["service"] == {"id": alpha["id"]}
    assert rows["targets"][0]["created_at"] == 1795397369.253
    assert rows["keyauth_credentials"][0]["ttl"] is None
    limits = next(row["config"] for row in rows["plugins"] if row["name"] == "rate-limiting")
    assert limits["redis"]["port"] == 6379
    assert not any(name.startswith("redis_") for name in limits)


def test_what_a_recorded_data_plane_was_given() -> None:
    """Good, same, changed, a path that is none, an unknown field, empty, and without a hash."""
    good, same, changed, invalid, unknown, empty, unnamed = (push["config_table"] for push in GIVEN)
    assert read(good) == read(same) == read(unnamed)
    assert read(changed).rows["routes"][0]["paths"] == ["/two"]
    with pytest.raises(DeclarativeError, match="should start with: /"):
        read(invalid)
    with pytest.raises(DeclarativeError, match="unknown field"):
        read(unknown)
    assert read(empty).is_empty
    assert not read(good).is_empty


@pytest.mark.parametrize("minor", range(2, 10))
def test_what_we_push_we_can_read(minor: int) -> None:
    """Of any 3.x: what an older control plane would have sent comes back as the same rows, defaults filled in."""
    rows = some_rows()
    snapshot = snapshot_of(**rows)
    table, _ = downgrade(export_table(snapshot, CLUSTER_ID), KongVersion(3, minor), now_s=NOW_S)
    found = read(table)
    assert found.warnings == []
    for of_kind in (*rows.values(), *found.rows.values()):
        for row in of_kind:
            row.pop("updated_at", None)
    assert Snapshot.from_rows(1, found.rows).digest == Snapshot.from_rows(1, rows).digest


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_round_trip_of_generated_routes(data: st.DataObject) -> None:
    paths = data.draw(
        st.lists(st.from_regex(r"/[a-z]{1,6}(/[a-z]{1,6})?", fullmatch=True), min_size=1, max_size=9)
    )
    services = [row_of("services", 1, host="a.example")]
    routes = [
        row_of(
            "routes",
            11 + place,
            paths=[path],
            service=data.draw(st.sampled_from([None, ref(1)])),
            strip_path=data.draw(st.booleans()),
            tags=data.draw(st.none() | st.just(["a", "b"])),
        )
        for place, path in enumerate(paths)
    ]
    snapshot = snapshot_of(services=services, routes=routes)
    found = read(export_table(snapshot, CLUSTER_ID))
    assert Snapshot.from_rows(1, found.rows).digest == snapshot.digest


def test_an_older_control_plane_names_fields_otherwise() -> None:
    config = {"minute": 5, "policy": "redis", "redis": {"host": "r.example", "password": "p"}}
    queue = {"max_batch_size": 7, "max_coalescing_delay": 3}
    rows = [
        plugin(61, "rate-limiting", config=config),
        plugin(62, "opentelemetry", config={"traces_endpoint": "http://l.example"}),
        plugin(63, "session", config={"idling_timeout": 600}),
        plugin(64, "http-log", config={"http_endpoint": "http://l.example", "queue": queue}),
    ]
    table = export_table(snapshot_of(plugins=rows), CLUSTER_ID)
    older, _ = downgrade(table, KongVersion(3, 1), now_s=NOW_S)
    limits, otel, session, http_log = (row["config"] for row in read(older).rows["plugins"])
    assert (limits["redis"]["host"], limits["redis"]["password"]) == ("r.example", "p")
    assert otel["traces_endpoint"] == "http://l.example"
    assert (http_log["queue"]["max_batch_size"], http_log["queue"]["max_coalescing_delay"]) == (7, 3)
    assert session["idling_timeout"] == 600


def test_a_control_plane_of_2_8() -> None:
    id_ = "7c9aac19-c1ba-4950-8dba-7c46dc5705bb"
    config: dict[str, Any] = {"http_endpoint": "http://l.example", "headers": {"x-a": ["1", "2"], "x-b": []}}
    config |= {"queue_size": 1, "flush_timeout": 2, "retry_count": 10, "timeout": 10000, "keepalive": 60000}
    rows = [{"id": id_, "name": "http-log", "config": config}]
    table = {"_format_version": "2.1", "_transform": False, "plugins": rows, "vaults_beta": [{"id": id_}]}
    found = read(table)
    assert found.warnings == ["1 rows of vaults_beta are left out: fastgw does not know them"]
    made = found.rows["plugins"][0]["config"]
    assert made["headers"] == {"x-a": "1, 2"}
    assert (made["queue"]["max_batch_size"], made["queue"]["max_coalescing_delay"]) == (1, 2)


def test_the_new_name_counts_where_both_are_sent() -> None:
    config = {"minute": 5, "redis": {"host": "new.example"}, "redis_host": "old.example"}
    rows = [{"id": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb", "name": "rate-limiting", "config": config}]
    found = read({**HEAD, "plugins": rows}).rows["plugins"][0]["config"]
    assert found["redis"]["host"] == "new.example"


def test_paths_of_an_older_format_are_migrated() -> None:
    rows = [{"id": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb", "paths": ["/a", r"/b/(\d+)"]}]
    found = read({"_format_version": "2.1", "_transform": False, "routes": rows})
    assert found.rows["routes"][0]["paths"] == ["/a", r"~/b/(\d+)"]


def test_what_was_transformed_is_not_transformed_again() -> None:
    consumer = {"id": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb", "username": "bob"}
    password = {"username": "bob", "password": "0" * 40, "consumer": consumer["id"]}
    table = {"_format_version": "3.0", "consumers": [consumer], "basicauth_credentials": [password]}
    assert read({**table, "_transform": False}).rows["basicauth_credentials"][0]["password"] == "0" * 40
    assert read(table).rows["basicauth_credentials"][0]["password"] != "0" * 40


def test_nulls_empty_tables_and_fields_of_the_storage_ask_for_nothing() -> None:
    services = [{"id": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb", "host": "a.example", "tls_sans": None}]
    routes: list[dict[str, Any]] = [
        {
            "id": "8c9aac19-c1ba-4950-8dba-7c46dc5705bb",
            "paths": ["/a"],
            "hosts": {},
            "ws_id": "1e010915-aded-4883-b5c2-c420f55746a5",
            "service": services[0]["id"],
        }
    ]
    found = read({**HEAD, "services": services, "routes": routes, "targets": {}})
    assert found.warnings == []
    assert found.rows["routes"][0]["hosts"] in (None, [])


def test_what_is_newer_is_left_out_where_nothing_hangs_on_it() -> None:
    id_ = "7c9aac19-c1ba-4950-8dba-7c46dc5705bb"
    table = {
        **HEAD,
        "consumers": [{"id": id_, "username": "bob", "nick": "b"}, {"username": "eve", "nick": "e"}],
        "oauth2_tokens": [{"id": id_}, {"id": id_}],
        "unheard_of": [],
    }
    found = read(table)
    assert found.warnings == [
        "the field nick of consumers is left out: fastgw does not know it",
        "2 rows of oauth2_tokens are left out: fastgw does not know them",
    ]
    assert len(found.rows["consumers"]) == 2


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("routes", {"paths": ["/a"], "countries": ["de"]}),
        ("services", {"host": "a.example", "tls_sans": ["b"]}),
        ("plugins", {"name": "key-auth", "condition": "x"}),
        ("plugins", {"name": "key-auth", "config": {"identity_realms": ["x"]}}),
        ("plugins", {"name": "unheard-of", "config": {}}),
        ("filter_chains", {"filters": [{"name": "auth"}]}),
    ],
)
def test_what_could_allow_more_than_was_meant_refuses_all(kind: str, row: dict[str, Any]) -> None:
    with pytest.raises(DeclarativeError):
        read({**HEAD, kind: [{"id": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb", **row}]})


def test_a_reference_that_points_nowhere_refuses_all() -> None:
    with pytest.raises(DeclarativeError, match="invalid reference"):
        read({**HEAD, "routes": [{"paths": ["/a"], "service": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb"}]})


@pytest.mark.parametrize(
    "table", [{**HEAD, "routes": "x"}, {**HEAD, "routes": [1]}, {"_format_version": "9"}]
)
def test_a_table_that_is_none(table: dict[str, Any]) -> None:
    with pytest.raises(DeclarativeError):
        read(table)


def test_the_life_of_a_credential() -> None:
    consumer = {"id": "7c9aac19-c1ba-4950-8dba-7c46dc5705bb", "username": "bob"}
    keys = [
        {"id": f"{place}c9aac19-c1ba-4950-8dba-7c46dc5705bb", "key": str(ttl), "ttl": ttl, "consumer": "bob"}
        for place, ttl in enumerate([None, 100, 1_999_999_999])
    ]
    found = read({**HEAD, "consumers": [consumer], "keyauth_credentials": keys}).rows["keyauth_credentials"]
    endless, remaining, absolute = (row["ttl"] for row in found)
    assert endless is None
    assert abs(remaining - time.time() - 100) < 60
    assert absolute == 1_999_999_999
