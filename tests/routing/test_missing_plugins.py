"""Plugins without behaviour on the data plane: which routes fail closed, and what the operator is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.model.entities import Row
from fastgw.model.snapshot import Snapshot
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.surroundings import Surroundings
from tests.routing.snapshots import make_id, route, service

ROUTES = [route(1, to=9, paths=["/one"]), route(2, to=9, paths=["/two"]), route(3, paths=["/three"])]


def plugin(number: int, name: str, scopes: dict[str, int], *, enabled: bool = True) -> Row:
    references = {scope: {"id": make_id(scopes[scope])} if scope in scopes else None for scope in SCOPES}
    return {"id": make_id(number), "name": name, "enabled": enabled, **references}


SCOPES = ("route", "service", "consumer")


def refused(tmp_path: Path, *plugins: Row) -> tuple[dict[str, str | None], list[str]]:
    """The missing plugin of each route, and the warnings."""
    made = Snapshot.from_rows(1, {"services": [service(9)], "routes": ROUTES, "plugins": list(plugins)})
    data = compile_snapshot(made)
    path = tmp_path / "image"
    path.write_bytes(data)
    image = Image.open(path)
    records = [image.route(number) for number in range(image.route_count)]
    image.close()
    return {str(record.name): record.missing_plugin for record in records}, Surroundings(made).warnings()


def test_without_plugins_nothing_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == ({"route-1": None, "route-2": None, "route-3": None}, [])


@pytest.mark.parametrize(
    ("scopes", "routes"),
    [
        ({}, {"route-1", "route-2", "route-3"}),
        ({"service": 9}, {"route-1", "route-2"}),
        ({"route": 3}, {"route-3"}),
        ({"route": 1, "service": 9}, {"route-1"}),
        # Without a plugin that authenticates, nobody is a consumer.
        ({"consumer": 7}, set()),
        ({"consumer": 7, "route": 1}, set()),
    ],
)
def test_a_plugin_refuses_the_routes_of_its_scope(
    tmp_path: Path, scopes: dict[str, int], routes: set[str]
) -> None:
    found, warnings = refused(tmp_path, plugin(20, "key-auth", scopes))
    assert {name for name, missing in found.items() if missing == "key-auth"} == routes
    expected = ["plugin 'key-auth' is not available here: its routes answer 503"] if routes else []
    assert warnings == expected


def test_a_disabled_plugin_is_as_if_absent(tmp_path: Path) -> None:
    assert refused(tmp_path, plugin(20, "key-auth", {}, enabled=False))[1] == []


def test_a_service_that_names_an_upstream_is_marked(tmp_path: Path) -> None:
    rows = {
        "services": [service(9, host="group")],
        "upstreams": [{"id": make_id(30), "name": "group"}],
    }
    made = Snapshot.from_rows(1, rows)
    path = tmp_path / "image"
    path.write_bytes(compile_snapshot(made))
    image = Image.open(path)
    assert image.service(0).is_upstream_name
    image.close()
