"""What holds for every path: methods, trailing slashes, content types, limits, and the order of checks."""

from __future__ import annotations

import json
import socket

import httpx
import pytest

from fastgw.cp.admin.bodies import LIMIT_BYTES
from tests.cp.admin.server import AdminServer

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_unknown_paths(admin: httpx.Client) -> None:
    for path in ("/x", "/services/a/b", "/services/a/client_certificate", "/services//routes", "/clustering"):
        response = admin.get(path)
        assert (response.status_code, response.json()) == (404, {"message": "Not found"}), path
    assert admin.post("/x", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 404
    assert admin.options("/x").status_code == 404


def test_a_slash_at_the_end_changes_nothing(admin: httpx.Client) -> None:
    assert admin.get("/services/").json() == {"data": [], "next": None}
    assert admin.post("/services/", json={"host": "a", "name": "a"}).status_code == 201
    assert admin.get("/services/a/").json() == admin.get("/services/a").json()
    assert admin.get("/services/a/routes/").status_code == 200


def test_method_not_offered(admin: httpx.Client) -> None:
    for method, path in (
        ("PUT", "/services"),
        ("PATCH", "/services"),
        ("DELETE", "/services"),
        ("POST", "/services/a"),
        ("POST", "/"),
        ("POST", "/status"),
        ("PATCH", "/services/a/routes"),
        ("TRACE", "/services"),
        ("PROPFIND", "/services"),
    ):
        response = admin.request(method, path)
        assert (response.status_code, response.json()) == (405, {"message": "Method not allowed"})
        assert "allow" not in response.headers


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/services", "GET, HEAD, OPTIONS, POST"),
        ("/services/any", "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"),
        ("/services/any/routes", "GET, HEAD, OPTIONS, POST"),
        ("/clustering/status", "GET, HEAD, OPTIONS"),
    ],
)
def test_options(admin: httpx.Client, path: str, methods: str) -> None:
    response = admin.options(path)
    assert response.status_code == 204
    assert response.headers["allow"] == methods
    assert response.headers["access-control-allow-methods"] == methods
    assert response.headers["access-control-allow-headers"] == "Content-Type"
    asked = admin.options(path, headers={"Access-Control-Request-Headers": "X-A, X-B"})
    assert asked.headers["access-control-allow-headers"] == "X-A, X-B"


def test_head_is_get_without_body(admin: httpx.Client) -> None:
    admin.post("/services", json={"host": "a", "name": "a"})
    for path in ("/", "/services", "/services/a", "/services/x"):
        got, head = admin.get(path), admin.head(path)
        assert head.status_code == got.status_code
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/":  # its uptime may have grown by a digit
            assert head.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"null", b"[" * 100_000, b'{"a":"\xff"}'])
def test_malformed_json(admin: httpx.Client, body: bytes) -> None:
    response = admin.post("/services", content=body, headers=JSON)
    assert (response.status_code, response.json()) == (400, {"message": "Cannot parse JSON body"})


@pytest.mark.parametrize("content_type", ["text/plain", "Application/JSON", "text/yaml", "json"])
def test_unsupported_content_type(admin: httpx.Client, content_type: str) -> None:
    for method, path in (("POST", "/services"), ("PUT", "/services/a"), ("PATCH", "/services/a")):
        response = admin.request(method, path, content=b"{}", headers={"Content-Type": content_type})
        assert response.status_code == 415
    # Before the method: POST is not offered here.
    assert admin.post("/services/a", content=b"{}", headers={"Content-Type": content_type}).status_code == 415


def test_a_body_without_a_type(admin: httpx.Client) -> None:
    assert admin.post("/services", content=b"host=a").status_code == 415
    chunked = admin.post("/services", content=iter([b"host=a"]))
    assert chunked.status_code == 415
    assert admin.post("/services", headers={"Content-Length": "0"}).status_code == 400


def test_bodies_of_reading_methods_are_ignored(admin: httpx.Client) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        response = admin.request(method, "/services/x", content=b"{", headers=JSON)
        assert response.status_code == (204 if method == "DELETE" else 404)


def test_arguments_are_counted(admin: httpx.Client) -> None:
    many = "&".join(f"a{n}=1" for n in range(1001))
    too_many = {"message": "Too many arguments"}
    response = admin.post(f"/services?{many}", json={})
    assert (response.status_code, response.json()) == (400, too_many)
    response = admin.post("/services", content=many.encode(), headers=FORM)
    assert (response.status_code, response.json()) == (400, too_many)
    response = admin.get(f"/services?{many}")
    assert (response.status_code, response.json()) == (400, too_many)
    parts = b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(1001))
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = admin.post("/services", content=parts + b"--x--", headers=headers)
    assert (response.status_code, response.json()) == (400, too_many)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: text/plain\r\n\r\n1\r\n--x--"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="a"\r\n--x--'),
    ],
)
def test_malformed_multipart(admin: httpx.Client, content_type: str, body: bytes) -> None:
    response = admin.post("/services", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert response.json()["message"].startswith("Cannot parse multipart body: ")


def test_bodies_have_a_limit(admin: httpx.Client) -> None:
    fitting = json.dumps({"host": " " * (LIMIT_BYTES - 100)}).encode()
    assert admin.post("/services", content=fitting, headers=JSON).status_code == 400
    chunk = b"a" * 65536
    streamed = (chunk for _ in range(LIMIT_BYTES // len(chunk) + 1))
    assert admin.post("/services", content=streamed, headers=JSON).status_code == 413


def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(admin_server: AdminServer) -> None:
    head = (
        b"POST /services HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10485761\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", admin_server.port), timeout=20) as connection:
        connection.sendall(head)
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_the_method_comes_before_the_body(admin: httpx.Client) -> None:
    assert admin.put("/services", content=b"{", headers=JSON).status_code == 405


def test_the_body_comes_before_the_parent(admin: httpx.Client) -> None:
    assert admin.post("/services/x/routes", content=b"{", headers=JSON).status_code == 400
