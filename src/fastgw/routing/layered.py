"""A base image and its overlay, read as one image (`overlay.py` says what they are, and makes overlays).

Contract. A `LayeredImage` answers as one image compiled of the overlay's snapshot would; only the numbers of
routes and services are others. Apart from the making, since workers read only, and start faster without it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from fastgw._overlay import LayeredTable
from fastgw.errors import ImageError
from fastgw.routing.certificates import CertificateSet
from fastgw.routing.image import Image, ImageMeta, Patch, RouteRecord, ServiceRecord


class LayeredImage:
    """A base and, perhaps, its overlay: the configuration of one generation."""

    def __init__(self, base: Image, overlay: Image | None = None) -> None:
        """Both stay open as long as this refers to them.

        Raises:
            ImageError: they do not belong together.
        """
        self.base: Final = base
        self.overlay: Final = overlay
        if base.patch is not None:
            raise ImageError("it is an overlay, not a base")
        patch = Patch((), {})
        if overlay is not None:
            if overlay.patch is None or overlay.meta.base != base.checksum:
                raise ImageError("the overlay belongs to another base")
            patch = overlay.patch
        self.replaced: Final = patch.replaced
        """Services by number, with the number that stands in place of each."""
        end = base.service_count + (overlay.service_count if overlay is not None else 0)
        for old, new in patch.replaced.items():
            if not (old < base.service_count <= new < end):
                raise ImageError(f"the overlay replaces the service {old} by {new}, of {end}")
        try:
            self._table: Final = LayeredTable(
                base.table(),
                base.route_count,
                overlay.table() if overlay is not None else None,
                patch.removed,
            )
        except ValueError as exc:
            raise ImageError(f"the overlay does not fit its base: {exc}") from exc

    def certificates(self) -> CertificateSet:
        """The certificates in force."""
        newest_first = (None if self.overlay is None else self.overlay.certificates, self.base.certificates)
        return CertificateSet(*newest_first)

    @property
    def meta(self) -> ImageMeta:
        return (self.overlay or self.base).meta

    def table(self) -> LayeredTable:
        """The routes in force; every number it answers with is one for `route`."""
        return self._table

    def route(self, number: int) -> RouteRecord:
        """The record of one route, decoded afresh; its service number is in force, and `service` knows it."""
        if number < self.base.route_count:
            record = self.base.route(number)
            if record.service in self.replaced:
                record = msgspec.structs.replace(record, service=self.replaced[record.service])
            return record
        assert self.overlay is not None
        return self.overlay.route(number - self.base.route_count)

    def service(self, number: int) -> ServiceRecord:
        """The record of one service, decoded afresh.

        Raises:
            IndexError: there is none.
        """
        if number < self.base.service_count or self.overlay is None:
            return self.base.service(number)
        return self.overlay.service(number - self.base.service_count)
