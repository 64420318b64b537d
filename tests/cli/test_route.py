"""`fastgw route`: explanations and findings, from a file and from a control plane."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fastgw.model.entities import ENTITIES, ROUTES
from fastgw.model.validate import make_row
from tests.cli.running import fastgw_command
from tests.cp.admin.server import AdminServer

CONFIGURATION = r"""
_format_version: "3.0"
services:
- name: orders
  url: http://orders.internal/v1
  routes:
  - name: by-id
    hosts: [example.com]
    paths: ['~/orders/(?<id>\d+)']
    headers: {X-Team: [blue]}
  - name: all
    paths: ['/orders']
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "kong.yml"
    path.write_text(CONFIGURATION)
    return str(path)


def test_explain_from_a_file(file: str) -> None:
    done = fastgw_command(
        "route", "explain", "GET", "http://example.com/orders/7?x=1", "-H", "x-team: Blue", "-f", file
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "matches route by-id" in done.stdout
    assert "capture id: 7" in done.stdout
    assert "as /v1?x=1" in done.stdout
    assert "headers.X-Team: blue  <- Blue" in done.stdout


def test_explain_as_json_says_why_not(file: str) -> None:
    done = fastgw_command("route", "explain", "GET", "https://example.com/x", "-f", file, "--json")
    answer = json.loads(done.stdout)
    assert answer["match"] is None
    assert answer["request"]["sni"] == "example.com"
    assert [one["route"]["name"] for one in answer["candidates"]] == ["by-id"]


def test_lint_from_a_file(file: str) -> None:
    done = fastgw_command("route", "lint", "-f", file)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2 routes, nothing to tell\n", "")
    Path(file).write_text(CONFIGURATION + "  - name: twin\n    paths: ['/orders']\n")
    done = fastgw_command("route", "lint", "-f", file, "--set", "router_flavor=traditional")
    assert done.returncode == 1
    assert "can never match" in done.stdout
    found = re.search(
        r"(all|twin), (all|twin): ask for the same; (.*) stands first and takes all", done.stdout
    )
    assert found is not None
    assert found[1] == found[3]
    assert f"{found[2]}: can never match: {found[3]} takes its requests" in done.stdout


def test_lint_tells_refused_regexes(file: str) -> None:
    Path(file).write_text(CONFIGURATION.replace(r"\d+", r"\d++"))
    done = fastgw_command("route", "lint", "-f", file)
    assert done.returncode == 1
    assert "a possessive quantifier, '++'" in done.stderr
    assert "services[0].routes[0]" in done.stderr


def test_questions_to_a_control_plane(tmp_path: Path) -> None:
    with AdminServer(tmp_path) as server:
        where = ("--set", f"admin_listen=127.0.0.1:{server.port}")
        done = fastgw_command("route", "lint", *where)
        assert done.returncode == 1
        assert "answered 503 No configuration has been published yet" in done.stderr
        server.run(add_route(server))
        done = fastgw_command("route", "explain", "GET", "/x/y", *where)
        assert (done.returncode, done.stderr) == (0, "")
        assert "matches route r" in done.stdout


def test_questions_about_a_version(tmp_path: Path) -> None:
    with AdminServer(tmp_path) as server:
        where = ("--set", f"admin_listen=127.0.0.1:{server.port}")
        server.run(add_route(server))
        version = server.run(server.storage.version())
        server.run(add_plugin(server))
        done = fastgw_command("route", "explain", "GET", "/x/y", *where, "--version", str(version))
        assert (done.returncode, done.stderr) == (0, "")
        assert "matches route r" in done.stdout
        assert "plugin" not in done.stdout
        done = fastgw_command("route", "explain", "GET", "/x/y", *where, "--version", str(version + 1))
        assert "plugin cors (priority 2000, by global" in done.stdout
        done = fastgw_command("route", "lint", *where, "--version", str(version))
        assert done.stdout == "1 routes, nothing to tell\n"
        done = fastgw_command("route", "lint", *where, "--version", "999")
        assert done.returncode == 1
        assert "there is no version 999" in done.stderr


async def add_plugin(server: AdminServer) -> None:
    async with server.storage.write("test") as writer:
        await writer.insert("plugins", make_row(ENTITIES["plugins"], {"name": "cors"}, now_s=1))


async def add_route(server: AdminServer) -> None:
    async with server.storage.write("test") as writer:
        await writer.insert("routes", make_row(ROUTES, {"name": "r", "paths": ["/x"]}, now_s=1))


def test_mistakes_are_told_in_one_line(file: str) -> None:
    done = fastgw_command("route", "explain", "GET", "nowhere", "-f", file)
    assert done.returncode == 1
    assert done.stderr.startswith("fastgw: 'nowhere' is neither http://host/path")
    assert (
        "is not 'NAME: VALUE'" in fastgw_command("route", "explain", "GET", "/", "-H", "x", "-f", file).stderr
    )
    done = fastgw_command("route", "lint", "--set", "admin_listen=127.0.0.1:1")
    assert done.returncode == 1
    assert "no control plane answers at http://127.0.0.1:1/fastgw/routes/lint" in done.stderr
