"""Generations for the hot path (see `_runtime.pxd`); the image's format is `routing/image.py`'s."""

cimport cython

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.ref cimport PyObject, Py_CLEAR, Py_INCREF
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free

import uuid

from fastgw._router cimport is_marked
from fastgw._uri import encode
from fastgw.dp.plugins.registry import PluginUnusable
from fastgw.errors import ImageError
from fastgw.obs.logs import get_logger
from fastgw.routing.certificates import CertificateSet
from fastgw.routing.image import Image
from fastgw.routing.layered import LayeredImage
from fastgw.routing.plugins import StepRecord

_log = get_logger("dp.worker")


cdef class Used:
    pass


@cython.no_gc  # neither it nor its pool leads back to it, and a walk over 100,000 would hold the loop
cdef class ServiceEntry:
    def __dealloc__(self):
        if self.pool is not None:
            self.pool.users -= 1

    cdef int use(self, Used pool) except -1:
        """Keep *pool*, for as long as the generation lives."""
        pool.users += 1
        self.pool = pool
        return 0

    def __init__(self, record, certificates):
        """*record* is a `ServiceRecord` of the image, *certificates* the `CertificateSet` that it names."""
        self.id = record.id
        self.name = record.name or record.host
        self.own_name = record.name
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
        self.client_pairs = ()
        if record.client_certificate is not None:
            self.client_pairs = certificates.pairs_of(record.client_certificate)
        self.authorities = tuple(certificates.authority(id_) for id_ in record.ca_certificates or ())
        self.retries = record.retries
        self.connect_ms = record.connect_timeout_ms
        self.write_ms = record.write_timeout_ms
        self.read_ms = record.read_timeout_ms
        self.is_upstream_name = record.is_upstream_name


@cython.no_gc  # as its service's
cdef class RouteEntry:
    pass


cdef class Entries:
    def __cinit__(self, Py_ssize_t routes, Py_ssize_t services):
        self.route_count = routes
        self.count = routes + services
        self.released = 0
        self.entries = <PyObject**>calloc(max(self.count, 1), sizeof(PyObject*))
        if self.entries == NULL:
            raise MemoryError

    def __dealloc__(self):
        self.release_some(self.count)
        free(self.entries)

    cdef void release_some(self, Py_ssize_t limit) noexcept:
        while self.released < self.count and limit > 0:
            if self.entries[self.released] != NULL:
                Py_CLEAR(self.entries[self.released])
                limit -= 1
            self.released += 1

    def release(self, Py_ssize_t limit):
        self.release_some(limit)
        return self.released == self.count


cdef RouteEntry make_entry(record, ServiceEntry service, BaseRuntime base):
    cdef RouteEntry entry = RouteEntry()
    entry.id = record.id
    entry.name = record.name
    entry.protocols = record.protocols
    entry.redirect_status = record.https_redirect_status_code
    entry.service_number = record.service
    entry.service = service
    entry.refusal = "no Service found with those values"
    if record.missing_plugin is not None:
        # Fails closed, and costs other routes nothing: this one is as one without a service.
        entry.refusal = f"plugin '{record.missing_plugin}' is not available on this data plane"
        entry.service = None
    elif record.plugins:
        try:
            entry.chain = base.plugins.chain(record.plugins, base.image.plugin)
        except PluginUnusable as error:
            _log.error("route '%s' answers 503: %s", record.name or record.id, error)
            entry.refusal = str(error)
            entry.service = None
    entry.strip_path = record.strip_path
    entry.is_v1 = record.is_v1
    entry.preserve_host = record.preserve_host
    label = service.name if service is not None else ""
    entry.slot = base.metrics.slot_for(
        uuid.UUID(record.id).bytes, label.encode(), (record.name or record.id).encode())
    return entry


def _global_steps(image):
    """A step for each plugin that is for everything."""
    for number in range(image.plugin_count):
        record = image.plugin(number)
        if not record.is_global:
            return
        yield StepRecord(record.name, number)


cdef class BaseRuntime:
    def __init__(self, int image_fd, MetricsSegment metrics, plugins):
        """Map and check the whole image behind *image_fd* (which stays the caller's).

        *plugins*, a `plugins.registry.Plugins`, outlives it.

        Raises:
            ImageError: damaged, cut short, or of another format version.
        """
        self.image = Image.open(image_fd)
        self.image.table().warm()
        self.checksum = self.image.checksum
        self.metrics = metrics
        self.plugins = plugins
        try:
            self.chain = plugins.chain(list(_global_steps(self.image)), self.image.plugin)
        except PluginUnusable as error:
            # It is a step of every route, too: none is served without it.
            _log.error("all routes answer 503: %s", error)
        self.certificates = CertificateSet(self.image.certificates)
        self.entries = Entries(self.image.route_count, self.image.service_count)

    cdef RouteEntry entry(self, uint32_t route):
        """Return the entry of route number *route*, decoded on first use."""
        # The table was checked against the image when it was opened: there is such a place.
        cdef PyObject** place = self.entries.entries + route
        cdef RouteEntry made
        if place[0] == NULL:
            record = self.image.route(route)
            made = make_entry(record, self.service(record.service), self)
            Py_INCREF(made)
            place[0] = <PyObject*>made
        return <RouteEntry>place[0]

    cdef ServiceEntry service(self, int64_t number):
        cdef PyObject** place
        cdef ServiceEntry made
        if number < 0:
            return None
        if number >= self.entries.count - self.entries.route_count:
            raise ImageError(f"a route names the service {number}, which does not exist")
        place = self.entries.entries + self.entries.route_count + number
        if place[0] == NULL:
            made = ServiceEntry(self.image.service(number), self.certificates)
            Py_INCREF(made)
            place[0] = <PyObject*>made
        return <ServiceEntry>place[0]


@cython.no_gc_clear  # __dealloc__ counts in the segment that `metrics` keeps mapped
cdef class Runtime:
    def __init__(self, BaseRuntime base not None, int overlay_fd=-1):
        """Lay the overlay behind *overlay_fd* (which stays the caller's; -1: none) over *base*.

        Raises:
            ImageError: the overlay is damaged, of another format version, or of another base.
        """
        cdef bytearray marks
        self.base = base
        self.chain = base.chain
        overlay = Image.open(overlay_fd) if overlay_fd >= 0 else None
        if overlay is not None:
            overlay.table().warm()
        self.image = LayeredImage(base.image, overlay)
        self.table = self.image.table()
        self.certificates = self.image.certificates()
        self.metrics = base.metrics
        self.totals = base.metrics.totals
        self.version = self.image.meta.version
        self.digest = self.image.meta.digest
        self.routes = {}
        self.services = {}
        self.replaced = NULL
        if self.image.replaced:
            marks = bytearray((base.image.service_count + 7) // 8)
            for number in self.image.replaced:
                marks[number >> 3] |= 1 << (number & 7)
            self.replaced_marks = bytes(marks)
            self.replaced = <const uint8_t*>PyBytes_AS_STRING(self.replaced_marks)
        self.totals.generations_live += 1

    def __dealloc__(self):
        if self.totals != NULL:
            self.totals.generations_live -= 1

    cdef RouteEntry entry(self, uint32_t route):
        """Return the entry of route number *route*, decoded on first use."""
        cdef RouteEntry entry
        if route < self.table.base_routes:
            entry = self.base.entry(route)
            if self.replaced == NULL or entry.service_number < 0 or not is_marked(
                self.replaced, <uint32_t>entry.service_number
            ):
                return entry
        cached = self.routes.get(route)
        if cached is None:
            record = self.image.route(route)
            cached = make_entry(record, self.service(record.service), self.base)
            self.routes[route] = cached
        return <RouteEntry>cached

    cdef ServiceEntry service(self, int64_t number):
        if number < self.base.image.service_count:
            return self.base.service(number)
        cached = self.services.get(number)
        if cached is None:
            try:
                cached = ServiceEntry(self.image.service(number), self.certificates)
            except IndexError as exc:
                raise ImageError(f"a route names the service {number}: {exc}") from exc
            self.services[number] = cached
        return <ServiceEntry>cached
