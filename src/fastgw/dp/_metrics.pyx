"""The worker's shared-memory counters: written in the hot path, read by the supervisor.

The layout stands in `_metrics.pxd`. Writers use `MetricsSegment`; `read_segment` decodes one for
`/metrics`. Labels may change between generations (a renamed route): the writer makes
`label_sequence` odd while it copies, and the reader tries again a few times.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

import os

cdef uint64_t MAGIC = 0x32304D4757545346  # "FSTWGM02": changes with the layout

SEGMENT_BYTES = PAGE_BYTES + SLOT_COUNT * sizeof(RouteSlot)

#: Upper bounds in milliseconds, as Kong's prometheus plugin has them.
GATEWAY_BOUNDS = (1, 2, 5, 7, 10, 15, 20, 30, 50, 75, 100, 200, 500, 750, 1000, 3000, 6000)
LATENCY_BOUNDS = (25, 50, 80, 100, 250, 400, 700, 1000, 2000, 5000, 10000, 30000, 60000)


cdef class MetricsSegment:
    def __cinit__(self, int fd):
        self.base = NULL
        size = os.fstat(fd).st_size
        if size < SEGMENT_BYTES:
            raise ValueError(f"a metrics segment has {SEGMENT_BYTES} bytes, this one {size}")
        self.base = mmap(NULL, SEGMENT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if self.base == MAP_FAILED:
            self.base = NULL
            raise OSError("cannot map the metrics segment")
        self.totals = <WorkerTotals*>self.base
        self.slots = <RouteSlot*>(<uint8_t*>self.base + PAGE_BYTES)
        self.index_by_route = {}

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, SEGMENT_BYTES)

    def __init__(self, int fd):
        """Take over the segment behind *fd*, with the counts that an earlier worker left in it."""
        cdef uint64_t place
        cdef WorkerTotals* totals = self.totals
        if totals.magic != MAGIC:
            totals.magic = MAGIC
            totals.slots_used = 1
        for place in range(1, totals.slots_used):
            # A worker that was killed while it wrote labels left the number odd.
            self.slots[place].label_sequence += self.slots[place].label_sequence & 1
            key = PyBytes_FromStringAndSize(<char*>self.slots[place].route_id, 16)
            self.index_by_route[key] = place
        totals.pid = os.getpid()
        # Gauges died with the worker that held them.
        totals.connections_active = 0
        totals.connections_reading = 0
        totals.connections_busy = 0
        totals.generations_live = 0

    cdef RouteSlot* slot_for(self, bytes route_id, bytes service, bytes route) except NULL:
        """Return the slot of *route_id* (16 bytes), made on first use, with these labels (UTF-8)."""
        cdef uint64_t place
        cdef RouteSlot* slot
        known = self.index_by_route.get(route_id)
        if known is not None:
            place = known
        elif self.totals.slots_used < SLOT_COUNT:
            place = self.totals.slots_used
            memcpy(self.slots[place].route_id, PyBytes_AS_STRING(route_id), 16)
            self.index_by_route[route_id] = place
        else:
            return &self.slots[0]
        slot = &self.slots[place]
        service = service[:LABEL_BYTES]
        route = route[:LABEL_BYTES]
        slot.label_sequence += 1
        memcpy(slot.service, PyBytes_AS_STRING(service), len(service))
        memcpy(slot.route, PyBytes_AS_STRING(route), len(route))
        slot.service_bytes = len(service)
        slot.route_bytes = len(route)
        slot.label_sequence += 1
        if place == self.totals.slots_used:
            self.totals.slots_used += 1
        return slot

    @property
    def generations_live(self):
        return self.totals.generations_live

    @property
    def log_lines_dropped(self):
        """Lines of the access log that nobody took, since this process began; adds up over processes."""
        return self.dropped_here

    @log_lines_dropped.setter
    def log_lines_dropped(self, uint64_t count):
        self.totals.log_lines_dropped_total += count - self.dropped_here
        self.dropped_here = count

    def count(self, bytes route_id, bytes service, bytes route, int code, int source,
              int bytes_in, int bytes_out, int gateway_ms, int upstream_ms, int request_ms):
        """Count one exchange by Python values: for tests and slow paths."""
        count_exchange(self.totals, self.slot_for(route_id, service, route), code, source,
                       bytes_in, bytes_out, gateway_ms, upstream_ms, request_ms)

    def count_refused(self, int code):
        """Count one answer to what was no request, or found no route: for tests and slow paths."""
        count_refused(self.totals, code)


def read_segment(buffer):
    """Decode a worker's segment: `{"totals": {name: value}, "routes": [slot, ...]}`.

    A slot is a dict with `route_id` (bytes), `service` and `route` (labels), `bytes_in`, `bytes_out`,
    `codes` {(status, source): count} with source 0 for the upstream and 1 for the gateway, and the
    histograms `gateway`, `upstream`, `request` as (counts per bucket, not cumulative; sum in ms).
    Slots without a count are left out.
    """
    cdef Py_buffer view
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if view.len < <Py_ssize_t>(PAGE_BYTES + sizeof(RouteSlot)):
            raise ValueError("not a metrics segment: too short")
        return _decode(<uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


def read_answered(buffer):
    """Sum a worker's answers: how many there were, and how many of them with 5xx.

    Answers to what found no route count as well. Nothing but sums is made: it costs what reading a
    cache line of each route that carries traffic costs, 2 to 30 ms for 100,000 of them.
    """
    cdef Py_buffer view
    cdef uint64_t answers = 0, server_errors = 0
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    try:
        if view.len < <Py_ssize_t>(PAGE_BYTES + sizeof(RouteSlot)):
            raise ValueError("not a metrics segment: too short")
        _sum_answered(<uint8_t*>view.buf, view.len, &answers, &server_errors)
    finally:
        PyBuffer_Release(&view)
    return answers, server_errors


cdef void _sum_answered(
    uint8_t* base, Py_ssize_t size, uint64_t* answers, uint64_t* server_errors
) noexcept nogil:
    cdef WorkerTotals* totals = <WorkerTotals*>base
    cdef RouteSlot* slots = <RouteSlot*>(base + PAGE_BYTES)
    cdef uint64_t used, number
    if totals.magic != MAGIC:
        return
    used = min(totals.slots_used, <uint64_t>((size - PAGE_BYTES) // sizeof(RouteSlot)))
    _sum_codes(totals.refused, answers, server_errors)
    for number in range(used):
        _sum_codes(slots[number].codes, answers, server_errors)


cdef inline void _sum_codes(CodeCount* codes, uint64_t* answers, uint64_t* server_errors) noexcept nogil:
    cdef int place
    for place in range(CODE_PLACES):
        if codes[place].code == 0:
            return
        answers[0] += codes[place].count
        if codes[place].code >= 500:
            server_errors[0] += codes[place].count


cdef _decode(uint8_t* base, Py_ssize_t size):
    cdef WorkerTotals* totals = <WorkerTotals*>base
    cdef RouteSlot* slots = <RouteSlot*>(base + PAGE_BYTES)
    cdef uint64_t used, place
    if totals.magic != MAGIC:
        return {"totals": {}, "routes": []}
    used = min(totals.slots_used, <uint64_t>((size - PAGE_BYTES) // sizeof(RouteSlot)))
    values = {
        "connections_accepted_total": totals.connections_accepted_total,
        "connections_refused_total": totals.connections_refused_total,
        "connections_active": totals.connections_active,
        "connections_reading": totals.connections_reading,
        "connections_busy": totals.connections_busy,
        "requests_total": totals.requests_total,
        "unmatched_total": totals.unmatched_total,
        "upstream_connects_total": totals.upstream_connects_total,
        "upstream_reused_total": totals.upstream_reused_total,
        "generations_live": totals.generations_live,
        "codes_dropped_total": totals.codes_dropped_total,
        "log_lines_dropped_total": totals.log_lines_dropped_total,
        "pid": totals.pid,
    }
    for place in range(CODE_PLACES):
        if totals.refused[place].code:
            values[f"refused_{totals.refused[place].code}"] = totals.refused[place].count
    routes = []
    for place in range(used):
        if slots[place].codes[0].code:
            routes.append(_decode_slot(&slots[place]))
    return {"totals": values, "routes": routes}


cdef _decode_slot(RouteSlot* slot):
    cdef int place
    service, route = _decode_labels(slot)
    codes = {}
    for place in range(CODE_PLACES):
        if slot.codes[place].code:
            codes[(slot.codes[place].code, slot.codes[place].source)] = slot.codes[place].count
    return {
        "route_id": PyBytes_FromStringAndSize(<char*>slot.route_id, 16),
        "service": service,
        "route": route,
        "bytes_in": slot.bytes_in,
        "bytes_out": slot.bytes_out,
        "codes": codes,
        "gateway": ([slot.gateway[place] for place in range(GATEWAY_BUCKETS)], slot.gateway_ms_sum),
        "upstream": ([slot.upstream[place] for place in range(LATENCY_BUCKETS)], slot.upstream_ms_sum),
        "request": ([slot.request[place] for place in range(LATENCY_BUCKETS)], slot.request_ms_sum),
    }


cdef _decode_labels(RouteSlot* slot):
    cdef uint64_t before
    cdef int _attempt
    service = route = b""
    for _attempt in range(8):
        before = slot.label_sequence
        service = PyBytes_FromStringAndSize(<char*>slot.service, min(slot.service_bytes, LABEL_BYTES))
        route = PyBytes_FromStringAndSize(<char*>slot.route, min(slot.route_bytes, LABEL_BYTES))
        if before % 2 == 0 and before == slot.label_sequence:
            break
    return service.decode("utf-8", "replace"), route.decode("utf-8", "replace")
