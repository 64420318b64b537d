"""Connections to upstreams (see `_upstream.pxd`): request out, answer in, reuse decided in one place."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from posix.uio cimport iovec

from fastgw.dp._body cimport (
    BODY_CHUNKED, BODY_LENGTH, BODY_NONE, BODY_UNTIL_CLOSE, begin_body, take_joined
)
from fastgw.dp._core cimport Layer
from fastgw.dp._exchange cimport Failure, FAIL_CLOSED, FAIL_MALFORMED, FAIL_TIMEOUT
from fastgw.dp._fields cimport select_trailers
from fastgw.dp._head cimport check_response, find_head_end, parse_response_head
from fastgw.dp._tls cimport TlsLayer, client_layer
from fastgw.dp._wheel cimport monotonic_ms

from fastgw.dp.states import UPSTREAM_MOVES

cdef extern from "sys/socket.h" nogil:
    ssize_t c_recv "recv"(int fd, void* data, size_t size, int flags)
    enum:
        MSG_PEEK
        MSG_DONTWAIT

cdef extern from "stdio.h" nogil:
    int snprintf(char* out, size_t size, const char* format, ...)

# Bit n of an entry: state n may follow. Filled from the one table, `states.py`.
cdef int[5] MOVES
for _state, _followers in UPSTREAM_MOVES.items():
    MOVES[<int>_state] = sum(1 << follower for follower in _followers)

cdef ResponseHead response_head  # scratch: one head is judged at a time


cdef class UpstreamConnection(UpstreamSide):
    def __init__(self, Pool pool):
        self.pool = pool
        self.core = pool.core
        self.state = UP_CLEAN

    cdef int _set_state(self, UpstreamState state) except -1:
        if not MOVES[<int>self.state] >> <int>state & 1:
            raise RuntimeError(f"upstream connection: no move from state {self.state} to {state}")
        self.state = state
        return 0

    # --- for the exchange

    cdef int begin(self, Exchange exchange) except -1:
        """Serve *exchange* from now on."""
        self._set_state(UP_WAITING)
        self.exchange = exchange
        self.is_answered = False
        self.interim_count = 0
        self.read_ms = exchange.route.service.read_ms
        self.write_ms = exchange.route.service.write_ms
        self.core.wheel.arm(self, monotonic_ms() + self.read_ms)
        return 0

    cdef bint write_request(
        self, const uint8_t* head, Py_ssize_t head_size, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        """Send the head (if any) and body bytes, framed anew; False when the connection is broken."""
        cdef iovec parts[4]
        cdef int count = 0
        cdef char size_line[24]
        cdef bytes end
        if head_size:
            parts[count].iov_base = <void*>head
            parts[count].iov_len = head_size
            count += 1
        else:
            if self.is_write_broken:
                return False
            if not self.is_write_paused:
                self.deadline_ms = monotonic_ms() + self.read_ms
        if size:
            if self.exchange.is_request_chunked:
                parts[count].iov_base = size_line
                parts[count].iov_len = snprintf(size_line, sizeof(size_line), b"%zx\r\n", size)
                count += 1
            parts[count].iov_base = <void*>body
            parts[count].iov_len = size
            count += 1
        if is_last and self.exchange.request_trailers is not None and self.exchange.is_request_chunked:
            end = (b"\r\n0\r\n" if size else b"0\r\n") + self.exchange.request_trailers + b"\r\n"
            parts[count].iov_base = <void*><char*>end
            parts[count].iov_len = len(end)
            count += 1
        elif self.exchange.is_request_chunked:
            # The CRLF behind the data and, at the end, the last chunk: one literal serves both.
            if size and is_last:
                parts[count].iov_base = <void*><char*>b"\r\n0\r\n\r\n"
                parts[count].iov_len = 7
                count += 1
            elif size:
                parts[count].iov_base = <void*><char*>b"\r\n"
                parts[count].iov_len = 2
                count += 1
            elif is_last:
                parts[count].iov_base = <void*><char*>b"0\r\n\r\n"
                parts[count].iov_len = 5
                count += 1
        if count == 0:
            return True
        return self.send_vector(parts, count)

    cdef int write_failed(self) except -1:
        """The upstream wants no more of the request: it may have answered before it closed, so read on."""
        if self.exchange is None or self.exchange.request_body.kind == BODY_NONE:
            return self.abort()
        self.is_write_broken = True
        self.core.wheel.arm(self, monotonic_ms() + self.read_ms)
        return 0

    cdef int end_tunnel(self) except -1:
        """Send what is queued, for a while, and close."""
        self.exchange = None
        self._set_state(UP_DEAD)
        self.core.wheel.arm(self, monotonic_ms() + self.write_ms)
        return self.close_after_flush()

    cdef bint _is_open(self) noexcept:
        """Look at the socket: still open, and nothing came that nobody asked for."""
        cdef uint8_t byte
        return c_recv(self.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0

    cdef int discard(self) except -1:
        """Give up the exchange in progress and the connection with it."""
        if self.layer is not None and (self.state == UP_CLEAN or self.is_answered):
            # Nothing is cut: say so. An exchange that is given up ends without a close_notify.
            self.layer.finish(self)
        self.exchange = None
        self._set_state(UP_DEAD)
        self.core.wheel.disarm(self)
        self.held = None
        return self.abort()

    # --- for the connector

    @property
    def handshake(self):
        """The future that ends with the TLS handshake; None for a plain connection."""
        return None if self.layer is None else (<TlsLayer>self.layer).waiter

    def give_up(self):
        """Close a connection that no exchange has taken."""
        self._fail(FAIL_CLOSED)

    # --- called by the transport

    cdef int receive(self, uint8_t* data, Py_ssize_t size) except -1:
        cdef bytearray held
        if self.held is None:
            return self._received(data, size)
        held, self.held = self.held, None
        held += PyBytes_FromStringAndSize(<const char*>data, size)
        return self._received(<uint8_t*>PyByteArray_AS_STRING(held), len(held))

    cdef bint receive_end(self) except -1:
        if self.state == UP_TUNNEL:
            self.exchange.tunnel_ended()
        elif self.state == UP_BODY and self.body.kind == BODY_UNTIL_CLOSE and not self.is_cut:
            self.keeps_alive = False
            self.exchange.response_bytes(NULL, 0, True)
            if self.state == UP_BODY:  # a plugin may have broken the answer's end
                self._complete(0)
        else:
            self._fail(FAIL_CLOSED)
        return False

    def _broken(self, str doing):
        self.core.log.exception("upstream connection failed while %s", doing)
        self._fail(FAIL_CLOSED)

    def connection_lost(self, exception):
        self.is_closed = True
        if self.state != UP_DEAD:
            self._fail(FAIL_CLOSED)
        if self.layer is not None:
            layer, self.layer = self.layer, None
            (<Layer>layer).lost(self, exception)
        self.transport = None

    def pause_writing(self):
        self.is_write_paused = True
        if self.exchange is not None:
            self.core.wheel.arm(self, monotonic_ms() + self.write_ms)
            self.exchange.pause_request()

    def resume_writing(self):
        self.is_write_paused = False
        if self.exchange is not None:
            self.core.wheel.arm(self, monotonic_ms() + self.read_ms)
            self.exchange.resume_request()

    cdef void on_deadline(self, int64_t now_ms) noexcept:
        """Idle for too long: close. Silent in an exchange: time-out, unless we wait for the client."""
        try:
            if self.state == UP_CLEAN:
                self._fail(FAIL_CLOSED)
            elif self.state == UP_DEAD:
                if self.transport is not None:
                    self.transport.abort()
            elif self.is_read_paused or (
                not self.has_unsent() and self.exchange.waits_for_client(self.interim_count > 0)
            ):
                self.core.wheel.arm(self, now_ms + self.read_ms)
            else:
                self._fail(FAIL_TIMEOUT)
        except Exception:
            self.core.log.exception("upstream connection failed at its deadline")

    # --- the answer

    cdef int _fail(self, Failure failure) except -1:
        """Close, and tell the exchange (if any) why."""
        cdef Exchange exchange = self.exchange
        if self.state == UP_CLEAN:
            self.pool.forget(self)
        if exchange is not None:
            # The exchange discards this connection first and decides then.
            exchange.failed(failure)
        elif self.state != UP_DEAD:
            self.discard()
        return 0

    cdef int _received(self, uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken, joined
        if self.state == UP_CLEAN:
            # Nobody asked: an answer to no request would be given to the next one.
            return self._fail(FAIL_CLOSED)
        if not self.is_write_paused:
            self.deadline_ms = monotonic_ms() + self.read_ms
        while self.state == UP_WAITING and size:
            taken = self._take_head(data, size)
            if taken == 0:
                return 0
            data += taken
            size -= taken
        if self.state == UP_TUNNEL and size:
            return self.exchange.response_bytes(data, size, False)
        if self.state == UP_BODY and size:
            taken = take_joined(&self.body, data, size, &joined)
            if taken < 0:
                return self._fail(FAIL_MALFORMED)
            if self.body.trailer_size:
                self._keep_trailers()
            if joined or self.body.is_complete:
                self.exchange.response_bytes(data, joined, self.body.is_complete)
            if self.state == UP_BODY and self.body.is_complete:
                self._complete(size - taken)
        return 0

    cdef Py_ssize_t _take_head(self, uint8_t* data, Py_ssize_t size) except -1:
        """Take one head, and of a final answer all else; 0 when there is nothing more to do here."""
        cdef Py_ssize_t end = find_head_end(data, size, self.held_looked_at)
        if end == 0 and size <= self.core.head_bytes_limit:
            self.held = bytearray(PyBytes_FromStringAndSize(<const char*>data, size))
            self.held_looked_at = size
            return 0
        self.held_looked_at = 0
        if (
            end <= 0 or end > self.core.head_bytes_limit
            or parse_response_head(data, end, &response_head) != 0 or not check_response(data, end)
        ):
            self._fail(FAIL_MALFORMED)
            return 0
        if response_head.status < 200:
            self.interim_count += 1
            if response_head.grants_websocket and self.exchange.wants_websocket:
                self._set_state(UP_TUNNEL)
                self.exchange.tunnel_granted(data, &response_head)
                return end
            # Any other 101 answers what nobody asked for.
            if response_head.status == 101 or self.interim_count > MAX_INTERIM:
                self._fail(FAIL_MALFORMED)
                return 0
            self.exchange.interim(data, &response_head)
            return end
        self._answer_begins(data, &response_head, data + end, size - end)
        return 0

    cdef int _answer_begins(
        self, const uint8_t* head, ResponseHead* response, uint8_t* rest, Py_ssize_t size
    ) except -1:
        """Decide the body's framing (RFC 9112 §6.3), pass on the head and what of the body is here."""
        cdef Py_ssize_t taken = 0, joined = 0
        self.keeps_alive = response.framing.minor == 1 and not response.framing.close
        self.keeps_trailers = self.exchange.accepts_trailers and response.framing.nominated_count == 0
        if self.exchange.asks_by_head or response.status == 204 or response.status == 304:
            begin_body(&self.body, BODY_NONE, 0)
            if response.status == 204 and (response.framing.content_length > 0 or response.framing.chunked):
                # Who announces a body that cannot be may send it yet, and it would answer the next request.
                self.keeps_alive = False
        elif response.framing.chunked:
            begin_body(&self.body, BODY_CHUNKED, 0)
        elif response.framing.content_length >= 0:
            begin_body(&self.body, BODY_LENGTH, response.framing.content_length)
        else:
            begin_body(&self.body, BODY_UNTIL_CLOSE, 0)
            self.keeps_alive = False
        if size:
            taken = take_joined(&self.body, rest, size, &joined)
            if taken < 0:
                return self._fail(FAIL_MALFORMED)
            if self.body.trailer_size:
                self._keep_trailers()
        self._set_state(UP_BODY)
        self.exchange.response_head(head, response, rest, joined, self.body.is_complete)
        if self.state == UP_BODY and self.body.is_complete:
            self._complete(size - taken)
        return 0

    cdef int _keep_trailers(self) except -1:
        """Gather the trailer section, if the client wants it; once whole, choose what goes on."""
        cdef bytearray gathered
        if not self.keeps_trailers:
            return 0
        if self.trailers is None:
            self.trailers = bytearray()
        self.trailers += PyBytes_FromStringAndSize(
            <const char*>self.body.trailer_data, self.body.trailer_size)
        if self.body.is_complete:
            gathered, self.trailers = self.trailers, None
            self.exchange.trailers = select_trailers(
                <uint8_t*>PyByteArray_AS_STRING(gathered), len(gathered), False) or None
        return 0

    cdef int _complete(self, Py_ssize_t left_over) except -1:
        """The answer is whole: back to the pool if nothing is owed in either direction."""
        cdef Exchange exchange = self.exchange
        self.exchange = None
        self.served += 1
        self.is_answered = exchange.request_body.is_complete
        if (
            self.keeps_alive and left_over == 0 and exchange.request_body.is_complete
            and not self.is_closed and not self.is_write_broken and not self.has_unsent()
            and (self.pool.requests_limit == 0 or self.served < self.pool.requests_limit)
        ):
            self.resume_reading()
            self._set_state(UP_CLEAN)
            self.is_reused = True
            self.pool.give_back(self)
        else:
            self.discard()
        return exchange.response_done()


cdef class Pool(UpstreamPool):
    def __init__(self, ProxyCore core, str host, int port, tls=None, *, bint keeps_idle=True):
        self.core = core
        self.host = host
        self.port = port
        self.tls = tls
        self.idle = []
        self.idle_limit = core.options.upstream_idle_connections if keeps_idle else 0
        self.requests_limit = core.options.upstream_keepalive_requests
        self.idle_ms = core.options.upstream_idle_timeout_ms

    cdef UpstreamSide take(self, bint must_be_open):
        """Return the newest idle connection that still looks open, or None."""
        cdef UpstreamConnection connection
        while self.idle:
            connection = <UpstreamConnection>self.idle.pop()
            if connection.is_closed:
                continue
            if must_be_open and not connection._is_open():
                connection.discard()
                continue
            return connection
        return None

    cdef int connect(self, Exchange exchange) except -1:
        """Open a connection in a task; it reports to the exchange by itself."""
        exchange.connecting = self.core.connector.open(self, exchange)
        return 0

    cdef int give_back(self, UpstreamConnection connection) except -1:
        if self.idle_limit == 0:
            return connection.discard()
        self.idle.append(connection)
        if self.idle_ms:
            self.core.wheel.arm(connection, monotonic_ms() + self.idle_ms)
        else:
            self.core.wheel.disarm(connection)
        if len(self.idle) > self.idle_limit:
            (<UpstreamConnection>self.idle.pop(0)).discard()
        return 0

    cdef int forget(self, UpstreamConnection connection) except -1:
        if connection in self.idle:
            self.idle.remove(connection)
        return 0

    @property
    def is_used(self):
        """Whether a service of a live generation has it."""
        return self.users > 0

    @property
    def idle_count(self):
        return len(self.idle)

    def close_idle(self):
        """Close all idle connections: at the worker's end."""
        while self.idle:
            (<UpstreamConnection>self.idle.pop()).discard()

    def make_connection(self, context=None):
        """Return the protocol object for a new connection, over TLS by *context* where `tls` is not None.

        Raises:
            ValueError: the upstream's name can be none that TLS knows.
        """
        cdef UpstreamConnection connection = UpstreamConnection(self)
        if self.tls is not None:
            connection.layer = client_layer(
                self.core.loop, context, self.tls.server_name,
                self.tls.verify_depth if self.tls.is_verified else -1)
        self.core.totals.upstream_connects_total += 1
        return connection
