# The searched part of a block in the making: path tries, and the hosts that lead to them.

from libc.stdint cimport uint8_t, uint32_t

from fastgw._router_interning cimport Patterns


# A growing block; what is reserved reads as zeros.
cdef class Output:
    cdef uint8_t* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    # The offset, a multiple of *unit*, of *n* more bytes. Moves `data`.
    cdef Py_ssize_t reserve(self, Py_ssize_t n, Py_ssize_t unit) except -1
    cdef Py_ssize_t put(self, const uint8_t* what, Py_ssize_t n) except -1

    # The same for what should lie in as few cache lines as it can.
    cdef Py_ssize_t reserve_in_lines(self, Py_ssize_t n) except -1


# One candidate under one of its hosts and the text that a path must begin with.
cdef struct Item:
    const uint8_t* path
    uint32_t path_len
    uint32_t pattern
    uint32_t candidate                # its rank
    uint32_t route
    uint32_t flags
    uint32_t is_alone                 # no other pattern has the candidate


# A node still to be written: items [low, high) share their first `depth` bytes.
cdef struct Pending:
    Py_ssize_t low
    Py_ssize_t high
    Py_ssize_t depth
    Py_ssize_t patch                  # where the parent wants its offset; 0: nowhere


# What such a node looks like.
cdef struct Shape:
    Py_ssize_t depth                  # where its label ends
    Py_ssize_t own                    # items [low, own) end there
    Py_ssize_t size                   # in bytes
    uint32_t best
    uint32_t children
    uint32_t span                     # from the first child's byte to the last's, both included
    bint is_keyed


# The items of one pattern.
cdef struct Run:
    Py_ssize_t low
    Py_ssize_t high


cdef class TrieWriter:
    cdef Output out
    cdef Item* items
    cdef Patterns patterns
    cdef Run* runs                    # by pattern
    cdef dict known                   # the ranks under a pattern -> its root; of those that may be met again
    cdef list crowded                 # offsets of crowded nodes
    cdef Pending* stack
    cdef Py_ssize_t stack_room

    # Write all of it; (root of pattern 0, [(offset, slots) of each index by kind]). Pattern 0 is that of any
    # host, *patterns* has the others. *items* are sorted on the way and stay the caller's.
    cdef tuple write(self, Item* items, Py_ssize_t count, Patterns patterns)
    cdef uint32_t write_root(self, uint32_t pattern) except? 0xFFFFFFFF
    cdef Py_ssize_t write_node(
        self, Py_ssize_t offset, const Pending* here, const Shape* shape, Py_ssize_t waiting
    ) except -1
    cdef uint32_t write_record(self, uint32_t key) except 0
    cdef tuple write_index(self, int kind)
