# Building a route table, for compiled code that has its routes as text.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastgw._router cimport Candidate
from fastgw._router_conditions cimport Texts
from fastgw._router_interning cimport Interner, Patterns
from fastgw._router_tries cimport Item, Output


# What most routes are: no wildcard, no port, no regex. An empty list is a condition that is not made.
cdef struct PlainRoute:
    Texts hosts
    Texts paths
    Texts methods


cdef struct Built:
    Candidate kept
    const uint8_t* path               # owned by TableBuilder.owned
    uint32_t number                   # in the order of adding


cdef class TableBuilder:
    cdef Built* built
    cdef Py_ssize_t built_count, built_room
    cdef Item* items
    cdef Py_ssize_t item_count, item_room
    cdef list owned                   # who holds the bytes of the paths
    cdef Interner conditions          # packed conditions
    cdef Output scratch
    cdef Patterns patterns
    cdef dict programs                # program -> number
    cdef dict regexes                 # pattern -> number
    cdef uint32_t routes
    cdef uint32_t snis
    cdef int flavor

    # `add` for a plain route, at a fraction of its cost; False if it is not one, or `add` would refuse it:
    # then nothing was added. *owner* holds the bytes.
    cdef bint add_plain(
        self, uint32_t route, const PlainRoute* plain, int64_t created_at, const uint8_t* key, object owner,
    ) except -1
    cdef uint32_t number_of_plain(self, const PlainRoute* plain) except? 0xFFFFFFFF

    cdef uint32_t number_of_conditions(self, hosts, methods, snis, headers, bytes expression) except? 0xFFFFFFFF
    cdef uint32_t number_of_packed(self, const uint8_t* packed, Py_ssize_t n) except? 0xFFFFFFFF
    cdef uint32_t number_of_program(self, tree) except? 0xFFFFFFFF
    cdef list numbers_of(self, list patterns)
    cdef int put(
        self, uint32_t route, uint64_t priority, int64_t created_at, bytes key, bytes text, uint32_t place,
        uint32_t program, uint32_t flags, list numbers, tuple begins,
    ) except -1
    cdef int put_candidate(
        self, uint32_t route, uint64_t priority, int64_t created_at, const uint8_t* key, const uint8_t* path,
        Py_ssize_t path_len, uint32_t place, uint32_t program, uint32_t flags,
    ) except -1
    cdef int put_item(self, const uint8_t* begin, Py_ssize_t n, uint32_t pattern, bint is_alone) except -1
    cdef list write_programs(self, Output out)
    cdef Py_ssize_t write_regexes(self, Output out) except -1
    cdef Py_ssize_t write_candidates(self, Output out, list programs) except -1
