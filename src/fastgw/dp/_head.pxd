"""Message heads: what is read of one.

Offsets count from the first byte of the head; nothing here owns memory. A head is complete (it ends with
CRLF CRLF) and within its byte budget before it gets here. httptools has the last word on its grammar
(`check_request`, `check_response`); framing, Host and the target's form are judged by our own code
(http-security checklist: the duties that the parser leaves to its caller).
"""

from libc.stdint cimport uint8_t, uint32_t

from fastgw.dp._fields cimport Field, Framing, Span

cdef enum:
    MAX_FIELDS = 256          # the setting proxy_head_fields cannot exceed it
    MAX_METHOD = 32           # bytes
    MAX_HOST = 512            # bytes, the port included

cdef struct RequestHead:
    Framing framing
    uint32_t size
    uint32_t method_size
    uint32_t target_start
    uint32_t target_size
    uint32_t field_count
    bint is_head              # method HEAD
    bint is_common            # GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH: what every parser knows
    bint is_idempotent        # may be sent again when a reused connection turns out closed
    bint expects_continue
    bint accepts_trailers     # TE: trailers
    bint wants_websocket      # Upgrade: websocket, in a request that may ask for it
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
    bint grants_websocket     # 101 with Upgrade: websocket
    Field fields[MAX_FIELDS]

cdef struct HeadLimits:
    int fields                # lines
    int field_bytes           # of one line, its CRLF included
    bint drops_underscores    # fields with "_" in their name go no further

# Each returns 0, or the HTTP status that refuses the message (requests), or -1 (responses).
cdef int parse_request_head(
    const uint8_t* head, Py_ssize_t size, const HeadLimits* limits, RequestHead* out
) noexcept nogil
cdef int parse_response_head(const uint8_t* head, Py_ssize_t size, ResponseHead* out) noexcept nogil

# True when httptools takes the head as well.
cdef bint check_request(const uint8_t* head, RequestHead* request) except -1
cdef bint check_response(const uint8_t* head, Py_ssize_t size) except -1

# Size of the head including its CRLF CRLF, 0 when it is not complete, -1 when a bare CR or LF already
# makes it hopeless. Looks at data[looked_at - 3 ..] only, so a trickled head costs linear time.
cdef Py_ssize_t find_head_end(const uint8_t* data, Py_ssize_t size, Py_ssize_t looked_at) noexcept nogil

# The host that the request is for, lower-cased: the authority of its target, else Host (RFC 9112 §3.2).
# *text* takes MAX_HOST bytes, *port_start* is where ":" stands, or the size. 0, or 400.
cdef int read_request_host(
    const uint8_t* head, RequestHead* request, uint8_t* text, Span* host, Py_ssize_t* port_start
) noexcept nogil
