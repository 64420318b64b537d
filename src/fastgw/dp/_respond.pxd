"""The answering half of a client's HTTP/1.x connection; `_downstream` is the whole.

How a body goes out is chosen by the request and the answer's status, never copied from the upstream.
"""

from libc.stdint cimport uint8_t
from posix.uio cimport iovec

from fastgw.dp._body cimport BodyKind
from fastgw.dp._exchange cimport ClientSide, Exchange


cdef class Responder(ClientSide):
    cdef:
        Exchange exchange         # in progress; None between requests
        BodyKind out_kind         # how the answer's body goes out
        bint closes               # after the answer in progress
        bytes own_id              # of the answer to what was no request, for the log; its sizes in bytes
        Py_ssize_t own_size
        Py_ssize_t own_head_size

    cdef int _send_body(
        self, iovec* parts, int count, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    cdef int send_answer(self, int status, str message, bint is_error_page) except -1
    # Answer, count and log what is no request; *data* as far as it came. None: the text of the status.
    cdef int refuse_request(self, int status, const uint8_t* data, Py_ssize_t size, str message=*) except -1
