"""One request and its answer (see `_exchange.pxd`): routing, forwarding, failures, the final count.

States, and who moves them:

    IDLE ──start──> CONNECTING ──connected──> SENDING ──response_head──> ANSWERING ──┐
                        └──────── a pooled connection ────^                          ├──> DONE
                        SENDING ──tunnel_granted──> TUNNEL ──tunnel_ended────────────┤
                 refuse, failed, client_gone: from each of them ─────────────────────┘

An exchange ends exactly once (`_end`): it is counted, logged, and goes back to the spare ones. What came
too late for it (a connection that opened after the client had gone) finds state IDLE or another exchange
and is closed by whoever brought it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from fastgw._router cimport FoundRoute, RouteRequest
from fastgw._uri cimport encode_into, is_plain, normalise_into, upstream_path_into
from fastgw.dp._body cimport BODY_CHUNKED, BODY_LENGTH, BODY_NONE, begin_body
from fastgw.dp._core cimport REQUEST_ID_SIZE, span_of
from fastgw.dp._head cimport KN_X_FORWARDED_SET, Field
from fastgw.dp._metrics cimport SOURCE_GATEWAY, SOURCE_SERVICE, count_exchange
from fastgw.dp._rewrite cimport HEAD_OVERHEAD, RequestOut, write_request_head
from fastgw.dp._runtime cimport ServiceEntry
from fastgw.dp._wheel cimport monotonic_us

from fastgw._uri import encode

cdef enum:
    # Heads above this size give their memory back when the exchange ends.
    KEPT_HEAD_BYTES = 16384
    MAX_SPARE = 1024
    # nginx's own code for "the client closed the connection before the answer".
    STATUS_CLIENT_GONE = 499
    PROTOCOL_HTTPS = 2        # routing.image.Protocols
    DEBUG_BYTES = 4096        # of Kong-Debug's fields: a route with a longer name goes without


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


cdef class UpstreamPool:
    """Where connections to one target come from."""

    cdef UpstreamSide take(self, bint must_be_open):
        raise AssertionError("abstract")

    cdef int connect(self, Exchange exchange) except -1:
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

    cdef bint start(self, ClientSide client, const uint8_t* data, RequestHead* request, Span host,
                    Py_ssize_t host_port_at, int listener_port) except -1:
        """Route the request and take a connection for it; False when it was answered here.

        *data* is the head that *request* describes; *host* is lower-cased and checked, its port (if any)
        starts at *host_port_at*. When True, the caller goes on with `request_bytes`, at least once.
        """
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
        self.is_head_request = request.is_head
        self.is_http_10 = request.framing.minor == 0
        self.wants_continue = request.expects_continue
        self.wants_websocket = request.wants_websocket
        self.accepts_trailers = request.accepts_trailers
        self.trailers = None
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
        self.accept_size = -1
        if request.accept >= 0:
            self.accept_size = <int>min(request.fields[request.accept].value_size, <uint32_t>ACCEPT_BYTES)
            memcpy(self.accept, data + request.fields[request.accept].value_start, self.accept_size)
        core.write_request_id(self.request_id)
        core.totals.requests_total += 1
        if client.is_trusted:
            self._read_forwarded(data, request, listener_port)
        if core.access_log is not None:
            self._keep_log_parts(data, request)
        if core.body_limit and request.framing.content_length > core.body_limit:
            self.refuse(413, "Payload too large", True)
            return False
        return self._route(data, request, host, host_port_at, listener_port)

    cdef bint _route(self, const uint8_t* data, RequestHead* request, Span host, Py_ssize_t host_port_at,
                     int listener_port) except -1:
        """Find the route, write the head that goes upstream, take or ask for a connection."""
        cdef ProxyCore core = self.core
        cdef Span path = request.path
        cdef Span upstream_path, encoded, prefix
        cdef FoundRoute found
        cdef ServiceEntry service
        cdef bint plain
        cdef Py_ssize_t needed
        cdef uint8_t* scratch = core.out
        cdef RequestOut out
        if path.size == 0:
            # An absolute target without a path asks for the root (RFC 9112 §3.2.1).
            path.data = <const uint8_t*>b"/"
            path.size = 1
        if self.runtime is None:
            self.refuse(404, "no Route matched with those values", False)
            return False
        plain = is_plain(path.data, path.size)
        if not plain:
            path.size = normalise_into(path.data, path.size, scratch)
            path.data = scratch
            scratch += path.size
        if not self._find(data, request, host, listener_port, path, &found):
            core.totals.unmatched_total += 1
            self.refuse(404, "no Route matched with those values", False)
            return False
        self.route = self.runtime.entry(found.route)
        if core.with_debug_fields:
            self._make_debug_fields(data, request)
        if self.route.protocols == PROTOCOL_HTTPS and not self.client.is_https:
            self._ask_for_https(request, host, host_port_at, request.path if request.path.size else path)
            return False
        service = self.route.service
        if service is None:
            self.refuse(503, self.route.refusal, False)
            return False
        if service.is_upstream_name:
            name = service.name or service.id
            self.refuse(503, f"service '{name}' names an upstream: balancing is not served", False)
            return False

        # Scratch: the normalised path, the upstream path, its encoding, the encoded prefix.
        needed = path.size + 4 * (<Py_ssize_t>len(service.path) + path.size + 2) + 3 * path.size
        if needed > core.out_size:
            self.refuse(414, "URI too long", True)
            return False
        upstream_path.size = upstream_path_into(
            <const uint8_t*><char*>service.path, len(service.path), path.data, path.size, found.path_len,
            self.route.strip_path, self.route.is_v1, scratch)
        upstream_path.data = scratch
        scratch += upstream_path.size
        prefix.data = path.data
        prefix.size = found.path_len if self.route.strip_path and found.path_len > 1 else 0
        if not plain:
            encoded.data = scratch
            encoded.size = encode_into(upstream_path.data, upstream_path.size, scratch)
            upstream_path = encoded
            scratch += encoded.size
            if prefix.size:
                # The decoded form may hold any byte: never into a field as it is.
                encoded.size = encode_into(prefix.data, prefix.size, scratch)
                encoded.data = scratch
                prefix = encoded
        if path.size == 1 and path.data[0] == c'*':
            # About the server as a whole, whatever the service's path (RFC 9112 §3.2.4).
            upstream_path = path
        out.path = upstream_path
        out.query = request.query
        if not self.route.preserve_host:
            out.host = span_of(service.host_header)
        elif request.authority.size:
            out.host = request.authority
        else:
            out.host.data = data + request.fields[request.host].value_start if request.host >= 0 else data
            out.host.size = request.fields[request.host].value_size if request.host >= 0 else 0
            if out.host.size == 0:
                out.host = span_of(service.host_header)
        self.server_name = None
        if service.is_tls and self.route.preserve_host and host_port_at:
            self.server_name = PyBytes_FromStringAndSize(<const char*>host.data, host_port_at)
        out.original_path = request.path if request.path.size else path
        out.forwarded_host.data = host.data
        out.forwarded_host.size = host_port_at
        out.prefix = prefix
        out.peer = self.client.peer_text()
        out.connection_block = self.client.fixed_fields()
        if self.forwarded_block is not None:
            out.connection_block = span_of(self.forwarded_block)
            if request.forwarded_for < 0:
                out.peer = span_of(self.client_address)
            if self.forwarded_host is not None:
                out.forwarded_host = span_of(self.forwarded_host)
            if self.forwarded_path is not None:
                out.original_path = span_of(self.forwarded_path)
            if self.forwarded_prefix is not None:
                out.prefix = span_of(self.forwarded_prefix)
        out.via_token = span_of(core.via_10 if self.is_http_10 else core.via_11)
        out.request_id.data = self.request_id
        out.request_id.size = REQUEST_ID_SIZE if core.with_upstream_request_id else 0
        out.expect_continue = self.wants_continue
        out.websocket = self.wants_websocket
        self._reserve_head(
            HEAD_OVERHEAD + request.size + out.path.size + out.query.size + out.host.size + out.prefix.size
            + out.peer.size + out.connection_block.size + out.original_path.size + out.forwarded_host.size)
        self.head_size = write_request_head(self.head, data, request, &out)
        self._acquire()
        return self.state != EX_IDLE

    cdef bint _find(
        self, const uint8_t* data, RequestHead* request, Span host, int listener_port, Span path,
        FoundRoute* found
    ) except -1:
        """Ask the route table; what most tables never look at is handed over as it lies."""
        cdef ClientSide client = self.client
        cdef Span peer = client.peer_text()
        cdef RouteRequest asked
        asked.method = data
        asked.method_len = request.method_size
        asked.host = host.data
        asked.host_len = host.size
        asked.path = path.data
        asked.path_len = path.size
        asked.query = request.query.data + 1 if request.query.size else NULL
        asked.query_len = request.query.size - 1 if request.query.size else 0
        asked.sni_len = len(client.server_name) if client.server_name is not None else 0
        asked.sni = <const uint8_t*><char*>client.server_name if asked.sni_len else NULL
        asked.peer = peer.data
        asked.peer_len = peer.size
        asked.head = data
        asked.fields = &request.fields[0].start
        asked.field_count = request.field_count
        asked.field_words = sizeof(Field) // sizeof(uint32_t)
        asked.host_port = listener_port
        asked.peer_port = client.peer_port
        asked.is_https = client.is_https
        return self.runtime.table.find(&asked, found)

    cdef int _make_debug_fields(self, const uint8_t* data, RequestHead* request) except -1:
        """Name route and service in the answer where the request has a field Kong-Debug.

        Source: proxying reference §1.9. A name goes out percent-encoded, as it may hold any character.
        """
        cdef ServiceEntry service = self.route.service
        cdef uint32_t i
        cdef bytes fields
        for i in range(request.field_count):
            if request.fields[i].name_size == 10 and PyBytes_FromStringAndSize(
                <const char*>data + request.fields[i].start, 10
            ).lower() == b"kong-debug":
                break
        else:
            return 0
        pairs = [(b"Kong-Route-Id", self.route.id), (b"Kong-Route-Name", self.route.name)]
        if service is not None:
            pairs += [(b"Kong-Service-Id", service.id), (b"Kong-Service-Name", service.own_name)]
        fields = b"".join([
            b"%s: %s\r\n" % (name, encode(value.encode())) for name, value in pairs if value is not None
        ])
        if len(fields) <= DEBUG_BYTES:
            self.debug_fields = fields
        return 0

    cdef int _ask_for_https(
        self, RequestHead* request, Span host, Py_ssize_t host_port_at, Span path
    ) except -1:
        """Answer a request over http to a route that is for https alone; proxying reference §1.8."""
        cdef int status = self.route.redirect_status
        if status == 426 or host.size == 0:
            self.answer_fields = b"Upgrade: TLS/1.2, HTTP/1.1\r\n"
            return self.refuse(426, "Please use HTTPS protocol", False)
        self.answer_fields = b"Location: https://%s%s%s\r\n" % (
            PyBytes_FromStringAndSize(<const char*>host.data, host_port_at),
            PyBytes_FromStringAndSize(<const char*>path.data, path.size),
            PyBytes_FromStringAndSize(<const char*>request.query.data, request.query.size),
        )
        return self.refuse(status, "", False)

    cdef bint _reserve_head(self, Py_ssize_t size) except -1:
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
            if self.request_body.is_complete:
                return self.client.resume_reading()
            return self.client.pause_reading()
        if self.upstream is None:
            return 0
        if not self.is_head_sent:
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
        return self._end()

    # --- from the upstream's side

    cdef int _acquire(self) except -1:
        cdef ServiceEntry service = self.route.service
        cdef UpstreamSide upstream
        if self.server_name is not None:
            self.pool = self.core.connector.pool_for(service, self.server_name)
        else:
            if service.pool is None:
                service.pool = self.core.connector.pool_for(service)
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
        cdef bytearray held = self.held_body
        self.connecting = None
        self.held_body = None
        self.upstream = upstream
        self.state = EX_SENDING
        upstream.begin(self)
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
            return self._end()
        if self.state == EX_ANSWERING or self.state == EX_TUNNEL:
            # Part of the answer has gone: only a cut connection tells the client that it is not whole.
            self.client.cut()
            return self._end()
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
        self.status = response.status
        self.state = EX_ANSWERING
        return self.client.write_head(head, response, body, size, is_last)

    cdef int response_bytes(self, const uint8_t* body, Py_ssize_t size, bint is_last) except -1:
        return self.client.write_body(body, size, is_last)

    cdef int response_done(self) except -1:
        """The answer is complete and the upstream connection has let go of this exchange."""
        self.upstream = None
        return self._end()

    # --- a tunnel: bytes both ways until one side ends, or nothing moves for too long

    cdef int tunnel_granted(self, const uint8_t* head, ResponseHead* response) except -1:
        """The upstream has answered 101 to a request that asked for it: pass it on and open the tunnel."""
        self.answered_us = monotonic_us()
        self.status = response.status
        self.state = EX_TUNNEL
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
        return self._end()

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

    cdef int refuse(self, int status, str message, bint is_error_page) except -1:
        """Answer by the gateway itself; nothing of an upstream's answer has been sent."""
        self._let_go_of_upstream()
        self.status = status
        self.is_gateway_answer = True
        self.client.answer(status, message, is_error_page)
        return self._end()

    cdef int _let_go_of_upstream(self) except -1:
        cdef UpstreamSide upstream = self.upstream
        if self.connecting is not None:
            connecting, self.connecting = self.connecting, None
            connecting.cancel()
        if upstream is not None:
            self.upstream = None
            upstream.discard()
        return 0

    cdef int _end(self) except -1:
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
        if core.access_log is not None:
            self._write_log()
        return 0

    cdef int _read_forwarded(self, const uint8_t* data, RequestHead* request, int listener_port) except -1:
        """Take what a trusted peer says about its client. Source: proxying reference §2.1, §2.2."""
        cdef Field* field
        cdef const uint8_t* name
        cdef uint32_t place
        cdef bytes value, named = None, port = None
        cdef bytes header = self.core.forwarding.header
        for place in range(request.field_count):
            field = &request.fields[place]
            if field.value_size == 0:
                continue
            name = data + field.start
            if field.known == KN_X_FORWARDED_SET:
                value = PyBytes_FromStringAndSize(<const char*>data + field.value_start, field.value_size)
                # "X-Forwarded-" and Host, Port, Path, Proto or Prefix; of several the first counts.
                if field.name_size == 18:
                    self.forwarded_prefix = self.forwarded_prefix or value
                elif field.name_size == 17:
                    self.forwarded_proto = self.forwarded_proto or value
                elif name[12] | 0x20 == c'h':
                    self.forwarded_host = self.forwarded_host or value
                elif name[13] | 0x20 == c'o':
                    port = port or value
                else:
                    self.forwarded_path = self.forwarded_path or value
            if <Py_ssize_t>field.name_size == len(header) and (
                PyBytes_FromStringAndSize(<const char*>name, field.name_size).lower() == header
            ):
                value = PyBytes_FromStringAndSize(<const char*>data + field.value_start, field.value_size)
                named = value if named is None else named + b"," + value
        self.client_address = self.core.forwarding.client(named, self.client.known_client())
        self.forwarded_block = (
            b"X-Real-IP: %s\r\nX-Forwarded-Proto: %s\r\nX-Forwarded-Port: %s\r\n" % (
                self.client_address, self.forwarded_proto or self.client.scheme(),
                port or b"%d" % listener_port))
        return 0

    cdef int _keep_log_parts(self, const uint8_t* data, RequestHead* request) except -1:
        cdef Py_ssize_t line_size = request.target_start + request.target_size + 9
        self.log_parts = (
            PyBytes_FromStringAndSize(<const char*>data, line_size),
            PyBytes_FromStringAndSize(
                <const char*>data + request.fields[request.referer].value_start,
                request.fields[request.referer].value_size) if request.referer >= 0 else None,
            PyBytes_FromStringAndSize(
                <const char*>data + request.fields[request.user_agent].value_start,
                request.fields[request.user_agent].value_size) if request.user_agent >= 0 else None,
        )
        return 0

    cdef int _write_log(self) except -1:
        cdef Span peer = self.client.peer_text()
        line, referer, user_agent = self.log_parts
        self.core.access_log.write(
            self.client_address or PyBytes_FromStringAndSize(<const char*>peer.data, peer.size), line,
            self.status, self.bytes_out - self.head_bytes_out, referer, user_agent,
            PyBytes_FromStringAndSize(<const char*>self.request_id, REQUEST_ID_SIZE))
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
