"""Message heads: what is read of one.

Offsets count from the first byte of the head; nothing here owns memory. A head is complete (it ends with
CRLF CRLF) and within its byte budget before it gets here. httptools has the last word on its grammar
(`check_request`, `check_response`); framing, Host and the target's form are judged by our own code
(http-security checklist: the duties that the parser leaves to its caller).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum:
    MAX_FIELDS = 256          # the setting proxy_head_fields cannot exceed it
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
    KN_ACCEPT
    KN_CONTENT_TYPE
    KN_USER_AGENT
    KN_REFERER
    KN_DATE

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

cdef struct RequestHead:
    Framing framing
    uint32_t size
    uint32_t method_size
    uint32_t target_start
    uint32_t target_size
    uint32_t field_count
    bint is_head              # method HEAD
    bint is_idempotent        # may be sent again when a reused connection turns out closed
    bint expects_continue
    bint accepts_trailers     # TE: trailers
    int host                  # index into fields, -1: none; the same below
    int via
    int forwarded_for
    int accept
    int content_type
    int user_agent
    int referer
    # What the target says, after its form was judged:
    Span authority            # absolute form: replaces Host; size 0 otherwise
    Span path                 # raw path without the query; "*" for OPTIONS *
    Span query                # from the "?" on; size 0: none
    Field fields[MAX_FIELDS]

cdef struct ResponseHead:
    Framing framing
    uint32_t size
    int status
    uint32_t field_count
    bint has_date
    int via                   # the last Via line: the list that ours goes on with
    Field fields[MAX_FIELDS]

# Each returns 0, or the HTTP status that refuses the message (requests), or -1 (responses).
cdef int parse_request_head(
    const uint8_t* head, Py_ssize_t size, int max_fields, RequestHead* out
) noexcept nogil
cdef int parse_response_head(const uint8_t* head, Py_ssize_t size, ResponseHead* out) noexcept nogil

# True when httptools takes the head as well.
cdef bint check_request(const uint8_t* head, Py_ssize_t size) except -1
cdef bint check_response(const uint8_t* head, Py_ssize_t size) except -1

# Size of the head including its CRLF CRLF, 0 when it is not complete, -1 when a bare CR or LF already
# makes it hopeless. Looks at data[looked_at - 3 ..] only, so a trickled head costs linear time.
cdef Py_ssize_t find_head_end(const uint8_t* data, Py_ssize_t size, Py_ssize_t looked_at) noexcept nogil

# Host header or authority, lower-cased into out (at least value.size bytes); -1 when it breaks RFC 3986.
cdef Py_ssize_t read_host(Span value, uint8_t* out, Py_ssize_t* port_start) noexcept nogil
