"""Layout of the shared-memory segment in which one worker counts.

One worker writes, the supervisor reads; every counter is an aligned 64-bit word, so a read never sees
half of one. A slot belongs to a route id for the life of the data plane, across generations and across
the worker's own restarts: counters never run backwards.

    offset 0           WorkerTotals, padded to one page
    offset PAGE_BYTES  RouteSlot[SLOT_COUNT]; slot 0 takes what finds no slot of its own

The segment is sparse: only the slots of routes that carry traffic take memory.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    PAGE_BYTES = 4096
    SLOT_COUNT = 131072
    LABEL_BYTES = 232
    CODE_PLACES = 32
    GATEWAY_BUCKETS = 18      # 17 bounds and +Inf, ms: see GATEWAY_BOUNDS
    LATENCY_BUCKETS = 14      # 13 bounds and +Inf, ms: see LATENCY_BOUNDS

cdef enum Source:
    SOURCE_SERVICE = 0        # the upstream answered
    SOURCE_GATEWAY = 1        # the gateway made the answer ("kong" in Kong's metrics)

cdef struct CodeCount:
    uint32_t code             # HTTP status, 0 when the place is free
    uint32_t source           # enum Source
    uint64_t count

cdef struct RouteSlot:
    uint64_t label_sequence   # odd while the labels are being written
    uint8_t route_id[16]
    uint16_t service_bytes
    uint16_t route_bytes
    uint32_t reserved
    uint8_t service[LABEL_BYTES]
    uint8_t route[LABEL_BYTES]
    uint64_t bytes_in         # from the client: heads and bodies as received
    uint64_t bytes_out        # to the client
    uint64_t gateway_ms_sum
    uint64_t upstream_ms_sum
    uint64_t request_ms_sum
    uint64_t gateway[GATEWAY_BUCKETS]      # not cumulative
    uint64_t upstream[LATENCY_BUCKETS]
    uint64_t request[LATENCY_BUCKETS]
    CodeCount codes[CODE_PLACES]

cdef struct WorkerTotals:
    uint64_t magic
    uint64_t pid
    uint64_t slots_used               # slots 0 .. slots_used-1 are in use
    uint64_t connections_accepted_total
    uint64_t connections_refused_total
    uint64_t connections_active       # gauge
    uint64_t connections_reading      # gauge: a head has begun and is not complete
    uint64_t connections_busy         # gauge: a request is being answered
    uint64_t requests_total
    uint64_t unmatched_total          # requests that found no route
    uint64_t upstream_connects_total
    uint64_t upstream_reused_total
    uint64_t generations_live         # gauge
    uint64_t codes_dropped_total      # a route with more than CODE_PLACES different codes
    uint64_t log_lines_dropped_total  # of the access log: nobody took them
    CodeCount refused[CODE_PLACES]    # answers by status where no route was found, or no request


cdef class MetricsSegment:
    """One worker's view of its own segment."""

    cdef:
        void* base
        WorkerTotals* totals
        RouteSlot* slots
        dict index_by_route           # 16-byte route id -> slot number
        uint64_t dropped_here         # of log_lines_dropped_total, by this process

    cdef RouteSlot* slot_for(self, bytes route_id, bytes service, bytes route) except NULL


cdef inline void count_exchange(
    WorkerTotals* totals, RouteSlot* slot, uint32_t code, uint32_t source,
    uint64_t bytes_in, uint64_t bytes_out,
    int64_t gateway_ms, int64_t upstream_ms, int64_t request_ms,
) noexcept nogil:
    """Count one finished exchange; *upstream_ms* is -1 when no upstream answered."""
    cdef int place
    slot.bytes_in += bytes_in
    slot.bytes_out += bytes_out
    slot.gateway_ms_sum += <uint64_t>gateway_ms
    slot.gateway[gateway_bucket(gateway_ms)] += 1
    slot.request_ms_sum += <uint64_t>request_ms
    slot.request[latency_bucket(request_ms)] += 1
    if upstream_ms >= 0:
        slot.upstream_ms_sum += <uint64_t>upstream_ms
        slot.upstream[latency_bucket(upstream_ms)] += 1
    for place in range(CODE_PLACES):
        if slot.codes[place].code == code and slot.codes[place].source == source:
            slot.codes[place].count += 1
            return
        if slot.codes[place].code == 0:
            slot.codes[place].source = source
            slot.codes[place].count = 1
            slot.codes[place].code = code
            return
    totals.codes_dropped_total += 1


cdef inline void count_refused(WorkerTotals* totals, uint32_t code) noexcept nogil:
    """Count an answer to what found no route, or was no request."""
    cdef int place
    for place in range(CODE_PLACES):
        if totals.refused[place].code == code or totals.refused[place].code == 0:
            totals.refused[place].count += 1
            totals.refused[place].code = code
            return
    totals.codes_dropped_total += 1


cdef inline int gateway_bucket(int64_t ms) noexcept nogil:
    # Nearly all requests end in the first comparison.
    if ms <= 1: return 0
    if ms <= 2: return 1
    if ms <= 5: return 2
    if ms <= 7: return 3
    if ms <= 10: return 4
    if ms <= 15: return 5
    if ms <= 20: return 6
    if ms <= 30: return 7
    if ms <= 50: return 8
    if ms <= 75: return 9
    if ms <= 100: return 10
    if ms <= 200: return 11
    if ms <= 500: return 12
    if ms <= 750: return 13
    if ms <= 1000: return 14
    if ms <= 3000: return 15
    if ms <= 6000: return 16
    return 17


cdef inline int latency_bucket(int64_t ms) noexcept nogil:
    if ms <= 25: return 0
    if ms <= 50: return 1
    if ms <= 80: return 2
    if ms <= 100: return 3
    if ms <= 250: return 4
    if ms <= 400: return 5
    if ms <= 700: return 6
    if ms <= 1000: return 7
    if ms <= 2000: return 8
    if ms <= 5000: return 9
    if ms <= 10000: return 10
    if ms <= 30000: return 11
    if ms <= 60000: return 12
    return 13
