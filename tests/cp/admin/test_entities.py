"""Services and routes through HTTP: create, read, list, update, upsert, delete, nested, and Kong's errors."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from fastgw.cp.storage.contract import Change
from tests.cp.admin.server import AdminServer

BAD_NAME = "invalid value 'a b': the only accepted ascii characters are alphanumerics or ., -, _, and ~"
MISSING = "7fca84d6-7d37-4a74-a7b0-93e576089a41"


def ok(response: httpx.Response, status: int = 200) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    return response.json()


def service(admin: httpx.Client, name: str | None = None, **data: Any) -> dict[str, Any]:
    row: dict[str, Any] = ok(admin.post("/services", json={"host": "example.com", "name": name, **data}), 201)
    return row


def route(admin: httpx.Client, **data: Any) -> dict[str, Any]:
    row: dict[str, Any] = ok(admin.post("/routes", json={"paths": ["/"], **data}), 201)
    return row


@pytest.fixture
def admin_server(each_admin_server: AdminServer) -> AdminServer:
    """On every storage, instead of SQLite alone."""
    return each_admin_server


# Creating


def test_create_answers_with_the_whole_row(admin: httpx.Client) -> None:
    row = service(admin, "a", tags=["x"])
    assert row["name"] == "a"
    assert row["retries"] == 5
    assert row["client_certificate"] is None
    assert len(row) == 18
    assert ok(admin.get("/services/a")) == row
    assert ok(admin.get(f"/services/{row['id']}")) == row
    assert ok(admin.get(f"/services/{row['id'].upper()}")) == row


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (
            {"Content-Type": "application/x-www-form-urlencoded"},
            b"name=s&url=http%3A%2F%2Fa.com%3A81/p&tags=t",
        ),
        (
            {"Content-Type": "application/json; charset=utf-8"},
            b'{"name":"s","url":"http://a.com:81/p","tags":["t"]}',
        ),
        (
            {"Content-Type": 'multipart/form-data; boundary="xx"'},
            b'preamble\r\n--xx\r\nContent-Disposition: form-data; name="name"\r\n\r\ns\r\n--xx\r\n'
            b'content-disposition: form-data; filename="u.txt"; name="url"\r\nContent-Type: text/plain\r\n'
            b"\r\nhttp://a.com:81/p\r\n--xx\r\nContent-Disposition: form-data; name=tags[]\r\n"
            b"\r\nt\r\n--xx--\r\n",
        ),
    ],
    ids=["urlencoded", "json", "multipart"],
)
def test_create_from_every_kind_of_body(admin: httpx.Client, headers: dict[str, str], body: bytes) -> None:
    row = ok(admin.post("/services", content=body, headers=headers), 201)
    assert (row["name"], row["host"], row["port"], row["path"], row["tags"]) == (
        "s",
        "a.com",
        81,
        "/p",
        ["t"],
    )


def test_forms_as_walk_throughs_send_them(admin: httpx.Client) -> None:
    service(admin, "example")
    row = ok(
        admin.post("/services/example/routes", data={"paths[]": ["/a", "/b"], "strip_path": "false"}), 201
    )
    assert (row["paths"], row["strip_path"]) == (["/a", "/b"], False)


def test_a_service_can_be_named_by_the_route(admin: httpx.Client) -> None:
    parent = service(admin, "a")
    assert route(admin, service={"name": "a"})["service"] == {"id": parent["id"]}
    row = ok(admin.post("/routes", data={"paths": "/", "service.name": "a"}), 201)
    assert row["service"] == {"id": parent["id"]}
    assert route(admin, service={"id": parent["id"], "name": "nonsense"})["service"] == {"id": parent["id"]}


def test_every_write_is_in_the_journal_with_its_peer(admin: httpx.Client, admin_server: AdminServer) -> None:
    before = admin_server.run(admin_server.storage.version())
    row = service(admin, "a")
    admin.patch("/services/a", json={"retries": 1})
    admin.delete("/services/a")
    changes: list[Change] = admin_server.run(admin_server.storage.changes_since(before))
    assert [(change.op, change.actor, change.id) for change in changes] == [
        ("create", "127.0.0.1", row["id"]),
        ("update", "127.0.0.1", row["id"]),
        ("delete", "127.0.0.1", row["id"]),
    ]
    assert row["created_at"] == int(changes[0].at)


def test_a_refused_write_makes_no_version(admin: httpx.Client, admin_server: AdminServer) -> None:
    service(admin, "a")
    before = admin_server.run(admin_server.storage.version())
    ok(admin.post("/services", json={}), 400)
    ok(admin.post("/services", json={"host": "b", "name": "a"}), 409)
    ok(admin.patch("/services/a", json={"port": -1}), 400)
    ok(admin.put("/routes/x", json={"paths": ["/"], "service": {"id": MISSING}}), 400)
    assert admin.delete("/services/none").status_code == 204
    assert admin_server.run(admin_server.storage.version()) == before


# Errors of rows


def test_missing_field(admin: httpx.Client) -> None:
    assert ok(admin.post("/services", json={}), 400) == {
        "code": 2,
        "name": "schema violation",
        "message": "schema violation (host: required field missing)",
        "fields": {"host": "required field missing"},
    }


def test_no_body_at_all_is_an_empty_entity(admin: httpx.Client) -> None:
    assert ok(admin.post("/services"), 400)["fields"] == {"host": "required field missing"}


def test_faults_of_form_and_json_are_alike(admin: httpx.Client) -> None:
    faults = {
        "host": "invalid value: a b",
        "port": "value should be between 0 and 65535",
        "foo": "unknown field",
    }
    assert ok(admin.post("/services", json={"host": "a b", "port": 70000, "foo": 1}), 400)["fields"] == faults
    assert (
        ok(admin.post("/services", data={"host": "a b", "port": "70000", "foo": "1"}), 400)["fields"]
        == faults
    )


def test_bytes_that_are_no_utf8_are_refused(admin: httpx.Client) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = ok(admin.post("/services", content=b"host=a&name=x%FF", headers=form), 400)
    assert body["fields"] == {"name": "invalid utf-8 character sequence detected at position 2"}
    body = ok(admin.post("/services", content=b"host=a&x%FF=1", headers=form), 400)
    assert body["fields"] == {"x?": "unknown field"}
    body = ok(admin.post("/routes", content=b"protocols=%FF", headers=form), 400)
    assert body["fields"] == {"protocols": "unknown type: ?"}
    assert ok(admin.get("/services?offset=%FF"), 400)["code"] == 7


def test_what_is_not_served_is_refused_and_not_stored(admin: httpx.Client) -> None:
    body = ok(admin.post("/routes", json={"paths": ["~/a++"]}), 400)
    assert body["message"] == (
        "schema violation (paths.1: invalid regex: '/a++' (RE2 does not know a possessive quantifier, '++' at "
        "character 3: leave out its +: nothing ever backtracks here))"
    )
    assert ok(admin.get("/routes"))["data"] == []


def test_unique_violation(admin: httpx.Client) -> None:
    service(admin, "a")
    assert ok(admin.post("/services", json={"host": "b", "name": "a"}), 409) == {
        "code": 5,
        "name": "unique constraint violation",
        "message": "UNIQUE violation detected on '{name=\"a\"}'",
        "fields": {"name": "a"},
    }
    service(admin, "b")
    assert ok(admin.patch("/services/b", json={"name": "a"}), 409)["code"] == 5


def test_of_many_at_once_one_gets_the_name(admin: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        responses = list(
            pool.map(lambda _: admin.post("/services", json={"host": "a", "name": "same"}), range(16))
        )
    assert sorted(response.status_code for response in responses) == [201] + [409] * 15
    assert len(ok(admin.get("/services"))["data"]) == 1


def test_primary_key_violation(admin: httpx.Client) -> None:
    service(admin, id=MISSING)
    assert ok(admin.post("/services", json={"host": "b", "id": MISSING}), 400) == {
        "code": 3,
        "name": "primary key violation",
        "message": f"primary key violation on key '{{id=\"{MISSING}\"}}'",
        "fields": {"id": MISSING},
    }


def test_foreign_key_to_nothing(admin: httpx.Client) -> None:
    assert ok(admin.post("/routes", json={"paths": ["/"], "service": {"id": MISSING}}), 400) == {
        "code": 4,
        "name": "foreign key violation",
        "message": f"the foreign key '{{id=\"{MISSING}\"}}' does not reference "
        "an existing 'services' entity.",
        "fields": {"service": {"id": MISSING}},
    }


def test_foreign_key_by_an_unknown_name(admin: httpx.Client) -> None:
    fault = "the foreign key cannot be resolved with '{name=\"x\"}' for an existing 'services' entity"
    assert ok(admin.post("/routes", json={"paths": ["/"], "service": {"name": "x"}}), 400) == {
        "code": 13,
        "name": "foreign keys unresolved",
        "message": f"foreign key unresolved (service.name: {fault})",
        "fields": {"service": {"name": fault}},
    }


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("x", {"id": "missing primary key"}),
        ({}, {"id": "missing primary key"}),
        ({"id": "x"}, {"id": "expected a valid UUID"}),
        ({"name": "a b"}, {"name": BAD_NAME}),
        ({"name": 5}, {"name": "expected a string"}),
    ],
)
def test_foreign_key_without_a_usable_key(admin: httpx.Client, given: Any, fault: Any) -> None:
    body = ok(admin.post("/routes", json={"paths": ["/"], "service": given}), 400)
    assert (body["code"], body["fields"]) == (2, {"service": fault})


def test_a_referenced_parent_stays(admin: httpx.Client) -> None:
    parent = service(admin, "a")
    route(admin, service={"id": parent["id"]})
    assert ok(admin.delete("/services/a"), 400) == {
        "code": 4,
        "name": "foreign key violation",
        "message": "an existing 'routes' entity references this 'services' entity",
        "fields": {"@referenced_by": "routes"},
    }
    ok(admin.get("/services/a"))


# Reading


def test_unknown_rows(admin: httpx.Client) -> None:
    assert ok(admin.get("/services/x"), 404) == {"message": "Not found"}
    assert ok(admin.get(f"/services/{MISSING}"), 404) == {"message": "Not found"}


def test_a_name_that_cannot_be_one(admin: httpx.Client) -> None:
    message = BAD_NAME
    for method in ("GET", "DELETE"):
        assert ok(admin.request(method, "/services/a%20b"), 400) == {
            "code": 10,
            "name": "invalid unique name",
            "message": message,
        }
    assert ok(admin.put("/services/a+b", json={"host": "a"}), 400)["message"] == message
    assert ok(admin.get("/services/%FF"), 400)["code"] == 10
    assert ok(admin.get("/services/%00"), 400)["code"] == 10
    assert ok(admin.get("/services/a%2Fb"), 400)["code"] == 10


@pytest.mark.parametrize("name", ["größe", "a~b", "漢字"])
def test_names_in_paths_are_decoded_once(admin: httpx.Client, name: str) -> None:
    row = service(admin, name)
    assert ok(admin.get(f"/services/{quote(name)}")) == row
    assert ok(admin.get(f"/services/{quote(quote('%'))}"), 400)["code"] == 10


# Lists


def test_an_empty_list(admin: httpx.Client) -> None:
    assert ok(admin.get("/services")) == {"data": [], "next": None}


def test_pages_in_ascending_order_of_id(admin: httpx.Client) -> None:
    ids = sorted(service(admin)["id"] for _ in range(5))
    body = ok(admin.get("/services?size=2"))
    offset = base64.b64encode(f'["{ids[1]}"]'.encode()).decode().rstrip("=")
    assert [row["id"] for row in body["data"]] == ids[:2]
    assert body["offset"] == offset
    assert body["next"] == f"/services?offset={quote(offset, safe='')}&size=2"
    seen = [row["id"] for row in body["data"]]
    while body["next"] is not None:
        assert "offset" in body
        body = ok(admin.get(body["next"]))
        seen += [row["id"] for row in body["data"]]
    assert seen == ids
    assert "offset" not in body
    admin.delete(f"/services/{ids[1]}")
    after_gone = ok(admin.get("/services", params={"offset": offset}))
    assert [row["id"] for row in after_gone["data"]] == ids[2:]


def test_a_full_last_page_has_no_next(admin: httpx.Client) -> None:
    service(admin)
    service(admin)
    assert ok(admin.get("/services?size=2"))["next"] is None


@pytest.mark.parametrize(
    ("query", "code", "message"),
    [
        ("size=x", 9, "size must be a number"),
        ("size=", 9, "size must be a number"),
        ("size", 9, "size must be a number"),
        ("size=0", 9, "size must be an integer between 1 and 1000"),
        ("size=-1", 9, "size must be an integer between 1 and 1000"),
        ("size=1.5", 9, "size must be an integer between 1 and 1000"),
        ("size=1001", 9, "size must be an integer between 1 and 1000"),
        ("offset=x", 7, "'x' is not a valid offset: bad base64 encoding"),
        ("offset=%2e", 7, "'.' is not a valid offset: bad base64 encoding"),
        ("offset=YWJj", 7, "'YWJj' is not a valid offset: bad json encoding"),
        ("offset=WyJhIl0", 7, "'WyJhIl0' is not a valid offset: it holds no id"),
        ("tags=", 11, "invalid option (tags: cannot be null)"),
        ("tags=a,b/c", 11, "invalid option (tags: invalid filter syntax)"),
        ("tags=a,,b", 11, "invalid option (tags: invalid filter syntax)"),
        ("tags=%FF", 11, "invalid option (tags: invalid filter syntax)"),
        ("tags=a,b,c,d,e,f", 11, "invalid option (tags: cannot query more than 5 tags)"),
    ],
)
def test_bad_list_arguments(admin: httpx.Client, query: str, code: int, message: str) -> None:
    body = ok(admin.get(f"/services?{query}"), 400)
    assert (body["code"], body["message"]) == (code, message)
    if code == 11:
        assert body["options"] == {"tags": message.partition("tags: ")[2].removesuffix(")")}


def test_filter_by_tags(admin: httpx.Client) -> None:
    for name, tags in {"a": ["x", "y"], "b": ["x"], "c": ["y z"], "d": None}.items():
        service(admin, name, tags=tags)

    def named(query: str) -> set[str]:
        return {row["name"] for row in ok(admin.get(f"/services?{query}"))["data"]}

    assert named("tags=x") == {"a", "b"}
    assert named("tags=x,y") == {"a"}
    assert named("tags=x/y%20z") == {"a", "b", "c"}
    assert named("tags=none") == set()
    assert named("tags=x&tags=none") == {"a", "b"}
    assert named("unknown=1") == {"a", "b", "c", "d"}
    body = ok(admin.get("/services?size=1&tags=x%2Fy"))
    assert body["next"].endswith("&tags=x%2Fy&size=1")
    assert len(ok(admin.get(body["next"]))["data"]) == 1


# PATCH


def test_patch(admin: httpx.Client) -> None:
    row = service(admin, "a", path="/x", tags=["t"])
    patched = ok(admin.patch("/services/a", json={"path": None, "retries": 2}))
    assert {**patched, "updated_at": 0} == {**row, "path": None, "retries": 2, "updated_at": 0}
    assert ok(admin.patch(f"/services/{row['id']}", data={"tags": "", "enabled": "false"}))["tags"] is None
    assert ok(admin.get("/services/a"))["enabled"] is False


def test_patch_of_a_missing_row(admin: httpx.Client) -> None:
    assert ok(admin.patch("/services/x", json={}), 404) == {
        "code": 6,
        "name": "not found",
        "message": "could not find the entity with '{name=\"x\"}'",
        "fields": {"name": "x"},
    }
    body = ok(admin.patch(f"/services/{MISSING}", json={}), 404)
    assert body["message"] == f"could not find the entity with primary key '{{id=\"{MISSING}\"}}'"


def test_patch_is_validated_with_what_is_stored(admin: httpx.Client) -> None:
    row = route(admin, hosts=["a.com"], paths=None)
    body = ok(admin.patch(f"/routes/{row['id']}", json={"hosts": []}), 400)
    assert list(body["fields"]) == ["@entity"]


# PUT


def test_put_creates_and_replaces(admin: httpx.Client) -> None:
    created = ok(
        admin.put(f"/services/{MISSING}", json={"host": "a", "name": "n", "retries": 1, "id": "junk"})
    )
    assert (created["id"], created["retries"]) == (MISSING, 1)
    replaced = ok(admin.put("/services/n", json={"host": "b", "name": "other", "created_at": 7}))
    assert (replaced["id"], replaced["name"], replaced["retries"], replaced["created_at"]) == (
        MISSING,
        "n",
        5,
        7,
    )
    assert ok(admin.put(f"/services/{MISSING}", json={"name": "n"}), 400)["fields"] == {
        "host": "required field missing"
    }


def test_put_by_a_new_name(admin: httpx.Client) -> None:
    created = ok(admin.put("/services/n", json={"host": "a", "id": MISSING}))
    assert created["name"] == "n"
    assert created["id"] != MISSING


# DELETE


def test_delete(admin: httpx.Client) -> None:
    service(admin, "a")
    for _ in range(2):
        response = admin.delete("/services/a")
        assert (response.status_code, response.content) == (204, b"")
    ok(admin.get("/services/a"), 404)
    assert admin.delete(f"/services/{MISSING}").status_code == 204


# Nested


def test_routes_of_a_service(admin: httpx.Client) -> None:
    a, b = service(admin, "a"), service(admin, "b")
    mine = ok(
        admin.post("/services/a/routes", json={"paths": ["/"], "service": {"id": b["id"]}, "name": "r"}), 201
    )
    assert mine["service"] == {"id": a["id"]}
    other = route(admin, service={"id": b["id"]}, name="other")
    assert ok(admin.get("/services/a/routes"))["data"] == [mine]
    assert ok(admin.get(f"/services/{a['id']}/routes/r")) == mine
    assert ok(admin.get("/services/a/routes/other"), 404) == {"message": "Not found"}
    assert ok(admin.patch("/services/a/routes/other", json={}), 404) == {"message": "Not found"}
    assert admin.delete("/services/a/routes/other").status_code == 404
    assert ok(admin.patch("/services/a/routes/r", data={"paths[]": "/p"}))["paths"] == ["/p"]
    moved = ok(admin.put("/services/a/routes/other", json={"paths": ["/"]}))
    assert (moved["id"], moved["service"]) == (other["id"], {"id": a["id"]})
    assert admin.delete("/services/a/routes/other").status_code == 204
    ok(admin.get("/routes/other"), 404)
    ok(admin.patch("/services/a/routes/r", json={"service": {"name": "b"}}))
    ok(admin.get("/services/b/routes/r"))


def test_nested_paths_of_a_missing_parent(admin: httpx.Client) -> None:
    for method in ("GET", "POST"):
        assert ok(admin.request(method, "/services/x/routes", json={}), 404) == {"message": "Not found"}
    for method in ("GET", "PATCH", "DELETE", "PUT"):
        assert ok(admin.request(method, "/services/x/routes/r", json={}), 404) == {"message": "Not found"}


def test_nested_pages_repeat_neither_size_nor_tags(admin: httpx.Client) -> None:
    service(admin, "größe")
    for path in ("/a", "/b"):
        ok(admin.post("/services/größe/routes", json={"paths": [path]}), 201)
    body = ok(admin.get("/services/gr%C3%B6%C3%9Fe/routes?size=1&tags=none"))
    assert body["next"] == f"/services/gr%C3%B6%C3%9Fe/routes?offset={quote(body['offset'], safe='')}"
    assert len(body["data"] + ok(admin.get(body["next"]))["data"]) == 2


def test_the_service_of_a_route(admin: httpx.Client) -> None:
    parent = service(admin, "a")
    route(admin, name="r", service={"name": "a"})
    assert ok(admin.get("/routes/r/service")) == parent
    assert ok(admin.patch("/routes/r/service", json={"retries": 1}))["retries"] == 1
    replaced = ok(admin.put("/routes/r/service", json={"host": "b"}))
    assert (replaced["id"], replaced["name"]) == (parent["id"], None)
    assert ok(admin.delete("/routes/r/service"), 405) == {"message": "Method not allowed"}


def test_a_route_without_service(admin: httpx.Client) -> None:
    route(admin, name="r")
    for method in ("GET", "PATCH", "DELETE"):
        assert ok(admin.request(method, "/routes/r/service", json={}), 404) == {"message": "Not found"}
        assert ok(admin.request(method, "/routes/x/service", json={}), 404) == {"message": "Not found"}
    created = ok(admin.put("/routes/r/service", json={"host": "b"}))
    assert ok(admin.get("/routes/r"))["service"] == {"id": created["id"]}
