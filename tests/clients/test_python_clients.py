"""httpie as in Kong's getting-started pages, python-kongclient, and schemathesis on our own document."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.conftest import INSTALL_S

Run = Callable[..., str]

pytestmark = pytest.mark.timeout(INSTALL_S)


@pytest.fixture
def run(python_clients: Path, tmp_path: Path) -> Run:
    def run(program: str, *arguments: str, timeout_s: float = 60) -> str:
        done = subprocess.run(
            [str(python_clients / program), *arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=tmp_path,
            env={"HOME": str(tmp_path), "NO_PROXY": "*", "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_httpie_as_in_kongs_getting_started_pages(run: Run, address: str) -> None:
    def http(*arguments: str) -> object:
        method, path, *items = arguments
        form = ["--form"] if items else []
        shown = run("http", "--ignore-stdin", "--check-status", *form, method, address + path, *items)
        return json.loads(shown) if shown.strip() else None

    service = http("POST", "/services", "name=example_service", "url=http://httpbin.example")
    assert isinstance(service, dict)
    assert service["host"] == "httpbin.example"
    route = http("POST", "/services/example_service/routes", "name=example_route", "paths[]=/mock")
    assert isinstance(route, dict)
    assert route["paths"] == ["/mock"]
    plugin = http(
        *("POST", "/plugins", "name=rate-limiting", "config.minute=5", "config.policy=local"),
    )
    assert isinstance(plugin, dict)
    assert plugin["config"]["minute"] == 5
    http("POST", "/services/example_service/plugins", "name=proxy-cache", "config.strategy=memory")
    http("POST", "/consumers", "username=luka")
    key = http("POST", "/consumers/luka/key-auth", "key=top-secret-key")
    assert isinstance(key, dict)
    assert key["key"] == "top-secret-key"
    http("POST", "/upstreams", "name=example_upstream")
    http("POST", "/upstreams/example_upstream/targets", "target=httpbun.example:80")
    changed = http("PATCH", "/services/example_service", "host=example_upstream")
    assert isinstance(changed, dict)
    assert changed["host"] == "example_upstream"
    assert http("DELETE", "/consumers/luka") is None


KONGCLIENT = """
import sys
from kongclient import KongClient
from kongclient.exceptions import APIException

kong = KongClient(sys.argv[1])
service = kong.services.create(name="s", host="h.example", tags=["t"])
assert kong.services.get("s")["id"] == service["id"]
assert [one["name"] for one in kong.services.list(tags="t")] == ["s"]
consumer = kong.consumers.create(username="bob")
assert kong.consumers.get("bob") == consumer
upstream = kong.upstreams.create(name="u.example", healthchecks={})
assert kong.upstreams.get("u.example")["algorithm"] == "round-robin"
try:
    kong.services.get("none")
except APIException:
    pass
else:
    raise SystemExit("a missing service was found")
kong.services.delete("s")
assert kong.services.list() == []
print("done")
"""


def test_kongclient(run: Run, address: str) -> None:
    assert run("python", "-c", KONGCLIENT, address).strip() == "done"


def test_schemathesis_finds_no_fault_of_the_server_and_no_other_answers_than_said(
    run: Run, address: str
) -> None:
    run(
        *("schemathesis", "run", f"{address}/openapi.json", "--no-color"),
        *("--phases", "fuzzing", "--max-examples", "2", "--seed", "1", "--max-time", "15"),
        *("--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"),
        timeout_s=90,
    )
