"""The worker's timer wheel: deadlines in slots of 100 ms, one turn every 102 s (see `_wheel.pxd`).

A deadline fires at most one tick late and never early. The loop calls `run(now_ms)` once per tick.
"""

cimport cython
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec


cdef int64_t monotonic_ms() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000 + now.tv_nsec // 1000000


cdef int64_t monotonic_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1000000 + now.tv_nsec // 1000


@cython.no_gc_clear
cdef class Timed:
    def __cinit__(self):
        self.deadline_ms = NO_DEADLINE
        self.linked_tick = -1

    cdef void on_deadline(self, int64_t now_ms) noexcept:
        """Called once when the deadline has passed; the entry is in no slot then."""


cdef class TimerWheel:
    def __cinit__(self, int64_t now_ms):
        cdef int _place
        cdef Timed sentinel
        self.tick = now_ms // TICK_MS
        self.linked = 0
        self.slots = []
        for _place in range(WHEEL_SLOTS):
            sentinel = Timed()
            sentinel.wheel_next = sentinel
            sentinel.wheel_previous = sentinel
            self.slots.append(sentinel)

    cdef void arm(self, Timed entry, int64_t deadline_ms) noexcept:
        """Set the entry's deadline (monotonic ms), linking it anew only where it must be seen earlier."""
        entry.deadline_ms = deadline_ms
        if entry.linked_tick < 0:
            self._link(entry)
        elif deadline_ms // TICK_MS + 1 < entry.linked_tick:
            self._unlink(entry)
            self._link(entry)

    cdef void disarm(self, Timed entry) noexcept:
        """Forget the entry: `on_deadline` will not be called until it is armed again."""
        entry.deadline_ms = NO_DEADLINE
        if entry.linked_tick >= 0:
            self._unlink(entry)

    @cython.boundscheck(False)  # the index is a remainder of WHEEL_SLOTS
    cdef void _link(self, Timed entry) noexcept:
        cdef Timed sentinel, last
        # One tick later than the division says, so that it never fires early.
        cdef int64_t tick = entry.deadline_ms // TICK_MS + 1
        if tick <= self.tick:
            tick = self.tick + 1
        elif tick >= self.tick + WHEEL_SLOTS:
            tick = self.tick + WHEEL_SLOTS - 1
        sentinel = <Timed>self.slots[tick % WHEEL_SLOTS]
        last = sentinel.wheel_previous
        entry.linked_tick = tick
        entry.wheel_next = sentinel
        entry.wheel_previous = last
        last.wheel_next = entry
        sentinel.wheel_previous = entry
        self.linked += 1

    cdef void _unlink(self, Timed entry) noexcept:
        entry.wheel_previous.wheel_next = entry.wheel_next
        entry.wheel_next.wheel_previous = entry.wheel_previous
        entry.wheel_next = None
        entry.wheel_previous = None
        entry.linked_tick = -1
        self.linked -= 1

    def run(self, int64_t now_ms):
        """Call `on_deadline` of every entry whose deadline has passed; link the others anew."""
        cdef int64_t until = now_ms // TICK_MS
        cdef Timed sentinel, entry
        if until - self.tick > WHEEL_SLOTS:
            # The process was stopped for more than a turn: one turn visits every slot.
            self.tick = until - WHEEL_SLOTS
        while self.tick < until:
            self.tick += 1
            sentinel = <Timed>self.slots[self.tick % WHEEL_SLOTS]
            # A ring that grows while it is walked (an entry armed by a callback goes to a later slot).
            while sentinel.wheel_next is not sentinel:
                entry = sentinel.wheel_next
                self._unlink(entry)
                if entry.deadline_ms == NO_DEADLINE:
                    continue
                if entry.deadline_ms > now_ms:
                    self._link(entry)
                    continue
                entry.deadline_ms = NO_DEADLINE
                entry.on_deadline(now_ms)


cdef class Alarm(Timed):
    """An entry that calls a Python function: for tests and for waits outside the hot path."""

    cdef object callback

    def __init__(self, callback):
        self.callback = callback

    cdef void on_deadline(self, int64_t now_ms) noexcept:
        self.callback(now_ms)

    def arm(self, TimerWheel wheel, int64_t deadline_ms):
        wheel.arm(self, deadline_ms)

    def postpone(self, int64_t deadline_ms):
        """Move the deadline the cheap way, as connections do: only ever later."""
        self.deadline_ms = deadline_ms

    def disarm(self, TimerWheel wheel):
        wheel.disarm(self)
