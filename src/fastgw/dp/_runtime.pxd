"""A generation as the hot path sees it: the mapped route table, and entries made on first use.

    Runtime ──> BaseRuntime    the base image and the entries of its routes: shared by all generations on it
       └──────> its overlay    and the entries that are other than the base's

A `Runtime` is immutable and whole. Each exchange keeps the one that it started with; when the last lets go of
a retired one, its overlay is unmapped, and with the last generation on it the base. Entries hold no reference
back, so nothing waits for the garbage collector.
"""

from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t

from fastgw._overlay cimport LayeredTable
from fastgw.dp._metrics cimport MetricsSegment, RouteSlot, WorkerTotals


cdef class Used:
    """What services of live generations use: the base of pools."""

    cdef int users


cdef class ServiceEntry:
    cdef:
        readonly str id
        readonly str name             # its host where it has none
        readonly str own_name         # or None
        readonly bytes host
        readonly int port
        readonly bytes path           # without a trailing "/" only if the configuration has none; b"" for "/"
        readonly bytes host_header    # host, with the port unless it is the protocol's own
        readonly int retries
        readonly int64_t connect_ms
        readonly int64_t write_ms
        readonly int64_t read_ms
        readonly bint is_upstream_name
        readonly bint is_tls
        readonly object tls_verify        # None: as the settings say; so is the depth
        readonly object tls_verify_depth
        readonly tuple client_pairs       # KeyPair: what its upstream is shown, one for each type of key
        readonly tuple authorities        # PEM texts that its upstream is verified by; none: the settings'
        Used pool                     # an UpstreamPool, found on first use; counted by `use`

    cdef int use(self, Used pool) except -1


cdef class RouteEntry:
    cdef:
        readonly str id
        readonly str name             # or None
        readonly int protocols        # Protocols
        readonly int redirect_status  # of the answer to http where the route is for https alone
        int64_t service_number        # in the image that the route lies in; -1: none
        ServiceEntry service          # None: nothing to proxy to, for the reason in `refusal`
        readonly str refusal          # said with 503
        readonly bint strip_path
        readonly bint is_v1           # path_handling, in the traditional flavor
        readonly bint preserve_host
        readonly object chain         # plugins.chain.Chain; None: no plugins
        RouteSlot* slot


cdef class Entries:
    """What has been decoded of a base. Apart from it, so that it can go step by step once the base is gone."""

    cdef:
        PyObject** entries            # RouteEntry by number, then ServiceEntry by number; NULL: not asked for
        Py_ssize_t route_count
        Py_ssize_t count              # of both
        Py_ssize_t released           # so many from the front are gone

    cdef void release_some(self, Py_ssize_t limit) noexcept


cdef class BaseRuntime:
    cdef:
        object __weakref__
        readonly object image         # a whole Image
        readonly str checksum
        MetricsSegment metrics
        readonly object plugins       # plugins.registry.Plugins
        readonly object chain         # of the plugins for everything; None: there are none
        object certificates           # routing.certificates.CertificateSet, of the base alone
        readonly Entries entries

    cdef RouteEntry entry(self, uint32_t route)
    cdef ServiceEntry service(self, int64_t number)


cdef class Runtime:
    cdef:
        readonly BaseRuntime base
        object chain                  # the base's
        object image                  # LayeredImage
        readonly object certificates  # routing.certificates.CertificateSet
        LayeredTable table
        MetricsSegment metrics
        WorkerTotals* totals
        dict routes                   # number -> RouteEntry, where it is not the base's
        dict services                 # number -> ServiceEntry, of the overlay's
        bytes replaced_marks
        const uint8_t* replaced       # a bit for each service of the base: the overlay has another; NULL: none
        readonly int64_t version
        readonly str digest

    cdef RouteEntry entry(self, uint32_t route)
    cdef ServiceEntry service(self, int64_t number)
