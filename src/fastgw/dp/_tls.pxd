"""TLS between a socket and its connection: `ssl.SSLObject` over two memory BIOs, with no buffer of its own.

States: no `ssl` yet (a server that waits for the first byte) → handshake → `is_open` → `is_finished` (our
close_notify has gone) and `has_ended` (the peer's has come), in either order.

What an idle connection keeps is OpenSSL's own state, and in each BIO as much room as was ever needed there
at once. So a BIO never holds more than SLICE_BYTES on the way in and one record on the way out: a BIO grows
and never shrinks.
"""

from libc.stdint cimport uint8_t
from posix.uio cimport iovec

from fastgw.dp._core cimport Connection, Layer

cdef enum:
    # Half of the largest record (16,384 bytes, at most 256 of padding and tag, and 5 of header).
    SLICE_BYTES = 8323
    # Payload of the records that long bodies go out in.
    SENT_RECORD_BYTES = 8192
    BATCHED_RECORDS = 8       # sent by one system call


cdef class TlsLayer(Layer):
    cdef:
        object certificates       # of a server, until the first byte; then None
        object ssl                # ssl.SSLObject
        object incoming           # ssl.MemoryBIO: bytes of the peer, not yet understood
        object outgoing           # ssl.MemoryBIO: bytes for the peer
        readonly object waiter    # of a client: the future that its handshake ends
        int verify_depth          # of a client: see `tls.client.check_depth`; -1: not verified
        readonly bytes server_name    # of a server: what its client asked for, lower case; None: nothing
        readonly bint is_open
        readonly bint is_finished
        readonly bint has_ended

    cdef bint _shake_hands(self, Connection connection) except -1
    cdef Py_ssize_t _decrypt(self, Connection connection, Py_ssize_t at) except -1
    cdef bint _flush(self, Connection connection) except -1
    cdef bint _send_long(self, Connection connection, iovec* parts, int count, Py_ssize_t total) except -1
    cdef bint _end_waiting(self, object error) except -1
    cdef int _fail(self, Connection connection, object error) except -1


# A client's layer for a connection of *loop*; ValueError where *server_name* can be none.
cdef TlsLayer client_layer(object loop, object context, str server_name, int verify_depth)

# A server's layer, whose handshake takes its certificate from *certificates* (tls.server.CertificateStore).
cdef TlsLayer server_layer(object certificates)
