"""Messages of Kong's wire, against recorded bytes."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.errors import RemoteLinkError
from fastgw.wire.kong_v1.hashes import hash_c
from fastgw.wire.kong_v1.messages import (
    Arguments,
    BasicInfo,
    ErrorReport,
    PluginInfo,
    Push,
    decode_basic_info,
    decode_error,
    decode_push,
    encode_basic_info,
    encode_push,
    outlet_path,
    parse_arguments,
)
from tests.wire.kong_v1.recorded import BASIC_INFO, PUSHED_FRAMES, PUSHES, UPGRADE


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


NODE_ID = "0d2871c6-540b-47bc-b776-bbe7748e8d4e"


def test_the_recorded_upgrade() -> None:
    path = UPGRADE.split(" ")[1]
    arguments = parse_arguments(path)
    assert arguments == Arguments(NODE_ID, "vm", "3.9.1")
    assert outlet_path(arguments) == path


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("", "didn't pass the id"),
        ("?node_hostname=vm&node_version=3.9.1", "didn't pass the id"),
        ("?node_id=&node_version=3.9.1", "didn't pass the id"),
        (f"?node_id={NODE_ID}&node_hostname=vm", "didn't pass the version"),
        (f"?node_id={NODE_ID}&node_version=3.9.1", "node_hostname"),
        ("?node_id=../x&node_hostname=vm&node_version=3.9.1", "node_id"),
        (f"?node_id={NODE_ID}&node_hostname=a%0ab&node_version=3.9.1", "node_hostname"),
        (f"?node_id={NODE_ID}&node_hostname=vm&node_version={'3' * 65}", "node_version"),
    ],
)
def test_arguments_that_are_missing_or_wrong(query: str, complaint: str) -> None:
    with pytest.raises(RemoteLinkError, match=complaint):
        parse_arguments(f"/v1/outlet{query}")


def test_the_recorded_basic_info() -> None:
    info = decode_basic_info(json.dumps(BASIC_INFO).encode())
    assert len(info.plugins) == 40
    assert info.plugins["key-auth"] == "3.9.1"
    assert info.router_flavor == "traditional_compatible"
    assert info.labels == {}


@pytest.mark.parametrize("empty", [{}, []])
def test_empty_objects_and_arrays_are_the_same(empty: Any) -> None:
    info = decode_basic_info(
        json.dumps({"type": "basic_info", "plugins": empty, "labels": empty, "filters": empty}).encode()
    )
    assert info == BasicInfo({}, {}, None, None)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\xff", "failed to decode websocket basic info data"),
        (b"[]", "failed to decode websocket basic info data"),
        (b"[" * 100_000, "failed to decode websocket basic info data"),
        (b"{}", "invalid basic info data type: unknown"),
        (b'{"type":"reconfigure"}', "invalid basic info data type: reconfigure"),
        (b'{"type":"basic_info"}', "missing plugins in basic info data"),
        (b'{"type":"basic_info","plugins":"acl"}', "missing plugins in basic info data"),
        (b'{"type":"basic_info","plugins":[{"version":"1"}]}', "failed to decode"),
        (b'{"type":"basic_info","plugins":[],"labels":{"a":1}}', "failed to decode"),
    ],
)
def test_a_first_message_that_is_none(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteLinkError, match=complaint):
        decode_basic_info(data)


@given(
    st.dictionaries(st.text("abc-", min_size=1), st.none() | st.just("3.9.1")),
    st.dictionaries(st.text("ab", min_size=1), st.text("xy", min_size=1)),
    st.integers(1, 2**31),
)
def test_basic_info_round_trip(plugins: dict[str, str | None], labels: dict[str, str], limit: int) -> None:
    listed = [PluginInfo(name, version) for name, version in plugins.items()]
    data = encode_basic_info(listed, labels, {"cluster_max_payload": limit})
    assert decode_basic_info(data) == BasicInfo(plugins, labels, limit, None)
    assert all(
        ("version" in told) is (plugins[told["name"]] is not None) for told in json.loads(data)["plugins"]
    )


@pytest.mark.parametrize(("frame", "envelope"), list(zip(PUSHED_FRAMES, PUSHES, strict=True)))
def test_the_recorded_pushes(frame: bytes, envelope: dict[str, Any]) -> None:
    assert decode_push(frame) == Push(envelope["config_table"], envelope["config_hash"])


ROWS = st.lists(st.dictionaries(st.sampled_from(["id", "name"]), st.none() | st.text(max_size=4)), max_size=4)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["routes", "services", "_info"]), ROWS))
def test_push_round_trip(table: dict[str, Any]) -> None:
    hashes = hash_c(table)
    frame = encode_push(table, hashes, 1795397369.5281)
    assert decode_push(frame) == Push(table, hashes.config)
    envelope = json.loads(gzip.decompress(frame))
    assert set(envelope) == {"type", "timestamp", "config_table", "config_hash", "hashes"}
    assert set(envelope["hashes"]) == {"config", "routes", "services", "plugins", "upstreams", "targets"}
    assert envelope["timestamp"] == 1795397369.528


def test_the_same_push_has_the_same_bytes() -> None:
    table = {"routes": [{"id": "a"}]}
    assert encode_push(table, hash_c(table), 1.0) == encode_push(table, hash_c(table), 1.0)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"{}", "no gzip"),
        (zipped(b"{}")[:-4], "not one whole gzip"),
        (zipped(b"{}") + zipped(b"{}"), "not one whole gzip"),
        (zipped(bytes(2000)), "more than 1000 inflated bytes"),
        (zipped(b"\xff"), "no push"),
        (zipped(b"[" * 900), "no push"),
        (zipped(b'{"type":"reconfigure"}'), "without a config_table"),
        (zipped(b'{"type":"reconfigure","config_table":[]}'), "no push"),
        (zipped(b'{"type":"reconfigure","config_table":{},"config_hash":"ab"}'), "no push"),
    ],
    ids=itertools.count(),
)
def test_a_push_that_is_none(frame: bytes, complaint: str) -> None:
    with pytest.raises(RemoteLinkError, match=complaint):
        decode_push(frame, limit_bytes=1000)


def test_other_types_are_ignored() -> None:
    assert decode_push(zipped(b'{"type":"something"}')) is None


def test_reports_of_errors_are_read() -> None:
    name = "declarative configuration parse failure"
    report = {"name": name, "message": "in routes", "config_hash": "0" * 32}
    data = json.dumps({"type": "error", "error": {**report, "fields": {"a": "b"}, "code": 14}}).encode()
    assert decode_error(data) == ErrorReport(f"{name}: in routes", "0" * 32)
    long = decode_error(json.dumps({"type": "error", "error": {"message": "x" * 5000}}).encode())
    assert long is not None
    assert len(long.reason) == 1000
    assert decode_error(b'{"type":"basic_info"}') is None
    assert decode_error(b"\x00") is None
