"""The client's connection (see `_downstream.pxd`): heads judged, bodies passed on, its states moved.

Pipelined requests keep their order because only one is ever in progress: what comes behind it is held (at
most one read) and the socket is not read on until the answer has gone.

Source: RFC 9112; http-security checklist §2, §3.3; docs/life_of_a_request.md.
"""

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t
from libc.string cimport memchr

from fastgw.dp._admit cimport admit
from fastgw.dp._body cimport BODY_UNTIL_CLOSE, take_joined
from fastgw.dp._core cimport Layer, Listener, ProxyCore, span_of
from fastgw.dp._exchange cimport EX_ANSWERING, Exchange, take_exchange
from fastgw.dp._fields cimport Span, select_trailers
from fastgw.dp._head cimport (
    MAX_HOST, RequestHead, check_request, find_head_end, parse_request_head, read_request_host
)
from fastgw.dp._proxy_header cimport first_layer
from fastgw.dp._tls cimport TlsLayer
from fastgw.dp._wheel cimport monotonic_ms

from fastgw.dp.states import DOWNSTREAM_MOVES

cdef extern from "sys/socket.h" nogil:
    cdef struct linger_option "linger":
        int l_onoff
        int l_linger
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void* value, unsigned int size)
    enum:
        SOL_SOCKET
        SO_LINGER

# Bit n of an entry: state n may follow. Filled from the one table, `states.py`.
cdef int[8] MOVES
for _state, _followers in DOWNSTREAM_MOVES.items():
    MOVES[<int>_state] = sum(1 << follower for follower in _followers)

cdef RequestHead request_head  # scratch: one head is judged at a time
cdef uint8_t[MAX_HOST] host_text  # the request's host, lower-cased; longer ones are refused


cdef class Downstream(Responder):
    def __init__(self, ProxyCore core, Listener listener):
        self.core = core
        self.listener = listener
        self.layer = first_layer(listener)
        self.state = DS_CLEAN
        self.is_https = listener.scheme == b"https"

    cdef int _set_state(self, DownstreamState state) except -1:
        if not MOVES[<int>self.state] >> <int>state & 1:
            raise RuntimeError(f"downstream connection: no move from state {self.state} to {state}")
        if self.state == DS_READ_HEAD:
            self.core.totals.connections_reading -= 1
        if state == DS_READ_HEAD:
            self.core.totals.connections_reading += 1
        self.state = state
        return 0

    cdef Span peer_text(self) noexcept:
        return span_of(self.peer)

    cdef Span fixed_fields(self) noexcept:
        return span_of(self.fixed)

    # --- called by the transport

    def connection_made(self, transport):
        cdef ProxyCore core = self.core
        super().connection_made(transport)
        core.totals.connections_accepted_total += 1
        core.totals.connections_active += 1
        peername = transport.get_extra_info("peername")
        # A unix socket has no address; Kong's nginx says "unix:" there.
        self.peer = peername[0].encode() if isinstance(peername, tuple) else b"unix:"
        self.peer_port = peername[1] if isinstance(peername, tuple) else 0
        self.fixed = (
            b"X-Real-IP: %s\r\nX-Forwarded-Proto: %s\r\nX-Forwarded-Port: %d\r\n"
            % (self.peer, self.listener.scheme, self.listener.port))
        if core.forwarding is not None:
            self.is_trusted = core.forwarding.trusts(self.peer.decode())
        core.downstreams.add(self)
        core.judge_room()
        if core.totals.connections_active > <uint64_t>core.connections_limit:
            core.totals.connections_refused_total += 1
            self._set_state(DS_DEAD)
            self.abort()
            return
        # The layers' handshakes and the first byte of the first head share one deadline.
        core.wheel.arm(self, monotonic_ms() + core.head_timeout_ms)

    cdef int receive(self, uint8_t* data, Py_ssize_t size) except -1:
        cdef bytearray held
        if self.held is None:
            return self._received(data, size)
        held, self.held = self.held, None
        held += PyBytes_FromStringAndSize(<const char*>data, size)
        return self._received(<uint8_t*>PyByteArray_AS_STRING(held), len(held))

    cdef bint receive_end(self) except -1:
        """The client has closed its side: finish what it asked for, if it asked whole."""
        self.has_eof = True
        if self.state == DS_ANSWERING:
            # Requests that came whole before the end are still answered.
            if self.held is None:
                self.closes = True
            return True
        if self.state == DS_TUNNEL:
            self.exchange.tunnel_ended()
        elif self.exchange is not None:
            self.exchange.client_gone()
        if self.state != DS_DEAD:
            self._close()
        return False

    cdef int refuse_plain_text(self) except -1:
        """A plain HTTP request came where TLS is spoken: say so, in plain text, and close."""
        self.closes = True
        self.refuse_request(400, NULL, 0, "The plain HTTP request was sent to HTTPS port")
        return self._linger()

    cdef int set_client(self, str address) except -1:
        """Go by the PROXY header, where it comes from a trusted peer and is what the settings go by."""
        if self.is_trusted and self.core.forwarding.by_proxy_protocol:
            self.client = address.encode()
        return 0

    cdef int layer_ready(self) except -1:
        self.server_name = (<TlsLayer>self.layer).server_name
        return 0

    cdef bytes known_client(self):
        return self.peer if self.client is None else self.client

    cdef bytes scheme(self):
        return self.listener.scheme

    def connection_lost(self, exception):
        self.is_closed = True
        self.core.totals.connections_active -= 1
        self.core.downstreams.discard(self)
        self.core.judge_room()
        if self.core.is_draining and not self.core.downstreams:
            self.core.on_drained()
        try:
            if self.exchange is not None:
                self.exchange.client_gone()
            self._set_state(DS_DEAD)
            self.core.wheel.disarm(self)
        except Exception:
            self.core.log.exception("downstream connection failed at its end")
        if self.layer is not None:
            layer, self.layer = self.layer, None
            (<Layer>layer).lost(self, exception)
        self.held = None
        self.transport = None

    def pause_writing(self):
        """The client reads slower than the upstream sends: read no more from the upstream."""
        self.is_write_paused = True
        self.core.wheel.arm(self, monotonic_ms() + self.core.send_timeout_ms)
        if self.exchange is not None:
            self.exchange.pause_response()

    def resume_writing(self):
        """The client reads again. After the last answer the deadline of what follows it stays."""
        self.is_write_paused = False
        if self.exchange is not None:
            self.deadline_ms = 0
            if self.state == DS_READ_BODY:
                self._watch_body()
            self.exchange.resume_response()
        elif self.state == DS_CLEAN:
            self.core.wheel.arm(self, monotonic_ms() + self.core.keepalive_timeout_ms)
            if self.held is not None:
                self._plan_resume()

    def _broken(self, str doing):
        self.core.log.exception("downstream connection failed while %s", doing)
        self.abort()

    cdef void on_deadline(self, int64_t now_ms) noexcept:
        try:
            if self.state == DS_READ_HEAD or (self.state == DS_READ_BODY and not self.is_read_paused):
                self._time_out()
            elif self.state == DS_ANSWERING and not self.is_write_paused:
                pass  # the upstream's own deadlines watch over this exchange
            elif self.state == DS_READ_BODY and not self.is_write_paused:
                # It is the upstream that takes no more.
                self._watch_body()
            elif self.state == DS_CLEAN and not self.has_unsent():
                self._close()  # idle: nothing is cut, and over TLS the client is told so
            else:
                self._set_state(DS_DEAD)
                self.is_closed = True
                if self.transport is not None:
                    self.transport.abort()
        except Exception:
            self._broken("waiting")

    def _time_out(self):
        """The client is too slow with its request: 408, unless the answer has begun."""
        self.closes = True
        if self.exchange is None:
            self._refuse_head(408, NULL, 0)
        elif self.exchange.state == EX_ANSWERING:
            self.cut()
        else:
            self.exchange.refuse(408, "Request timeout", True)

    # --- requests in

    cdef int _hold(self, const uint8_t* data, Py_ssize_t size) except -1:
        """Keep bytes for later; `_received` has taken all that went before."""
        self.held = bytearray(PyBytes_FromStringAndSize(<const char*>data, size))
        return 0

    cdef int _received(self, uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t taken
        while size and not self.is_closed:
            if self.state == DS_CLEAN or self.state == DS_READ_HEAD:
                if self.is_resume_planned or self.is_write_paused:
                    # A client that does not read its answers is not read on.
                    self._hold(data, size)
                    return self.pause_reading()
                taken = self._take_head(data, size)
                if taken == 0:
                    return 0
            elif self.state == DS_READ_BODY:
                taken = self._take_body(data, size)
                if taken < 0:
                    return 0
            elif self.state == DS_ANSWERING:
                # A pipelined request: it waits for the answer in progress, and the rest waits in the socket.
                self._hold(data, size)
                return self.pause_reading()
            elif self.state == DS_DRAINING:
                taken = self._drain(data, size)
                if taken < 0:
                    return 0
            elif self.state == DS_TUNNEL:
                self.exchange.tunnel_request(data, size)
                return 0
            else:
                return 0
            data += taken
            size -= taken
        return 0

    cdef Py_ssize_t _take_head(self, uint8_t* data, Py_ssize_t size) except -2:
        """Take one head and start its exchange; 0 when it is not whole yet or was refused."""
        cdef ProxyCore core = self.core
        cdef Py_ssize_t end, line_size, port_at = 0
        cdef int status
        cdef Span host
        cdef Exchange exchange
        # Empty lines before a request are skipped, a few of them (RFC 9112 §2.2).
        if data[0] == c'\r' or data[0] == c'\n':
            if size == 1 and data[0] == c'\r':
                self._hold(data, size)
                return 0
            if data[0] == c'\n' or data[1] != c'\n' or self.leading_bytes >= MAX_LEADING_BYTES:
                self._refuse_head(400, data, size)
                return 0
            self.leading_bytes += 2
            self.held_looked_at = 0
            return 2
        end = find_head_end(data, size, self.held_looked_at)
        if end == 0:
            return self._wait_for_head(data, size)
        self.held_looked_at = 0
        if end < 0:
            self._refuse_head(400, data, size)
            return 0
        if end > core.head_bytes_limit:
            # As it would be judged had it come in pieces: the line first.
            has_line = memchr(data, c'\n', core.request_line_limit) != NULL
            self._refuse_head(431 if has_line else 414, data, size)
            return 0
        status = parse_request_head(data, end, &core.head_limits, &request_head)
        line_size = request_head.target_start + request_head.target_size + 9
        if status != 400 and line_size > core.request_line_limit:
            status = 414
        if status == 0 and not check_request(data, &request_head):
            status = 400
        if status == 0:
            status = read_request_host(data, &request_head, host_text, &host, &port_at)
        if status:
            self._refuse_head(status, data, size)
            return 0
        self.served += 1
        self.leading_bytes = 0
        self.deadline_ms = 0
        self.closes = (
            request_head.framing.close or core.is_draining
            or (request_head.framing.minor == 0 and not request_head.framing.keep_alive)
            or (core.keepalive_requests and self.served >= core.keepalive_requests))
        exchange = take_exchange(core)
        self.exchange = exchange
        core.totals.connections_busy += 1
        self._set_state(
            DS_READ_BODY if request_head.framing.chunked or request_head.framing.content_length > 0
            else DS_ANSWERING)
        if self.state == DS_READ_BODY:
            self._watch_body()
        if admit(exchange, self, data, &request_head, host, port_at, self.listener.port):
            if self.state == DS_ANSWERING:
                exchange.request_bytes(NULL, 0)
            elif end == size or exchange.wants_continue:
                # The head goes on at once: the client may wait for the upstream's 100.
                exchange.request_bytes(NULL, 0)
        return end

    cdef Py_ssize_t _wait_for_head(self, uint8_t* data, Py_ssize_t size) except -2:
        cdef ProxyCore core = self.core
        cdef bint has_line = memchr(data, c'\n', min(size, core.request_line_limit)) != NULL
        if self.has_eof:
            self._close()
            return 0
        if not has_line and size >= core.request_line_limit:
            self._refuse_head(414, data, size)
        elif size > core.head_bytes_limit:
            self._refuse_head(431, data, size)
        else:
            if self.state == DS_CLEAN:
                # One deadline for the whole head, however it trickles.
                self._set_state(DS_READ_HEAD)
                self.deadline_ms = 0
                core.wheel.arm(self, monotonic_ms() + core.head_timeout_ms)
            self._hold(data, size)
            self.held_looked_at = size
        return 0

    cdef Py_ssize_t _take_body(self, uint8_t* data, Py_ssize_t size) except -2:
        """Pass body bytes on; -1 when nothing more of this read can be taken."""
        cdef Exchange exchange = self.exchange
        cdef Py_ssize_t joined, taken
        cdef int64_t now_ms
        taken = take_joined(&exchange.request_body, data, size, &joined)
        if taken < 0:
            self.closes = True
            if exchange.state == EX_ANSWERING:
                self.cut()
            else:
                exchange.refuse(400, "Bad request", True)
            return -1
        exchange.bytes_in += taken
        if exchange.request_body.trailer_size and exchange.keeps_request_trailers:
            self._keep_trailers()
        if self.core.body_limit and exchange.request_body.delivered > <uint64_t>self.core.body_limit:
            self.closes = True
            if exchange.state == EX_ANSWERING:
                self.cut()
            else:
                exchange.refuse(413, "Payload too large", True)
            return -1
        if exchange.request_body.is_complete:
            self.deadline_ms = 0
            self._set_state(DS_ANSWERING)
        elif self.core.body_rate:
            # Time is bought with bytes, so that a trickle ends however regular it is.
            now_ms = monotonic_ms()
            self.body_deadline_ms = min(
                self.body_deadline_ms + 1000 * joined // self.core.body_rate,
                now_ms + self.core.body_timeout_ms)
            self.deadline_ms = self.body_deadline_ms
        else:
            self.deadline_ms = monotonic_ms() + self.core.body_timeout_ms
        exchange.request_bytes(data, joined)
        return taken

    cdef int _keep_trailers(self) except -1:
        """Gather the trailer section; once whole, choose what goes on."""
        cdef Exchange exchange = self.exchange
        cdef bytearray gathered
        if self.trailers is None:
            self.trailers = bytearray()
        self.trailers += PyBytes_FromStringAndSize(
            <const char*>exchange.request_body.trailer_data, exchange.request_body.trailer_size)
        if exchange.request_body.is_complete:
            gathered, self.trailers = self.trailers, None
            exchange.request_trailers = select_trailers(
                <uint8_t*>PyByteArray_AS_STRING(gathered), len(gathered), True) or None
        return 0

    cdef int _watch_body(self) except -1:
        """From now on the client's body is waited for."""
        self.body_deadline_ms = monotonic_ms() + self.core.body_timeout_ms
        self.core.wheel.arm(self, self.body_deadline_ms)
        return 0

    cdef int resume_reading(self) except -1:
        if self.state == DS_READ_BODY and self.is_read_paused:
            # The wait so far was ours.
            self._watch_body()
        return Responder.resume_reading(self)

    cdef Py_ssize_t _drain(self, uint8_t* data, Py_ssize_t size) except -2:
        """Drop the rest of a body whose request was answered already."""
        cdef Py_ssize_t joined, taken
        taken = take_joined(&self.draining, data, size, &joined)
        self.drained += max(taken, 0)
        if taken < 0 or self.drained > MAX_DRAIN_BYTES:
            self._linger()
            return -1
        if self.draining.is_complete:
            self._become_clean()
        return taken

    # --- the exchange's word

    cdef int begin_tunnel(self) except -1:
        self._set_state(DS_TUNNEL)
        if self.has_eof:
            return self.exchange.tunnel_ended()
        if self.held is not None:
            # What the client sent before it had the answer.
            return self._plan_resume()
        return self.resume_reading()

    cdef int _refuse_head(self, int status, const uint8_t* data, Py_ssize_t size) except -1:
        """Answer a head that no exchange can be made of, *data* as far as it came, once, and close."""
        cdef bytearray held = self.held
        if data == NULL and held is not None:
            data = <const uint8_t*>PyByteArray_AS_STRING(held)
            size = len(held)
        self.closes = True
        self.exchange = None
        self.refuse_request(status, data, size)
        return self._linger()

    cdef int finish(self) except -1:
        """The exchange has ended: on to the next request, or to the connection's end."""
        cdef Exchange exchange = self.exchange
        self.exchange = None
        self.core.totals.connections_busy -= 1
        if self.is_closed:
            if self.state != DS_DEAD:
                self._set_state(DS_DEAD)
            return 0
        if self.closes or self.core.closes_idle or (self.has_eof and self.held is None):
            if exchange.request_body.is_complete and (
                self.has_eof or (self.held is None and not self.is_read_paused)
            ):
                return self._close()
            # Closing a socket that holds unread bytes resets it, and the answer may be lost.
            return self._linger()
        if not exchange.request_body.is_complete:
            # The upstream answered early and the connection stays: drop the rest of the body.
            self.draining = exchange.request_body
            self.trailers = None
            self.drained = 0
            self._set_state(DS_DRAINING)
            self.core.wheel.arm(self, monotonic_ms() + self.core.body_timeout_ms)
            return self.resume_reading()
        return self._become_clean()

    cdef int cut(self) except -1:
        """Break the connection so that the client sees that the answer is not whole."""
        cdef linger_option option
        self.closes = True
        if self.out_kind == BODY_UNTIL_CLOSE and not self.is_closed:
            # An orderly end would make this body whole.
            option.l_onoff = 1
            option.l_linger = 0
            c_setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option))
        return self.abort()

    # --- between requests, and the end

    cdef int _become_clean(self) except -1:
        self._set_state(DS_CLEAN)
        if not self.is_write_paused:
            self.core.wheel.arm(self, monotonic_ms() + self.core.keepalive_timeout_ms)
        if self.held is not None:
            return self._plan_resume()
        return self.resume_reading()

    cdef int _plan_resume(self) except -1:
        """Go on with held bytes from the loop: the buffers of this call are still in use."""
        if not self.is_resume_planned:
            self.is_resume_planned = True
            self.core.loop.call_soon(self._resume)
        return 0

    def _resume(self):
        cdef bytearray held
        self.is_resume_planned = False
        if self.is_closed or self.held is None or self.is_write_paused:
            return
        held, self.held = self.held, None
        try:
            self.resume_reading()
            self._received(<uint8_t*>PyByteArray_AS_STRING(held), len(held))
        except Exception:
            self._broken("going on")

    cdef int _close(self) except -1:
        """Close once the answer has gone; the wheel watches over a client that never takes it."""
        self.held = None
        self._set_state(DS_DEAD)
        self.core.wheel.arm(self, monotonic_ms() + self.core.send_timeout_ms)
        return self.close_after_flush()

    cdef int _linger(self) except -1:
        """Close our side and drop what still comes, for a while: a reset would destroy the answer."""
        if self.is_closed:
            return 0
        self.held = None
        self._set_state(DS_LINGER)
        # A client that has yet to take the answer gets the time for it.
        self.core.wheel.arm(
            self, monotonic_ms() + (self.core.send_timeout_ms if self.has_unsent() else LINGER_MS))
        self.end_writing()
        if self.is_closed:
            return 0
        return self.resume_reading()

    def shed(self):
        """Close if nothing is in progress and the client has been served; tell whether it was so."""
        if self.state != DS_CLEAN or self.held is not None or self.served == 0 or self.is_closed:
            return False
        self._close()
        return True

    def close_idle(self):
        """The worker is about to end: close if nothing is in progress."""
        if self.state == DS_CLEAN and self.held is None and not self.is_closed:
            self._close()

    def end(self):
        """The drain's deadline has passed: cut what is left."""
        self.abort()
