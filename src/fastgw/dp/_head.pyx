"""Message heads, read once into offsets (see `_head.pxd`); `_rewrite.pyx` writes them for the other side.

Source: RFC 9112 §2-§6; RFC 9110 §5, §7.6; RFC 3986 §3.2.
"""

from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.buffer cimport PyBUF_READ
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from fastgw.dp._fields cimport (
    KN_ACCEPT, KN_CONNECTION, KN_CONTENT_TYPE, KN_DATE, KN_EXPECT, KN_HOST, KN_OTHER, KN_REFERER, KN_TE,
    KN_TRANSFER_ENCODING, KN_UPGRADE, KN_USER_AGENT, KN_VIA, KN_X_FORWARDED_FOR,
    begin_framing, equals, is_token, lists_token, read_framing_field, read_line
)
from fastgw.dp._host cimport read_host

cdef extern from "string.h" nogil:
    void* memmem(const void* haystack, size_t haystack_size, const void* needle, size_t needle_size)

# A protocol object without a single `on_*` attribute: httptools then makes no object per field.
cdef object NO_CALLBACKS = object()


cdef Py_ssize_t find_head_end(const uint8_t* data, Py_ssize_t size, Py_ssize_t looked_at) noexcept nogil:
    cdef const uint8_t* found
    cdef const uint8_t* start
    cdef const uint8_t* newline
    cdef Py_ssize_t begin = looked_at - 3 if looked_at > 3 else 0
    found = <const uint8_t*>memmem(data + begin, size - begin, b"\r\n\r\n", 4)
    if found != NULL:
        return found - data + 4
    # Not complete yet: a line end that is not CRLF can never become a head, so it is refused now.
    start = data + (looked_at if looked_at > 0 else 0)
    while True:
        newline = <const uint8_t*>memchr(start, c'\n', data + size - start)
        if newline == NULL:
            return 0
        if newline == data or (newline - 1)[0] != c'\r':
            return -1
        start = newline + 1


# --- heads in ------------------------------------------------------------------------------------

cdef int parse_request_head(
    const uint8_t* head, Py_ssize_t size, const HeadLimits* limits, RequestHead* out
) noexcept nogil:
    cdef const uint8_t* space
    cdef Py_ssize_t at
    cdef int refused, found
    cdef uint64_t seen = 0  # bit n: a field of kind n has come
    cdef int lines = 0
    cdef bint has_websocket = False
    cdef Field* field
    begin_framing(&out.framing)
    out.size = <uint32_t>size
    out.field_count = 0
    out.expects_continue = False
    out.accepts_trailers = False
    out.wants_websocket = False
    out.host = out.via = out.forwarded_for = out.accept = -1
    out.content_type = out.user_agent = out.referer = -1

    # Request line: method SP target SP HTTP/1.x CRLF, single spaces (RFC 9112 §3).
    space = <const uint8_t*>memchr(head, c' ', size)
    if space == NULL or space == head:
        return 400
    out.method_size = <uint32_t>(space - head)
    if not is_token(head, out.method_size):
        return 400
    at = out.method_size + 1
    out.target_start = <uint32_t>at
    while at < size and head[at] > 0x20 and head[at] < 0x7F:
        at += 1
    if at == size or head[at] != c' ' or at == out.target_start:
        return 400
    out.target_size = <uint32_t>(at - out.target_start)
    at += 1
    if size - at < 12 or memcmp(head + at, b"HTTP/", 5) != 0 or memcmp(head + at + 8, b"\r\n", 2) != 0:
        return 400
    out.framing.minor = head[at + 7] - c'0'
    if memcmp(head + at + 5, b"1.", 2) != 0 or (out.framing.minor != 0 and out.framing.minor != 1):
        return 505
    at += 10

    while True:
        if out.field_count == MAX_FIELDS:
            return 431
        field = &out.fields[out.field_count]
        found = read_line(head, size, at, field)
        if found < 0:
            return 400
        if found == 0:
            break
        lines += 1
        if lines > limits.fields or field.end - field.start > <uint32_t>limits.field_bytes:
            return 431
        at = field.end
        if field.known == KN_OTHER:
            # One that is dropped is nowhere: not for routes, plugins or the log either.
            if not limits.drops_underscores or memchr(head + field.start, c'_', field.name_size) == NULL:
                out.field_count += 1
            continue
        out.field_count += 1
        if field.known >= KN_CONTENT_TYPE:
            if seen >> field.known & 1:
                return 400
            seen |= <uint64_t>1 << field.known
        if KN_CONNECTION <= field.known <= KN_TRANSFER_ENCODING:
            refused = read_framing_field(head, field, &out.framing)
            if refused:
                return refused
        elif field.known == KN_HOST:
            if out.host >= 0:
                return 400
            out.host = <int>out.field_count - 1
        elif field.known == KN_VIA:
            # Several Via lines are one list: ours goes behind the last, the others stay where they stand.
            out.via = <int>out.field_count - 1
        elif field.known == KN_X_FORWARDED_FOR:
            if out.forwarded_for < 0:
                out.forwarded_for = <int>out.field_count - 1
        elif field.known == KN_EXPECT:
            if field.value_size != 12 or not equals(head + field.value_start, b"100-continue", 12):
                return 417
            out.expects_continue = out.framing.minor == 1
        elif field.known == KN_TE:
            if lists_token(head + field.value_start, field.value_size, b"trailers", 8):
                out.accepts_trailers = True
        elif field.known == KN_UPGRADE:
            has_websocket = field.value_size == 9 and equals(head + field.value_start, b"websocket", 9)
        elif field.known == KN_ACCEPT:
            if out.accept < 0:
                out.accept = <int>out.field_count - 1
        elif field.known == KN_CONTENT_TYPE:
            out.content_type = <int>out.field_count - 1
        elif field.known == KN_USER_AGENT:
            out.user_agent = <int>out.field_count - 1
        elif field.known == KN_REFERER:
            out.referer = <int>out.field_count - 1

    if out.framing.chunked and out.framing.minor == 0:
        return 400
    if out.host < 0 and out.framing.minor == 1:
        return 400
    refused = _judge_method_and_target(head, out)
    # Anything else that asks for an upgrade is an ordinary request (RFC 9110 §7.8, RFC 6455 §4.1).
    out.wants_websocket = (
        has_websocket and out.framing.upgrade and out.framing.minor == 1 and not out.framing.chunked
        and out.framing.content_length <= 0 and out.method_size == 3 and memcmp(head, b"GET", 3) == 0)
    return refused


cdef int _judge_method_and_target(const uint8_t* head, RequestHead* out) noexcept nogil:
    """Method facts and the target's form: origin, absolute, or `*` with OPTIONS (RFC 9112 §3.2)."""
    cdef const uint8_t* target = head + out.target_start
    cdef Py_ssize_t size = out.target_size, start, at
    cdef const uint8_t* question
    cdef uint32_t method_size = out.method_size
    # Any method goes on that could be one by the looks of those that are registered; nginx asks for the same.
    if method_size > MAX_METHOD:
        return 501
    for at in range(method_size):
        if not (c'A' <= head[at] <= c'Z' or head[at] == c'-' or head[at] == c'_'):
            return 400
    out.is_head = method_size == 4 and memcmp(head, b"HEAD", 4) == 0
    out.is_idempotent = (
        out.is_head
        or (method_size == 3 and (memcmp(head, b"GET", 3) == 0 or memcmp(head, b"PUT", 3) == 0))
        or (method_size == 6 and memcmp(head, b"DELETE", 6) == 0)
        or (method_size == 7 and memcmp(head, b"OPTIONS", 7) == 0)
    )
    out.is_common = (
        out.is_idempotent or (method_size == 4 and memcmp(head, b"POST", 4) == 0)
        or (method_size == 5 and memcmp(head, b"PATCH", 5) == 0)
    )
    if method_size == 7 and memcmp(head, b"CONNECT", 7) == 0:
        return 405
    if method_size == 5 and memcmp(head, b"TRACE", 5) == 0:
        return 405
    out.authority.size = 0
    out.authority.data = target
    start = 0
    if target[0] != c'/':
        if size == 1 and target[0] == c'*':
            if method_size != 7 or memcmp(head, b"OPTIONS", 7) != 0:
                return 400
            out.path.data = target
            out.path.size = 1
            out.query.data = target + 1
            out.query.size = 0
            return 0
        if size > 7 and equals(target, b"http", 4) and memcmp(target + 4, b"://", 3) == 0:
            start = 7
        elif size > 8 and equals(target, b"https", 5) and memcmp(target + 5, b"://", 3) == 0:
            start = 8
        else:
            return 400
        at = start
        while at < size and target[at] != c'/' and target[at] != c'?' and target[at] != c'#':
            if target[at] == c'@':
                return 400
            at += 1
        if at == start:
            return 400
        out.authority.data = target + start
        out.authority.size = at - start
        start = at
    # A fragment never belongs into a request (RFC 9112 §3.2.1).
    if memchr(target + start, c'#', size - start) != NULL:
        return 400
    question = <const uint8_t*>memchr(target + start, c'?', size - start)
    out.path.data = target + start
    out.path.size = (question - target if question != NULL else size) - start
    out.query.data = question if question != NULL else target + size
    out.query.size = target + size - question if question != NULL else 0
    return 0 if _is_well_encoded(out.path.data, out.path.size) else 400


cdef bint _is_well_encoded(const uint8_t* path, Py_ssize_t size) noexcept nogil:
    """Every "%" has two hex digits behind it, not those of NUL; nginx asks for the same of a path."""
    cdef const uint8_t* end = path + size
    while True:
        path = <const uint8_t*>memchr(path, c'%', end - path)
        if path == NULL:
            return True
        if end - path < 3 or not _is_hex(path[1]) or not _is_hex(path[2]):
            return False
        if path[1] == c'0' and path[2] == c'0':
            return False
        path += 3


cdef inline bint _is_hex(uint8_t char) noexcept nogil:
    return c'0' <= char <= c'9' or c'a' <= (char | 0x20) <= c'f'


cdef int parse_response_head(const uint8_t* head, Py_ssize_t size, ResponseHead* out) noexcept nogil:
    cdef const uint8_t* newline
    cdef Py_ssize_t at
    cdef int found
    cdef bint has_websocket = False
    cdef Field* field
    begin_framing(&out.framing)
    out.size = <uint32_t>size
    out.field_count = 0
    out.has_date = False
    out.via = -1
    # HTTP/1.x SP 3DIGIT SP [reason] CRLF (RFC 9112 §4); the reason is never passed on.
    if size < 16 or memcmp(head, b"HTTP/1.", 7) != 0 or head[8] != c' ':
        return -1
    out.framing.minor = head[7] - c'0'
    if out.framing.minor != 0 and out.framing.minor != 1:
        return -1
    for at in range(9, 12):
        if head[at] < c'0' or head[at] > c'9':
            return -1
    out.status = (head[9] - c'0') * 100 + (head[10] - c'0') * 10 + (head[11] - c'0')
    if out.status < 100 or out.status > 599 or (head[12] != c' ' and head[12] != c'\r'):
        return -1
    newline = <const uint8_t*>memchr(head, c'\n', size)
    if newline == NULL or (newline - 1)[0] != c'\r':
        return -1
    # The parser lets controls pass in the reason; nothing good sends them.
    for at in range(12, newline - head - 1):
        if (head[at] < 0x20 and head[at] != c'\t') or head[at] == 0x7F:
            return -1
    at = newline - head + 1
    while True:
        if out.field_count == MAX_FIELDS:
            return -1
        field = &out.fields[out.field_count]
        found = read_line(head, size, at, field)
        if found < 0:
            return -1
        if found == 0:
            break
        out.field_count += 1
        at = field.end
        if field.known == KN_OTHER:
            continue
        if KN_CONNECTION <= field.known <= KN_TRANSFER_ENCODING:
            if read_framing_field(head, field, &out.framing):
                return -1
        elif field.known == KN_VIA:
            out.via = <int>out.field_count - 1
        elif field.known == KN_DATE:
            out.has_date = True
        elif field.known == KN_UPGRADE:
            has_websocket = field.value_size == 9 and equals(head + field.value_start, b"websocket", 9)
    if out.framing.chunked and out.framing.minor == 0:
        return -1
    out.grants_websocket = (
        has_websocket and out.status == 101 and out.framing.upgrade and out.framing.minor == 1)
    return 0


cdef bint check_request(const uint8_t* head, RequestHead* request) except -1:
    parser = HttpRequestParser(NO_CALLBACKS)
    try:
        if not request.is_common:
            # The parser knows a list of methods; ours, read above, is a grammar. All else it judges.
            parser.feed_data(b"GET ")
            head += request.target_start
        parser.feed_data(PyMemoryView_FromMemory(
            <char*>head, request.size - (0 if request.is_common else request.target_start), PyBUF_READ))
    except HttpParserUpgrade:
        # The parser's word for "Upgrade and Connection: upgrade": the head itself is well-formed.
        return True
    except HttpParserError:
        return False
    return True


cdef bint check_response(const uint8_t* head, Py_ssize_t size) except -1:
    try:
        HttpResponseParser(NO_CALLBACKS).feed_data(PyMemoryView_FromMemory(<char*>head, size, PyBUF_READ))
    except HttpParserUpgrade:
        return True
    except HttpParserError:
        return False
    return True


cdef int read_request_host(
    const uint8_t* head, RequestHead* request, uint8_t* text, Span* host, Py_ssize_t* port_start
) noexcept nogil:
    cdef Span value
    value.data = head
    value.size = 0
    host.data = text
    host.size = 0
    port_start[0] = 0
    if request.host >= 0:
        value.data = head + request.fields[request.host].value_start
        value.size = request.fields[request.host].value_size
        if value.size > MAX_HOST:
            return 400
        # A Host that an absolute target replaces has to be valid all the same.
        host.size = read_host(value, text, port_start)
    if host.size >= 0 and request.authority.size:
        value = request.authority
        if value.size > MAX_HOST:
            return 400
        host.size = read_host(value, text, port_start)
    return 400 if host.size < 0 or (value.size == 0 and request.framing.minor == 1) else 0


# --- for tests, tools and benchmarks ---------------------------------------------------------------

cdef RequestHead _request
cdef ResponseHead _response


def read_request_head(bytes head, int max_fields=100, int max_field_bytes=8192, bint drops_underscores=False):
    """Return the facts of a whole request head as a dict, or the HTTP status that refuses it."""
    cdef Py_ssize_t end = find_head_end(head, len(head), 0)
    cdef Py_ssize_t port_at = 0
    cdef uint8_t[MAX_HOST] host_text
    cdef Span host
    cdef int status, place
    cdef HeadLimits limits
    if end <= 0:
        return 400
    limits.fields = max_fields
    limits.field_bytes = max_field_bytes
    limits.drops_underscores = drops_underscores
    status = parse_request_head(head, end, &limits, &_request)
    if status == 0 and not check_request(head, &_request):
        status = 400
    if status == 0:
        status = read_request_host(head, &_request, host_text, &host, &port_at)
    if status:
        return status
    return {
        "method": head[:_request.method_size],
        "minor": _request.framing.minor,
        "path": _request.path.data[:_request.path.size],
        "query": _request.query.data[:_request.query.size],
        "host": host_text[:host.size],
        "host_name": host_text[:port_at],
        "content_length": _request.framing.content_length,
        "chunked": bool(_request.framing.chunked),
        "close": bool(_request.framing.close),
        "keep_alive": bool(_request.framing.keep_alive),
        "expects_continue": bool(_request.expects_continue),
        "accepts_trailers": bool(_request.accepts_trailers),
        "wants_websocket": bool(_request.wants_websocket),
        "fields": [_field(head, &_request.fields[place]) for place in range(<int>_request.field_count)],
    }


def read_response_head(bytes head):
    """Return the facts of a whole response head as a dict, or None when it is refused."""
    cdef Py_ssize_t end = find_head_end(head, len(head), 0)
    cdef int place
    if end <= 0 or parse_response_head(head, end, &_response) != 0 or not check_response(head, end):
        return None
    return {
        "status": _response.status,
        "minor": _response.framing.minor,
        "content_length": _response.framing.content_length,
        "chunked": bool(_response.framing.chunked),
        "close": bool(_response.framing.close),
        "fields": [_field(head, &_response.fields[place]) for place in range(<int>_response.field_count)],
    }


cdef tuple _field(bytes head, Field* field):
    return (
        head[field.start:field.start + field.name_size],
        head[field.value_start:field.value_start + field.value_size],
    )


def parse_request_heads(bytes head, int repeat, bint with_httptools):
    """Judge *head* over and over: what reading one head costs, with the parser's word and without."""
    cdef int _turn
    cdef HeadLimits limits
    limits.fields = MAX_FIELDS
    limits.field_bytes = <int>len(head)
    limits.drops_underscores = False
    for _turn in range(repeat):
        if parse_request_head(head, len(head), &limits, &_request):
            raise ValueError("not a request head")
        if with_httptools and not check_request(head, &_request):
            raise ValueError("not a request head")
