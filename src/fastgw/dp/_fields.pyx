"""Field lines, read one by one (see `_fields.pxd`). Source: RFC 9112 §5, §6; RFC 9110 §5, §6.5, §7.6."""

from libc.stdint cimport int64_t
from libc.string cimport memchr

cdef uint8_t TOKEN[256]       # RFC 9110 §5.6.2 tchar


cdef void _fill_table():
    cdef int place
    for place in range(256):
        TOKEN[place] = 0
    for char in b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        TOKEN[char] = 1


_fill_table()


cdef bint is_token(const uint8_t* text, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t place
    for place in range(size):
        if not TOKEN[text[place]]:
            return False
    return True


cdef inline Known _classify(const uint8_t* name, Py_ssize_t size) noexcept nogil:
    """Name a field that the gateway treats in a way of its own; most names end at the first switch."""
    cdef uint8_t first = name[0] | 0x20
    if size == 2:
        if first == c't' and equals(name, b"te", 2): return KN_TE
    elif size == 3:
        if first == c'v' and equals(name, b"via", 3): return KN_VIA
    elif size == 4:
        if first == c'h' and equals(name, b"host", 4): return KN_HOST
        if first == c'd' and equals(name, b"date", 4): return KN_DATE
    elif size == 5:
        if first == c'p' and equals(name, b"proxy", 5): return KN_PROXY
        if first == c'r' and equals(name, b"range", 5): return KN_RANGE
    elif size == 6:
        if first == c'a' and equals(name, b"accept", 6): return KN_ACCEPT
        if first == c'e' and equals(name, b"expect", 6): return KN_EXPECT
    elif size == 7:
        if first == c'u' and equals(name, b"upgrade", 7): return KN_UPGRADE
        if first == c't' and equals(name, b"trailer", 7): return KN_TRAILER
        if first == c'r' and equals(name, b"referer", 7): return KN_REFERER
    elif size == 8:
        if first == c'i' and equals(name, b"if-range", 8): return KN_IF_RANGE
    elif size == 9:
        if first == c'x' and equals(name, b"x-real-ip", 9): return KN_X_REAL_IP
    elif size == 10:
        if first == c'c' and equals(name, b"connection", 10): return KN_CONNECTION
        if first == c'k' and equals(name, b"keep-alive", 10): return KN_KEEP_ALIVE
        if first == c'u' and equals(name, b"user-agent", 10): return KN_USER_AGENT
    elif size == 12:
        if first == c'c' and equals(name, b"content-type", 12): return KN_CONTENT_TYPE
    elif size == 13:
        if first == c'a' and equals(name, b"authorization", 13): return KN_AUTHORIZATION
        if first == c'c' and equals(name, b"content-range", 13): return KN_CONTENT_RANGE
    elif size == 14:
        if first == c'c' and equals(name, b"content-length", 14): return KN_CONTENT_LENGTH
    elif size == 15:
        if first == c'x' and equals(name, b"x-forwarded-for", 15): return KN_X_FORWARDED_FOR
    elif size == 16:
        if first == c'p' and equals(name, b"proxy-connection", 16): return KN_PROXY_CONNECTION
        if first == c'x' and (equals(name, b"x-forwarded-host", 16) or equals(name, b"x-forwarded-port", 16)
                              or equals(name, b"x-forwarded-path", 16)): return KN_X_FORWARDED_SET
    elif size == 17:
        if first == c't' and equals(name, b"transfer-encoding", 17): return KN_TRANSFER_ENCODING
        if first == c'x' and equals(name, b"x-forwarded-proto", 17): return KN_X_FORWARDED_SET
        if first == c'x' and equals(name, b"x-kong-request-id", 17): return KN_REQUEST_ID
        if first == c'i' and equals(name, b"if-modified-since", 17): return KN_IF_MODIFIED_SINCE
    elif size == 18:
        if first == c'x' and equals(name, b"x-forwarded-prefix", 18): return KN_X_FORWARDED_SET
    elif size == 19:
        if first == c'p' and equals(name, b"proxy-authorization", 19): return KN_PROXY_AUTHORIZATION
        if first == c'i' and equals(name, b"if-unmodified-since", 19): return KN_IF_UNMODIFIED_SINCE
    elif size >= 20 and first == c'x' and equals(name, b"x-kong-", 7):
        if size == 20 and equals(name, b"x-kong-proxy-latency", 20): return KN_LATENCY
        if size == 22 and equals(name, b"x-kong-upstream-status", 22): return KN_LATENCY
        if size == 23 and (equals(name, b"x-kong-upstream-latency", 23)
                           or equals(name, b"x-kong-response-latency", 23)): return KN_LATENCY
    return KN_OTHER


cdef int read_line(const uint8_t* head, Py_ssize_t size, Py_ssize_t at, Field* field) noexcept nogil:
    """Read the field line at *at*: 1 for a field, 0 for the empty line that ends the head, -1 when wrong."""
    cdef const uint8_t* line = head + at
    cdef const uint8_t* newline
    cdef const uint8_t* colon
    cdef Py_ssize_t line_size, start, end
    newline = <const uint8_t*>memchr(line, c'\n', size - at)
    if newline == NULL or newline == line or (newline - 1)[0] != c'\r':
        return -1
    line_size = newline - line - 1
    if line_size == 0:
        return 0
    colon = <const uint8_t*>memchr(line, c':', line_size)
    # No colon, an empty name, a folded line, white space before the colon: all end here (RFC 9112 §5).
    if colon == NULL or colon == line or not TOKEN[line[0]] or not TOKEN[(colon - 1)[0]]:
        return -1
    start = colon - line + 1
    end = line_size
    while start < end and (line[start] == c' ' or line[start] == c'\t'):
        start += 1
    while end > start and (line[end - 1] == c' ' or line[end - 1] == c'\t'):
        end -= 1
    field.start = <uint32_t>at
    field.name_size = <uint32_t>(colon - line)
    field.value_start = <uint32_t>(at + start)
    field.value_size = <uint32_t>(end - start)
    field.end = <uint32_t>(newline - head + 1)
    field.known = _classify(line, colon - line)
    return 1


cdef int64_t _read_length(const uint8_t* value, Py_ssize_t size) noexcept nogil:
    """Content-Length: digits only; -1 for anything else, and for more than 18 of them."""
    cdef Py_ssize_t place
    cdef int64_t number = 0
    if size == 0 or size > 18:
        return -1
    for place in range(size):
        if value[place] < c'0' or value[place] > c'9':
            return -1
        number = number * 10 + (value[place] - c'0')
    return number


cdef void _read_connection(
    const uint8_t* value, Py_ssize_t size, Framing* framing, bint* overflow
) noexcept nogil:
    """Read one Connection value: a list of tokens (RFC 9110 §7.6.1)."""
    cdef Py_ssize_t at = 0, start, end
    while at < size:
        while at < size and (value[at] == c' ' or value[at] == c'\t' or value[at] == c','):
            at += 1
        start = at
        while at < size and value[at] != c',':
            at += 1
        end = at
        while end > start and (value[end - 1] == c' ' or value[end - 1] == c'\t'):
            end -= 1
        if end == start:
            continue
        if end - start == 5 and equals(value + start, b"close", 5):
            framing.close = True
        elif end - start == 10 and equals(value + start, b"keep-alive", 10):
            framing.keep_alive = True
        elif end - start == 7 and equals(value + start, b"upgrade", 7):
            framing.upgrade = True
        elif framing.nominated_count < MAX_NOMINATED:
            framing.nominated[framing.nominated_count].data = value + start
            framing.nominated[framing.nominated_count].size = end - start
            framing.nominated_count += 1
        else:
            overflow[0] = True


cdef int read_framing_field(const uint8_t* head, Field* field, Framing* framing) noexcept nogil:
    """Take up Connection, Content-Length and Transfer-Encoding; 0, or the status that refuses them."""
    cdef const uint8_t* value = head + field.value_start
    cdef bint overflow = False
    if field.known == KN_CONNECTION:
        _read_connection(value, field.value_size, framing, &overflow)
        return 400 if overflow else 0
    if field.known == KN_CONTENT_LENGTH:
        if framing.content_length >= 0 or framing.chunked:
            return 400
        framing.content_length = _read_length(value, field.value_size)
        return 400 if framing.content_length < 0 else 0
    # Transfer-Encoding: the one value `chunked`, once (RFC 9112 §6.1).
    if framing.chunked or framing.content_length >= 0:
        return 400
    if field.value_size != 7 or not equals(value, b"chunked", 7):
        return _refuse_coding(value, field.value_size)
    framing.chunked = True
    return 0


cdef int _refuse_coding(const uint8_t* value, Py_ssize_t size) noexcept nogil:
    """Name the fault of codings that are not the one `chunked`: 501 when there is another, else 400."""
    cdef Py_ssize_t at = 0, start
    cdef bint is_unknown = False
    while True:
        while at < size and (value[at] == c' ' or value[at] == c'\t'):
            at += 1
        start = at
        while at < size and TOKEN[value[at]]:
            at += 1
        if at == start:
            return 400
        if at - start != 7 or not equals(value + start, b"chunked", 7):
            is_unknown = True
        while at < size and (value[at] == c' ' or value[at] == c'\t'):
            at += 1
        if at == size:
            return 501 if is_unknown else 400
        if value[at] != c',':
            # A parameter, or nonsense: `chunked` takes none, and another coding is not known anyway.
            return 501 if is_unknown and value[at] == c';' else 400
        at += 1


cdef bint lists_token(
    const uint8_t* value, Py_ssize_t size, const char* token, Py_ssize_t token_size
) noexcept nogil:
    """Tell whether the list *value* has the item *token* (lower case), alone or with parameters."""
    cdef Py_ssize_t at = 0
    while at < size:
        while at < size and (value[at] == c' ' or value[at] == c'\t' or value[at] == c','):
            at += 1
        if size - at >= token_size and equals(value + at, token, token_size):
            at += token_size
            while at < size and (value[at] == c' ' or value[at] == c'\t'):
                at += 1
            if at == size or value[at] == c',' or value[at] == c';':
                return True
        while at < size and value[at] != c',':
            at += 1
    return False


# Fields that no trailer may be, besides those that the gateway knows; RFC 9110 §6.5.1 names their kinds.
cdef frozenset NO_TRAILERS = frozenset(
    b"age allow authentication-info cache-control content-disposition content-encoding content-language "
    b"content-location content-security-policy cookie expires location max-forwards pragma "
    b"proxy-authenticate proxy-authentication-info retry-after server set-cookie set-cookie2 "
    b"strict-transport-security vary warning www-authenticate".split())


# Whoever merges trailers into fields must not find there what only we say: X-Consumer-ID and its like.
cdef tuple VOUCHED = (
    b"x-consumer-", b"x-credential-", b"x-anonymous-", b"x-authenticated-", b"x-kong-", b"x-forwarded")


cdef bytes select_trailers(const uint8_t* data, Py_ssize_t size, bint is_request):
    cdef Field field
    cdef Py_ssize_t at = 0
    cdef bytes kept = b""
    cdef bytes name
    while read_line(data, size, at, &field) == 1:
        at = field.end
        name = data[field.start:field.start + field.name_size].lower()
        if is_request and (name.startswith(VOUCHED) or b"_" in name):
            continue
        if field.known == KN_OTHER and name not in NO_TRAILERS:
            kept += data[field.start:field.end]
    return kept
