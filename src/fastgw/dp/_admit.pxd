"""A request's way in: from a judged head to a request that goes upstream, or to an answer of ours."""

from libc.stdint cimport uint8_t

from fastgw.dp._exchange cimport ClientSide, Exchange
from fastgw.dp._fields cimport Span
from fastgw.dp._head cimport RequestHead

# *data* is the head that *request* describes, good until the call returns; *host* is lower-cased and
# checked, its port (if any) starts at *host_port_at*. False: the request was answered here. True: the
# caller goes on with `Exchange.request_bytes`, at least once.
cdef bint admit(
    Exchange exchange, ClientSide client, const uint8_t* data, RequestHead* request, Span host,
    Py_ssize_t host_port_at, int listener_port
) except -1

# The parts of `admit` that plugins come between: routing and what follows; what follows access. *path_len*:
# of the normalised path, what the route has matched.
cdef bint find_route(
    Exchange exchange, const uint8_t* data, RequestHead* request, Span host, Py_ssize_t host_port_at,
    int listener_port
) except -1
cdef bint forward(
    Exchange exchange, const uint8_t* data, RequestHead* request, Span host, Py_ssize_t host_port_at,
    Py_ssize_t path_len
) except -1
