"""Exchanges on their way through the plugins of their routes.

    admit ──> Phases.rewrite ──> find_route ──> Phases.access ──> forward ──> …
                    └── an answer, an error ──────────┴──> Exchange.refuse

`PluginHooks` is what one exchange has of it, made only where there are plugins. It may outlive the exchange's
work (a task that waits, the log), so it drops its exchange when that ends, and whoever comes later finds none.
"""

from libc.stdint cimport int64_t, uint8_t

from fastgw.dp._core cimport ProxyCore
from fastgw.dp._exchange cimport Exchange, Hooks, PhaseRunner
from fastgw.dp._fields cimport Span
from fastgw.dp._head cimport RequestHead, ResponseHead

cdef class Phases(PhaseRunner):
    cdef readonly ProxyCore core

    cdef PluginHooks _hooks(
        self, Exchange exchange, const uint8_t* data, RequestHead* request, int listener_port)


cdef class PluginHooks(Hooks):
    cdef:
        ProxyCore core
        Exchange exchange         # None: it has ended
        object chain              # the route's, once there is one; before it that for everything
        object collected          # whose later phases run
        object request            # plugins.messages.Request
        object response           # plugins.messages.Response; None before the answer
        bytes head                # the request's, as it came
        int listener_port
        Py_ssize_t path_size      # of the normalised path, what the route has matched
        bint is_routed
        bint is_broken            # a plugin has failed in a filter: no filter runs any more
        bint is_gathering         # the answer's body is gathered for the phase `response`
        bytes answer_head         # the upstream's, for the phase `response`
        bytearray gathered

    cdef bint _take(self, object found, bint is_access) except -1
    cdef int _wait(self, object coroutine, bint is_access) except -1
    cdef bint _go_on(self, bint is_access) except -1
    cdef bint _run_access(self) except -1
    cdef bint _parse(self, RequestHead* request, bytes data, Span* host, Py_ssize_t* port_at) except -1
    cdef int _fail(self, object failed) except -1
    cdef int _send_changed(
        self, const uint8_t* head, ResponseHead* response, const uint8_t* body, Py_ssize_t size, bint is_last
    ) except -1
    cdef int _run_responses(self) except -1
    cdef int _send_gathered(self) except -1
