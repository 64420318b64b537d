"""One request and its answer (see `_exchange.pxd`): forwarding, failures, the final count.

States, and who moves them:

    IDLE ──begin──> CONNECTING ──connected──> SENDING ──response_head──> ANSWERING ──┐
                        └──────── a pooled connection ────^                          ├──> DONE
                        SENDING ──tunnel_granted──> TUNNEL ──tunnel_ended────────────┤
                 refuse, failed, client_gone: from each of them ─────────────────────┘

An exchange ends exactly once (`end`): it is counted, logged, and goes back to the spare ones. What came
too late for it (a connection that opened after the client had gone) finds state IDLE or another exchange
and is closed by whoever brought it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free, realloc

from fastgw.dp._body cimport BODY_CHUNKED, BODY_LENGTH, BODY_NONE, begin_body
from fastgw.dp._core cimport REQUEST_ID_SIZE, span_of
from fastgw.dp._metrics cimport SOURCE_GATEWAY, SOURCE_SERVICE, count_exchange, count_refused
from fastgw.dp._runtime cimport ServiceEntry, Used
from fastgw.dp._wheel cimport monotonic_us

from fastgw.obs.accesslog import Entry

cdef enum:
    # Heads above this size give their memory back when the exchange ends.
    KEPT_HEAD_BYTES = 16384
    MAX_SPARE = 1024
    # nginx's own code for "the client closed the connection before the answer".
    STATUS_CLIENT_GONE = 499


cdef class ClientSide(Connection):
    """What an exchange asks of its downstream connection; the kinds of downstream implement it."""

    cdef int write_head(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        raise AssertionError("abstract")

    cdef int write_body(self, const uint8_t* body, Py_ssize_t size, bint is_last) except -1:
        raise AssertionError("abstract")

    cdef int write_interim(self, const uint8_t* head, ResponseHead* response) except -1:
        raise AssertionError("abstract")

    cdef int write_continue(self) except -1:
        raise AssertionError("abstract")

    cdef int begin_tunnel(self) except -1:
        raise AssertionError("abstract")

    cdef int finish(self) except -1:
        raise AssertionError("abstract")

    cdef int answer(self, int status, str message, bint is_error_page) except -1:
        raise AssertionError("abstract")

    cdef int cut(self) except -1:
        raise AssertionError("abstract")

    cdef bytes known_client(self):
        raise AssertionError("abstract")

    cdef bytes scheme(self):
        raise AssertionError("abstract")

    cdef Span peer_text(self) noexcept:
        return span_of(b"")

    cdef Span fixed_fields(self) noexcept:
        return span_of(b"")


cdef class UpstreamSide(Connection):
    """What an exchange asks of its upstream connection."""

    cdef int begin(self, Exchange exchange) except -1:
        raise AssertionError("abstract")

    cdef bint write_request(
        self, const uint8_t* head, Py_ssize_t head_size, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        raise AssertionError("abstract")

    cdef int discard(self) except -1:
        raise AssertionError("abstract")

    cdef int end_tunnel(self) except -1:
        raise AssertionError("abstract")


cdef class UpstreamPool(Used):
    """Where connections to one target come from."""

    cdef UpstreamSide take(self, bint must_be_open):
        raise AssertionError("abstract")

    cdef int connect(self, Exchange exchange) except -1:
        raise AssertionError("abstract")


cdef class Hooks:
    """What the phases of plugins do with an exchange (`_phases.pyx`)."""

    cdef int body_came(self, Exchange exchange) except -1:
        raise AssertionError("abstract")

    cdef int response_head(
        self, Exchange exchange, const uint8_t* head, ResponseHead* response, const uint8_t* body,
        Py_ssize_t size, bint is_last
    ) except -1:
        raise AssertionError("abstract")

    cdef int response_bytes(
        self, Exchange exchange, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        raise AssertionError("abstract")

    cdef bytes own_answer(self, Exchange exchange, bytes data):
        raise AssertionError("abstract")

    cdef int ended(
        self, Exchange exchange, int64_t gateway_ms, int64_t upstream_ms, int64_t request_ms
    ) except -1:
        raise AssertionError("abstract")


cdef class PhaseRunner:
    """What a request's way in asks of the phases of plugins."""

    cdef bint rewrite(
        self, Exchange exchange, object chain, const uint8_t* data, RequestHead* request, Span host,
        Py_ssize_t host_port_at, int listener_port
    ) except -1:
        raise AssertionError("abstract")

    cdef bint access(
        self, Exchange exchange, object chain, const uint8_t* data, RequestHead* request, Span host,
        Py_ssize_t host_port_at, int listener_port, Py_ssize_t path_size
    ) except -1:
        raise AssertionError("abstract")


cdef Exchange take_exchange(ProxyCore core):
    """Return a spare exchange, or a new one."""
    cdef Exchange exchange
    if core.spare_exchanges:
        return <Exchange>core.spare_exchanges.pop()
    exchange = Exchange()
    exchange.core = core
    return exchange


cdef class Exchange:
    def __cinit__(self):
        self.head = NULL
        self.head_capacity = 0
        self.state = EX_IDLE

    def __dealloc__(self):
        free(self.head)

    # --- from the client's side

    cdef int begin(self, ClientSide client, RequestHead* request) except -1:
        """Take up a request whose head is whole; `_admit.pyx` finds out where it goes."""
        cdef ProxyCore core = self.core
        self.client = client
        self.runtime = core.runtime
        self.state = EX_CONNECTING
        self.started_us = monotonic_us()
        self.sent_us = 0
        self.answered_us = 0
        self.tries = 0
        self.status = 0
        self.is_gateway_answer = False
        self.is_head_sent = False
        self.bytes_in = request.size
        self.bytes_out = 0
        self.head_bytes_out = 0
        self.is_head_request = self.asks_by_head = request.is_head
        self.is_http_10 = request.framing.minor == 0
        self.wants_continue = request.expects_continue
        self.wants_websocket = request.wants_websocket
        self.accepts_trailers = request.accepts_trailers
        self.trailers = None
        self.request_trailers = None
        self.keeps_request_trailers = request.framing.nominated_count == 0
        self.is_request_chunked = request.framing.chunked
        if request.framing.chunked:
            begin_body(&self.request_body, BODY_CHUNKED, 0)
        elif request.framing.content_length > 0:
            begin_body(&self.request_body, BODY_LENGTH, request.framing.content_length)
        else:
            begin_body(&self.request_body, BODY_NONE, 0)
        self.is_replayable = request.is_idempotent and self.request_body.is_complete
        self.debug_fields = b""
        self.answer_fields = b""
        core.write_request_id(self.request_id)
        core.totals.requests_total += 1
        return 0

    cdef bint reserve_head(self, Py_ssize_t size) except -1:
        cdef uint8_t* grown
        if size > self.head_capacity:
            size = (size + 4095) & ~<Py_ssize_t>4095
            grown = <uint8_t*>realloc(self.head, size)
            if grown == NULL:
                raise MemoryError()
            self.head = grown
            self.head_capacity = size
        return True

    cdef int request_bytes(self, const uint8_t* body, Py_ssize_t size) except -1:
        """Forward body bytes; `request_body` says whether they are the last. Called with none, too."""
        if self.state == EX_CONNECTING:
            # Not sent yet: keep what came with the head and read no more until there is a connection.
            if size:
                if self.held_body is None:
                    self.held_body = bytearray()
                self.held_body += PyBytes_FromStringAndSize(<const char*>body, size)
            if self.hooks is not None and self.hooks.wants_body:
                return self.hooks.body_came(self)
            if self.request_body.is_complete:
                return self.client.resume_reading()
            return self.client.pause_reading()
        if self.upstream is None:
            return 0
        if not self.is_head_sent:
            if self.held_body is not None:
                # What a plugin has put in place of a body that is none.
                return self.go_on()
            return self._send_head(body, size)
        if size or self.request_body.is_complete:
            self.upstream.write_request(NULL, 0, body, size, self.request_body.is_complete)
        return 0

    cdef int client_gone(self) except -1:
        """The client's connection is closed: stop working for it."""
        if self.state == EX_IDLE:
            return 0
        self._let_go_of_upstream()
        if self.status == 0:
            self.status = STATUS_CLIENT_GONE
            self.is_gateway_answer = True
        return self.end()

    # --- from the upstream's side

    cdef int acquire(self) except -1:
        cdef ServiceEntry service = self.route.service
        cdef UpstreamSide upstream
        if self.server_name is not None:
            self.pool = self.core.connector.pool_for(service, self.server_name)
        else:
            if service.pool is None:
                service.use(self.core.connector.pool_for(service))
            self.pool = <UpstreamPool>service.pool
        self.tries += 1
        upstream = self.pool.take(not self.is_replayable)
        if upstream is not None:
            self.core.totals.upstream_reused_total += 1
            self.upstream = upstream
            self.state = EX_SENDING
            return upstream.begin(self)
        self.state = EX_CONNECTING
        return self.pool.connect(self)

    cdef int connected(self, UpstreamSide upstream) except -1:
        """A connection that was asked for is open: send what waits, read on from the client."""
        self.connecting = None
        self.upstream = upstream
        self.state = EX_SENDING
        upstream.begin(self)
        return self.go_on()

    cdef int go_on(self) except -1:
        """Send what waits, if there is a connection to send it on, and read on from the client."""
        cdef bytearray held = self.held_body
        if self.state != EX_SENDING:
            return 0
        self.held_body = None
        if held is None:
            self._send_head(NULL, 0)
        else:
            self._send_head(<const uint8_t*><char*>held, len(held))
        if self.state != EX_IDLE and self.upstream is not None and not self.request_body.is_complete:
            # Behind a whole request stand pipelined ones: they wait in the socket.
            self.client.resume_reading()
        return 0

    cdef int _send_head(self, const uint8_t* body, Py_ssize_t size) except -1:
        self.is_head_sent = True
        self.sent_us = monotonic_us()
        if not self.upstream.write_request(
            self.head, self.head_size, body, size, self.request_body.is_complete
        ):
            return self.failed(FAIL_CLOSED)
        return 0

    cdef int failed(self, Failure failure) except -1:
        """The upstream side failed: try once more where that is safe, else answer or cut.

        Source: proxying reference §3.2: transport failures only, `retries` more tries, and never a
        request that may have been acted upon, unless it is idempotent and wholly in our hands.
        """
        cdef UpstreamSide upstream = self.upstream
        cdef bint was_reused = upstream is not None and upstream.is_reused
        if self.state == EX_IDLE or self.state == EX_DONE:
            return 0
        self._let_go_of_upstream()
        if self.state == EX_TUNNEL and failure == FAIL_TIMEOUT:
            # Nothing has moved for as long as the service allows: the tunnel ends, it does not break.
            return self.end()
        if self.state == EX_ANSWERING or self.state == EX_TUNNEL:
            return self.cut_answer()
        if (failure == FAIL_CLOSED or failure == FAIL_TIMEOUT) and self.is_replayable and (
            self.tries <= self.route.service.retries or (was_reused and failure == FAIL_CLOSED)
        ):
            # A reused connection may be one that the upstream was just closing: the next one is fresh.
            self.tries += 1
            self.is_head_sent = False
            self.state = EX_CONNECTING
            return self.pool.connect(self)
        if failure == FAIL_TIMEOUT or failure == FAIL_CONNECT_TIMEOUT:
            return self.refuse(504, "The upstream server is timing out", True)
        if failure == FAIL_RESOLVE:
            return self.refuse(503, "name resolution failed", False)
        return self.refuse(502, "An invalid response was received from the upstream server", True)

    cdef int interim(self, const uint8_t* head, ResponseHead* response) except -1:
        """Pass a 1xx answer on to a client that can take it (RFC 9110 §15.2)."""
        if self.is_http_10 or (response.status == 100 and not self.wants_continue):
            return 0
        if response.status == 100:
            # Once: from now on the client owes its body, and may be waited for.
            self.wants_continue = False
        return self.client.write_interim(head, response)

    cdef int response_head(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        self.answered_us = monotonic_us()
        if self.hooks is not None:
            return self.hooks.response_head(self, head, response, body, size, is_last)
        self.status = response.status
        self.state = EX_ANSWERING
        return self.client.write_head(head, response, body, size, is_last)

    cdef int begin_answer(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1:
        """For hooks: send the head of an answer that plugins have seen, and what there is of its body."""
        self.status = response.status
        self.state = EX_ANSWERING
        return self.client.write_head(head, response, body, size, is_last)

    cdef int response_bytes(self, const uint8_t* body, Py_ssize_t size, bint is_last) except -1:
        if self.hooks is not None and self.state != EX_TUNNEL:
            return self.hooks.response_bytes(self, body, size, is_last)
        return self.client.write_body(body, size, is_last)

    cdef int response_done(self) except -1:
        """The answer is complete and the upstream connection has let go of this exchange."""
        self.upstream = None
        if self.hooks is not None and self.hooks.is_pending:
            return 0
        return self.end()

    # --- a tunnel: bytes both ways until one side ends, or nothing moves for too long

    cdef int tunnel_granted(self, const uint8_t* head, ResponseHead* response) except -1:
        """The upstream has answered 101 to a request that asked for it: pass it on and open the tunnel."""
        self.answered_us = monotonic_us()
        if self.hooks is not None:
            self.hooks.response_head(self, head, response, NULL, 0, False)
            if self.state != EX_ANSWERING:
                return 0  # a plugin has broken it
        self.status = response.status
        self.state = EX_TUNNEL
        if self.hooks is None:
            self.client.write_head(head, response, NULL, 0, False)
        return self.client.begin_tunnel()

    cdef int tunnel_request(self, const uint8_t* data, Py_ssize_t size) except -1:
        self.bytes_in += size
        if self.upstream is not None:
            self.upstream.write_request(NULL, 0, data, size, False)
        return 0

    cdef int tunnel_ended(self) except -1:
        """One side has closed: what is queued still goes out on both, then they close."""
        cdef UpstreamSide upstream = self.upstream
        self.upstream = None
        if upstream is not None:
            upstream.end_tunnel()
        return self.end()

    cdef bint waits_for_client(self, bint has_interim) noexcept:
        """True while it is the client who is to send: the upstream's silence is none of its own then.

        A client that asked for a 100 sends nothing before an interim answer: that is the upstream's to do.
        """
        if self.request_body.is_complete or self.state == EX_TUNNEL:
            return False
        return not self.wants_continue or has_interim or self.request_body.delivered > 0

    # --- back-pressure: the side that cannot write stops the reading of the other

    cdef int pause_response(self) except -1:
        if self.upstream is not None:
            self.upstream.pause_reading()
        return 0

    cdef int resume_response(self) except -1:
        if self.upstream is not None:
            self.upstream.resume_reading()
        return 0

    cdef int pause_request(self) except -1:
        if self.client is not None and (not self.request_body.is_complete or self.state == EX_TUNNEL):
            self.client.pause_reading()
        return 0

    cdef int resume_request(self) except -1:
        if self.client is not None and (not self.request_body.is_complete or self.state == EX_TUNNEL):
            self.client.resume_reading()
        return 0

    # --- the end

    cdef int cut_answer(self) except -1:
        """Part of the answer has gone: only a cut connection tells the client that it is not whole."""
        self._let_go_of_upstream()
        self.client.cut()
        return self.end()

    cdef int answer_with(self, object answer) except -1:
        """Send the answer of a plugin; nothing has gone to an upstream."""
        self.own = answer
        return self.refuse(answer.status, "", False)

    cdef int refuse(self, int status, str message, bint is_error_page) except -1:
        """Answer by the gateway itself; nothing of an upstream's answer has been sent."""
        self._let_go_of_upstream()
        self.status = status
        self.is_gateway_answer = True
        self.client.answer(status, message, is_error_page)
        return self.end()

    cdef int _let_go_of_upstream(self) except -1:
        cdef UpstreamSide upstream = self.upstream
        if self.connecting is not None:
            connecting, self.connecting = self.connecting, None
            connecting.cancel()
        if upstream is not None:
            self.upstream = None
            upstream.discard()
        return 0

    cdef int end(self) except -1:
        cdef ClientSide client = self.client
        cdef ProxyCore core = self.core
        # The caller may hold no reference of its own (a call through an attribute takes none), and
        # `finish` drops the client's: without this one the object would be freed under our feet.
        cdef Exchange keep = self
        if keep.state == EX_IDLE:
            return 0
        self._count()
        self.state = EX_DONE
        if client is not None:
            client.finish()
        self.client = None
        self.runtime = None
        self.route = None
        self.pool = None
        if self.forwarded_block is not None:
            self.client_address = self.forwarded_block = self.forwarded_proto = None
            self.forwarded_host = self.forwarded_path = self.forwarded_prefix = None
        if self.hooks is not None:
            self.hooks = None
            self.own = self.upstream_path = self.upstream_host = None
        self.held_body = None
        self.log_parts = None
        self.trailers = None
        self.state = EX_IDLE
        if self.head_capacity > KEPT_HEAD_BYTES:
            free(self.head)
            self.head = NULL
            self.head_capacity = 0
        if len(core.spare_exchanges) < MAX_SPARE:
            core.spare_exchanges.append(self)
        return 0

    cdef int _count(self) except -1:
        cdef ProxyCore core = self.core
        cdef int64_t now_us = monotonic_us()
        cdef int64_t upstream_ms = -1
        cdef int64_t gateway_us
        if self.answered_us:
            upstream_ms = (self.answered_us - self.sent_us) // 1000
            gateway_us = self.sent_us - self.started_us
        else:
            gateway_us = now_us - self.started_us
        if self.route is not None:
            count_exchange(
                core.totals, self.route.slot, self.status,
                SOURCE_GATEWAY if self.is_gateway_answer else SOURCE_SERVICE,
                self.bytes_in, self.bytes_out, gateway_us // 1000, upstream_ms,
                (now_us - self.started_us) // 1000)
        else:
            count_refused(core.totals, self.status)
        if core.access_log is not None:
            self._write_log(gateway_us // 1000, upstream_ms, (now_us - self.started_us) // 1000)
        if self.hooks is not None:
            self.hooks.ended(self, gateway_us // 1000, upstream_ms, (now_us - self.started_us) // 1000)
        return 0

    cdef int _write_log(self, int64_t gateway_ms, int64_t upstream_ms, int64_t request_ms) except -1:
        cdef Span peer = self.client.peer_text()
        cdef RouteEntry route = self.route
        cdef ServiceEntry service = None if route is None else route.service
        line, referer, user_agent, host = self.log_parts
        self.core.access_log.write(Entry(
            self.client_address or PyBytes_FromStringAndSize(<const char*>peer.data, peer.size),
            line, self.status, self.bytes_in, self.bytes_out, self.head_bytes_out,
            PyBytes_FromStringAndSize(<const char*>self.request_id, REQUEST_ID_SIZE),
            referer, user_agent, host, self.client.scheme(), request_ms, gateway_ms, upstream_ms,
            None if route is None else (route.id, route.name),
            None if service is None else (service.id, service.own_name),
            not self.is_gateway_answer))
        return 0

    # --- for the connector (dp/upstream/), which runs in tasks

    @property
    def connect_timeout_s(self):
        return <double>self.route.service.connect_ms / 1000

    def try_again(self):
        """Count one more try; False when the service allows no more."""
        if self.tries > self.route.service.retries:
            return False
        self.tries += 1
        return True

    def on_connected(self, UpstreamSide upstream):
        self.connected(upstream)

    def on_connect_failed(self, str reason):
        """*reason*: "refused", "timeout" or "resolve"."""
        self.connecting = None
        if reason == "timeout":
            self.failed(FAIL_CONNECT_TIMEOUT)
        else:
            self.failed(FAIL_RESOLVE if reason == "resolve" else FAIL_CONNECT)
