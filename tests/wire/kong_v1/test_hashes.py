"""Kong's hashes: its own vectors, what a running Kong sent, and a second reading of the rules."""

from __future__ import annotations

import json
from hashlib import md5
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.wire.kong_v1 import hashes
from fastgw.wire.kong_v1.hashes import ZERO_HASH, hash_b, hash_b_whole, hash_c, hash_value_b, hash_value_c
from tests.wire.kong_v1.recorded import GIVEN, PINGS, PUSHES

EMPTY_ARRAY = "99914b932bd37a50b983c5e7c90ae93b"
X: dict[str, Any] = json.loads(
    '{"_format_version":"3.0","_transform":false,"services":[{"id":"s1","name":"svc","port":80,"enabled":true,'
    '"path":null,"tags":["x","y"],"created_at":1700000000}],"routes":[{"id":"r1","service":"s1",'
    '"paths":["/a"],"hosts":null}]}'
)


@pytest.mark.parametrize("push", PUSHES)
def test_c_gives_what_a_running_kong_sent(push: dict[str, Any]) -> None:
    found = hash_c(push["config_table"])
    assert found.config == push["config_hash"]
    assert found._asdict() == push["hashes"]


def test_c_gives_what_a_data_plane_makes_of_a_push_without_a_hash() -> None:
    assert "config_hash" not in GIVEN[-1]
    assert hash_c(GIVEN[-1]["config_table"]).config == PINGS[-1] == "c9383bbefd680b3bc3d3ec7177e68980"


def test_kongs_own_vectors_of_c() -> None:
    assert hash_c({}) == hashes.ConfigHashes("2da3c26e4dbd6dd6ea3ab60a3dd7fb3e")
    found = hash_c({"routes": [], "services": [], "plugins": []})
    assert found.config == "81aac97a81ad03c0cf0b36663806488e"
    assert (found.routes, found.services, found.plugins) == (EMPTY_ARRAY,) * 3
    assert (found.upstreams, found.targets) == (ZERO_HASH, ZERO_HASH)
    assert hash_c({"upstreams": [], "targets": []}).config == "4d60dd9998ea4314039da5ca2f1db96f"


@pytest.mark.parametrize(
    ("value", "text"), [(None, "/null/"), (10, "10"), (0.9, "0.9"), ("hello", "hello"), (True, "true")]
)
def test_scalars(value: Any, text: str) -> None:
    assert hash_value_b(value) == hash_value_c(value) == md5(text.encode()).hexdigest()


def test_all_algorithms_on_one_table() -> None:
    c = hash_c(X)
    assert c.config == "e706bdbf8c738c0bbb00c37307ed77f0"
    assert c.services == "a54f58af84117eb0f578538df1c6a39d"
    assert c.routes == "f09bfe4a809d6885c39750dc9a222b95"
    b = hash_b(X)
    assert b.config == "4342e71ec582c68969a46ad3a553047b"
    assert b.services == "6444defe1bb457bda53afeabe1fd2e19"
    assert b.routes == "89d0705703ddfd975e9fcbab60e23bbb"
    assert hash_b_whole(X) == "3677b2e11ac6b82a5fc7c73165088b58"


def test_c_above_a_megabyte() -> None:
    consumers = [{"username": f"user-{number}"} for number in range(1, 100_001)]
    assert hash_c({"consumers": consumers}).config == "94ded983bebd9fa82ff923745c45f71c"


def test_b_leaves_every_hundredth_element_after_the_first_hundred_out() -> None:
    """Kong 2.8's defect is part of the value, and why nothing is pushed with it."""

    def table(changed: int) -> dict[str, Any]:
        return {
            "routes": [{"id": "changed" if number == changed else str(number)} for number in range(1, 251)]
        }

    assert hash_b(table(200)) == hash_b(table(0))
    assert hash_b(table(100)) != hash_b(table(0))
    assert hash_b(table(201)) != hash_b(table(0))
    assert hash_c(table(200)) != hash_c(table(0))


@pytest.mark.parametrize(
    ("number", "text"), [(10**15, "1e+15"), (80, "80"), (1795397369.253, "1795397369.253"), (-1, "-1")]
)
def test_numbers_are_written_as_luajit_does(number: float, text: str) -> None:
    assert hash_value_c(number) == md5(text.encode()).hexdigest()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=30,
)


def plain_c(value: Any, limit: int) -> str:
    """Algorithm C as the reference tells it: one buffer, looked at on entry to every value."""
    state = {"buffer": b""}

    def walk(value: Any) -> None:
        if len(state["buffer"]) > limit:
            state["buffer"] = md5(state["buffer"]).digest()
        if value is None:
            state["buffer"] += b"/null/"
        elif isinstance(value, bool):
            state["buffer"] += b"true" if value else b"false"
        elif isinstance(value, str):
            state["buffer"] += value.encode()
        elif isinstance(value, int | float):
            state["buffer"] += b"%.14g" % value
        elif not value:
            state["buffer"] += b"{}"
        elif isinstance(value, list):
            for place, item in enumerate(value):
                walk(item)
                if len(value) > 5 or place < len(value) - 1:
                    state["buffer"] += b";"
        else:
            for key in sorted(value, key=str.encode):
                state["buffer"] += key.encode() + b":"
                walk(value[key])
                state["buffer"] += b";"

    walk(value)
    return md5(state["buffer"]).hexdigest()


@settings(deadline=None)
@given(JSON, st.integers(0, 60))
def test_c_equals_the_plain_reading_wherever_the_fold_falls(value: Any, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashes, "_FOLD_ABOVE_BYTES", limit)
        assert hash_value_c(value) == plain_c(value, limit)


@given(st.lists(st.fixed_dictionaries({"id": st.text("abc", max_size=3)}), min_size=1, max_size=8), st.data())
def test_any_change_changes_the_hash_of_c(rows: list[dict[str, str]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(rows) - 1))
    changed = [dict(row) for row in rows]
    changed[place]["id"] += "x"
    before, after = hash_c({"routes": rows}), hash_c({"routes": changed})
    assert before.routes != after.routes
    assert before.config != after.config
    assert before.services == after.services
