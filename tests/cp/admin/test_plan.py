"""Plans: what a document would change and what speaks against it; and that nothing is changed by asking."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner, Result

from fastgw.cli import main
from fastgw.cp.admin.clustering import Capability
from fastgw.cp.admin.plan import judge_data_planes
from fastgw.cp.documents.child import answer
from fastgw.cp.documents.jobs import DocumentJob, Planned, Read, Rows
from fastgw.cp.documents.process import SMALL_BYTES, read_rows
from fastgw.errors import DeclarativeError
from fastgw.model.declarative import parse_declarative
from tests.cp.admin.server import AdminServer
from tests.waiting import wait_until

FLAVOR = "traditional_compatible"
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
  keyauth_credentials: [{key: hidden-key}]
"""


@pytest.fixture
def each_admin(each_admin_server: AdminServer) -> Iterator[httpx.Client]:
    base = f"http://127.0.0.1:{each_admin_server.port}"
    with httpx.Client(base_url=base, timeout=60, trust_env=False) as client:
        yield client
    each_admin_server.run(each_admin_server.empty())


def plan(admin: httpx.Client, text: str, mode: str = "replace") -> dict[str, Any]:
    made = admin.post(f"/fastgw/plan?mode={mode}", content=text, headers={"Content-Type": "text/yaml"})
    assert made.status_code == 200, made.text
    body: dict[str, Any] = made.json()
    return body


def test_a_plan_says_what_storing_would_do_and_does_nothing(each_admin: httpx.Client) -> None:
    each_admin.post("/services", json={"name": "other", "host": "h"})
    before = each_admin.get("/config").headers["etag"]
    planned = plan(each_admin, FILE)
    assert planned["counts"] == {"created": 4, "updated": 0, "deleted": 1, "unchanged": 0}
    assert "hidden-key" not in json.dumps(planned)
    ops = [(change["entity"], change["op"]) for change in planned["changes"]]
    assert sorted(ops) == [
        ("consumers", "create"),
        ("keyauth_credentials", "create"),
        ("routes", "create"),
        ("services", "create"),
        ("services", "delete"),
    ]
    assert plan(each_admin, FILE, "merge")["counts"]["deleted"] == 0
    assert each_admin.get("/config").headers["etag"] == before

    loaded = each_admin.post("/config", content=FILE, headers={"Content-Type": "text/yaml"})
    assert loaded.status_code == 201, loaded.text
    planned = plan(each_admin, FILE)
    assert (planned["changes"], planned["counts"]["unchanged"]) == ([], 4)
    (changed,) = plan(each_admin, FILE.replace("host: h", "host: g"))["changes"]
    assert (changed["op"], changed["fields"], changed["after"]["host"]) == ("update", ["host"], "g")


def test_what_speaks_against_a_plan(admin: httpx.Client) -> None:
    admin.post("/config", content=FILE, headers={"Content-Type": "text/yaml"}).raise_for_status()
    shadow = FILE.replace("[/r]", "[/r]\n  - name: twin\n    paths: [/r]")
    planned = plan(admin, shadow)
    assert [sorted(one["name"] for one in group) for group in planned["duplicates"]] == [["r", "twin"]]
    # What is so already is not told again.
    admin.post("/config", content=shadow, headers={"Content-Type": "text/yaml"}).raise_for_status()
    assert plan(admin, shadow + "- username: eve\n")["duplicates"] == []
    planned = plan(admin, shadow + "plugins: [{name: key-auth, service: s}]\n")
    assert planned["plugins"] == {"key-auth": 1}


def test_faults_and_conflicts_of_a_plan_are_those_of_an_import(admin: httpx.Client) -> None:
    wrong = FILE.replace("host: h", "host: a b")
    headers = {"Content-Type": "text/yaml"}
    planned, imported = (
        admin.post(f"{path}?flatten_errors=1", content=wrong, headers=headers)
        for path in ("/fastgw/plan", "/config")
    )
    assert planned.status_code == imported.status_code == 400
    assert planned.json() == imported.json()
    refused = admin.post("/fastgw/plan?mode=x", content=FILE, headers=headers)
    assert refused.json()["message"] == "mode must be one of replace, merge"
    admin.post("/services", json={"name": "s", "host": "h"})
    taken = admin.post("/fastgw/plan?mode=merge", content=FILE, headers=headers)
    assert (taken.status_code, taken.json()["fields"]) == (409, {"name": "s"})
    unknown = FILE + "plugins: [{name: nope}]\n"
    assert "not enabled" in admin.post("/fastgw/plan", content=unknown, headers=headers).text


def test_data_planes_are_judged_by_what_they_said() -> None:
    planned = Planned({}, [], 0, [], [], [], {"cors": 1, "key-auth": 2}, 1000)
    judged = judge_data_planes(
        planned,
        [
            Capability("1", "full", "0.2", frozenset({"cors", "key-auth"}), 1000),
            Capability("2", "old", "0.1", frozenset({"cors"}), 999),
            Capability("3", "silent", "0.0", None, 1000),
        ],
    )
    assert [(one["hostname"], len(one["refuses"]), one["lacks"]) for one in judged] == [
        ("full", 0, []),
        ("old", 1, ["plugin 'key-auth' is not available there: its routes answer 503"]),
        ("silent", 0, []),
    ]
    assert "cluster_max_payload of 999" in judged[1]["refuses"][0]


def large(services: int) -> bytes:
    rows = [
        {"name": f"s{n}", "host": "h", "routes": [{"name": f"r{n}", "paths": [f"/{n}"]}]}
        for n in range(services)
    ]
    return msgspec.json.encode({"_format_version": "3.0", "services": rows})


def test_a_large_document_is_read_by_a_process_of_its_own() -> None:
    content = large(1200)
    assert len(content) > SMALL_BYTES
    rows = asyncio.run(read_rows(content, is_json=True, refused_plugins={}, flavor=FLAVOR))
    expected = parse_declarative(
        content, source="x", is_json=True, created_at_s=rows["services"][0]["created_at"]
    )
    assert rows == expected
    frames = list(answer(DocumentJob(content, True, 1.0, {}, FLAVOR)))
    assert [len(frame.rows) for frame in frames if isinstance(frame, Rows)] == [500, 500, 200] * 2
    assert isinstance(frames[-1], Read)


def test_faults_of_a_large_document_come_back_whole() -> None:
    content = large(1200).replace(b'"host":"h"', b'"host":"a b"', 1)
    with pytest.raises(DeclarativeError) as caught:
        asyncio.run(read_rows(content, is_json=True, refused_plugins={}, flavor=FLAVOR))
    assert [text for _, text in caught.value.faults] == ["invalid value: a b"]
    assert caught.value.flattened[0]["entity_name"] == "s0"


def test_no_process_is_left_by_who_stops_waiting() -> None:
    async def scenario() -> None:
        reading = asyncio.create_task(
            read_rows(large(20_000), is_json=True, refused_plugins={}, flavor=FLAVOR)
        )
        await asyncio.to_thread(wait_until, children, 20, "the process")
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)

    asyncio.run(scenario())
    assert children() == []


def children() -> list[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    pids = [int(pid) for pid in path.read_text().split()]
    return [pid for pid in pids if b"documents.child" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def plan_command(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_the_command_for_people_and_pipelines(tmp_path: Path) -> None:
    file = tmp_path / "kong.yml"
    file.write_text(FILE)
    with AdminServer(tmp_path / "prefix") as server:
        where = f"--set=admin_listen=127.0.0.1:{server.port}"
        done = plan_command(str(file), where)
        assert (done.exit_code, done.stderr) == (2, "")
        assert "+ routes r" in done.stdout
        assert "against version 0: 4 created, 0 updated, 0 deleted, 0 unchanged" in done.stdout
        base = f"http://127.0.0.1:{server.port}"
        httpx.post(f"{base}/config", content=FILE, headers={"Content-Type": "text/yaml"}).raise_for_status()
        done = plan_command(str(file), "--merge", "--json", where)
        assert (done.exit_code, json.loads(done.stdout)["counts"]["unchanged"]) == (0, 4)
        file.write_text(FILE.replace("[/r]", "[/r]\n  - name: twin\n    paths: [/r]"))
        done = plan_command(str(file), where)
        assert done.exit_code == 3
        assert "! routes r, twin would ask for the same" in done.stdout
        file.write_text(FILE.replace("host: h", "host: a b"))
        done = plan_command(str(file), where)
        assert done.exit_code == 1
        assert "invalid value: a b" in done.stderr
