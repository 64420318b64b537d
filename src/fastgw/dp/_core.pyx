"""The worker's shared state and the byte seam under both sides (see `_core.pxd`).

`Connection.put` writes to the socket itself while the transport holds nothing of ours, and hands the
rest to the transport otherwise: order is kept because the two are never mixed. `send` is the same for what
the sides say, through the connection's layer if it has one.
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
from fastgw.dp.accepting import connections_for
from fastgw.dp.forwarding import Forwarding

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
        self.clear = <uint8_t*>malloc(CLEAR_BYTES)
        self.record = <uint8_t*>malloc(RECORD_BYTES)
        if self.clear == NULL or self.record == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.out)
        free(self.clear)
        free(self.record)

    def __init__(self, loop, options, TimerWheel wheel, MetricsSegment metrics, access_log, log):
        """Unpack *options* (a `ProxyOptions`) for the hot path."""
        self.loop = loop
        self.wheel = wheel
        self.metrics = metrics
        self.totals = metrics.totals
        self.access_log = access_log
        self.log = log
        self.downstreams = set()
        self.spare_exchanges = []
        self.read_buffer = bytearray(READ_BYTES)
        self.read_pointer = <uint8_t*>PyByteArray_AS_STRING(self.read_buffer)
        self.forwarding = None
        if options.trusted_ips:
            self.forwarding = Forwarding(
                options.trusted_ips, options.real_ip_header, is_recursive=options.real_ip_recursive)
        self.head_bytes_limit = options.head_bytes
        product = f"fastgw/{__version__}".encode()
        self.via_10 = b"1.0 " + product
        self.via_11 = b"1.1 " + product
        self.adjust(options)
        # One response head with our fields, or the forms of one request path (see Exchange._route).
        self.out_size = max(2 * READ_BYTES, 9 * self.head_bytes_limit) + 4096
        self.out = <uint8_t*>malloc(self.out_size)
        if self.out == NULL:
            raise MemoryError()
        seed = os.urandom(16)
        self.random_0 = int.from_bytes(seed[:8], "little") | 1
        self.random_1 = int.from_bytes(seed[8:], "little")

    def adjust(self, options):
        """Go by those of *options* that can change while connections are served, from their next step on."""
        self.options = options
        self.request_line_limit = options.request_line_bytes
        self.head_limits.fields = options.head_fields
        self.head_limits.field_bytes = options.field_bytes
        self.head_limits.drops_underscores = not options.underscores
        self.body_limit = options.body_bytes
        self.head_timeout_ms = options.head_timeout_ms
        self.body_timeout_ms = options.body_timeout_ms
        self.body_rate = options.body_rate
        self.send_timeout_ms = options.send_timeout_ms
        self.keepalive_timeout_ms = options.keepalive_timeout_ms
        self.keepalive_requests = options.keepalive_requests
        self.connections_limit = connections_for(options.connections)
        self.connections_resumed = self.connections_limit - max(1, self.connections_limit // 32)
        if self.on_full is not None:
            self.judge_room()
        headers = options.headers
        self.with_latencies = "x-kong-proxy-latency" in headers
        self.with_upstream_status = "x-kong-upstream-status" in headers
        self.with_request_id = "x-kong-request-id" in headers
        self.with_via = "via" in headers
        self.with_upstream_request_id = options.upstream_request_id
        self.with_debug_fields = options.debug_fields

    cdef int judge_room(self) except -1:
        """Stop or take up accepting, by the number of connections and the limit; from a turn of the loop."""
        if not self.is_full and self.totals.connections_active >= <uint64_t>self.connections_limit:
            self.is_full = True
            self.loop.call_soon(self.on_full)
        elif self.is_full and self.totals.connections_active <= <uint64_t>self.connections_resumed:
            self.is_full = False
            self.loop.call_soon(self.on_room)
        return 0

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

    def set_phases(self, phases):
        self.phases = phases

    def set_room_hooks(self, on_full, on_room):
        """Have *on_full* called when no more connections fit, *on_room* when some do again."""
        self.on_full = on_full
        self.on_room = on_room

    def begin_drain(self, on_drained):
        """From now on every answer closes its connection; *on_drained* is called when the last one ends."""
        self.on_drained = on_drained
        self.is_draining = True

    def begin_closing_idle(self):
        """While draining: from now on a connection whose exchange has ended is closed, told so or not."""
        self.closes_idle = True


cdef class Listener:
    def __init__(self, bytes scheme, int port, certificates=None, bint takes_proxy_header=False):
        self.scheme = scheme
        self.port = port
        self.certificates = certificates
        self.takes_proxy_header = takes_proxy_header


cdef class Layer:
    cdef int start(self, Connection connection) except -1:
        return 0

    cdef int receive(self, Connection connection, uint8_t* data, Py_ssize_t size) except -1:
        raise AssertionError("abstract")

    cdef bint receive_end(self, Connection connection) except -1:
        return connection.receive_end()

    cdef bint send(self, Connection connection, iovec* parts, int count) except -1:
        raise AssertionError("abstract")

    cdef int finish(self, Connection connection) except -1:
        return 0

    cdef int lost(self, Connection connection, object error) except -1:
        return 0


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
        if self.layer is not None:
            self.layer.start(self)

    def get_buffer(self, sizehint):
        return self.core.read_buffer

    def buffer_updated(self, Py_ssize_t size):
        cdef Layer layer = self.layer  # it may take itself off: not before it returns
        try:
            if layer is None:
                self.receive(self.core.read_pointer, size)
            else:
                layer.receive(self, self.core.read_pointer, size)
        except Exception:
            self._broken("reading")

    def eof_received(self):
        cdef Layer layer = self.layer
        try:
            if layer is None:
                return self.receive_end()
            return layer.receive_end(self)
        except Exception:
            self._broken("reading the end")
        return False

    def peer_name(self):
        """The other end's address, for a log line."""
        peername = None if self.transport is None else self.transport.get_extra_info("peername")
        return f"{peername[0]}:{peername[1]}" if isinstance(peername, tuple) else "a local peer"

    def _broken(self, str doing):
        """A fault of ours: log it and drop the connection; other connections go on."""
        self.core.log.exception("connection failed while %s", doing)
        self.abort()

    # --- for the sides to implement

    cdef int receive(self, uint8_t* data, Py_ssize_t size) except -1:
        """Take bytes from the peer; *data* is good until the call returns, and may be overwritten."""
        raise AssertionError("abstract")

    cdef bint receive_end(self) except -1:
        """The peer sends no more; return True to keep our side open."""
        return False

    cdef int layer_ready(self) except -1:
        """The layer has done its handshake: from now on `send` may be called."""
        return 0

    cdef int refuse_plain_text(self) except -1:
        """The peer speaks plain HTTP where TLS is spoken; the layer is off when this is called."""
        return self.abort()

    cdef int set_client(self, str address) except -1:
        """A PROXY header names the client that the peer stands for."""
        return 0

    cdef int write_failed(self) except -1:
        """The socket takes no more bytes: the peer has closed or reset it."""
        return self.abort()

    # --- called by our own side

    cdef bint send(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Send or queue all of *data*; False when the connection is broken (it is then aborted)."""
        cdef iovec part
        if self.layer is None:
            return self.put(data, size)
        part.iov_base = <void*>data
        part.iov_len = size
        return self.layer.send(self, &part, 1)

    cdef bint send_vector(self, iovec* parts, int count) except -1:
        """Like `send`, for several pieces at once."""
        if self.layer is None:
            return self.put_vector(parts, count)
        return self.layer.send(self, parts, count)

    cdef bint put(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Send or queue *data* as it is; False when the connection is broken (it is then aborted)."""
        cdef ssize_t sent = 0
        if self.is_closed:
            return False
        if not self.is_queued or not self.has_unsent():
            sent = c_send(self.fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent == size:
                return True
            if sent < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.write_failed()
                    return False
                sent = 0
        self.is_queued = True
        self.transport.write(PyBytes_FromStringAndSize(<const char*>data + sent, size - sent))
        return True

    cdef bint put_vector(self, iovec* parts, int count) except -1:
        """Like `put`, for several pieces in one system call."""
        cdef msghdr message
        cdef ssize_t sent = 0
        cdef Py_ssize_t total = 0, at = 0
        cdef int place
        cdef bytes rest
        cdef char* target
        if count == 1:
            return self.put(<const uint8_t*>parts[0].iov_base, parts[0].iov_len)
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
                    self.write_failed()
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
            if self.layer is not None:
                self.layer.finish(self)
            # The layer may have found the connection broken.
            if not self.is_closed:
                self.is_closed = True
                self.transport.close()
        return 0

    cdef int end_writing(self) except -1:
        """Close our side once what is queued has been sent, and go on reading."""
        if not self.is_closed and self.layer is not None:
            self.layer.finish(self)
        if not self.is_closed:
            self.transport.write_eof()
        return 0
