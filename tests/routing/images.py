"""Compiled images of rows given as Admin API bodies."""

from __future__ import annotations

import os
from typing import Any

from fastgw.model.entities import ROUTES, SERVICES
from fastgw.model.snapshot import Snapshot
from fastgw.model.validate import make_row
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.image import Image
from fastgw.routing.jobs import make_sealed_memfd
from fastgw.routing.layered import LayeredImage


def open_image(data: bytes) -> Image:
    fd = make_sealed_memfd("test-image", data)
    try:
        return Image.open(fd)
    finally:
        os.close(fd)


def image_of(
    routes: list[dict[str, Any]],
    services: list[dict[str, Any]] | None = None,
    *,
    flavor: str = "traditional_compatible",
) -> LayeredImage:
    """Open the image of *routes*, each older than the next; `service` is a service's name."""
    rows = {"services": [make_row(SERVICES, body, now_s=1) for body in services or []], "routes": []}
    ids = {row["name"]: row["id"] for row in rows["services"]}
    for age, body in enumerate(routes):
        linked = dict(body)
        if "service" in body:
            linked["service"] = {"id": ids[body["service"]]}
        rows["routes"].append(make_row(ROUTES, linked, now_s=1 + age))
    return LayeredImage(open_image(compile_snapshot(Snapshot.from_rows(7, rows), flavor=flavor)))
