"""Writers that must not lose each other's work: entity tags, transactions, /config and the history."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import httpx
import pytest
import yaml

from tests.cp.admin.server import AdminServer

FILE = """
_format_version: "3.0"
services:
- name: s
  host: h
  routes:
  - name: r
    paths: [/r]
consumers:
- username: bob
  keyauth_credentials:
  - key: hidden-key
"""


def test_a_change_of_what_was_not_seen_is_refused(admin: httpx.Client) -> None:
    made = admin.post("/services", json={"name": "s", "host": "a"})
    seen = made.headers["etag"]
    assert admin.get("/services/s").headers["etag"] == seen
    changed = admin.patch("/services/s", json={"host": "b"}, headers={"If-Match": seen})
    assert changed.status_code == 200
    assert changed.headers["etag"] != seen
    for method in ("PATCH", "PUT", "DELETE"):
        answer = admin.request(method, "/services/s", json={"host": "c"}, headers={"If-Match": seen})
        assert answer.status_code == 412
        assert "has changed" in answer.json()["message"]
    assert admin.get("/services/s").json()["host"] == "b"
    assert admin.put("/services/new", json={"host": "c"}, headers={"If-Match": "*"}).status_code == 412
    assert (
        admin.delete("/services/s", headers={"If-Match": f'"x", {changed.headers["etag"]}'}).status_code
        == 204
    )


def test_concurrent_writers_lose_nothing(each_admin_server: AdminServer) -> None:
    base = f"http://127.0.0.1:{each_admin_server.port}"

    def count_up(times: int) -> None:
        with httpx.Client(base_url=base, timeout=30, trust_env=False) as client:
            for _ in range(times):
                while True:
                    seen = client.get("/services/counter")
                    body = {"retries": seen.json()["retries"] + 1}
                    headers = {"If-Match": seen.headers["etag"]}
                    answer = client.patch("/services/counter", json=body, headers=headers)
                    assert answer.status_code in (200, 412), answer.text
                    if answer.status_code == 200:
                        break

    with httpx.Client(base_url=base, timeout=30, trust_env=False) as client:
        assert client.put("/services/counter", json={"host": "h", "retries": 0}).status_code == 200
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(count_up, [20] * 4))
        assert client.get("/services/counter").json()["retries"] == 80
        assert client.delete("/services/counter").status_code == 204


def test_a_transaction_is_one_version_or_nothing(admin: httpx.Client) -> None:
    before = admin.get("/config").headers["etag"]
    operations: list[dict[str, Any]] = [
        {"method": "PUT", "path": "/services/s", "body": {"host": "h"}},
        {"method": "POST", "path": "/services/s/routes", "body": {"paths": ["/a"], "name": "r"}},
        {"method": "PATCH", "path": "/routes/r", "body": {"tags": ["t"]}},
    ]
    answer = admin.post("/fastgw/transaction", json={"operations": operations}, headers={"If-Match": before})
    assert answer.status_code == 200, answer.text
    assert [result["status"] for result in answer.json()["results"]] == [200, 201, 200]
    assert answer.headers["etag"] == f'"v{answer.json()["version"]}"'
    versions = {change["version"] for change in admin.get("/fastgw/history?size=2").json()["data"]}
    assert versions == {answer.json()["version"]}

    stale = admin.post("/fastgw/transaction", json={"operations": operations}, headers={"If-Match": before})
    assert stale.status_code == 412
    failing = [
        {"method": "DELETE", "path": "/routes/r"},
        {"method": "POST", "path": "/services", "body": {"name": "s", "host": "h"}},
    ]
    answer = admin.post("/fastgw/transaction", json={"operations": failing})
    assert answer.status_code == 409
    assert (answer.json()["operation"], answer.json()["error"]["code"]) == (1, 5)
    assert admin.get("/routes/r").status_code == 200


@pytest.mark.parametrize(
    "operation",
    [
        {"method": "GET", "path": "/services"},
        {"method": "POST", "path": "/config"},
        {"method": "POST", "path": "services"},
        {"method": "POST"},
        {"method": "POST", "path": "/services", "bodies": {}},
    ],
)
def test_wrong_operations(admin: httpx.Client, operation: dict[str, Any]) -> None:
    answer = admin.post("/fastgw/transaction", json={"operations": [operation]})
    assert answer.status_code in (400, 404)
    assert answer.json()["message"]


def test_the_configuration_is_replaced_at_once_and_read_back(admin: httpx.Client) -> None:
    admin.post("/services", json={"name": "old", "host": "h"})
    answer = admin.post("/config", content=FILE, headers={"Content-Type": "text/yaml"})
    assert answer.status_code == 201, answer.text
    assert [row["name"] for row in answer.json()["services"].values()] == ["s"]
    assert admin.get("/services/old").status_code == 404
    assert admin.get("/services/s/routes").json()["data"][0]["name"] == "r"
    exported = admin.get("/config")
    document = yaml.safe_load(exported.json()["config"])
    assert document["_format_version"] == "3.0"
    assert document["_transform"] is False
    assert document["routes"][0]["service"] == document["services"][0]["id"]

    again = admin.post("/config", json={"config": exported.json()["config"]})
    assert again.status_code == 201
    # Nothing differs, so nothing has a new version.
    assert again.headers["etag"] == exported.headers["etag"]
    stale = admin.post("/config", json={"_format_version": "3.0"}, headers={"If-Match": '"v0"'})
    assert stale.status_code == 412


def test_the_same_text_is_not_loaded_twice(admin: httpx.Client) -> None:
    assert admin.post("/config?check_hash=1", json={"config": FILE}).status_code == 201
    assert admin.post("/config?check_hash=1", json={"config": FILE}).status_code == 304
    admin.post("/services", json={"host": "other"})
    assert admin.post("/config?check_hash=1", json={"config": FILE}).status_code == 201


def test_who_comes_while_another_is_loaded_is_told_to_come_back(admin: httpx.Client) -> None:
    services = [{"name": f"s{number}", "host": "h"} for number in range(5000)]
    document = {"_format_version": "3.0", "services": services}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: admin.post("/config", json=document, timeout=60), range(4)))
    assert {answer.status_code for answer in answers} == {201, 429}
    busy = next(answer for answer in answers if answer.status_code == 429)
    assert busy.json() == {"message": "Currently loading previous configuration"}
    assert busy.headers["retry-after"] == "1"


def test_a_text_is_taken_for_json_if_it_is_some_and_else_for_yaml(admin: httpx.Client) -> None:
    for text in ('{"_format_version": "3.0"}', '{_format_version: "3.0"}', "{'_format_version': '3.0',}"):
        for sent in (
            admin.post("/config", content=text, headers={"Content-Type": "text/yaml"}),
            admin.post("/config", json={"config": text}),
            admin.post("/config", data={"config": text}),
        ):
            assert sent.status_code == 201, sent.text
    broken = admin.post("/config", json={"config": '_format_version: "3.0"\nservices: [\n'})
    fields = {"error": "line 3, column 1: not YAML: did not find expected node content"}
    assert (broken.status_code, broken.json()["fields"]) == (400, fields)


def test_aliases_cannot_make_the_control_plane_busy(admin: httpx.Client) -> None:
    routes = "".join(f"  - {{name: r{number}, paths: [/a]}}\n" for number in range(700))
    services = "".join(f"- {{host: a, name: s{number}, routes: *r}}\n" for number in range(700))
    text = f'_format_version: "3.0"\nservices:\n- host: a\n  routes: &r\n{routes}{services}'
    answer = admin.post("/config", content=text, headers={"Content-Type": "text/yaml"})
    assert answer.status_code == 400
    assert "the aliases in it stand for more than" in answer.json()["fields"]["error"]


def test_names_may_change_hands_in_one_import(admin: httpx.Client) -> None:
    ids = ["7fca84d6-7d37-4a74-a7b0-93e576089a41", "8fca84d6-7d37-4a74-a7b0-93e576089a41"]

    def load(names: list[str]) -> int:
        services = [{"id": id_, "name": name, "host": "h"} for id_, name in zip(ids, names, strict=True)]
        return admin.post("/config", json={"_format_version": "3.0", "services": services}).status_code

    assert load(["a", "b"]) == 201
    assert load(["b", "a"]) == 201
    assert admin.get("/services/a").json()["id"] == ids[1]


def test_a_wrong_configuration_changes_nothing(admin: httpx.Client) -> None:
    admin.post("/services", json={"name": "kept", "host": "h"})
    body = {"_format_version": "3.0", "services": [{"port": 70000}]}
    answer = admin.post("/config", json=body)
    assert answer.status_code == 400
    assert answer.json() == {
        "code": 14,
        "name": "invalid declarative configuration",
        "message": "declarative config is invalid: "
        '{services={{host="required field missing",port="value should be between 0 and 65535"}}}',
        "fields": {
            "services": [{"host": "required field missing", "port": "value should be between 0 and 65535"}]
        },
    }
    flat = admin.post("/config?flatten_errors=1", json=body).json()
    assert flat["fields"] == {}
    assert {error["field"] for error in flat["flattened_errors"][0]["errors"]} == {"host", "port"}
    assert admin.post("/config", json={}).json() == {"message": "expected a declarative configuration"}
    unparsable = admin.post("/config", json={"config": "- 1"}).json()["fields"]
    assert unparsable == {"error": "failed parsing declarative configuration: expected an object"}
    assert admin.get("/services/kept").status_code == 200


def test_the_history_gives_versions_back(admin: httpx.Client) -> None:
    admin.post("/config", content=FILE, headers={"Content-Type": "application/yaml"})
    first = int(admin.get("/config").headers["etag"].strip('"v'))
    admin.patch("/services/s", json={"host": "new"})
    admin.delete("/routes/r")
    admin.post("/services", json={"name": "later", "host": "h"})
    last = int(admin.get("/config").headers["etag"].strip('"v'))
    document = admin.get(f"/fastgw/history/{first}").json()
    assert [(row["name"], row["host"]) for row in document["services"]] == [("s", "h")]
    assert document["keyauth_credentials"][0]["key"] == "******"
    clear = admin.get(f"/fastgw/history/{first}?secrets=clear&format=yaml")
    assert "hidden-key" in clear.text
    changes = admin.get(f"/fastgw/history/{first}/diff/{last}").json()["changes"]
    assert sorted((change["entity"], change["op"]) for change in changes) == [
        ("routes", "delete"),
        ("services", "create"),
        ("services", "update"),
    ]
    assert admin.get(f"/fastgw/history/{last + 1}").status_code == 404
    # And back: what is given for a version can be loaded.
    assert admin.post("/config", content=clear.text, headers={"Content-Type": "text/yaml"}).status_code == 201
    assert admin.get("/services/s").json()["host"] == "h"
    assert admin.get("/services/later").status_code == 404
