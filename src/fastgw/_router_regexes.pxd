# The regular expressions of one table, compiled on first use.

from libc.stdint cimport uint8_t, uint32_t

from fastgw._router cimport RegexRecord


cdef class Regexes:
    cdef const uint8_t* block         # whoever owns this keeps it
    cdef const RegexRecord* records
    cdef list compiled                # by place; None: not yet

    @staticmethod
    cdef Regexes over(const uint8_t* block, uint32_t offset, uint32_t count)

    # Whether a regex matches, and up to where if that begins at the start of *text* (else 0).
    cdef bint search(
        self, uint32_t regex, int flags, const uint8_t* text, Py_ssize_t n, uint32_t* end
    ) noexcept with gil

    # The spans of a regex's groups in *text*; those that took no part are (-1, -1).
    cdef list spans(self, uint32_t regex, int flags, bytes text)

    # The groups by number and by name of what a regex matches; None: it does not.
    cdef dict groups(self, uint32_t regex, int flags, bytes text)

    cdef bytes pattern(self, uint32_t regex)
