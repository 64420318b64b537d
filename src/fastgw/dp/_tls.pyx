"""TLS between a socket and its connection (see `_tls.pxd`).

Nothing is taken for application data before the handshake is complete, and nothing after a record that does
not check out. An error is told to the peer by the alert that OpenSSL wrote, and ends the connection.

`SSLObject.read` says "no whole record yet" by an exception, which costs more than decrypting a small record;
so it is asked only while the BIO holds something, and a small request costs none.

Source: RFC 8446 §6.1 (closing), RFC 5246 §7.2.1; http-security checklist §2.6.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.string cimport memcpy

from ssl import CertificateError, MemoryBIO, SSLError, SSLWantReadError, SSLZeroReturnError

from fastgw.dp._core cimport CLEAR_BYTES, RECORD_BYTES, ProxyCore

from fastgw.tls.client import check_depth, explain

cdef enum:
    HANDSHAKE = 0x16          # the type of a client's first record


cdef TlsLayer server_layer(object certificates):
    cdef TlsLayer layer = TlsLayer()
    layer.certificates = certificates
    return layer


cdef TlsLayer client_layer(object loop, object context, str server_name, int verify_depth):
    cdef TlsLayer layer = TlsLayer()
    layer.incoming = MemoryBIO()
    layer.outgoing = MemoryBIO()
    layer.ssl = context.wrap_bio(layer.incoming, layer.outgoing, server_hostname=server_name)
    layer.verify_depth = verify_depth
    layer.waiter = loop.create_future()
    return layer


cdef class TlsLayer(Layer):
    def __cinit__(self):
        self.verify_depth = -1

    cdef int start(self, Connection connection) except -1:
        """A client speaks first; a server makes nothing before it has heard of its client."""
        if self.ssl is not None:
            self._shake_hands(connection)
            self._flush(connection)
        return 0

    cdef int receive(self, Connection connection, uint8_t* data, Py_ssize_t size) except -1:
        cdef ProxyCore core = connection.core
        cdef Py_ssize_t taken, clear = 0
        if self.ssl is None:
            if data[0] != HANDSHAKE:
                if c'A' <= data[0] <= c'Z':
                    connection.layer = None
                    return connection.refuse_plain_text()
                return connection.abort()
            self.incoming = MemoryBIO()
            self.outgoing = MemoryBIO()
            certificates, self.certificates = self.certificates, None
            self.ssl = certificates.wrap(self.incoming, self.outgoing)
        while size and not connection.is_closed and not self.has_ended:
            if CLEAR_BYTES - clear < RECORD_BYTES + SLICE_BYTES:
                connection.receive(core.clear, clear)
                clear = 0
            taken = min(size, <Py_ssize_t>SLICE_BYTES)
            self.incoming.write(PyMemoryView_FromMemory(<char*>data, taken, PyBUF_READ))
            data += taken
            size -= taken
            if not self.is_open and not self._shake_hands(connection):
                continue
            clear = self._decrypt(connection, clear)
        if connection.is_closed:
            return 0
        if clear:
            connection.receive(core.clear, clear)
        self._flush(connection)
        if self.has_ended and not connection.is_closed and not connection.receive_end():
            connection.close_after_flush()
        return 0

    cdef bint receive_end(self, Connection connection) except -1:
        """The socket's end. Without a close_notify before it anybody may have made it: a cut."""
        if self.has_ended:
            # The connection has heard of the end; it is kept open for what it still sends.
            return not connection.is_closed
        connection.is_cut = True
        self.has_ended = True
        if not self.is_open:
            connection.abort()
            return False
        return connection.receive_end()

    cdef bint send(self, Connection connection, iovec* parts, int count) except -1:
        cdef uint8_t* data
        cdef Py_ssize_t total = 0
        cdef int place
        if connection.is_closed or not self.is_open or self.is_finished:
            return False
        for place in range(count):
            total += parts[place].iov_len
        if total > SENT_RECORD_BYTES:
            return self._send_long(connection, parts, count, total)
        if total == 0:
            return True
        if count == 1:
            data = <uint8_t*>parts[0].iov_base
        else:
            # One record for a head and its body.
            data = connection.core.record
            total = 0
            for place in range(count):
                memcpy(data + total, parts[place].iov_base, parts[place].iov_len)
                total += parts[place].iov_len
        try:
            self.ssl.write(PyMemoryView_FromMemory(<char*>data, total, PyBUF_READ))
        except SSLError as error:
            self._fail(connection, error)
            return False
        return self._flush(connection)

    cdef bint _send_long(self, Connection connection, iovec* parts, int count, Py_ssize_t total) except -1:
        """Send in full records, several of them by one system call."""
        cdef ProxyCore core = connection.core
        cdef iovec batch[BATCHED_RECORDS]
        cdef uint8_t* data
        cdef Py_ssize_t wanted, joined, piece
        cdef list records = []
        cdef int batched
        while total:
            wanted = min(total, <Py_ssize_t>SENT_RECORD_BYTES)
            total -= wanted
            while parts[0].iov_len == 0:
                parts += 1
            if <Py_ssize_t>parts[0].iov_len >= wanted:
                data = <uint8_t*>parts[0].iov_base
                parts[0].iov_base = data + wanted
                parts[0].iov_len -= wanted
            else:
                data = core.record
                joined = 0
                while joined < wanted:
                    piece = min(<Py_ssize_t>parts[0].iov_len, wanted - joined)
                    memcpy(data + joined, parts[0].iov_base, piece)
                    joined += piece
                    parts[0].iov_base = <uint8_t*>parts[0].iov_base + piece
                    parts[0].iov_len -= piece
                    if parts[0].iov_len == 0 and joined < wanted:
                        parts += 1
            try:
                self.ssl.write(PyMemoryView_FromMemory(<char*>data, wanted, PyBUF_READ))
            except SSLError as error:
                self._fail(connection, error)
                return False
            records.append(self.outgoing.read())
            batched = len(records)
            if batched == BATCHED_RECORDS or total == 0:
                for place in range(batched):
                    record = <bytes>records[place]
                    batch[place].iov_base = PyBytes_AS_STRING(record)
                    batch[place].iov_len = len(record)
                if not connection.put_vector(batch, batched):
                    return False
                records.clear()
        return True

    cdef int finish(self, Connection connection) except -1:
        if self.is_open and not self.is_finished and not connection.is_closed:
            self.is_finished = True
            try:
                self.ssl.unwrap()
            except SSLError:
                pass  # the peer's close_notify has not come yet, or never will
            self._flush(connection)
        return 0

    cdef int lost(self, Connection connection, object error) except -1:
        self._end_waiting(error or ConnectionResetError("the peer closed the connection"))
        return 0

    cdef bint _end_waiting(self, object error) except -1:
        """Tell who waits for the handshake; False when nobody does."""
        if self.waiter is None or self.waiter.done():
            return False
        if error is None:
            self.waiter.set_result(None)
        else:
            self.waiter.set_exception(error)
            self.waiter.exception()  # known: whoever waited may have given up
        return True

    cdef bint _shake_hands(self, Connection connection) except -1:
        """Go on with the handshake; True once it is done."""
        try:
            self.ssl.do_handshake()
            if self.verify_depth >= 0:
                check_depth(self.ssl, self.verify_depth)
        except SSLWantReadError:
            return False
        except (SSLError, CertificateError, ValueError) as error:
            self._fail(connection, error)
            return False
        self.is_open = True
        if self.waiter is None and self.ssl.requested_name is not None:
            self.server_name = self.ssl.requested_name.lower().encode()
        self._end_waiting(None)
        connection.layer_ready()
        return True

    cdef Py_ssize_t _decrypt(self, Connection connection, Py_ssize_t at) except -1:
        """Read what is whole into the shared buffer, from *at* on; return where it ends.

        There is room for a record that began earlier, and behind it for the rest of one slice.
        """
        cdef uint8_t* target = connection.core.clear
        cdef Py_ssize_t size, room
        while self.incoming.pending:
            room = min(CLEAR_BYTES - at, <Py_ssize_t>RECORD_BYTES)
            try:
                size = self.ssl.read(room, PyMemoryView_FromMemory(<char*>target + at, room, PyBUF_WRITE))
            except SSLWantReadError:
                break
            except SSLZeroReturnError:
                size = 0  # how the peer's close_notify is told once ours has gone
            except SSLError as error:
                self._fail(connection, error)
                break
            if size == 0:
                self.has_ended = True
                break
            at += size
        return at

    cdef bint _flush(self, Connection connection) except -1:
        """Send what OpenSSL has written; False when the connection is broken."""
        cdef bytes data
        if self.outgoing is None or not self.outgoing.pending:
            return True
        data = self.outgoing.read()
        return connection.put(<const uint8_t*>PyBytes_AS_STRING(data), len(data))

    cdef int _fail(self, Connection connection, object error) except -1:
        """Send the alert, if any, and close."""
        self.is_finished = True
        if not self._end_waiting(error) and not connection.is_closed:
            connection.core.log.info("TLS with %s ends: %s", connection.peer_name(), explain(error))
        self._flush(connection)
        return connection.close_after_flush()
