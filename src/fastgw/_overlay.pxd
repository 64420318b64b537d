# A route table in two blocks, searched as one: a large base, and a small overlay that changes it.
#
# A route of the base that the overlay removes or replaces is marked: a bit by its number. A search takes
# the better of the base's best unmarked candidate and the overlay's best. Numbers of the overlay's routes
# go on from the base's last, so that one number says both where a route is and which it is.

from libc.stdint cimport uint8_t, uint32_t

from fastgw._router cimport FoundRoute, RouteRequest, Table


cdef class LayeredTable:
    cdef:
        readonly Table base
        readonly Table overlay            # None: the base is all
        readonly uint32_t base_routes     # how many routes the base holds: the first number of the overlay
        bytes marks
        const uint8_t* removed            # into marks; NULL: none
        list order                        # of `in_order`, once that was asked for; None before

    # The same as Table.find.
    cdef bint find(self, const RouteRequest* request, FoundRoute* out) noexcept nogil

    # The same as Table.captures.
    cdef dict captures(self, const FoundRoute* found, const uint8_t* path, Py_ssize_t n)

    cdef Py_ssize_t place(self, Py_ssize_t rank) except -1
    cdef list in_order(self)
