"""Generations for the hot path (see `_runtime.pxd`); the image's format is `routing/image.py`'s."""

cimport cython

import uuid

from fastgw._uri import encode
from fastgw.routing.image import Image


cdef class ServiceEntry:
    def __init__(self, record):
        """*record* is a `ServiceRecord` of the image."""
        self.id = record.id
        self.name = record.name or record.host
        self.host = record.host.encode()
        self.port = record.port
        # Encoded once here, so that a path without anything to encode needs no second look per request.
        self.path = b"" if not record.path or record.path == "/" else encode(record.path.encode())
        host = f"[{record.host}]" if ":" in record.host and not record.host.startswith("[") else record.host
        self.is_tls = record.protocol == "https"
        default_port = 443 if self.is_tls else 80
        self.host_header = (host if record.port == default_port else f"{host}:{record.port}").encode()
        self.tls_verify = record.tls_verify
        self.tls_verify_depth = record.tls_verify_depth
        self.retries = record.retries
        self.connect_ms = record.connect_timeout_ms
        self.write_ms = record.write_timeout_ms
        self.read_ms = record.read_timeout_ms
        self.is_upstream_name = record.is_upstream_name
        self.pool = None


cdef class RouteEntry:
    pass


@cython.no_gc_clear  # __dealloc__ counts in the segment that `metrics` keeps mapped
cdef class Runtime:
    def __init__(self, int image_fd, MetricsSegment metrics):
        """Map and check the image behind *image_fd* (which stays the caller's).

        Raises:
            ImageError: damaged, cut short, or of another format version.
        """
        self.image = Image.open(image_fd)
        self.table = self.image.table()
        self.metrics = metrics
        self.totals = metrics.totals
        meta = self.image.meta
        self.version = meta.version
        self.digest = meta.digest
        self.routes = [None] * self.image.route_count
        self.services = {}
        self.totals.generations_live += 1

    def __dealloc__(self):
        if self.totals != NULL:
            self.totals.generations_live -= 1

    @cython.boundscheck(False)  # the table was checked against the image when it was opened
    cdef RouteEntry entry(self, uint32_t route):
        """Return the entry of route number *route*, decoded on first use."""
        cached = self.routes[route]
        if cached is None:
            cached = self._make_entry(route)
            self.routes[route] = cached
        return <RouteEntry>cached

    def _make_entry(self, uint32_t route):
        cdef RouteEntry entry = RouteEntry()
        record = self.image.route(route)
        entry.id = record.id
        entry.strip_path = record.strip_path
        entry.preserve_host = record.preserve_host
        if record.service >= 0:
            entry.service = self.services.get(record.service)
            if entry.service is None:
                entry.service = ServiceEntry(self.image.service(record.service))
                self.services[record.service] = entry.service
        label = entry.service.name if entry.service is not None else ""
        entry.slot = self.metrics.slot_for(
            uuid.UUID(record.id).bytes, label.encode(), (record.name or record.id).encode())
        return entry
