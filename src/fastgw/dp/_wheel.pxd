"""One coarse timer wheel per worker: no timer object per request.

A connection *is* its own timer: it derives from `Timed` and moves `deadline_ms` as it likes, which is
one store. The wheel looks at it when the slot it was linked in comes round: if the deadline has moved
on, it is linked anew; if it has passed, `on_deadline` is called. Only an earlier deadline than the
linked slot needs `arm`.
"""

from libc.stdint cimport int64_t

cdef enum:
    WHEEL_SLOTS = 1024
    TICK_MS = 100             # so the horizon is 102 s; later deadlines are linked anew on the way
    NO_DEADLINE = 0


cdef class Timed:
    cdef:
        int64_t deadline_ms       # monotonic; NO_DEADLINE: none
        int64_t linked_tick       # the tick this entry is linked for; -1: in no slot
        Timed wheel_next
        Timed wheel_previous

    cdef void on_deadline(self, int64_t now_ms) noexcept


cdef class TimerWheel:
    cdef:
        list slots                # WHEEL_SLOTS sentinels, each the head of a ring
        int64_t tick              # the last tick that was run
        readonly Py_ssize_t linked

    cdef void arm(self, Timed entry, int64_t deadline_ms) noexcept
    cdef void disarm(self, Timed entry) noexcept
    cdef void _link(self, Timed entry) noexcept
    cdef void _unlink(self, Timed entry) noexcept


cdef int64_t monotonic_ms() noexcept nogil
cdef int64_t monotonic_us() noexcept nogil
