"""Versions listed, compared and restored, on both storages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cp.admin.server import AdminServer

MOVES = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["put", "swap", "delete", "route"])), max_size=6
)


@pytest.fixture
def each_admin(each_admin_server: AdminServer) -> Iterator[httpx.Client]:
    base = f"http://127.0.0.1:{each_admin_server.port}"
    with httpx.Client(base_url=base, timeout=20, trust_env=False) as client:
        yield client
    each_admin_server.run(each_admin_server.empty())


def client_of(server: AdminServer) -> httpx.Client:
    return httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False)


def version_of(admin: httpx.Client) -> int:
    return int(admin.get("/config").headers["etag"].strip('"v'))


def whole(admin: httpx.Client) -> dict[str, Any]:
    rows = {
        kind: admin.get(f"/{kind}?size=1000").json()["data"] for kind in ("services", "routes", "key-auths")
    }
    rows["consumers"] = admin.get("/consumers").json()["data"]
    return rows


def test_versions_are_listed_with_who_and_how_much(each_admin: httpx.Client) -> None:
    each_admin.post("/services", json={"name": "s", "host": "h"})
    each_admin.post("/services/s/routes", json={"name": "r", "paths": ["/"]})
    each_admin.patch("/services/s", json={"host": "g"})
    each_admin.delete("/routes/r")
    newest = version_of(each_admin)
    listed = each_admin.get("/fastgw/history/versions?size=3").json()
    shown = [(one["version"], one["created"], one["updated"], one["deleted"]) for one in listed["data"]]
    assert shown == [(newest, 0, 0, 1), (newest - 1, 0, 1, 0), (newest - 2, 1, 0, 0)]
    assert {one["actor"] for one in listed["data"]} == {"127.0.0.1"}
    following = each_admin.get(listed["next"]).json()["data"]
    assert following[0]["version"] == newest - 3
    assert each_admin.get("/fastgw/history/versions?offset=x").status_code == 400


def test_a_rollback_restores_rows_their_keys_and_what_went_with_them(each_admin: httpx.Client) -> None:
    one = each_admin.post("/services", json={"name": "one", "host": "h", "tags": ["t"]}).json()
    each_admin.post("/services", json={"name": "two", "host": "h"})
    each_admin.post("/services/one/routes", json={"name": "r", "paths": ["/"]})
    each_admin.post("/consumers", json={"username": "bob"})
    each_admin.post("/consumers/bob/key-auth", json={"key": "k"})
    wanted, then = whole(each_admin), version_of(each_admin)

    each_admin.patch("/services/one", json={"name": "other", "tags": ["u"]})
    each_admin.patch("/services/two", json={"name": "one"})
    each_admin.delete("/routes/r")
    each_admin.delete("/consumers/bob")
    each_admin.post("/services", json={"name": "three", "host": "h"})
    stands = version_of(each_admin)
    stale = {"If-Match": f'"v{stands - 1}"'}
    assert each_admin.post(f"/fastgw/history/{then}/rollback", headers=stale).status_code == 412

    before = each_admin.get(f"/fastgw/history/{stands}/diff/{then}").json()["changes"]
    answer = each_admin.post(f"/fastgw/history/{then}/rollback", headers={"If-Match": f'"v{stands}"'})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        **{"version": stands + 1, "restored": then, "from": stands},
        **{"created": 3, "updated": 2, "deleted": 1, "unchanged": 0},
    }
    assert whole(each_admin) == wanted
    assert [row["name"] for row in each_admin.get("/services?tags=t").json()["data"]] == ["one"]
    assert each_admin.get("/services/one").json()["id"] == one["id"]
    done = each_admin.get(f"/fastgw/history/{stands}/diff/{stands + 1}").json()["changes"]
    assert done == before
    (newest,) = each_admin.get("/fastgw/history/versions?size=1").json()["data"]
    assert newest["actor"] == f"127.0.0.1 (rollback to {then})"
    # A second time there is nothing to do, and no version is made of it.
    again = each_admin.post(f"/fastgw/history/{then}/rollback").json()
    assert (again["version"], again["created"]) == (stands + 1, 0)


def test_what_cannot_be_told_is_404(each_admin: httpx.Client) -> None:
    stands = version_of(each_admin)
    for path in (f"/fastgw/history/{stands + 1}/diff/{stands}", "/fastgw/history/x/diff/1"):
        assert each_admin.get(path).status_code == 404
    for version in (stands + 1, "x", "-1"):
        assert each_admin.post(f"/fastgw/history/{version}/rollback").status_code == 404


def test_a_long_diff_is_cut(each_admin: httpx.Client) -> None:
    first = version_of(each_admin)
    operations = [
        {"method": "POST", "path": "/services", "body": {"name": f"s{n}", "host": "h"}} for n in range(150)
    ]
    each_admin.post("/fastgw/transaction", json={"operations": operations}).raise_for_status()
    diff = each_admin.get(f"/fastgw/history/{first}/diff/{first + 1}?size=20").json()
    assert (len(diff["changes"]), diff["left_out"]) == (20, 130)
    answer = each_admin.post(f"/fastgw/history/{first}/rollback").json()
    assert answer["deleted"] == 150


def test_what_is_refused_by_now_does_not_come_back_by_a_rollback(tmp_path: Path) -> None:
    with AdminServer(tmp_path) as before, client_of(before) as admin:
        admin.post("/services", json={"name": "s", "host": "h"})
        admin.post("/services/s/routes", json={"name": "r", "expression": 'http.path == "/a"'})
        plugin = admin.post("/services/s/plugins", json={"name": "key-auth"}).json()["id"]
        then = version_of(admin)
        admin.delete("/routes/r")
        admin.delete(f"/plugins/{plugin}")
    with (
        AdminServer(tmp_path, plugins="cors", router_flavor="traditional") as after,
        client_of(after) as admin,
    ):
        stands = version_of(admin)
        answer = admin.post(f"/fastgw/history/{then}/rollback")
        assert answer.status_code == 400
        message = answer.json()["message"]
        assert message.startswith(f"version {then} cannot be restored: ")
        assert f"plugins {plugin}: plugin 'key-auth' not enabled" in message
        assert "expression: router_flavor 'traditional' has no expressions" in message
        assert version_of(admin) == stands
        assert admin.post(f"/fastgw/history/{then - 2}/rollback").json()["version"] == stands


@settings(max_examples=8, deadline=None)
@given(first=MOVES, second=MOVES)
def test_going_back_undoes_whatever_was_done(
    admin_server: AdminServer, first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    base = f"http://127.0.0.1:{admin_server.port}"
    with httpx.Client(base_url=base, timeout=20, trust_env=False) as admin:
        try:
            play(admin, first)
            wanted, then = whole(admin), version_of(admin)
            play(admin, second)
            admin.post(f"/fastgw/history/{then}/rollback").raise_for_status()
            assert whole(admin) == wanted
        finally:
            admin_server.run(admin_server.empty())


def play(admin: httpx.Client, moves: list[tuple[str, str]]) -> None:
    for name, move in moves:
        match move:
            case "put":
                admin.put(f"/services/{name}", json={"host": "h", "tags": [name]})
            case "swap":
                rows = [admin.get(f"/services/{one}").json() for one in "ab"]
                if all("id" in row for row in rows):
                    steps = [(rows[0]["id"], "c"), (rows[1]["id"], "a"), (rows[0]["id"], "b")]
                    body = [
                        {"method": "PATCH", "path": f"/services/{id_}", "body": {"name": new}}
                        for id_, new in steps
                    ]
                    admin.post("/fastgw/transaction", json={"operations": body}).raise_for_status()
            case "route":
                admin.put(f"/services/{name}/routes/r", json={"paths": [f"/{name}"]})
            case "delete":
                admin.delete("/routes/r")
                admin.delete(f"/services/{name}")
