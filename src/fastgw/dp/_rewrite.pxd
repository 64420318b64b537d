"""Heads for the other side: what is written besides the fields that pass this hop.

Nothing here owns or checks memory: the caller's buffer holds the head that came, the spans given, and
`HEAD_OVERHEAD` bytes.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.string cimport memcpy

from fastgw.dp._fields cimport Field, Framing, Span
from fastgw.dp._head cimport RequestHead, ResponseHead

cdef struct RequestOut:
    Span path                 # already encoded
    Span query
    Span host                 # as it goes upstream
    Span original_path        # X-Forwarded-Path
    Span forwarded_host       # X-Forwarded-Host: no port
    Span prefix               # X-Forwarded-Prefix; size 0: none
    Span peer                 # address text of the TCP peer
    Span connection_block     # constant per downstream connection: X-Real-IP, -Proto, -Port
    Span via_token            # "1.1 fastgw/VERSION"
    Span request_id           # 32 hex digits; size 0: none
    bint expect_continue
    bint websocket            # Upgrade goes on

cdef Py_ssize_t write_request_head(
    uint8_t* out, const uint8_t* head, RequestHead* request, RequestOut* to
) noexcept nogil

cdef struct ResponseOut:
    Span date                 # whole line, added when the upstream sent none (RFC 9110 §6.6.1)
    Span via_token            # size 0: none
    Span request_id           # size 0: none
    Span more                 # whole fields, each with its CRLF
    bint latencies
    bint upstream_status
    int64_t proxy_ms
    int64_t upstream_ms
    int64_t content_length    # -1: none is written
    bint chunked
    bint keep_alive
    bint websocket            # 101: the connection becomes a tunnel
    bint trailers             # Trailer goes on

cdef Py_ssize_t write_response_head(
    uint8_t* out, const uint8_t* head, ResponseHead* response, ResponseOut* to
) noexcept nogil
cdef Py_ssize_t write_interim_head(uint8_t* out, const uint8_t* head, ResponseHead* response) noexcept nogil
# The head without the fields that its Connection names, which then names none; for who adds fields to it.
cdef bytes drop_nominated(
    const uint8_t* head, Py_ssize_t size, Field* fields, uint32_t count, Framing* framing)
cdef Py_ssize_t write_status_line(uint8_t* out, int status) noexcept nogil
cdef Py_ssize_t write_decimal(uint8_t* out, int64_t value) noexcept nogil

# What write_*_head add at most beyond the head that they read and the spans that they are given.
cdef enum:
    HEAD_OVERHEAD = 1024


cdef inline Py_ssize_t put(uint8_t* out, const void* data, Py_ssize_t size) noexcept nogil:
    """Copy and return the size: `at += put(out + at, …)`."""
    memcpy(out, data, size)
    return size
