# cython: language_level=3, wraparound=False, boundscheck=False
"""Loops over the compiled code as the proxy calls it: in C, without the GIL. For benchmarks only."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from fastgw._router cimport FoundRoute, RouteRequest, Table
from fastgw._router cimport Request as RouterRequest
from fastgw._uri cimport encode_into, is_plain, normalise_into, upstream_path_into


cdef struct Request:
    const uint8_t* host
    Py_ssize_t host_len
    const uint8_t* path
    Py_ssize_t path_len


cdef class Requests:
    """GET requests, looked up a thousand at a time, round and round."""

    cdef Request* requests
    cdef Py_ssize_t count
    cdef Py_ssize_t next
    cdef bytes text                   # of all: what a request holds was read just before it is routed
    cdef RouterRequest like           # headers of all of them

    def __init__(self, list pairs not None, headers=()):
        cdef bytes host
        cdef bytes path
        cdef Py_ssize_t i
        cdef Py_ssize_t at = 0
        cdef const uint8_t* text
        self.text = b"".join([part for pair in pairs for part in pair])
        text = <const uint8_t*>PyBytes_AS_STRING(self.text)
        self.like = RouterRequest(headers=headers)
        self.count = len(pairs)
        self.requests = <Request*>calloc(self.count, sizeof(Request))
        if self.requests == NULL:
            raise MemoryError
        for i in range(self.count):
            host, path = pairs[i]
            self.requests[i] = Request(text + at, len(host), text + at + len(host), len(path))
            at += len(host) + len(path)

    def __dealloc__(self):
        free(self.requests)

    def find_1000(self, Table table not None):
        """How many of the next thousand requests find a route."""
        cdef FoundRoute found
        cdef RouteRequest asked
        cdef const Request* request
        cdef Py_ssize_t _
        cdef Py_ssize_t hits = 0
        asked = self.like.parts
        with nogil:
            for _ in range(1000):
                request = &self.requests[self.next]
                self.next += 1
                if self.next == self.count:
                    self.next = 0
                asked.host = request.host
                asked.host_len = request.host_len
                asked.path = request.path
                asked.path_len = request.path_len
                hits += table.find(&asked, &found)
        return hits


def prepare_1000(bytes path not None):
    """A request path on its way upstream, a thousand times; the length of the last.

    As the proxy does it: a plain path is left alone, another is brought to normal form, joined to the
    service's and encoded.
    """
    cdef uint8_t normal[4096]
    cdef uint8_t joined[4096]
    cdef uint8_t encoded[12288]
    cdef const uint8_t* sent = <const uint8_t*>PyBytes_AS_STRING(path)
    cdef Py_ssize_t n = len(path)
    cdef Py_ssize_t size = 0
    cdef int _
    if n > 4000:
        raise ValueError("a path of at most 4000 bytes")
    with nogil:
        for _ in range(1000):
            if is_plain(sent, n):
                size = n
                continue
            size = normalise_into(sent, n, normal)
            size = upstream_path_into(<const uint8_t*>b"/base", 5, normal, size, 1, True, False, joined)
            size = encode_into(joined, size, encoded)
    return size
