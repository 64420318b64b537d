"""The head for the other side, written from the one that came (see `_rewrite.pxd`).

Fields are copied as the bytes that came, in runs; only what a hop owns is left out and written afresh:
framing, Host, Connection and its nominees, Via, X-Forwarded-*. A framing field is never copied.

Source: RFC 9110 §7.6; proxying reference §2.2, §2.3.
"""

from http import HTTPStatus

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memchr, memcpy

from fastgw.dp._fields cimport (
    KN_ACCEPT, KN_CONNECTION, KN_EXPECT, KN_HOST, KN_OTHER, KN_PROXY, KN_TE, KN_TRAILER, KN_VIA, KN_X_FORWARDED_FOR,
    KN_X_FORWARDED_SET, KN_X_REAL_IP, Field, Framing
)
from fastgw.dp._head cimport MAX_FIELDS, HeadLimits, parse_request_head

cdef char* REASONS[600]
cdef int REASON_SIZES[600]
cdef list _reasons_alive = []  # owns what REASONS points to


cdef void _fill_reasons():
    cdef int status
    phrases = {known.value: known.phrase for known in HTTPStatus}
    for status in range(600):
        # An unlisted code has a line without a phrase (RFC 9112 §4 allows an empty one).
        line = b"HTTP/1.1 %d %s\r\n" % (status, phrases.get(status, "").encode())
        _reasons_alive.append(line)
        REASONS[status] = line
        REASON_SIZES[status] = len(line)


_fill_reasons()


cdef bint _is_nominated(Framing* framing, const uint8_t* name, Py_ssize_t size) noexcept nogil:
    """True when Connection lists this field's name (any case)."""
    cdef int place
    cdef Py_ssize_t at
    cdef uint8_t one, other
    for place in range(framing.nominated_count):
        if framing.nominated[place].size != size:
            continue
        for at in range(size):
            one = name[at]
            other = framing.nominated[place].data[at]
            if c'A' <= one <= c'Z':
                one |= 0x20
            if c'A' <= other <= c'Z':
                other |= 0x20
            if one != other:
                break
        else:
            return True
    return False


cdef bytes drop_nominated(
    const uint8_t* head, Py_ssize_t size, Field* fields, uint32_t count, Framing* framing
):
    cdef uint32_t place
    cdef const uint8_t* line_end = <const uint8_t*>memchr(head, c'\n', size)
    cdef list kept = [PyBytes_FromStringAndSize(<const char*>head, line_end + 1 - head)]
    cdef list options = []
    if framing.close:
        options.append(b"close")
    if framing.keep_alive:
        options.append(b"keep-alive")
    if framing.upgrade:
        options.append(b"upgrade")
    if options:
        kept.append(b"Connection: " + b", ".join(options) + b"\r\n")
    for place in range(count):
        if fields[place].known == KN_CONNECTION:
            continue
        if fields[place].known == KN_OTHER and _is_nominated(
            framing, head + fields[place].start, fields[place].name_size
        ):
            continue
        kept.append(PyBytes_FromStringAndSize(
            <const char*>head + fields[place].start, fields[place].end - fields[place].start))
    kept.append(b"\r\n")
    return b"".join(kept)


cdef Py_ssize_t write_decimal(uint8_t* out, int64_t value) noexcept nogil:
    cdef uint8_t digits[20]
    cdef int count = 0, place
    if value <= 0:
        out[0] = c'0'
        return 1
    while value:
        digits[count] = <uint8_t>(c'0' + value % 10)
        value //= 10
        count += 1
    for place in range(count):
        out[place] = digits[count - 1 - place]
    return count


cdef Py_ssize_t write_status_line(uint8_t* out, int status) noexcept nogil:
    return put(out, REASONS[status], REASON_SIZES[status])


cdef Py_ssize_t _copy_kept(
    uint8_t* out, const uint8_t* head, Field* fields, uint32_t count, Framing* framing, bint is_request,
    int skipped, bint keeps_trailer,
) noexcept nogil:
    """Copy the fields that pass this hop, in order, whole runs at a time; field *skipped* is left out."""
    cdef Py_ssize_t at = 0
    cdef uint32_t place
    cdef uint32_t run_start = 0, run_end = 0
    cdef bint keep
    cdef uint32_t known
    for place in range(count):
        known = fields[place].known
        if known == KN_OTHER or known >= KN_ACCEPT:
            keep = True
        elif known == KN_VIA or known == KN_X_FORWARDED_FOR:
            # The line that ours goes on with is written anew, behind all others.
            keep = <int>place != skipped and (known == KN_VIA or not is_request)
        elif is_request:
            keep = known == KN_TRAILER and keeps_trailer
        else:
            keep = known == KN_X_REAL_IP or known == KN_X_FORWARDED_SET or known == KN_EXPECT \
                or known == KN_HOST or known == KN_PROXY or known == KN_TE \
                or (known == KN_TRAILER and keeps_trailer)
        if keep and framing.nominated_count and known == KN_OTHER:
            keep = not _is_nominated(framing, head + fields[place].start, fields[place].name_size)
        if keep:
            if run_end != fields[place].start:
                at += put(out + at, head + run_start, run_end - run_start)
                run_start = fields[place].start
            run_end = fields[place].end
    at += put(out + at, head + run_start, run_end - run_start)
    return at


cdef inline Py_ssize_t _put_field(
    uint8_t* out, const char* name, Py_ssize_t name_size, Span value
) noexcept nogil:
    """Write `Name: value CRLF`; *name* comes with its colon and space."""
    memcpy(out, name, name_size)
    memcpy(out + name_size, value.data, value.size)
    out[name_size + value.size] = c'\r'
    out[name_size + value.size + 1] = c'\n'
    return name_size + value.size + 2


cdef inline Py_ssize_t _put_appended(
    uint8_t* out, const char* name, Py_ssize_t name_size, const uint8_t* head, Field* field, Span value,
) noexcept nogil:
    """Write `Name: what-came, value CRLF`; *field* may be NULL."""
    cdef Py_ssize_t at = put(out, name, name_size)
    if field != NULL and field.value_size:
        at += put(out + at, head + field.value_start, field.value_size)
        at += put(out + at, b", ", 2)
    at += put(out + at, value.data, value.size)
    at += put(out + at, b"\r\n", 2)
    return at


cdef Py_ssize_t write_request_head(
    uint8_t* out, const uint8_t* head, RequestHead* request, RequestOut* to
) noexcept nogil:
    """Write the head that goes upstream; proxying reference §2.2 gives each field's value."""
    cdef Py_ssize_t at = 0
    cdef Framing* framing = &request.framing
    cdef Field* fields = request.fields
    at += put(out, head, request.method_size + 1)
    at += put(out + at, to.path.data, to.path.size)
    at += put(out + at, to.query.data, to.query.size)
    at += put(out + at, b" HTTP/1.1\r\n", 11)
    at += _put_field(out + at, b"Host: ", 6, to.host)
    if to.websocket:
        at += put(out + at, b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n", 53)
    else:
        at += put(out + at, b"Connection: keep-alive\r\n", 24)
    if request.accepts_trailers:
        at += put(out + at, b"TE: trailers\r\n", 14)
    at += _copy_kept(out + at, head, fields, request.field_count, framing, True, request.via,
                     framing.chunked)
    at += _put_appended(
        out + at, b"Via: ", 5, head, &fields[request.via] if request.via >= 0 else NULL, to.via_token)
    at += _put_appended(
        out + at, b"X-Forwarded-For: ", 17, head,
        &fields[request.forwarded_for] if request.forwarded_for >= 0 else NULL, to.peer)
    at += put(out + at, to.connection_block.data, to.connection_block.size)
    if to.forwarded_host.size:
        at += _put_field(out + at, b"X-Forwarded-Host: ", 18, to.forwarded_host)
    at += _put_field(out + at, b"X-Forwarded-Path: ", 18, to.original_path)
    if to.prefix.size:
        at += _put_field(out + at, b"X-Forwarded-Prefix: ", 20, to.prefix)
    if to.request_id.size:
        at += _put_field(out + at, b"X-Kong-Request-Id: ", 19, to.request_id)
    if to.expect_continue:
        at += put(out + at, b"Expect: 100-continue\r\n", 22)
    if framing.chunked:
        at += put(out + at, b"Transfer-Encoding: chunked\r\n", 28)
    elif framing.content_length >= 0:
        at += put(out + at, b"Content-Length: ", 16)
        at += write_decimal(out + at, framing.content_length)
        at += put(out + at, b"\r\n", 2)
    at += put(out + at, b"\r\n", 2)
    return at


cdef Py_ssize_t write_response_head(
    uint8_t* out, const uint8_t* head, ResponseHead* response, ResponseOut* to
) noexcept nogil:
    """Write the head that goes to the client; proxying reference §2.3."""
    cdef Py_ssize_t at = write_status_line(out, response.status)
    cdef bint has_via = response.via >= 0 and to.via_token.size > 0
    at += _copy_kept(out + at, head, response.fields, response.field_count, &response.framing, False,
                     response.via if has_via else -1, to.trailers)
    if not response.has_date:
        at += put(out + at, to.date.data, to.date.size)
    if to.via_token.size:
        at += _put_appended(
            out + at, b"Via: ", 5, head, &response.fields[response.via] if has_via else NULL, to.via_token)
    if to.latencies:
        at += put(out + at, b"X-Kong-Upstream-Latency: ", 25)
        at += write_decimal(out + at, to.upstream_ms)
        at += put(out + at, b"\r\nX-Kong-Proxy-Latency: ", 24)
        at += write_decimal(out + at, to.proxy_ms)
        at += put(out + at, b"\r\n", 2)
    if to.upstream_status:
        at += put(out + at, b"X-Kong-Upstream-Status: ", 24)
        at += write_decimal(out + at, response.status)
        at += put(out + at, b"\r\n", 2)
    if to.request_id.size:
        at += _put_field(out + at, b"X-Kong-Request-Id: ", 19, to.request_id)
    at += put(out + at, to.more.data, to.more.size)
    if to.chunked:
        at += put(out + at, b"Transfer-Encoding: chunked\r\n", 28)
    elif to.content_length >= 0:
        at += put(out + at, b"Content-Length: ", 16)
        at += write_decimal(out + at, to.content_length)
        at += put(out + at, b"\r\n", 2)
    if to.websocket:
        at += put(out + at, b"Connection: Upgrade\r\nUpgrade: websocket\r\n", 41)
    elif to.keep_alive:
        at += put(out + at, b"Connection: keep-alive\r\n", 24)
    else:
        at += put(out + at, b"Connection: close\r\n", 19)
    at += put(out + at, b"\r\n", 2)
    return at


cdef Py_ssize_t write_interim_head(uint8_t* out, const uint8_t* head, ResponseHead* response) noexcept nogil:
    """Write a 1xx head as it came, hop-by-hop fields left out (RFC 9110 §15.2)."""
    cdef Py_ssize_t at = write_status_line(out, response.status)
    at += _copy_kept(out + at, head, response.fields, response.field_count, &response.framing, False, -1,
                     False)
    at += put(out + at, b"\r\n", 2)
    return at


# --- for tests and benchmarks ----------------------------------------------------------------------

cdef RequestHead _request


def rewrite_request_head(
    bytes head, *, bytes path, bytes host, bytes peer, bytes fixed, bytes via, bytes request_id,
    bytes prefix=b"", bytes forwarded_host=b"", int repeat=1
):
    """Return the head that goes upstream, written *repeat* times over (for benchmarks)."""
    cdef RequestOut to
    cdef Py_ssize_t size = 0
    cdef int _turn
    cdef HeadLimits limits
    cdef bytearray out = bytearray(
        HEAD_OVERHEAD + 2 * len(head) + len(path) + len(host) + 2 * len(peer) + len(fixed) + len(prefix)
        + len(forwarded_host))
    limits.fields = MAX_FIELDS
    limits.field_bytes = <int>len(head)
    limits.drops_underscores = False
    if parse_request_head(head, len(head), &limits, &_request):
        raise ValueError("not a request head")
    to.path.data = path
    to.path.size = len(path)
    to.query = _request.query
    to.host.data = host
    to.host.size = len(host)
    to.original_path = _request.path
    to.forwarded_host.data = forwarded_host
    to.forwarded_host.size = len(forwarded_host)
    to.prefix.data = prefix
    to.prefix.size = len(prefix)
    to.peer.data = peer
    to.peer.size = len(peer)
    to.connection_block.data = fixed
    to.connection_block.size = len(fixed)
    to.via_token.data = via
    to.via_token.size = len(via)
    to.request_id.data = request_id
    to.request_id.size = len(request_id)
    to.expect_continue = _request.expects_continue
    to.websocket = _request.wants_websocket
    for _turn in range(repeat):
        size = write_request_head(out, head, &_request, &to)
    return bytes(out[:size])
