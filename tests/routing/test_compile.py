"""From documents to images: what is compiled, what is left out, and that every reason against it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fastgw._router import Request
from fastgw.errors import CompileError
from fastgw.model.entities import SERVICES
from fastgw.model.snapshot import Snapshot
from fastgw.routing.compile import FAULTS_LIMIT, compile_snapshot
from fastgw.routing.image import Image, Protocols, RouteRecord, ServiceRecord
from tests.routing.snapshots import make_id, route, service, snapshot


def compile_to_image(made: Snapshot, directory: Path) -> Image:
    path = directory / "image"
    path.write_bytes(compile_snapshot(made))
    return Image.open(path)


def faults_of(made: Snapshot) -> list[dict[str, str]]:
    with pytest.raises(CompileError) as caught:
        compile_snapshot(made)
    return caught.value.faults


def test_a_route_and_its_service(tmp_path: Path) -> None:
    made = snapshot(
        service(1, path="/base", port=8080),
        route(
            11,
            to=1,
            hosts=["Example.com", "*.example.org"],
            paths=["/a", "/caf\u00e9"],
            methods=["GET"],
            strip_path=False,
            preserve_host=True,
        ),
    )
    image = compile_to_image(made, tmp_path)
    assert image.table().match(b"GET", b"example.com", b"/a/x") == (0, 2)
    assert image.table().match(b"GET", b"x.example.org", "/caf\u00e9/x".encode()) == (0, 6)
    assert image.table().match(b"PUT", b"example.com", b"/a") is None
    assert image.route(0) == RouteRecord(
        id=make_id(11),
        name="route-11",
        service=0,
        strip_path=False,
        preserve_host=True,
        protocols=Protocols.HTTP | Protocols.HTTPS,
        https_redirect_status_code=426,
    )
    assert image.service(0) == ServiceRecord(
        id=make_id(1),
        name="service-1",
        host="upstream.example",
        port=8080,
        path="/base",
        protocol="http",
        retries=5,
        connect_timeout_ms=60000,
        write_timeout_ms=60001,
        read_timeout_ms=60002,
        is_upstream_name=False,
    )
    assert (image.meta.version, image.meta.digest) == (7, made.digest)
    assert image.meta.counts == {"routes": 1, "services": 1}
    assert image.snapshot() == made


def test_null_stands_for_the_default(tmp_path: Path) -> None:
    nulls = dict.fromkeys(["retries", "connect_timeout", "write_timeout", "read_timeout"])
    record = compile_to_image(snapshot(service(1, **nulls)), tmp_path).service(0)
    defaults = SERVICES.fields
    assert record.retries == defaults["retries"].default
    assert record.connect_timeout_ms == defaults["connect_timeout"].default
    assert record.write_timeout_ms == defaults["write_timeout"].default
    assert record.read_timeout_ms == defaults["read_timeout"].default


def test_an_empty_snapshot_makes_an_image(tmp_path: Path) -> None:
    image = compile_to_image(snapshot(), tmp_path)
    assert (image.route_count, image.service_count, image.meta.counts) == (0, 0, {})
    assert image.table().match(b"GET", b"", b"/") is None


def test_a_route_without_a_service_is_served(tmp_path: Path) -> None:
    image = compile_to_image(snapshot(route(1, paths=["/"])), tmp_path)
    assert image.route(0).service == -1


def test_routes_of_a_disabled_service_are_left_out(tmp_path: Path) -> None:
    image = compile_to_image(
        snapshot(
            service(1, enabled=False), service(2), route(11, to=1, paths=["/a"]), route(12, to=2, paths=["/"])
        ),
        tmp_path,
    )
    found = image.table().match(b"GET", b"", b"/a")
    assert found == (0, 1)
    assert image.route(0).id == make_id(12)
    assert image.meta.counts == {"routes": 2, "services": 2}


def test_the_older_route_wins_whatever_its_id(tmp_path: Path) -> None:
    image = compile_to_image(
        snapshot(route(11, paths=["/"], created_at=2), route(12, paths=["/"], created_at=1)), tmp_path
    )
    found = image.table().match(b"GET", b"", b"/")
    assert found is not None
    assert image.route(found[0]).id == make_id(12)


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"paths": ["~/x(?=y)"]}, "paths", "look-around"),
        ({"headers": {"x": []}}, "headers", "at least one value"),
        ({"headers": {"x": ["~*("]}}, "headers", "missing )"),
        ({"sources": [{"ip": "10.0.0.1"}]}, "sources", "source"),
        ({"protocols": ["grpc"]}, "protocols", "grpc"),
        ({"paths": None}, "", "needs a host, a path, a method"),
        ({"hosts": ["a.*.com"]}, "", "neither a name nor a wildcard"),
        ({"paths": "/x"}, "", "Expected `array"),
        ({"paths": ["no-slash"]}, "", "does not begin with a slash"),
        ({"hosts": ["*."]}, "hosts", "wildcard without a name"),
        ({"created_at": 2**63}, "", "Expected `int`"),
        ({"id": "not-an-id"}, "", "hex"),
    ],
)
def test_what_cannot_be_served_is_told(fields: dict[str, Any], field: str, reason: str) -> None:
    (fault,) = faults_of(snapshot(route(11, **{"paths": ["/x"]} | fields)))
    assert fault["entity"] == "routes"
    assert fault["id"] == fields.get("id", make_id(11))
    assert fault["field"] == field
    assert reason in fault["reason"]


def test_traditional_serves_what_re2_cannot_and_refuses_what_it_does_not_have(tmp_path: Path) -> None:
    beyond = route(11, paths=[r"~/(?!admin)(?P<word>\w+)"])
    path = tmp_path / "image"
    path.write_bytes(compile_snapshot(snapshot(beyond), flavor="traditional"))
    table = Image.open(path).table()
    assert table.match(b"GET", b"a.com", b"/user/1") == (0, 5)
    assert table.match(b"GET", b"a.com", b"/admin") is None
    assert (table.captures_of(Request(b"GET", b"a.com", b"/user/1")) or {})["word"] == b"user"
    for row, field in (
        (route(11, paths=None, expression='http.path == "/"'), "expression"),
        (route(11, paths=["/"], protocols=["https"], snis=["*.a.com"]), "snis"),
        (route(11, paths=[r"~/(?=a"]), "paths"),
    ):
        with pytest.raises(CompileError) as caught:
            compile_snapshot(snapshot(row), flavor="traditional")
        assert [fault["field"] for fault in caught.value.faults] == [field]


def test_a_row_that_is_no_text_is_told() -> None:
    document = snapshot(route(11, paths=["/x"])).encode().replace(b"/x", b"/\xff")
    with pytest.raises(CompileError) as caught:
        compile_snapshot(Snapshot.decode(1, document))
    assert caught.value.faults[0]["id"] == make_id(11)


def test_all_reasons_are_told_at_once() -> None:
    faults = faults_of(
        snapshot(
            service(1, protocol="grpc"),
            service(2, port="80"),
            route(11, to=1, paths=["/x"]),
            route(12, to=2, paths=["/x"]),
            route(13, to=3, paths=["/x"]),
            route(14, headers={"x": []}, sources=[{"ip": "1.2.3.4"}]),
        )
    )
    # Routes of a service that is refused have nothing to add.
    assert [(fault["entity"], fault["id"], fault["field"]) for fault in faults] == [
        ("services", make_id(1), "protocol"),
        ("services", make_id(2), ""),
        ("routes", make_id(13), "service"),
        ("routes", make_id(14), "headers"),
        ("routes", make_id(14), "sources"),
    ]


def test_reasons_without_end_are_counted() -> None:
    faults = faults_of(snapshot(*(route(n, paths=["~/x("]) for n in range(1, FAULTS_LIMIT + 11))))
    assert len(faults) == FAULTS_LIMIT + 1
    assert faults[-1]["reason"] == "10 more"


def test_a_kind_that_is_not_known_is_refused() -> None:
    made = Snapshot.from_rows(1, {"licenses": [{"id": make_id(1)}], "routes": [route(2, paths=["/"])]})
    (fault,) = faults_of(made)
    assert fault["entity"] == "licenses"
    assert "does not know licenses" in fault["reason"]


def test_a_line_and_its_row_agree_on_the_id() -> None:
    document = snapshot(route(11, paths=["/x"])).encode()
    key, _, body = document.rpartition(b" ")
    document = key + b" " + body.replace(make_id(11).encode(), make_id(12).encode())
    with pytest.raises(CompileError, match=f"its row says {make_id(12)}"):
        compile_snapshot(Snapshot.decode(1, document))
