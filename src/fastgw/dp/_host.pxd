"""Host, and the authority of a target: one grammar."""

from libc.stdint cimport uint8_t

from fastgw.dp._fields cimport Span

# Host header or authority, lower-cased into out (at least value.size bytes); -1 when it breaks RFC 3986.
cdef Py_ssize_t read_host(Span value, uint8_t* out, Py_ssize_t* port_start) noexcept nogil
