"""Base and overlay as one route table (see `_overlay.pxd`).

Contract. For every request the answer is that of one table compiled of the routes that are in force; which
block a route lies in is seen only in its number. Without an overlay a search costs one branch more than
that of the base.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t
from libc.string cimport memset

from fastgw._router cimport Candidate, FoundRoute, Request, RouteRequest, Table, is_marked, outranks


cdef inline FoundRoute found_at(Table table, Py_ssize_t rank) noexcept nogil:
    cdef FoundRoute found
    memset(&found, 0, sizeof(FoundRoute))
    found.candidate = <const Candidate*>(table.block + table.header.candidates_offset) + rank
    return found


cdef class LayeredTable:
    def __init__(self, Table base not None, Py_ssize_t base_routes, Table overlay=None, removed=()):
        cdef bytearray marks
        if base_routes < base.routes or base_routes >= 0xFFFFFFFF:
            raise ValueError(f"a table of {base.routes} routes in a base of {base_routes}")
        if overlay is not None and overlay.flavor != base.flavor:
            raise ValueError("the flavor of the one is another than that of the other")
        self.base = base
        self.overlay = overlay
        self.base_routes = base_routes
        self.removed = NULL
        if removed:
            marks = bytearray((base_routes + 7) // 8)
            for number in removed:
                if not 0 <= number < base_routes:
                    raise ValueError(f"it removes the route {number} of {base_routes}")
                marks[number >> 3] |= 1 << (number & 7)
            self.marks = bytes(marks)
            self.removed = <const uint8_t*>PyBytes_AS_STRING(self.marks)

    cdef bint find(self, const RouteRequest* request, FoundRoute* out) noexcept nogil:
        cdef FoundRoute other
        cdef bint is_found = self.base.find_but(self.removed, request, out)
        if self.overlay is None or not self.overlay.find(request, &other):
            return is_found
        if not is_found or outranks(&other, out):
            out[0] = other
            out.route += self.base_routes
        return True

    cdef dict captures(self, const FoundRoute* found, const uint8_t* path, Py_ssize_t n):
        return (self.base if found.route < self.base_routes else self.overlay).captures(found, path, n)

    def match(self, bytes method not None, bytes host not None, bytes path not None, **more):
        return self.match_request(Request(method, host, path, **more))

    def match_request(self, Request request not None):
        cdef FoundRoute found
        if not self.find(&request.parts, &found):
            return None
        return found.route, found.path_len

    def captures_of(self, Request request not None):
        cdef FoundRoute found
        if not self.find(&request.parts, &found):
            return None
        return self.captures(&found, request.parts.path, request.parts.path_len)

    # What `_router_explain` asks of a table. Ranks count the candidates in force, of both blocks.

    @property
    def flavor(self):
        return self.base.flavor

    @property
    def candidates(self):
        return len(self.in_order())

    def candidate(self, Py_ssize_t rank):
        number = self.place(rank)
        record = (self.overlay if number & 1 else self.base).candidate(number >> 1)
        route = record.route + self.base_routes if number & 1 else record.route
        return record._replace(rank=rank, route=route)

    def run_program(self, Py_ssize_t rank, Request request not None):
        number = self.place(rank)
        return (self.overlay if number & 1 else self.base).run_program(number >> 1, request)

    def ranks_near(self, bytes path not None):
        cdef set near = {2 * rank for rank in self.base.ranks_near(path)}
        if self.overlay is not None:
            near.update([2 * rank + 1 for rank in self.overlay.ranks_near(path)])
        return [rank for rank, number in enumerate(self.in_order()) if number in near]

    cdef Py_ssize_t place(self, Py_ssize_t rank) except -1:
        cdef list order = self.in_order()
        if not 0 <= rank < len(order):
            raise IndexError(f"there is no candidate {rank}, only {len(order)}")
        return order[rank]

    cdef list in_order(self):
        """The candidates in force: twice the rank in the base, or that of the overlay plus one."""
        cdef list order = []
        cdef FoundRoute ours, theirs
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t j = 0
        cdef Py_ssize_t base_end = self.base.candidates
        cdef Py_ssize_t overlay_end = self.overlay.candidates if self.overlay is not None else 0
        if self.order is not None:
            return self.order
        while i < base_end or j < overlay_end:
            if i < base_end:
                ours = found_at(self.base, i)
                if self.removed != NULL and is_marked(self.removed, ours.candidate.route):
                    i += 1
                    continue
            if j < overlay_end:
                theirs = found_at(self.overlay, j)
                if i == base_end or outranks(&theirs, &ours):
                    order.append(2 * j + 1)
                    j += 1
                    continue
            order.append(2 * i)
            i += 1
        self.order = order
        return order
