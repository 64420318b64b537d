"""A request's way in: who asks, which route, and the head that goes upstream (see `_admit.pxd`).

Works on an exchange that begins; what a downstream of any kind has read of a request is all it needs.

Source: proxying reference §1.8, §1.9, §2.1, §2.2.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcpy

from fastgw._router cimport FoundRoute, RouteRequest
from fastgw._uri cimport encode_into, is_plain, normalise_into, upstream_path_into
from fastgw.dp._core cimport REQUEST_ID_SIZE, ProxyCore, span_of
from fastgw.dp._exchange cimport ACCEPT_BYTES, EX_IDLE, ClientSide, Exchange, PhaseRunner
from fastgw.dp._fields cimport KN_X_FORWARDED_SET, Field
from fastgw.dp._head cimport MAX_HOST
from fastgw.dp._host cimport read_host
from fastgw.dp._rewrite cimport HEAD_OVERHEAD, RequestOut, write_request_head
from fastgw.dp._runtime cimport ServiceEntry

from fastgw._uri import encode

cdef Span ROOT
ROOT.data = <const uint8_t*>b"/"
ROOT.size = 1

cdef enum:
    PROTOCOL_HTTPS = 2        # routing.image.Protocols
    DEBUG_BYTES = 4096        # of Kong-Debug's fields: a route with a longer name goes without


cdef bint admit(
    Exchange exchange, ClientSide client, const uint8_t* data, RequestHead* request, Span host,
    Py_ssize_t host_port_at, int listener_port
) except -1:
    """Route the request and take a connection for it; False when it was answered here."""
    cdef ProxyCore core = exchange.core
    exchange.begin(client, request)
    exchange.accept_size = -1
    if request.accept >= 0:
        exchange.accept_size = <int>min(request.fields[request.accept].value_size, <uint32_t>ACCEPT_BYTES)
        memcpy(exchange.accept, data + request.fields[request.accept].value_start, exchange.accept_size)
    if client.is_trusted:
        _read_forwarded(exchange, data, request, listener_port)
    if core.access_log is not None:
        _keep_log_parts(exchange, data, request)
    if core.body_limit and request.framing.content_length > core.body_limit:
        exchange.refuse(413, "Payload too large", True)
        return False
    if exchange.runtime is not None and exchange.runtime.chain is not None:
        return (<PhaseRunner>core.phases).rewrite(
            exchange, exchange.runtime.chain, data, request, host, host_port_at, listener_port)
    return find_route(exchange, data, request, host, host_port_at, listener_port)


cdef bint find_route(
    Exchange exchange, const uint8_t* data, RequestHead* request, Span host, Py_ssize_t host_port_at,
    int listener_port
) except -1:
    cdef ProxyCore core = exchange.core
    cdef Span path = request.path
    cdef FoundRoute found
    cdef bint plain
    cdef uint8_t* scratch = core.out
    if path.size == 0:
        # An absolute target without a path asks for the root (RFC 9112 §3.2.1).
        path = ROOT
    if exchange.runtime is None:
        exchange.refuse(404, "no Route matched with those values", False)
        return False
    plain = is_plain(path.data, path.size)
    if not plain:
        path.size = normalise_into(path.data, path.size, scratch)
        path.data = scratch
        scratch += path.size
    if not _find(exchange, data, request, host, listener_port, path, &found):
        core.totals.unmatched_total += 1
        exchange.refuse(404, "no Route matched with those values", False)
        return False
    exchange.route = exchange.runtime.entry(found.route)
    if core.with_debug_fields:
        _make_debug_fields(exchange, data, request)
    if exchange.route.protocols == PROTOCOL_HTTPS and not _came_by_https(exchange):
        _ask_for_https(exchange, request, host, host_port_at, request.path if request.path.size else path)
        return False
    if exchange.route.chain is not None:
        return (<PhaseRunner>core.phases).access(
            exchange, exchange.route.chain, data, request, host, host_port_at, listener_port, found.path_len)
    return _forward(exchange, data, request, host, host_port_at, path, plain, found.path_len, scratch)


cdef bint forward(
    Exchange exchange, const uint8_t* data, RequestHead* request, Span host, Py_ssize_t host_port_at,
    Py_ssize_t path_len
) except -1:
    cdef Span path = request.path
    cdef uint8_t* scratch = exchange.core.out
    cdef bint plain
    if path.size == 0:
        path = ROOT
    plain = is_plain(path.data, path.size)
    if not plain:
        path.size = normalise_into(path.data, path.size, scratch)
        path.data = scratch
        scratch += path.size
    return _forward(exchange, data, request, host, host_port_at, path, plain, path_len, scratch)


cdef bint _forward(
    Exchange exchange, const uint8_t* data, RequestHead* request, Span host, Py_ssize_t host_port_at,
    Span path, bint plain, Py_ssize_t path_len, uint8_t* scratch
) except -1:
    """Write the head that goes upstream, take or ask for a connection.

    *path* is normalised, *plain* when it was so; *path_len* bytes of it the route has matched; *scratch* is
    what it leaves of the worker's.
    """
    cdef ProxyCore core = exchange.core
    cdef Span upstream_path, encoded, prefix
    cdef ServiceEntry service
    cdef Py_ssize_t needed
    cdef RequestOut out
    service = exchange.route.service
    if service is None:
        exchange.refuse(503, exchange.route.refusal, False)
        return False
    if service.is_upstream_name:
        name = service.name or service.id
        exchange.refuse(503, f"service '{name}' names an upstream: balancing is not served", False)
        return False

    # Scratch: the normalised path, the upstream path, its encoding, the encoded prefix.
    needed = path.size + 4 * (<Py_ssize_t>len(service.path) + path.size + 2) + 3 * path.size
    if needed > core.out_size:
        exchange.refuse(414, "URI too long", True)
        return False
    upstream_path.size = upstream_path_into(
        <const uint8_t*><char*>service.path, len(service.path), path.data, path.size, path_len,
        exchange.route.strip_path, exchange.route.is_v1, scratch)
    upstream_path.data = scratch
    scratch += upstream_path.size
    prefix.data = path.data
    prefix.size = path_len if exchange.route.strip_path and path_len > 1 else 0
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
    if exchange.upstream_path is not None:
        upstream_path = span_of(exchange.upstream_path)
    out.path = upstream_path
    out.query = request.query
    if not exchange.route.preserve_host:
        out.host = span_of(service.host_header)
    elif request.authority.size:
        out.host = request.authority
    else:
        out.host.data = data + request.fields[request.host].value_start if request.host >= 0 else data
        out.host.size = request.fields[request.host].value_size if request.host >= 0 else 0
        if out.host.size == 0:
            out.host = span_of(service.host_header)
    if exchange.upstream_host is not None:
        out.host = span_of(exchange.upstream_host)
    exchange.server_name = None
    if service.is_tls and exchange.route.preserve_host and host_port_at:
        exchange.server_name = PyBytes_FromStringAndSize(<const char*>host.data, host_port_at)
    out.original_path = request.path if request.path.size else path
    out.forwarded_host.data = host.data
    out.forwarded_host.size = host_port_at
    out.prefix = prefix
    out.peer = exchange.client.peer_text()
    out.connection_block = exchange.client.fixed_fields()
    if exchange.forwarded_block is not None:
        out.connection_block = span_of(exchange.forwarded_block)
        if request.forwarded_for < 0:
            out.peer = span_of(exchange.client_address)
        if exchange.forwarded_host is not None:
            out.forwarded_host = span_of(exchange.forwarded_host)
        if exchange.forwarded_path is not None:
            out.original_path = span_of(exchange.forwarded_path)
        if exchange.forwarded_prefix is not None:
            out.prefix = span_of(exchange.forwarded_prefix)
    out.via_token = span_of(core.via_10 if exchange.is_http_10 else core.via_11)
    out.request_id.data = exchange.request_id
    out.request_id.size = REQUEST_ID_SIZE if core.with_upstream_request_id else 0
    out.expect_continue = exchange.wants_continue
    out.websocket = exchange.wants_websocket
    exchange.reserve_head(
        HEAD_OVERHEAD + request.size + out.path.size + out.query.size + out.host.size + out.prefix.size
        + out.peer.size + out.connection_block.size + out.original_path.size + out.forwarded_host.size)
    exchange.head_size = write_request_head(exchange.head, data, request, &out)
    exchange.acquire()
    return exchange.state != EX_IDLE


cdef bint _find(
    Exchange exchange, const uint8_t* data, RequestHead* request, Span host, int listener_port, Span path,
    FoundRoute* found
) except -1:
    """Ask the route table; what most tables never look at is handed over as it lies."""
    cdef ClientSide client = exchange.client
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
    return exchange.runtime.table.find(&asked, found)


cdef int _make_debug_fields(Exchange exchange, const uint8_t* data, RequestHead* request) except -1:
    """Name route and service in the answer where the request has a field Kong-Debug.

    Source: proxying reference §1.9. A name goes out percent-encoded, as it may hold any character.
    """
    cdef ServiceEntry service = exchange.route.service
    cdef uint32_t i
    cdef bytes fields
    for i in range(request.field_count):
        if request.fields[i].name_size == 10 and PyBytes_FromStringAndSize(
            <const char*>data + request.fields[i].start, 10
        ).lower() == b"kong-debug":
            break
    else:
        return 0
    pairs = [(b"Kong-Route-Id", exchange.route.id), (b"Kong-Route-Name", exchange.route.name)]
    if service is not None:
        pairs += [(b"Kong-Service-Id", service.id), (b"Kong-Service-Name", service.own_name)]
    fields = b"".join([
        b"%s: %s\r\n" % (name, encode(value.encode())) for name, value in pairs if value is not None
    ])
    if len(fields) <= DEBUG_BYTES:
        exchange.debug_fields = fields
    return 0


cdef inline bint _came_by_https(Exchange exchange) except -1:
    """The scheme by which the client came, which a trusted peer may name. Source: proxying reference §1.8."""
    if exchange.forwarded_proto is not None:
        return exchange.forwarded_proto.lower() == b"https"
    return exchange.client.is_https


cdef int _ask_for_https(
    Exchange exchange, RequestHead* request, Span host, Py_ssize_t host_port_at, Span path
) except -1:
    """Answer a request over http to a route that is for https alone; proxying reference §1.8."""
    cdef int status = exchange.route.redirect_status
    cdef Span forwarded
    cdef uint8_t[MAX_HOST] text
    if exchange.forwarded_host is not None and len(exchange.forwarded_host) <= MAX_HOST:
        forwarded = span_of(exchange.forwarded_host)
        if read_host(forwarded, text, &forwarded.size) > 0:
            host.data = text
            host.size = host_port_at = forwarded.size
    if status == 426 or host.size == 0:
        exchange.answer_fields = b"Upgrade: TLS/1.2, HTTP/1.1\r\n"
        return exchange.refuse(426, "Please use HTTPS protocol", False)
    exchange.answer_fields = b"Location: https://%s%s%s\r\n" % (
        PyBytes_FromStringAndSize(<const char*>host.data, host_port_at),
        PyBytes_FromStringAndSize(<const char*>path.data, path.size),
        PyBytes_FromStringAndSize(<const char*>request.query.data, request.query.size),
    )
    return exchange.refuse(status, "", False)


cdef int _read_forwarded(
    Exchange exchange, const uint8_t* data, RequestHead* request, int listener_port
) except -1:
    """Take what a trusted peer says about its client. Source: proxying reference §2.1, §2.2."""
    cdef Field* field
    cdef const uint8_t* name
    cdef uint32_t place
    cdef bytes value, named = None, port = None
    cdef bytes header = exchange.core.forwarding.header
    for place in range(request.field_count):
        field = &request.fields[place]
        if field.value_size == 0:
            continue
        name = data + field.start
        if field.known == KN_X_FORWARDED_SET:
            value = PyBytes_FromStringAndSize(<const char*>data + field.value_start, field.value_size)
            # "X-Forwarded-" and Host, Port, Path, Proto or Prefix; of several the first counts.
            if field.name_size == 18:
                exchange.forwarded_prefix = exchange.forwarded_prefix or value
            elif field.name_size == 17:
                exchange.forwarded_proto = exchange.forwarded_proto or value
            elif name[12] | 0x20 == c'h':
                exchange.forwarded_host = exchange.forwarded_host or value
            elif name[13] | 0x20 == c'o':
                port = port or value
            else:
                exchange.forwarded_path = exchange.forwarded_path or value
        if <Py_ssize_t>field.name_size == len(header) and (
            PyBytes_FromStringAndSize(<const char*>name, field.name_size).lower() == header
        ):
            value = PyBytes_FromStringAndSize(<const char*>data + field.value_start, field.value_size)
            named = value if named is None else named + b"," + value
    exchange.client_address = exchange.core.forwarding.client(named, exchange.client.known_client())
    exchange.forwarded_block = (
        b"X-Real-IP: %s\r\nX-Forwarded-Proto: %s\r\nX-Forwarded-Port: %s\r\n" % (
            exchange.client_address, exchange.forwarded_proto or exchange.client.scheme(),
            port or b"%d" % listener_port))
    return 0


cdef int _keep_log_parts(Exchange exchange, const uint8_t* data, RequestHead* request) except -1:
    cdef Py_ssize_t line_size = request.target_start + request.target_size + 9
    exchange.log_parts = (
        PyBytes_FromStringAndSize(<const char*>data, line_size),
        PyBytes_FromStringAndSize(
            <const char*>data + request.fields[request.referer].value_start,
            request.fields[request.referer].value_size) if request.referer >= 0 else None,
        PyBytes_FromStringAndSize(
            <const char*>data + request.fields[request.user_agent].value_start,
            request.fields[request.user_agent].value_size) if request.user_agent >= 0 else None,
        PyBytes_FromStringAndSize(
            <const char*>data + request.fields[request.host].value_start,
            request.fields[request.host].value_size) if request.host >= 0 else None,
    )
    return 0
