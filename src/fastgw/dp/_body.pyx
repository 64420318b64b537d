"""Body framing in both directions (see `_body.pxd`). Source: RFC 9112 §6, §7.

Chunk sizes: 1 to 16 hex digits, nothing else but an extension behind them; line ends are CRLF. Extensions
are dropped, trailers are checked and handed out as they came, both against a byte cap; trailers are never
merged into the fields.
"""

from libc.string cimport memmove


cdef void begin_body(Body* body, BodyKind kind, int64_t length) noexcept nogil:
    body.kind = kind
    body.remaining = length
    body.delivered = 0
    body.is_complete = kind == BODY_NONE or (kind == BODY_LENGTH and length == 0)
    body.state = CS_SIZE
    body.chunk_remaining = 0
    body.size_digits = 0
    body.extension_bytes = 0
    body.trailer_bytes = 0
    body.trailer_size = 0


cdef Py_ssize_t take_body(
    Body* body, const uint8_t* data, Py_ssize_t size, const uint8_t** start, Py_ssize_t* span
) noexcept nogil:
    span[0] = 0
    start[0] = data
    if body.is_complete or size == 0:
        return 0
    if body.kind == BODY_LENGTH:
        if size > body.remaining:
            size = <Py_ssize_t>body.remaining
        body.remaining -= size
        body.delivered += size
        body.is_complete = body.remaining == 0
        span[0] = size
        return size
    if body.kind == BODY_UNTIL_CLOSE:
        body.delivered += size
        span[0] = size
        return size
    return _take_chunked(body, data, size, start, span)


cdef inline int _hex(uint8_t char) noexcept nogil:
    if c'0' <= char <= c'9':
        return char - c'0'
    char |= 0x20
    if c'a' <= char <= c'f':
        return char - c'a' + 10
    return -1


cdef inline bint _is_token(uint8_t char) noexcept nogil:
    if c'a' <= (char | 0x20) <= c'z' or c'0' <= char <= c'9':
        return True
    return char in (c'!', c'#', c'$', c'%', c'&', c"'", c'*', c'+', c'-', c'.', c'^', c'_', c'`', c'|', c'~')


cdef Py_ssize_t _take_chunked(
    Body* body, const uint8_t* data, Py_ssize_t size, const uint8_t** start, Py_ssize_t* span
) noexcept nogil:
    cdef Py_ssize_t at = 0, part
    cdef uint8_t char
    cdef int digit
    while at < size:
        if body.state == CS_DATA:
            part = size - at
            if <uint64_t>part > body.chunk_remaining:
                part = <Py_ssize_t>body.chunk_remaining
            body.chunk_remaining -= part
            body.delivered += part
            # Data pays for extensions: one byte is forgiven per byte delivered.
            if body.extension_bytes > <uint64_t>part:
                body.extension_bytes -= <uint32_t>part
            else:
                body.extension_bytes = 0
            if body.chunk_remaining == 0:
                body.state = CS_DATA_CR
            start[0] = data + at
            span[0] = part
            return at + part
        char = data[at]
        at += 1
        if body.state == CS_SIZE:
            digit = _hex(char)
            if digit >= 0:
                body.size_digits += 1
                if body.size_digits > MAX_CHUNK_SIZE_DIGITS:
                    return -1
                body.chunk_remaining = body.chunk_remaining * 16 + <uint64_t>digit
            elif body.size_digits == 0:
                return -1
            elif char == c'\r':
                body.state = CS_SIZE_LF
            elif char == c';':
                body.state = CS_EXTENSION
            else:
                return -1
        elif body.state == CS_EXTENSION:
            if char == c'\r':
                body.state = CS_SIZE_LF
            elif (char < 0x20 and char != c'\t') or char == 0x7F:
                return -1
            body.extension_bytes += 1
            if body.extension_bytes > MAX_EXTENSION:
                return -1
        elif body.state == CS_SIZE_LF:
            if char != c'\n':
                return -1
            # A size that no body can have (2^63 and more) is an attack on somebody's arithmetic.
            if body.chunk_remaining >> 63:
                return -1
            body.size_digits = 0
            body.state = CS_TRAILER_START if body.chunk_remaining == 0 else CS_DATA
        elif body.state == CS_DATA_CR:
            if char != c'\r':
                return -1
            body.state = CS_DATA_LF
        elif body.state == CS_DATA_LF:
            if char != c'\n':
                return -1
            body.state = CS_SIZE
        else:
            body.trailer_bytes += 1
            if body.trailer_bytes > MAX_TRAILER:
                return -1
            if body.state == CS_TRAILER_START:
                if char == c'\r':
                    body.state = CS_END_LF
                elif _is_token(char):
                    body.state = CS_TRAILER_NAME
                else:
                    return -1
            elif body.state == CS_TRAILER_NAME:
                if char == c':':
                    body.state = CS_TRAILER
                elif not _is_token(char):
                    return -1
            elif body.state == CS_TRAILER:
                if char == c'\r':
                    body.state = CS_TRAILER_LF
                elif (char < 0x20 and char != c'\t') or char == 0x7F:
                    return -1
            elif body.state == CS_TRAILER_LF:
                if char != c'\n':
                    return -1
                body.state = CS_TRAILER_START
            else:
                if char != c'\n':
                    return -1
                body.is_complete = True
                return at
    return at


cdef Py_ssize_t take_joined(Body* body, uint8_t* data, Py_ssize_t size, Py_ssize_t* joined) noexcept nogil:
    cdef Py_ssize_t at = 0, taken, span
    cdef const uint8_t* start
    cdef uint32_t trailer_bytes
    joined[0] = 0
    body.trailer_size = 0
    while at < size and not body.is_complete:
        trailer_bytes = body.trailer_bytes
        taken = take_body(body, data + at, size - at, &start, &span)
        if taken < 0:
            return -1
        if body.trailer_bytes != trailer_bytes:
            # Nothing but trailers comes behind the first of them: they end what was taken.
            body.trailer_size = body.trailer_bytes - trailer_bytes
            body.trailer_data = data + at + taken - body.trailer_size
        if span:
            if data + joined[0] != start:
                memmove(data + joined[0], start, span)
            joined[0] += span
        at += taken
    return at


cdef class BodyReader:
    """A body decoder for tests and tools: feed bytes, get body bytes."""

    cdef Body body
    cdef readonly bytes trailers  # the section as it came, the empty line that ends it included

    def __init__(self, str kind, long length=0):
        kinds = {
            "none": BODY_NONE, "length": BODY_LENGTH, "chunked": BODY_CHUNKED, "until-close": BODY_UNTIL_CLOSE
        }
        begin_body(&self.body, kinds[kind], length)
        self.trailers = b""

    @property
    def is_complete(self):
        return bool(self.body.is_complete)

    def feed(self, bytes data):
        """Return (body bytes, rest that does not belong to the body); ValueError when malformed."""
        cdef bytearray copy = bytearray(data)
        cdef Py_ssize_t joined, taken
        taken = take_joined(&self.body, copy, len(copy), &joined)
        if taken < 0:
            raise ValueError("malformed chunking")
        self.trailers += self.body.trailer_data[:self.body.trailer_size]
        return bytes(copy[:joined]), data[taken:]
