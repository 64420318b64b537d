"""One request and its answer, apart from the connections that carry them.

The two sides see each other only through the exchange; plugins, metrics and the log read it and nothing
else, so that another kind of downstream (HTTP/2) can own one just as well.

    ClientSide ──begin, request_bytes, client_gone──> Exchange ──send──> UpstreamSide
    ClientSide <──write_head, write_body, finish──── Exchange <──response_head, failed, … UpstreamSide
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from fastgw.dp._body cimport Body
from fastgw.dp._core cimport Connection, ProxyCore
from fastgw.dp._fields cimport Span
from fastgw.dp._head cimport RequestHead, ResponseHead
from fastgw.dp._runtime cimport RouteEntry, Runtime, Used

cdef enum:
    ACCEPT_BYTES = 256        # a longer one is cut: only its first items can matter

cdef enum ExchangeState:
    EX_IDLE                   # in the pool of spare exchanges
    EX_CONNECTING             # waits for an upstream connection
    EX_SENDING                # the request goes out; its answer has not begun
    EX_ANSWERING              # the answer's head has gone to the client
    EX_TUNNEL                 # the upstream has answered 101
    EX_DONE

cdef enum Failure:
    FAIL_CONNECT              # no connection: refused, unreachable, TLS
    FAIL_CONNECT_TIMEOUT
    FAIL_RESOLVE              # the name does not resolve
    FAIL_CLOSED               # closed or reset before the answer was complete
    FAIL_TIMEOUT              # silent for longer than the service's read or write timeout
    FAIL_MALFORMED            # an answer that no client may see


cdef class ClientSide(Connection):
    cdef:
        bint is_https
        int peer_port
        bint is_trusted           # what the peer says about its client is believed (trusted_ips)
        bytes server_name         # what a TLS client asked for by SNI, lower case; None: no name, or no TLS

    # The client's address as far as the connection knows it: the peer's, or a PROXY header's.
    cdef bytes known_client(self)
    cdef bytes scheme(self)
    cdef int write_head(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    cdef int write_body(self, const uint8_t* body, Py_ssize_t size, bint is_last) except -1
    cdef int write_interim(self, const uint8_t* head, ResponseHead* response) except -1
    # A 100 of our own, where nobody behind us can ask for the body.
    cdef int write_continue(self) except -1
    cdef int begin_tunnel(self) except -1
    cdef int finish(self) except -1
    cdef int answer(self, int status, str message, bint is_error_page) except -1
    cdef int cut(self) except -1
    cdef Span peer_text(self) noexcept
    cdef Span fixed_fields(self) noexcept


cdef class UpstreamSide(Connection):
    cdef:
        Exchange exchange
        bint is_reused            # has served an exchange before this one

    cdef int begin(self, Exchange exchange) except -1
    cdef bint write_request(
        self, const uint8_t* head, Py_ssize_t head_size, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    cdef int discard(self) except -1
    cdef int end_tunnel(self) except -1


cdef class Hooks:
    """What a chain of plugins does with one exchange; an exchange without plugins has none."""

    cdef bint wants_body          # the request's body is gathered before it goes on
    cdef bint is_pending          # the answer's end waits for a plugin

    cdef int body_came(self, Exchange exchange) except -1
    cdef int response_head(
        self, Exchange exchange, const uint8_t* head, ResponseHead* response, const uint8_t* body,
        Py_ssize_t size, bint is_last
    ) except -1
    cdef int response_bytes(
        self, Exchange exchange, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    # The gateway's own answer, as it would be sent: return what is sent.
    cdef bytes own_answer(self, Exchange exchange, bytes data)
    cdef int ended(self, Exchange exchange, int64_t gateway_ms, int64_t upstream_ms, int64_t request_ms) except -1


cdef class PhaseRunner:
    """Moves exchanges through their chains; both return what `_admit.admit` does.

    *data*, *request* and *host* as for `admit`.
    """

    cdef bint rewrite(
        self, Exchange exchange, object chain, const uint8_t* data, RequestHead* request, Span host,
        Py_ssize_t host_port_at, int listener_port
    ) except -1
    # *path_size*: of the normalised path, what the route has matched.
    cdef bint access(
        self, Exchange exchange, object chain, const uint8_t* data, RequestHead* request, Span host,
        Py_ssize_t host_port_at, int listener_port, Py_ssize_t path_size
    ) except -1


cdef class UpstreamPool(Used):
    # *must_be_open*: look at the socket first, since this request cannot be sent again.
    cdef UpstreamSide take(self, bint must_be_open)
    cdef int connect(self, Exchange exchange) except -1


cdef class Exchange:
    cdef:
        readonly ProxyCore core
        ClientSide client
        UpstreamSide upstream
        Runtime runtime
        readonly RouteEntry route
        ExchangeState state
        readonly int tries            # connections asked for so far
        object connecting             # the task that opens a connection, to be cancelled
        UpstreamPool pool             # where its connections come from
        # What a trusted peer said about its client; None where it said nothing, and for all other peers:
        bytes client_address
        bytes forwarded_block         # X-Real-IP, X-Forwarded-Proto and -Port, for this request
        bytes forwarded_proto
        bytes forwarded_host
        bytes forwarded_path
        bytes forwarded_prefix
        bytes server_name             # by which a TLS upstream is addressed when the client names it; else None
        Hooks hooks                   # None: no plugins
        object own                    # plugins.messages.Answer, in place of an answer in Kong's form; or None
        bytes upstream_path           # both said by plugins, else None
        bytes upstream_host
        readonly int status           # of the answer; 0 before
        bint is_gateway_answer

        # The request, as it goes upstream:
        uint8_t* head
        Py_ssize_t head_size
        Py_ssize_t head_capacity
        Body request_body             # how the client frames it
        bint is_request_chunked       # how it goes out
        bint is_head_request          # the client asked by HEAD: its answer ends with the head
        bint asks_by_head             # and so is the upstream asked; the same unless a plugin changes the method
        bint is_replayable            # idempotent and without a body
        bint is_http_10
        bint wants_continue           # and no 100 has been passed on
        bint wants_websocket
        bint accepts_trailers
        bytes trailers                # lines to go behind the answer's last chunk, or None
        bytes request_trailers        # the same of the request
        bint keeps_request_trailers   # Connection names no field, which a trailer might be
        bint is_head_sent
        bytearray held_body           # body bytes that came before the upstream connection
        uint64_t bytes_in
        uint64_t bytes_out            # heads, framing and body, as sent
        uint64_t head_bytes_out       # of these, the answer's head: the access log counts without it
        uint8_t request_id[32]
        uint8_t accept[ACCEPT_BYTES]  # the request's Accept, for an answer of ours
        int accept_size               # -1: the request has none
        bytes debug_fields            # Kong-Route-Id and so on, where the request asked for them
        bytes answer_fields           # further fields of an answer of ours
        tuple log_parts               # (request line, referer, user agent, host); None while the log is off

        # Microseconds on the monotonic clock; 0: not reached
        int64_t started_us
        int64_t sent_us
        int64_t answered_us

    cdef int begin(self, ClientSide client, RequestHead* request) except -1
    cdef int request_bytes(self, const uint8_t* body, Py_ssize_t size) except -1
    cdef int client_gone(self) except -1
    cdef int connected(self, UpstreamSide upstream) except -1
    cdef int failed(self, Failure failure) except -1
    cdef int interim(self, const uint8_t* head, ResponseHead* response) except -1
    cdef int response_head(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    cdef int response_bytes(self, const uint8_t* body, Py_ssize_t size, bint is_last) except -1
    cdef int response_done(self) except -1
    cdef int tunnel_granted(self, const uint8_t* head, ResponseHead* response) except -1
    cdef int tunnel_request(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int tunnel_ended(self) except -1
    cdef bint waits_for_client(self, bint has_interim) noexcept
    cdef int pause_response(self) except -1
    cdef int resume_response(self) except -1
    cdef int pause_request(self) except -1
    cdef int resume_request(self) except -1
    cdef int refuse(self, int status, str message, bint is_error_page) except -1
    cdef int acquire(self) except -1
    cdef int go_on(self) except -1
    cdef int answer_with(self, object answer) except -1
    cdef int cut_answer(self) except -1
    cdef int begin_answer(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    cdef int _let_go_of_upstream(self) except -1
    cdef int _write_log(self, int64_t gateway_ms, int64_t upstream_ms, int64_t request_ms) except -1
    cdef int _send_head(self, const uint8_t* body, Py_ssize_t size) except -1
    cdef int end(self) except -1
    cdef int _count(self) except -1
    cdef bint reserve_head(self, Py_ssize_t size) except -1

cdef Exchange take_exchange(ProxyCore core)
