"""A control plane, a data plane and what an operator does first: a service, a route, a request.

The pair is started once for each storage and shared by the tests of this file; each has routes of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import re
import socket
import uuid
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import httpx
import pytest

from tests.scenario.conftest import prepared_storage
from tests.scenario.harness import Pair, Stage
from tests.scenario.nodes import ControlPlane, DataPlane
from tests.scenario.process import HOST
from tests.scenario.upstream import BODY_DIGEST
from tests.waiting import wait_until

_BIG: Final = bytes(range(256)) * 4096
_VIA: Final = re.compile(r"1\.1 fastgw/\S+")
_NUMBER: Final = re.compile(r"\d+")


class Gateway(NamedTuple):
    control_plane: ControlPlane
    data_plane: DataPlane
    upstream: str

    def route(self, path: str, *, to: str = "", **fields: Any) -> str:
        """Add a service that leads to *to* at httpbin and a route for *path*; wait until it serves."""
        name = f"{path.strip('/').replace('/', '-')}-{uuid.uuid4().hex[:8]}"
        self.control_plane.add_service(name, f"{self.upstream}{to}")
        route_id = self.control_plane.add_route(name, path, **fields)
        wait_until(
            lambda: (
                any(
                    row["applied_version"] == row["wanted_version"]
                    for row in self.control_plane.data_planes().values()
                )
                and self.data_plane.proxy.get(path).headers.get("via")
            ),
            10,
            f"{path} is served",
        )
        return route_id


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pair: Pair, upstream: str
) -> Iterator[Gateway]:
    with (
        prepared_storage(request, request.param) as storage,
        Stage(tmp_path_factory.mktemp(f"traffic-{request.param}")) as stage,
    ):
        control_plane = stage.control_plane(pair, storage)
        yield Gateway(control_plane, stage.data_plane(pair, control_plane, workers="2"), upstream)


def echo(answer: httpx.Response) -> dict[str, str]:
    """The header fields that httpbin received."""
    assert answer.status_code == 200, answer.text
    return {name.lower(): value for name, value in answer.json()["headers"].items()}


def test_nothing_is_routed_at_first(gateway: Gateway) -> None:
    answer = gateway.data_plane.proxy.get("/nowhere")
    assert answer.status_code == 404
    assert answer.json()["message"] == "no Route matched with those values"
    assert answer.json()["request_id"] == answer.headers["x-kong-request-id"]
    assert "via" not in answer.headers
    gateway.data_plane.wait_line(
        r"applied version 0, digest 0{32}: no entities; \w+; decode .* compile .* commit"
    )


def test_a_service_and_a_route_by_form(gateway: Gateway) -> None:
    """As the walk-through has it, with curl's and httpie's spelling."""
    control_plane = gateway.control_plane
    service = control_plane.expect(
        201,
        control_plane.admin.post(
            "/services", data={"name": "by-form", "url": f"{gateway.upstream}/anything"}
        ),
    )
    assert (service["host"], service["path"]) == (HOST, "/anything")
    route = control_plane.expect(
        201,
        control_plane.admin.post("/services/by-form/routes", data={"paths[]": "/by-form", "name": "first"}),
    )
    assert route["paths"] == ["/by-form"]
    assert route["service"] == {"id": service["id"]}
    answer = gateway.data_plane.wait_answer("/by-form/and/more?x=1")
    assert answer.json()["url"].endswith("/anything/and/more?x=1")


def test_a_service_and_a_route_by_json(gateway: Gateway) -> None:
    control_plane = gateway.control_plane
    host, _, port = gateway.upstream.removeprefix("http://").partition(":")
    service = control_plane.expect(
        200,
        control_plane.admin.put(
            "/services/by-json", json={"host": host, "port": int(port), "path": "/anything", "retries": 1}
        ),
    )
    assert service["name"] == "by-json"
    control_plane.add_route("by-json", "/by-json", hosts=["json.example"], methods=["POST"], strip_path=False)
    send = gateway.data_plane.proxy
    there = {"Host": "json.example"}
    wait_until(lambda: send.post("/by-json", headers=there).status_code == 200, 10, "it serves")
    answer = send.post("/by-json", headers={"Host": "JSON.example"}, json={"a": 1})
    assert answer.json()["json"] == {"a": 1}
    assert answer.json()["url"].endswith("/anything/by-json")
    assert send.post("/by-json").status_code == 404
    assert send.get("/by-json", headers=there).status_code == 404


def test_all_faults_at_once(gateway: Gateway) -> None:
    answer = gateway.control_plane.admin.post("/services", json={"port": -1, "colour": "red"})
    assert answer.status_code == 400
    assert set(answer.json()["fields"]) == {"host", "port", "colour"}
    assert answer.json()["name"] == "schema violation"


def test_the_answer_tells_via_and_latencies(gateway: Gateway) -> None:
    gateway.route("/told", to="/anything")
    answer = gateway.data_plane.proxy.get("/told")
    assert _VIA.fullmatch(answer.headers["via"])
    assert _NUMBER.fullmatch(answer.headers["x-kong-upstream-latency"])
    assert _NUMBER.fullmatch(answer.headers["x-kong-proxy-latency"])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-kong-request-id"])
    admin = gateway.control_plane.admin.get("/services")
    assert _NUMBER.fullmatch(admin.headers["x-kong-admin-latency"])


def test_the_upstream_sees_who_asked_and_where(gateway: Gateway) -> None:
    gateway.route("/seen/here")
    answer = gateway.data_plane.proxy.get(
        "/seen/here/anything?show_env=1",
        headers={
            "Host": "Shop.Example:81",
            "X-Forwarded-For": "203.0.113.7, 10.0.0.1",
            # Nobody in front of the gateway is trusted: these are replaced.
            "X-Forwarded-Proto": "https",
            "X-Forwarded-Host": "forged.example",
            "X-Forwarded-Port": "443",
            "X-Forwarded-Path": "/forged",
            "X-Forwarded-Prefix": "/forged",
            "X-Real-IP": "203.0.113.7",
        },
    )
    seen = echo(answer)
    assert seen["x-forwarded-for"] == "203.0.113.7, 10.0.0.1, 127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-forwarded-host"] == "shop.example"
    assert seen["x-forwarded-port"] == str(gateway.data_plane.proxy_port)
    assert seen["x-forwarded-path"] == "/seen/here/anything"
    assert seen["x-forwarded-prefix"] == "/seen/here"
    assert seen["x-real-ip"] == "127.0.0.1"
    assert seen["x-kong-request-id"] == answer.headers["x-kong-request-id"]
    assert seen["host"] == gateway.upstream.removeprefix("http://")


def test_a_route_may_keep_host_and_path(gateway: Gateway) -> None:
    gateway.route("/anything/kept", strip_path=False, preserve_host=True)
    answer = gateway.data_plane.proxy.get("/anything/kept?show_env=1", headers={"Host": "kept.example:8080"})
    seen = echo(answer)
    assert seen["host"] == "kept.example:8080"
    assert "x-forwarded-prefix" not in seen
    assert answer.json()["url"] == "http://kept.example:8080/anything/kept?show_env=1"


def test_a_gzip_body_arrives_byte_for_byte(gateway: Gateway) -> None:
    gateway.route("/packed")
    with gateway.data_plane.proxy.stream(
        "GET", "/packed/gzip", headers={"Accept-Encoding": "gzip"}
    ) as answer:
        body = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) == len(body)
    assert hashlib.sha256(body).hexdigest() == answer.headers[BODY_DIGEST]
    assert b'"gzipped": true' in gzip.decompress(body).replace(b'"gzipped":true', b'"gzipped": true')


def test_bodies_of_all_shapes_go_both_ways(gateway: Gateway) -> None:
    gateway.route("/bodies")
    send = gateway.data_plane.proxy
    # 1 MiB with a length, the same in chunks, an answer in chunks, and none at all.
    answer = send.post("/bodies/anything", content=_BIG, headers={"Content-Type": "application/octet-stream"})
    assert answer.headers[BODY_DIGEST] == hashlib.sha256(answer.content).hexdigest()
    whole = answer.json()["data"]
    pieces = (_BIG[start : start + 100_000] for start in range(0, len(_BIG), 100_000))
    chunked = send.post(
        "/bodies/anything", content=pieces, headers={"Content-Type": "application/octet-stream"}
    )
    assert chunked.json()["data"] == whole
    assert chunked.json()["headers"]["Transfer-Encoding"] == "chunked"
    streamed = send.get("/bodies/stream/20")
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert len(streamed.text.splitlines()) == 20
    head = send.head("/bodies/anything")
    assert (head.status_code, head.content) == (200, b"")
    assert send.get("/bodies/status/204").status_code == 204


def test_one_connection_carries_many_requests(gateway: Gateway) -> None:
    gateway.route("/kept-open")
    connection = http.client.HTTPConnection(HOST, gateway.data_plane.proxy_port, timeout=10)
    try:
        sockets: set[socket.socket | None] = set()
        for number in range(50):
            connection.request("GET", f"/kept-open/anything/{number}")
            answer = connection.getresponse()
            assert answer.status == 200
            assert f"/anything/{number}".encode() in answer.read()
            sockets.add(connection.sock)
        assert len(sockets) == 1
    finally:
        connection.close()


def test_an_upstream_that_does_not_answer(gateway: Gateway) -> None:
    with socket.socket() as nobody:
        nobody.bind((HOST, 0))  # taken, and not listening
        gateway.control_plane.add_service("gone", f"http://{HOST}:{nobody.getsockname()[1]}")
        gateway.control_plane.add_route("gone", "/gone")
        answer = gateway.data_plane.wait_answer("/gone", status=502)
    assert answer.json()["message"] == "An invalid response was received from the upstream server"


def test_a_change_and_a_deletion_are_served_at_once(gateway: Gateway) -> None:
    route = gateway.route("/before")
    control_plane = gateway.control_plane
    control_plane.expect(200, control_plane.admin.patch(f"/routes/{route}", json={"paths": ["/after"]}))
    gateway.data_plane.wait_answer("/after/get")
    assert gateway.data_plane.proxy.get("/before/get").status_code == 404
    control_plane.expect(204, control_plane.admin.delete(f"/routes/{route}"))
    gateway.data_plane.wait_answer("/after/get", status=404)


def test_the_control_plane_knows_its_data_plane(gateway: Gateway) -> None:
    gateway.route("/known")
    control_plane, data_plane = gateway.control_plane, gateway.data_plane
    node_id = data_plane.node_id
    shown = control_plane.expect(200, control_plane.admin.get("/clustering/status"))
    assert set(shown) == {node_id}
    assert set(shown[node_id]) == {"config_hash", "hostname", "ip", "last_seen"}
    assert shown[node_id]["hostname"] == socket.gethostname()
    assert shown[node_id]["ip"] == HOST
    (row,) = control_plane.data_planes().values()
    applied = data_plane.status()["applied"]
    assert row["applied_version"] == row["wanted_version"] == applied["version"]
    assert row["config_hash"] == shown[node_id]["config_hash"] == applied["digest"][:32]
    assert (row["connected"], row["sync_status"], row["last_error"]) == (True, "normal", None)


def test_logs_and_metrics_have_every_request(gateway: Gateway) -> None:
    gateway.route("/logged")
    data_plane = gateway.data_plane
    mark = uuid.uuid4().hex
    for _ in range(8):  # on connections of their own, so that both workers get some
        assert data_plane.proxy.get(f"/logged/anything/{mark}").status_code == 200
    wait_until(lambda: data_plane.output.count(mark) >= 8, 10, "eight lines in the access log")
    assert f'"GET /logged/anything/{mark} HTTP/1.1" 200' in data_plane.output
    wait_until(lambda: "POST /services" in gateway.control_plane.output, 10, "the Admin API's access log")
    metrics = data_plane.status_client.get("/metrics").text
    found = re.findall(
        r'^kong_http_requests_total\{service="logged-[^}]*code="200"[^}]*\} (\d+)', metrics, re.MULTILINE
    )
    assert sum(map(int, found)) >= 8
    applied = data_plane.status()["applied"]["version"]
    data_plane.wait_line(
        rf"applied version {applied}, digest [0-9a-f]{{32}}: routes \d+, services \d+; \w+; decode"
    )
