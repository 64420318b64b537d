"""The table that is pushed: as a running Kong made it, and as older releases take it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fastgw.wire.kong_v1.downgrade import downgrade, misfit, path_of_2_8
from fastgw.wire.kong_v1.export import configured_plugins, count_expressions, export_table
from fastgw.wire.kong_v1.hashes import hash_c
from fastgw.wire.kong_v1.versions import KongVersion
from tests.wire.kong_v1.recorded import PUSHES
from tests.wire.kong_v1.rows import CLUSTER_ID, NOW_S, plugin, ref, row_of, snapshot_of, some_rows, uuid_of

V28, V30, V31, V32, V33, V34, V35, V36, V37, V38, V39 = (
    KongVersion(major, minor)
    for major, minor in (
        (2, 8),
        (3, 0),
        (3, 1),
        (3, 2),
        (3, 3),
        (3, 4),
        (3, 5),
        (3, 6),
        (3, 7),
        (3, 8),
        (3, 9),
    )
)
TAKEN = (V28, V30, V32, V33, V34, V35, V36, V37, V38, V39)


def exported(**rows: list[dict[str, Any]]) -> dict[str, Any]:
    return export_table(snapshot_of(**rows), CLUSTER_ID)


def taken_by(version: KongVersion, **rows: list[dict[str, Any]]) -> dict[str, Any]:
    return downgrade(exported(**rows), version, now_s=NOW_S)[0]


def test_the_shape_is_that_of_a_recorded_table() -> None:
    """The same kinds, the same fields in each row; ids, times and the order of fields are anybody's."""
    ours, theirs = exported(**some_rows()), PUSHES[0]["config_table"]
    assert set(ours) == set(theirs)
    assert (ours["_format_version"], ours["_transform"]) == ("3.0", False)
    for kind, rows in theirs.items():
        if kind.startswith("_"):
            continue
        assert len(ours[kind]) == len(rows)
        for our_row, their_row in zip(ours[kind], rows, strict=True):
            assert set(our_row) == set(their_row), kind


def test_values_are_those_of_a_recorded_table() -> None:
    ours, theirs = exported(**some_rows()), PUSHES[0]["config_table"]
    own = {"id", "created_at", "updated_at", "service", "upstream", "consumer", "route", "config"}
    for kind in ("services", "routes", "upstreams", "targets", "consumers", "keyauth_credentials"):

        def plain(rows: list[dict[str, Any]]) -> list[Any]:
            kept = [{name: value for name, value in row.items() if name not in own} for row in rows]
            return sorted(kept, key=str)

        keys = sorted(theirs[kind][0])
        assert plain([{key: row[key] for key in keys} for row in ours[kind]]) == plain(
            [{key: row[key] for key in keys} for row in theirs[kind]]
        ), kind
    limits = {row["name"]: row["config"] for row in ours["plugins"]}["rate-limiting"]
    recorded = {row["name"]: row["config"] for row in theirs["plugins"]}["rate-limiting"]
    # Kong adds the old names of the fields of redis.
    assert limits == {name: value for name, value in recorded.items() if not name.startswith("redis_")}


def test_foreign_keys_are_ids_and_unset_fields_are_null() -> None:
    table = exported(**some_rows())
    assert [route["service"] for route in table["routes"]] == [uuid_of(1), uuid_of(2), None]
    assert table["targets"][0]["upstream"] == uuid_of(21)
    assert table["services"][0]["path"] is None


def test_a_kind_without_rows_has_no_key() -> None:
    assert set(exported()) == {"_format_version", "_transform", "parameters", "workspaces"}


def test_disabled_rows_go_with_everything_that_depends_on_them() -> None:
    """Kong 2.8 left a plugin of such a route behind, and its data planes refused everything (Kong/kong#8816)."""
    table = exported(
        services=[
            row_of("services", 1, host="a.example", enabled=False),
            row_of("services", 2, host="b.example"),
        ],
        routes=[
            row_of("routes", 11, paths=["/a"], service=ref(1)),
            row_of("routes", 12, paths=["/b"], service=ref(2)),
        ],
        plugins=[
            plugin(61, "key-auth", route=ref(11)),
            plugin(62, "key-auth", service=ref(1)),
            plugin(63, "cors", enabled=False),
            plugin(64, "acl", route=ref(12), config={"allow": ["x"]}),
        ],
    )
    assert [row["id"] for row in table["services"]] == [uuid_of(2)]
    assert [row["id"] for row in table["routes"]] == [uuid_of(12)]
    assert configured_plugins(table) == {"acl"}


def test_equal_configurations_have_equal_hashes() -> None:
    rows = some_rows()
    backwards = {kind: list(reversed(of_kind)) for kind, of_kind in reversed(rows.items())}
    assert hash_c(exported(**rows)) == hash_c(exported(**backwards))


def test_a_downgrade_changes_no_table_but_its_own() -> None:
    table = exported(**some_rows())
    before = copy.deepcopy(table)
    for version in TAKEN:
        downgrade(table, version, now_s=NOW_S)
    assert table == before


def test_a_data_plane_of_our_own_release_gets_all_that_kong_has() -> None:
    table = exported(**some_rows())
    assert downgrade(table, V39, now_s=NOW_S) == (table, [])


@pytest.mark.parametrize("version", TAKEN)
def test_times_of_change_came_with_3_3(version: KongVersion) -> None:
    table = taken_by(version, **some_rows())
    for kind in ("consumers", "targets", "upstreams", "plugins", "workspaces"):
        assert ("updated_at" in table[kind][0]) is (version >= V33), kind
    assert "updated_at" in table["services"][0]


@pytest.mark.parametrize("version", TAKEN)
def test_redis_has_one_record_since_3_6(version: KongVersion) -> None:
    config = {"minute": 5, "policy": "redis", "redis": {"host": "r.example", "port": 7000, "password": "p"}}
    table = taken_by(version, plugins=[plugin(61, "rate-limiting", config=config)])
    made = table["plugins"][0]["config"]
    if version >= V36:
        assert made["redis"]["host"] == "r.example"
        assert "redis_host" not in made
    else:
        assert (made["redis_host"], made["redis_port"], made["redis_password"]) == ("r.example", 7000, "p")
        assert made["redis_ssl"] is False
        assert "redis" not in made
    assert ("sync_rate" in made) is (version >= V34)
    assert ("error_code" in made) is (version >= V31)


@pytest.mark.parametrize(
    ("name", "config", "path", "since"),
    [
        ("key-auth", {}, "realm", V37),
        ("basic-auth", {}, "realm", V36),
        ("acl", {"allow": ["x"]}, "always_use_authenticated_groups", V38),
        ("cors", {}, "private_network", V35),
        ("proxy-cache", {"strategy": "memory"}, "response_headers", V35),
        ("proxy-cache", {"strategy": "memory"}, "ignore_uri_case", V33),
        ("prometheus", {}, "ai_metrics", V38),
        ("prometheus", {}, "latency_metrics", V30),
        ("statsd", {}, "tag_style", V32),
        ("statsd", {}, "use_tcp", V30),
        ("http-log", {"http_endpoint": "http://l.example"}, "queue", V33),
        ("zipkin", {}, "propagation", V37),
        ("zipkin", {}, "connect_timeout", V30),
        ("opentelemetry", {"traces_endpoint": "http://l.example"}, "sampling_rate", V36),
        ("opentelemetry", {"traces_endpoint": "http://l.example"}, "traces_endpoint", V38),
        ("session", {}, "hash_subject", KongVersion(3, 10)),
    ],
)
@pytest.mark.parametrize("version", TAKEN)
def test_fields_of_plugins_by_release(
    version: KongVersion, name: str, config: dict[str, Any], path: str, since: KongVersion
) -> None:
    table = taken_by(version, plugins=[plugin(61, name, config=config)])
    assert (path in table["plugins"][0]["config"]) is (version >= since)


def test_what_is_lost_is_told_once_in_kongs_words() -> None:
    rows = [plugin(61 + number, "acl", config={"allow": ["x"]}, route=ref(number)) for number in (11, 12)]
    routes = [row_of("routes", number, paths=[f"/{number}"]) for number in (11, 12)]
    _, notes = downgrade(exported(routes=routes, plugins=rows), V37, now_s=NOW_S)
    told = "acl plugin contains configuration 'always_use_authenticated_groups'"
    assert notes == [f"{told} which is incompatible with dataplane and will be ignored"]


def test_names_of_the_session_plugin_before_3_2() -> None:
    config = {"idling_timeout": 600, "cookie_same_site": "Default", "remember": True}
    made = taken_by(V30, plugins=[plugin(61, "session", config=config)])["plugins"][0]["config"]
    assert made["cookie_idletime"] == 600
    assert made["cookie_samesite"] == "Lax"
    assert not {"idling_timeout", "remember", "cookie_persistent", "audience"} & set(made)
    kept = taken_by(V32, plugins=[plugin(61, "session", config=config)])["plugins"][0]["config"]
    assert kept["idling_timeout"] == 600


def test_queues_before_3_3() -> None:
    queue = {"max_batch_size": 7, "max_coalescing_delay": 3}
    rows = [
        plugin(61, "http-log", config={"http_endpoint": "http://l.example", "queue": queue}),
        plugin(62, "statsd", config={"queue": queue}),
        plugin(63, "opentelemetry", config={"traces_endpoint": "http://l.example", "queue": queue}),
    ]
    http_log, statsd, otel = (row["config"] for row in taken_by(V32, plugins=rows)["plugins"])
    for made in (http_log, statsd):
        assert (made["queue_size"], made["flush_timeout"], made["retry_count"]) == (7, 3, 10)
    assert (otel["batch_span_count"], otel["batch_flush_delay"]) == (7, 3)
    assert otel["endpoint"] == "http://l.example"
    assert "queue_size" not in taken_by(V28, plugins=rows)["plugins"][1]["config"]


def test_header_types_that_an_older_release_does_not_know() -> None:
    rows = [plugin(61, "zipkin", config={"header_type": "gcp", "default_header_type": "aws"})]
    for version, kinds in ((V35, ("gcp", "aws")), (V34, ("preserve", "aws")), (V33, ("preserve", "b3"))):
        made = taken_by(version, plugins=rows)["plugins"][0]["config"]
        assert (made["header_type"], made["default_header_type"]) == kinds
    rows = [plugin(61, "zipkin", config={"header_type": "datadog"})]
    for version, kind in ((V37, "datadog"), (V36, "preserve")):
        assert taken_by(version, plugins=rows)["plugins"][0]["config"]["header_type"] == kind


def test_what_plugins_of_2_8_take() -> None:
    metrics = [
        {"name": "request_count", "stat_type": "counter", "sample_rate": 1},
        {"name": "shdict_usage", "stat_type": "gauge", "sample_rate": 1},
    ]
    rows = [
        plugin(61, "http-log", config={"http_endpoint": "http://l.example", "headers": {"x-a": "1"}}),
        plugin(62, "statsd", config={"metrics": metrics}),
    ]
    table, notes = downgrade(exported(plugins=rows), V28, now_s=NOW_S)
    http_log, statsd = (row["config"] for row in table["plugins"])
    assert http_log["headers"] == {"x-a": ["1"]}
    assert [metric["name"] for metric in statsd["metrics"]] == ["request_count"]
    assert [note for note in notes if "configures statsd with shdict_usage" in note]
    assert taken_by(V30, plugins=rows)["plugins"][0]["config"]["headers"] == {"x-a": "1"}


def test_headers_of_probes_came_with_3_0() -> None:
    checks = {"active": {"headers": {"x-probe": ["1"]}}}
    rows = [row_of("upstreams", 21, name="u", healthchecks=checks)]
    older, notes = downgrade(exported(upstreams=rows), V28, now_s=NOW_S)
    assert "headers" not in older["upstreams"][0]["healthchecks"]["active"]
    assert [note for note in notes if "'upstreams.healthchecks.active.headers'" in note]
    newer = taken_by(V30, upstreams=rows)
    assert newer["upstreams"][0]["healthchecks"]["active"]["headers"] == {"x-probe": ["1"]}


def test_instance_names_and_srv_names() -> None:
    rows: dict[str, Any] = {
        "plugins": [plugin(61, "key-auth", instance_name="mine")],
        "upstreams": [row_of("upstreams", 21, name="u", use_srv_name=True, algorithm="latency")],
    }
    older, notes = downgrade(exported(**rows), V30, now_s=NOW_S)
    assert "instance_name" not in older["plugins"][0]
    assert "use_srv_name" not in older["upstreams"][0]
    assert older["upstreams"][0]["algorithm"] == "round-robin"
    assert [note for note in notes if "'plugins.instance_name'" in note]
    assert "fall back to 'round-robin'" in "".join(notes)
    newer = taken_by(V32, **rows)
    assert newer["plugins"][0]["instance_name"] == "mine"
    assert newer["upstreams"][0]["algorithm"] == "latency"


def test_kinds_that_came_later() -> None:
    rows = {
        "vaults": [row_of("vaults", 71, name="env", prefix="my-env", config={"prefix": "my-secrets"})],
        "key_sets": [row_of("key_sets", 81, name="set")],
    }
    assert not {"vaults", "key_sets"} & set(taken_by(V28, **rows))
    older = taken_by(V30, **rows)
    assert "key_sets" not in older
    assert older["vaults"][0]["config"]["prefix"] == "my_secrets"
    assert taken_by(V33, **rows)["vaults"][0]["config"]["prefix"] == "my-secrets"


def test_life_of_credentials_is_absolute_since_3_5() -> None:
    rows = {
        "consumers": [row_of("consumers", 41, username="bob")],
        "keyauth_credentials": [
            row_of("keyauth_credentials", 51, key="a", consumer=ref(41), ttl=100),
            row_of("keyauth_credentials", 52, key="b", consumer=ref(41)),
        ],
    }
    assert [row["ttl"] for row in taken_by(V35, **rows)["keyauth_credentials"]] == [NOW_S + 100, None]
    assert [row["ttl"] for row in taken_by(V34, **rows)["keyauth_credentials"]] == [100, None]
    late, _ = downgrade(exported(**rows), V34, now_s=NOW_S + 100)
    assert [row["key"] for row in late["keyauth_credentials"]] == ["b"]


def test_algorithms_of_jwt_came_with_3_7() -> None:
    rows = {
        "consumers": [row_of("consumers", 41, username="bob")],
        "jwt_secrets": [
            row_of("jwt_secrets", 51, key="a", consumer=ref(41), algorithm="ES512", rsa_public_key="x"),
            row_of("jwt_secrets", 52, key="b", consumer=ref(41)),
        ],
    }
    assert [row["key"] for row in taken_by(V36, **rows)["jwt_secrets"]] == ["b"]
    assert [row["key"] for row in taken_by(V37, **rows)["jwt_secrets"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "older"),
    [
        ("/a", "/a"),
        ("/a.b-c_d~e/%20", "/a.b-c_d~e/%20"),
        ("/a(b", r"/a\(b"),
        ("/v1.0+x", r"/v1\.0\+x"),
        (r"~/b/(\d+)", r"/b/(\d+)"),
        ("~/a.b$", "/a.b$"),
        ("~/a.b", "/a.b(?:)"),
    ],
)
def test_paths_of_2_8(path: str, older: str) -> None:
    assert path_of_2_8(path) == older


def test_the_format_of_2_8() -> None:
    table = taken_by(V28, **some_rows())
    assert table["_format_version"] == "2.1"
    assert table["_transform"] is False
    assert [route["paths"] for route in table["routes"]] == [["/a"], [r"/b/(\d+)"], ["/c"]]


def test_expressions_are_counted() -> None:
    with_expression = row_of("routes", 11, expression='http.path == "/a"', priority=1)
    mixed = exported(routes=[with_expression, row_of("routes", 12, paths=["/b"])])
    assert count_expressions(mixed) == 1
    assert count_expressions(exported()) == 0


def test_expressions_are_pushed_to_their_flavor_only() -> None:
    assert misfit(1, 1, V39, "expressions") is None
    assert misfit(2, 1, V37, "expressions") is None
    assert misfit(1, 0, V28, "traditional") is None
    assert misfit(2, 1, V36, "expressions") == "3.6 does not support mixed mode route"
    assert "1 routes have an expression" in str(misfit(1, 1, V39, "traditional_compatible"))
    assert "1 routes have an expression" in str(misfit(1, 1, V28, "expressions"))
