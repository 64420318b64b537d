"""Taking a PROXY header off a connection (see `proxy_header.py` for the format).

Nothing is answered before the header is whole: whoever connects without one is no load balancer of ours, and
is cut off at the first byte that tells. The deadline of the first head covers the header, too.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from posix.uio cimport iovec

from fastgw.dp._core cimport Connection
from fastgw.dp._tls cimport server_layer

from fastgw.dp.proxy_header import LONGEST_V2, read_header

cdef enum:
    # The fixed part of version 2 and all that may follow it.
    LONGEST_BYTES = 16 + 4096

assert LONGEST_V2 == LONGEST_BYTES - 16


cdef Layer first_layer(Listener listener):
    cdef ProxyHeaderLayer layer
    if listener.takes_proxy_header:
        layer = ProxyHeaderLayer()
        layer.listener = listener
        layer.held = b""
        return layer
    return _layer_behind(listener)


cdef Layer _layer_behind(Listener listener):
    return None if listener.certificates is None else server_layer(listener.certificates)


cdef class ProxyHeaderLayer(Layer):
    cdef int receive(self, Connection connection, uint8_t* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t before = len(self.held)
        cdef Py_ssize_t looked_at = min(size, LONGEST_BYTES - before)
        cdef bytes head = self.held + PyBytes_FromStringAndSize(<const char*>data, looked_at)
        cdef Layer following
        try:
            header = read_header(head)
        except ValueError as error:
            connection.core.log.info("PROXY header of %s: %s", connection.peer_name(), error)
            return connection.abort()
        if header is None:
            self.held = head
            return 0
        if header.client is not None:
            connection.set_client(header.client)
        following = _layer_behind(self.listener)
        connection.layer = following
        # No part of the header was whole before: what is behind it lies in this read.
        data += header.size - before
        size -= header.size - before
        if size == 0:
            return 0
        if following is None:
            return connection.receive(data, size)
        return following.receive(connection, data, size)

    cdef bint receive_end(self, Connection connection) except -1:
        connection.abort()
        return False

    cdef bint send(self, Connection connection, iovec* parts, int count) except -1:
        return False
