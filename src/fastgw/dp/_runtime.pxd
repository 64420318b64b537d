"""A generation as the hot path sees it: the mapped route table, and entries made on first use.

A `Runtime` is immutable and whole. Each exchange keeps the one that it started with; when the last
lets go of a retired one, its image is unmapped. Entries hold no reference back, so nothing waits for
the garbage collector.
"""

from libc.stdint cimport int64_t, uint32_t

from fastgw._router cimport Table
from fastgw.dp._metrics cimport MetricsSegment, RouteSlot, WorkerTotals


cdef class ServiceEntry:
    cdef:
        readonly str id
        readonly str name
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
        object pool                   # an UpstreamPool, found on first use


cdef class RouteEntry:
    cdef:
        readonly str id
        ServiceEntry service          # None: a route without a service
        readonly bint strip_path
        readonly bint preserve_host
        RouteSlot* slot


cdef class Runtime:
    cdef:
        object image
        Table table
        MetricsSegment metrics
        WorkerTotals* totals
        list routes                   # RouteEntry or None
        dict services                 # index -> ServiceEntry
        readonly int64_t version
        readonly str digest

    cdef RouteEntry entry(self, uint32_t route)
