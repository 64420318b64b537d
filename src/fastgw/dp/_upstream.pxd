"""Connections to upstreams, and the pools in which idle ones wait.

States of a connection (http-security §4; the table stands in `states.py`):

    UP_CLEAN     idle in its pool, nothing owed and nothing left over
    UP_WAITING   a request is going out, the answer's head has not come
    UP_BODY      the answer's body comes
    UP_TUNNEL    the answer was 101: bytes until one side closes
    UP_DEAD      closed, or about to be; never used again

Only a complete, in-frame exchange with no bytes left behind leads back to UP_CLEAN.
"""

from libc.stdint cimport int64_t, uint8_t

from fastgw.dp._body cimport Body
from fastgw.dp._core cimport ProxyCore
from fastgw.dp._exchange cimport Exchange, Failure, UpstreamPool, UpstreamSide
from fastgw.dp._head cimport ResponseHead

cdef enum UpstreamState:
    UP_CLEAN
    UP_WAITING
    UP_BODY
    UP_TUNNEL
    UP_DEAD

cdef enum:
    MAX_INTERIM = 16          # 1xx answers before the final one


cdef class UpstreamConnection(UpstreamSide):
    cdef:
        Pool pool
        UpstreamState state
        bytearray held            # a head that has not come whole
        Py_ssize_t held_looked_at
        Body body
        bint keeps_alive          # as the answer's head says
        bint is_answered          # the exchange is over: whole in both directions
        int served                # exchanges so far
        int interim_count
        int64_t read_ms           # the service's timeouts for the exchange in progress
        int64_t write_ms
        bint is_write_broken      # takes no more of the request; an answer may still come
        bytearray trailers        # the answer's, while they come and the client wants them
        bint keeps_trailers       # and Connection names no field, which one of them might be (RFC 9110 §7.6.1)

    cdef int _set_state(self, UpstreamState state) except -1
    cdef int _received(self, uint8_t* data, Py_ssize_t size) except -1
    cdef Py_ssize_t _take_head(self, uint8_t* data, Py_ssize_t size) except -1
    cdef int _answer_begins(
        self, const uint8_t* head, ResponseHead* response, uint8_t* rest, Py_ssize_t size
    ) except -1
    cdef int _keep_trailers(self) except -1
    cdef bint _is_open(self) noexcept
    cdef int _complete(self, Py_ssize_t left_over) except -1
    cdef int _fail(self, Failure failure) except -1


cdef class Pool(UpstreamPool):
    """Idle connections to one address of a service, newest first.

    Newest first (LIFO) keeps few connections warm under light load and lets the others expire; under full
    load the order does not matter.
    """

    cdef:
        object __weakref__            # the connector knows pools only as long as somebody uses them
        readonly ProxyCore core
        readonly str host
        readonly int port
        readonly object tls           # tls.client.UpstreamTls; None: plain
        list idle
        Py_ssize_t idle_limit         # 0: every exchange has a connection of its own
        int requests_limit            # per connection; 0: none
        int64_t idle_ms               # 0: for ever

    cdef int give_back(self, UpstreamConnection connection) except -1
    cdef int forget(self, UpstreamConnection connection) except -1
