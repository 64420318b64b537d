"""The client's connection: HTTP/1.x requests in, answers out, one request in progress at a time.

States (the table stands in `states.py`):

    DS_CLEAN        between requests, nothing read
    DS_READ_HEAD    a head has begun
    DS_READ_BODY    an exchange is in progress, its request body still comes
    DS_ANSWERING    an exchange is in progress, its request is whole
    DS_DRAINING     the answer has gone before the request was whole: read it to its end, or to a bound
    DS_LINGER       our side is closed; what the client still sends is dropped, so that it can read the answer
    DS_TUNNEL       the upstream has answered 101: bytes both ways until one side closes
    DS_DEAD
"""

from libc.stdint cimport int64_t, uint8_t

from fastgw.dp._body cimport Body
from fastgw.dp._core cimport Listener
from fastgw.dp._respond cimport Responder

cdef enum DownstreamState:
    DS_CLEAN
    DS_READ_HEAD
    DS_READ_BODY
    DS_ANSWERING
    DS_DRAINING
    DS_LINGER
    DS_TUNNEL
    DS_DEAD

cdef enum:
    MAX_DRAIN_BYTES = 262144  # of an unwanted request body, before the connection is given up
    LINGER_MS = 2000
    MAX_LEADING_BYTES = 4     # empty lines before a request (RFC 9112 §2.2)


cdef class Downstream(Responder):
    cdef:
        DownstreamState state
        bytearray held            # bytes read and not yet taken
        Py_ssize_t held_looked_at
        bint has_eof              # the client has closed its side
        bint is_resume_planned
        int served                # requests so far
        int leading_bytes
        bytearray trailers        # the request's, while they come
        Body draining             # the rest of a request body that nobody wants
        int64_t drained           # bytes dropped in DS_DRAINING
        int64_t body_deadline_ms  # when the body in progress has been too slow
        Listener listener
        bytes peer                # address text
        bytes client              # the same of a PROXY header that is believed; None: none
        bytes fixed               # X-Real-IP, X-Forwarded-Proto and -Port: the same for every request

    cdef int _set_state(self, DownstreamState state) except -1
    cdef int _received(self, uint8_t* data, Py_ssize_t size) except -1
    cdef Py_ssize_t _take_head(self, uint8_t* data, Py_ssize_t size) except -2
    cdef Py_ssize_t _wait_for_head(self, uint8_t* data, Py_ssize_t size) except -2
    cdef int _keep_trailers(self) except -1
    cdef int _watch_body(self) except -1
    cdef Py_ssize_t _drain(self, uint8_t* data, Py_ssize_t size) except -2
    cdef Py_ssize_t _take_body(self, uint8_t* data, Py_ssize_t size) except -2
    cdef int _hold(self, const uint8_t* data, Py_ssize_t size) except -1
    cdef int _refuse_head(self, int status, const uint8_t* data, Py_ssize_t size) except -1
    cdef int _close(self) except -1
    cdef int _linger(self) except -1
    cdef int _become_clean(self) except -1
    cdef int _plan_resume(self) except -1
