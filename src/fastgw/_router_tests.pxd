# Programs at work: what must hold of a request beyond host, path and method.

from libc.stdint cimport uint8_t, uint32_t

from fastgw._router cimport Instruction, RouteRequest
from fastgw._router_hosts cimport HostParts


# A request as programs see it.
cdef struct Subject:
    void* regexes                     # a Regexes, which the caller keeps
    const RouteRequest* request
    HostParts host
    uint32_t port                     # the host's or the listener's
    uint32_t own_path_len             # what the last program matched of the path


# One test of a program; a field that the request does not have fails each of them.
cdef bint compare(Subject* subject, const uint8_t* program, const Instruction* test) noexcept nogil

# Run a program.
cdef bint holds(Subject* subject, const uint8_t* program) noexcept nogil
