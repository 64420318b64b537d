"""The worker's shared state and the byte seam under both sides (see `_core.pxd`).

`Connection.send` writes to the socket itself while the transport holds nothing of ours, and hands the
rest to the transport otherwise: order is kept because the two are never mixed. TLS will stand behind
the same seam.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from posix.time cimport clock_gettime, timespec

import os
from email.utils import formatdate

from fastgw import __version__

cdef extern from "sys/socket.h" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_send "send"(int fd, const void* data, size_t size, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr* message, int flags)
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT

cdef extern from "time.h" nogil:
    enum:
        CLOCK_REALTIME_COARSE

cdef const char* HEX = b"0123456789abcdef"


cdef class ProxyCore:
    def __cinit__(self):
        self.out = NULL

    def __dealloc__(self):
        free(self.out)

    def __init__(self, loop, options, TimerWheel wheel, MetricsSegment metrics, access_log, log):
        """Unpack *options* (a `ProxyOptions`) for the hot path."""
        self.loop = loop
        self.options = options
        self.wheel = wheel
        self.metrics = metrics
        self.totals = metrics.totals
        self.access_log = access_log
        self.log = log
        self.downstreams = set()
        self.spare_exchanges = []
        self.read_buffer = bytearray(READ_BYTES)
        self.read_pointer = <uint8_t*>PyByteArray_AS_STRING(self.read_buffer)
        self.head_bytes_limit = options.head_bytes
        self.request_line_limit = options.request_line_bytes
        self.fields_limit = options.head_fields
        self.body_limit = options.body_bytes
        self.head_timeout_ms = options.head_timeout_ms
        self.body_timeout_ms = options.body_timeout_ms
        self.send_timeout_ms = options.send_timeout_ms
        self.keepalive_timeout_ms = options.keepalive_timeout_ms
        self.keepalive_requests = options.keepalive_requests
        self.connections_limit = options.connections
        headers = options.headers
        self.with_latencies = "x-kong-proxy-latency" in headers
        self.with_upstream_status = "x-kong-upstream-status" in headers
        self.with_request_id = "x-kong-request-id" in headers
        product = f"fastgw/{__version__}".encode()
        self.via_10 = b"1.0 " + product
        self.via_11 = b"1.1 " + product
        self.with_via = "via" in headers
        self.with_upstream_request_id = options.upstream_request_id
        self.with_debug_fields = options.debug_fields
        # One response head with our fields, or the forms of one request path (see Exchange._route).
        self.out_size = max(2 * READ_BYTES, 9 * self.head_bytes_limit) + 4096
        self.out = <uint8_t*>malloc(self.out_size)
        if self.out == NULL:
            raise MemoryError()
        seed = os.urandom(16)
        self.random_0 = int.from_bytes(seed[:8], "little") | 1
        self.random_1 = int.from_bytes(seed[8:], "little")

    cdef void write_request_id(self, uint8_t* out) noexcept:
        """Write 32 lower-case hex digits: unique in practice, not a secret (xorshift128+)."""
        cdef uint64_t first, second, value
        cdef int place, half
        for half in range(2):
            first = self.random_0
            second = self.random_1
            self.random_0 = second
            first ^= first << 23
            first ^= first >> 17
            first ^= second ^ (second >> 26)
            self.random_1 = first
            value = first + second
            for place in range(16):
                out[half * 16 + place] = HEX[value & 15]
                value >>= 4

    cdef Span date_line(self):
        """Return the line `Date: …` of now, made anew once per second; valid until the next call."""
        cdef timespec now
        clock_gettime(CLOCK_REALTIME_COARSE, &now)
        if now.tv_sec != self.date_second:
            self.date_second = now.tv_sec
            self.date = b"Date: " + formatdate(now.tv_sec, usegmt=True).encode() + b"\r\n"
        return span_of(self.date)

    @property
    def current(self):
        """The runtime that new requests get, or None."""
        return self.runtime

    def swap(self, Runtime runtime):
        """Make *runtime* the one that new requests get; return the one before."""
        before, self.runtime = self.runtime, runtime
        return before

    def set_connector(self, connector):
        self.connector = connector

    def begin_drain(self, on_drained):
        """From now on every answer closes its connection; *on_drained* is called when none is left."""
        self.is_draining = True
        self.on_drained = on_drained
        if not self.downstreams:
            on_drained()


cdef class Connection(Timed):
    def __cinit__(self):
        self.fd = -1
        self.is_closed = True

    # --- called by the transport

    def connection_made(self, transport):
        self.transport = transport
        self.fd = transport.get_extra_info("socket").fileno()
        self.is_closed = False
        transport.set_write_buffer_limits(high=HIGH_MARK, low=LOW_MARK)

    def get_buffer(self, sizehint):
        return self.core.read_buffer

    # --- called by our own side

    cdef bint send(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Send or queue all of *data*; False when the connection is broken (it is then aborted)."""
        cdef ssize_t sent = 0
        if self.is_closed:
            return False
        if not self.is_queued or not self.has_unsent():
            sent = c_send(self.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent == size:
                return True
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.abort()
                    return False
                sent = 0
        self.is_queued = True
        self.transport.write(PyBytes_FromStringAndSize(<const char*>data + sent, size - sent))
        return True

    cdef bint send_vector(self, iovec* parts, int count) except -1:
        """Like `send`, for several pieces in one system call."""
        cdef msghdr message
        cdef ssize_t sent = 0
        cdef Py_ssize_t total = 0, at = 0
        cdef int place
        cdef bytes rest
        cdef char* target
        if count == 1:
            return self.send(<const uint8_t*>parts[0].iov_base, parts[0].iov_len)
        if self.is_closed:
            return False
        for place in range(count):
            total += parts[place].iov_len
        if not self.is_queued or not self.has_unsent():
            memset(&message, 0, sizeof(message))
            message.msg_iov = parts
            message.msg_iovlen = count
            sent = c_sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent == total:
                return True
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.abort()
                    return False
                sent = 0
        self.is_queued = True
        rest = PyBytes_FromStringAndSize(NULL, total - sent)
        target = PyBytes_AS_STRING(rest)
        for place in range(count):
            if sent >= <ssize_t>parts[place].iov_len:
                sent -= parts[place].iov_len
                continue
            memcpy(target + at, <char*>parts[place].iov_base + sent, parts[place].iov_len - sent)
            at += parts[place].iov_len - sent
            sent = 0
        self.transport.write(rest)
        return True

    cdef bint has_unsent(self) except -1:
        """True while the transport holds bytes of ours."""
        if self.is_queued and not self.is_closed and self.transport.get_write_buffer_size() == 0:
            self.is_queued = False
        return self.is_queued

    cdef int pause_reading(self) except -1:
        if not self.is_read_paused and not self.is_closed:
            self.is_read_paused = True
            self.transport.pause_reading()
        return 0

    cdef int resume_reading(self) except -1:
        if self.is_read_paused and not self.is_closed:
            self.is_read_paused = False
            self.transport.resume_reading()
        return 0

    cdef int abort(self) except -1:
        """Close now: what is queued is lost, and the peer can tell that the message was cut."""
        if not self.is_closed:
            self.is_closed = True
            self.transport.abort()
        return 0

    cdef int close_after_flush(self) except -1:
        """Close once what is queued has been sent."""
        if not self.is_closed:
            self.is_closed = True
            self.transport.close()
        return 0
