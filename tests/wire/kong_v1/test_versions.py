"""Who may join: Kong's table of conditions, in Kong's words."""

from __future__ import annotations

import pytest

from fastgw.wire.kong_v1.versions import (
    KongVersion,
    SyncStatus,
    check_plugins,
    check_version,
    default_max_payload_bytes,
    describe_difference,
    parse_version,
)

V39, V34, V28 = KongVersion(3, 9), KongVersion(3, 4), KongVersion(2, 8)
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.9.1", (3, 9)),
        ("3.9.1.0-enterprise-edition", (3, 9)),
        ("3.4.2-rc1", (3, 4)),
        ("2.8.5", (2, 8)),
        ("3.9", None),
        ("x3.9.1", None),
        ("", None),
        (None, None),
    ],
)
def test_versions(text: str | None, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize("version", ["2.8.0", "2.8.5", "3.0.2", "3.2.2", "3.4.2", "3.8.1", "3.9.3"])
def test_who_may_join(version: str) -> None:
    assert check_version(version) is None


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        (
            "nonsense",
            "data plane version is incompatible with control plane version 3.9.1"
            " (2.8.y and 3.x.y are accepted)",
        ),
        (
            "2.7.2",
            "data plane version 2.7.2 is incompatible with control plane version 3.9.1"
            " (2.8.y and 3.x.y are accepted)",
        ),
        (
            "4.0.0",
            "data plane version 4.0.0 is incompatible with control plane version 3.9.1"
            " (2.8.y and 3.x.y are accepted)",
        ),
        ("3.10.0", "data plane version 3.10.0 is incompatible with older control plane version 3.9.1"),
    ],
)
def test_who_may_not(version: str, reason: str) -> None:
    assert check_version(version) == (SyncStatus.KONG_VERSION_INCOMPATIBLE, reason)


def test_a_different_minor_version_is_told() -> None:
    assert describe_difference("3.9.4") is None
    assert (
        describe_difference("3.4.2")
        == "data plane minor version 3.4.2 is different to control plane minor version 3.9.1"
    )


def test_a_configured_plugin_that_the_data_plane_lacks() -> None:
    assert check_plugins({"acl"}, {"key-auth": "3.9.1"}, V39) == (
        SyncStatus.PLUGIN_SET_INCOMPATIBLE,
        "configured acl plugin 3.9.1 is missing from data plane",
    )
    assert check_plugins({"pre-function"}, {}, V28) == (
        SyncStatus.PLUGIN_SET_INCOMPATIBLE,
        "configured pre-function plugin is missing from data plane",
    )


@pytest.mark.parametrize(
    ("version", "is_taken"),
    [("3.9.0", True), ("3.4.2", True), ("3.10.0", False), ("2.1.0", False), (None, True), ("odd", True)],
)
def test_a_configured_plugin_of_another_version(version: str | None, is_taken: bool) -> None:
    refusal = check_plugins({"acl"}, {"acl": version}, V39)
    assert (refusal is None) is is_taken
    if refusal is not None:
        assert refusal == (
            SyncStatus.PLUGIN_VERSION_INCOMPATIBLE,
            f"configured data plane acl plugin version {version} is different to control plane plugin version"
            " 3.9.1",
        )


def test_what_is_not_configured_does_not_matter() -> None:
    assert check_plugins((), {}, V39) is None
    assert check_plugins({"acl"}, {"acl": "3.9.1", "custom": "99.0.0"}, V39) is None


def test_the_first_opentelemetry_is_taken() -> None:
    assert check_plugins({"opentelemetry"}, {"opentelemetry": "0.1.0"}, V34) is None
    assert check_plugins({"opentelemetry"}, {"opentelemetry": "0.2.0"}, V34) is not None


def test_plugins_of_2_8_have_versions_of_their_own() -> None:
    loaded = {"acl": "3.0.1", "key-auth": "2.4.0", "pre-function": "2.1.0"}
    assert check_plugins(loaded, loaded, V28) is None
    assert check_plugins({"key-auth"}, {"key-auth": "2.5.0"}, V28) is not None


def test_payload_limits_by_release() -> None:
    assert default_max_payload_bytes(V28) == default_max_payload_bytes(KongVersion(3, 3)) == 4 * MIB
    assert default_max_payload_bytes(V34) == default_max_payload_bytes(V39) == 16 * MIB
