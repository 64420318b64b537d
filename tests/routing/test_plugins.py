"""Which configuration of a plugin serves a request: the index against a reading of Kong's eight scopes."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastgw.model.snapshot import Snapshot
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.plugins import PluginIndex
from tests.routing.snapshots import make_id, route, service

SERVED = frozenset({"a", "b"})
# Proxying reference §5.3: the first that is there wins.
SCOPES = ("rsc", "rc", "sc", "rs", "c", "r", "s", "")


def row(
    number: int, name: str, route: int | None, service: int | None, consumer: int | None
) -> dict[str, Any]:
    scopes = {"route": route, "service": service, "consumer": consumer}
    links = {kind: None if one is None else {"id": make_id(one)} for kind, one in scopes.items()}
    return {
        "id": make_id(number),
        "name": name,
        "instance_name": None,
        "enabled": True,
        "config": {},
        **links,
    }


def reference(rows: list[dict[str, Any]], name: str, ids: dict[str, str | None]) -> str | None:
    """The id of the configuration of *name* for a request of route r, service s, consumer c."""
    for scope in SCOPES:
        wanted = {
            kind: {"id": ids[kind[0]]} if kind[0] in scope else None
            for kind in ("route", "service", "consumer")
        }
        if any(ids[letter] is None for letter in scope):
            continue
        for one in rows:
            if one["name"] == name and all(one[kind] == wanted[kind] for kind in wanted):
                return str(one["id"])
    return None


PLACES = st.tuples(
    st.sampled_from(sorted(SERVED)),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([None, 8, 9]),
    st.sampled_from([None, 5, 6]),
)


@given(st.lists(PLACES, max_size=14, unique=True))
def test_the_narrowest_scope_serves(places: list[tuple[str, int | None, int | None, int | None]]) -> None:
    rows = [row(20 + number, *place) for number, place in enumerate(places)]
    index = PluginIndex(rows, SERVED)
    for route_id in (1, 2, 3):
        for service_id in (8, 9, None):
            of_service = None if service_id is None else make_id(service_id)
            steps = {step.name: step for step in index.steps(make_id(route_id), of_service)}
            for name in SERVED:
                for consumer in (None, 5, 6, 7):
                    ids = {
                        "r": make_id(route_id),
                        "s": of_service,
                        "c": None if consumer is None else make_id(consumer),
                    }
                    step = steps.get(name)
                    number = -1 if step is None else step.by_consumer.get(ids["c"] or "", step.plugin)
                    found = None if number < 0 else index.records[number].id
                    assert found == reference(rows, name, ids)


def test_an_image_holds_them_those_for_everything_first(tmp_path: Any) -> None:
    rows = [row(20, "a", 1, None, None), row(21, "b", None, None, None), row(22, "a", None, None, 5)]
    disabled = row(23, "b", 1, None, None) | {"enabled": False}
    made = Snapshot.from_rows(
        1,
        {
            "services": [service(9)],
            "routes": [route(1, to=9, paths=["/one"]), route(2, to=9, paths=["/two"])],
            "plugins": [*rows, disabled],
        },
    )
    path = tmp_path / "image"
    path.write_bytes(compile_snapshot(made, served_plugins=SERVED))
    image = Image.open(path)
    plugins = [image.plugin(number) for number in range(image.plugin_count)]
    assert [(one.id, one.is_global) for one in plugins] == [
        (make_id(21), True), (make_id(20), False), (make_id(22), False),
    ]  # fmt: skip
    steps = [
        {step.name: (step.plugin, step.by_consumer) for step in image.route(n).plugins} for n in range(2)
    ]
    image.close()
    assert steps == [
        {"a": (1, {make_id(5): 2}), "b": (0, {})},
        {"a": (-1, {make_id(5): 2}), "b": (0, {})},
    ]
