"""A configuration as our storage keeps it, that has what the recorded control plane's had, and more."""

from __future__ import annotations

from typing import Any

from fastgw.model.entities import ENTITIES, Row
from fastgw.model.snapshot import Snapshot
from fastgw.model.validate import make_row

NOW_S = 1_795_397_369
CLUSTER_ID = "bada5fbc-d425-4995-9471-d3e55c71bb6c"


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def row_of(kind: str, number: int, **fields: Any) -> Row:
    return make_row(ENTITIES[kind], fields, now_s=NOW_S, id=uuid_of(number))


def ref(number: int) -> dict[str, str]:
    return {"id": uuid_of(number)}


def plugin(number: int, name: str, **fields: Any) -> Row:
    return row_of("plugins", number, name=name, **fields)


def snapshot_of(**rows: list[Row]) -> Snapshot:
    return Snapshot.from_rows(1, rows)


def some_rows() -> dict[str, list[Row]]:
    return {
        "services": [
            row_of("services", 1, name="alpha", host="alpha.example", tags=["x", "y"]),
            row_of(
                "services", 2, name="beta", host="beta.example", protocol="https", port=9443, path="/base"
            ),
        ],
        "routes": [
            row_of("routes", 11, name="ra", paths=["/a"], hosts=["a.example"], service=ref(1)),
            row_of(
                "routes",
                12,
                name="rb",
                methods=["GET"],
                paths=[r"~/b/(\d+)"],
                headers={"x-v": ["1"]},
                service=ref(2),
            ),
            row_of("routes", 13, name="rc", paths=["/c"]),
        ],
        "upstreams": [row_of("upstreams", 21, name="up.example")],
        "targets": [row_of("targets", 31, target="10.0.0.1:80", weight=50, upstream=ref(21))],
        "consumers": [row_of("consumers", 41, username="bob", custom_id="c1")],
        "keyauth_credentials": [row_of("keyauth_credentials", 51, key="secret", consumer=ref(41))],
        "plugins": [
            plugin(61, "rate-limiting", config={"minute": 5}),
            plugin(62, "key-auth", service=ref(1), config={}),
        ],
    }
