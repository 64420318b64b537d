"""What all connections of one worker share, and the byte seam under both sides of the proxy.

Buffers: the loop reads into `read_buffer` and calls the protocol at once, so one buffer serves every
connection of the worker and an idle connection owns none. What must outlive the call is copied. A layer
(TLS, the PROXY header) stands between the socket and the connection; without one nothing is in between.

    socket ──buffer_updated──> [Layer.receive] ──> Connection.receive      (the sides implement it)
    socket <──put, put_vector── [Layer.send] <──── Connection.send, send_vector
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from posix.uio cimport iovec

from fastgw.dp._fields cimport Span
from fastgw.dp._head cimport HeadLimits
from fastgw.dp._metrics cimport MetricsSegment, WorkerTotals
from fastgw.dp._runtime cimport Runtime
from fastgw.dp._wheel cimport Timed, TimerWheel

cdef enum:
    READ_BYTES = 65536
    RECORD_BYTES = 16384      # the most that one TLS record carries
    # One read, the record that began in the read before it, and room to spare.
    CLEAR_BYTES = READ_BYTES + 2 * RECORD_BYTES
    REQUEST_ID_SIZE = 32
    HIGH_MARK = 65536         # bytes queued towards one side at which the other side is no longer read
    LOW_MARK = 16384


cdef class ProxyCore:
    cdef:
        readonly object loop
        readonly object options
        readonly TimerWheel wheel
        readonly MetricsSegment metrics
        WorkerTotals* totals
        Runtime runtime           # the one reference that a commit swaps; None before the first
        readonly object forwarding    # dp.forwarding.Forwarding; None: no peer is trusted
        readonly object access_log
        readonly object log
        readonly object connector     # opens upstream connections (dp/upstream/)
        readonly object phases        # moves exchanges through plugins (_phases)
        readonly object read_buffer
        uint8_t* read_pointer
        uint8_t* clear            # what a layer decrypts out of one read, CLEAR_BYTES
        uint8_t* record           # what a layer joins into one record, RECORD_BYTES
        uint8_t* out              # scratch for one response head
        Py_ssize_t out_size
        list spare_exchanges
        readonly bint is_draining     # every answer whose head is yet to come says that it is the last
        readonly bint closes_idle     # and connections with nothing in progress are closed
        readonly set downstreams
        object on_drained             # called once the last downstream is gone while draining
        bint is_full                  # as many downstreams as there may be: none is accepted
        object on_full                # called when it becomes so, and when there is room again
        object on_room
        uint64_t random_0
        uint64_t random_1
        bytes date                # `Date: …` CRLF of the second `date_second`
        int64_t date_second
        # Options, unpacked once:
        int head_bytes_limit
        int request_line_limit
        HeadLimits head_limits
        int64_t body_limit        # 0: none
        int64_t head_timeout_ms
        int64_t body_timeout_ms
        int64_t body_rate         # bytes per second that a request body must come at; 0: any
        int64_t send_timeout_ms
        int64_t keepalive_timeout_ms
        int keepalive_requests
        readonly int connections_limit
        int connections_resumed   # is_full ends at this number
        bint with_latencies
        bint with_upstream_status
        bint with_request_id
        bint with_via
        bint with_upstream_request_id
        bint with_debug_fields    # where a request asks for them
        bytes via_10
        bytes via_11

    cdef int judge_room(self) except -1
    cdef void write_request_id(self, uint8_t* out) noexcept
    cdef Span date_line(self)


cdef class Listener:
    """What the connections that one listening socket accepts have in common."""

    cdef:
        readonly bytes scheme         # b"http" or b"https"
        readonly int port
        readonly object certificates  # `tls.server.CertificateStore`; None: no TLS here
        readonly bint takes_proxy_header


cdef class Layer:
    """Between a socket and its connection, while the connection lives or until its part is done.

    *connection* is always the one that holds the layer; a layer keeps no reference to it, so that neither
    waits for the garbage collector.
    """

    cdef int start(self, Connection connection) except -1
    # *data* is the read buffer, good until the call returns, and may be overwritten.
    cdef int receive(self, Connection connection, uint8_t* data, Py_ssize_t size) except -1
    # The socket's end; True keeps our side open.
    cdef bint receive_end(self, Connection connection) except -1
    cdef bint send(self, Connection connection, iovec* parts, int count) except -1
    # Nothing more comes from our side, and the peer may know it.
    cdef int finish(self, Connection connection) except -1
    cdef int lost(self, Connection connection, object error) except -1


cdef class Connection(Timed):
    """A socket under the loop's transport, written to directly while nothing is queued."""

    cdef:
        ProxyCore core
        Layer layer               # None: the connection's bytes are the socket's
        object transport
        int fd
        bint is_queued            # the transport may still hold bytes of ours
        bint is_write_paused      # above HIGH_MARK
        bint is_read_paused
        bint is_cut               # the peer's end came without the close_notify that TLS asks for
        readonly bint is_closed   # nothing may touch fd any more

    # For the sides to implement:
    cdef int receive(self, uint8_t* data, Py_ssize_t size) except -1
    cdef bint receive_end(self) except -1
    cdef int layer_ready(self) except -1
    cdef int refuse_plain_text(self) except -1
    cdef int set_client(self, str address) except -1
    cdef int write_failed(self) except -1

    # For the sides to call:
    cdef bint send(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef bint send_vector(self, iovec* parts, int count) except -1
    cdef int end_writing(self) except -1

    # For layers: straight to the socket.
    cdef bint put(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef bint put_vector(self, iovec* parts, int count) except -1
    cdef int pause_reading(self) except -1
    cdef int resume_reading(self) except -1
    cdef int abort(self) except -1
    cdef int close_after_flush(self) except -1
    cdef bint has_unsent(self) except -1


cdef inline Span span_of(bytes value) noexcept:
    """View of a bytes object; the caller keeps the object alive."""
    cdef Span span
    span.data = <const uint8_t*><char*>value
    span.size = len(value)
    return span
