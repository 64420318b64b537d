"""Field lines: names that the gateway treats in a way of its own, values, and the framing they make.

Offsets count from the first byte of the head; nothing here owns memory.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    MAX_NOMINATED = 16        # names listed in Connection

cdef enum Known:
    KN_OTHER = 0
    KN_HOST
    KN_CONNECTION             # these three, in a row, make the framing
    KN_CONTENT_LENGTH
    KN_TRANSFER_ENCODING
    KN_TE
    KN_TRAILER
    KN_UPGRADE
    KN_KEEP_ALIVE
    KN_PROXY_CONNECTION
    KN_PROXY
    KN_EXPECT
    KN_VIA
    KN_X_REAL_IP
    KN_X_FORWARDED_FOR
    KN_X_FORWARDED_SET        # -Proto, -Host, -Port, -Path, -Prefix: ours replace them
    KN_REQUEST_ID             # X-Kong-Request-Id
    KN_LATENCY                # X-Kong-Proxy-Latency, -Upstream-Latency, -Response-Latency, -Upstream-Status
    KN_ACCEPT                 # from here on, fields that pass and that Connection cannot nominate
    KN_USER_AGENT
    KN_REFERER
    KN_DATE
    KN_CONTENT_TYPE           # from here on, at most one line in a request (RFC 9110 §5.3)
    KN_CONTENT_RANGE
    KN_AUTHORIZATION
    KN_PROXY_AUTHORIZATION
    KN_RANGE
    KN_IF_RANGE
    KN_IF_MODIFIED_SINCE
    KN_IF_UNMODIFIED_SINCE

cdef struct Field:
    uint32_t start            # first byte of the name
    uint32_t name_size
    uint32_t value_start      # optional white space on both sides is left out
    uint32_t value_size
    uint32_t end              # just behind the CRLF
    uint32_t known            # enum Known

cdef struct Span:
    const uint8_t* data
    Py_ssize_t size

cdef struct Framing:
    int64_t content_length    # bytes; -1: none given
    bint chunked
    bint close                # Connection: close
    bint keep_alive           # Connection: keep-alive
    bint upgrade              # Connection: upgrade
    int minor                 # HTTP/1.minor
    int nominated_count
    Span nominated[MAX_NOMINATED]

cdef inline bint equals(const uint8_t* data, const char* lower, Py_ssize_t size) noexcept nogil:
    """Compare letters, digits and dashes without regard to case; *lower* has no upper-case letter."""
    cdef Py_ssize_t place
    for place in range(size):
        # 0x20 folds letters; of the other characters used in names only "-" and digits have it set already.
        if (data[place] | 0x20) != <uint8_t>lower[place]:
            return False
    return True


cdef inline void begin_framing(Framing* framing) noexcept nogil:
    framing.content_length = -1
    framing.chunked = False
    framing.close = False
    framing.keep_alive = False
    framing.upgrade = False
    framing.nominated_count = 0


# The line at *at*: 1 for a field, 0 for the empty line that ends the head, -1 when it is neither.
cdef int read_line(const uint8_t* head, Py_ssize_t size, Py_ssize_t at, Field* field) noexcept nogil

# Take up Connection, Content-Length and Transfer-Encoding; 0, or the status that refuses them.
cdef int read_framing_field(const uint8_t* head, Field* field, Framing* framing) noexcept nogil

cdef bint is_token(const uint8_t* text, Py_ssize_t size) noexcept nogil

# True when the list *value* has the item *token* (lower case), alone or with parameters.
cdef bint lists_token(
    const uint8_t* value, Py_ssize_t size, const char* token, Py_ssize_t token_size
) noexcept nogil

# The lines of a trailer section (its last, empty line included) that may go on: none that frames, routes,
# authenticates or says how to read the content (RFC 9110 §6.5.1); of a request none that the gateway or its
# plugins vouch for either.
cdef bytes select_trailers(const uint8_t* data, Py_ssize_t size, bint is_request)
