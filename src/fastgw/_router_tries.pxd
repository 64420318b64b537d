# The searched part of a block in the making: path tries, and the hosts that lead to them.

from libc.stdint cimport uint8_t, uint32_t


# A growing block; what is reserved reads as zeros.
cdef class Output:
    cdef uint8_t* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    # The offset, a multiple of *unit*, of *n* more bytes. Moves `data`.
    cdef Py_ssize_t reserve(self, Py_ssize_t n, Py_ssize_t unit) except -1
    cdef Py_ssize_t put(self, const uint8_t* what, Py_ssize_t n) except -1


# One candidate under one of its hosts and the text that a path must begin with.
cdef struct Item:
    const uint8_t* path
    uint32_t path_len
    uint32_t pattern
    uint32_t candidate                # its rank
    uint32_t route
    uint32_t flags


# A node still to be written: items [low, high) share their first `depth` bytes.
cdef struct Pending:
    Py_ssize_t low
    Py_ssize_t high
    Py_ssize_t depth
    Py_ssize_t patch                  # where the parent wants its offset; 0: nowhere


cdef class TrieWriter:
    cdef Output out
    cdef Pending* stack
    cdef Py_ssize_t stack_room

    # Write a trie for each pattern of *items*, which are sorted on the way; the offset of its root by pattern
    # number, 0 for one of *patterns* without items.
    cdef list write(self, Item* items, Py_ssize_t count, Py_ssize_t patterns)
    cdef Py_ssize_t write_one(self, const Item* items, Py_ssize_t low, Py_ssize_t high) except -1


# Write records and hash indexes of *patterns*: (HOST_* kind, key, port or -1) -> number; (offset, slots) of
# each index by kind.
cdef list write_hosts(Output out, dict patterns, list roots)

# *data* with room for one element of *unit* bytes after the *used* ones.
cdef void* grown(void* data, Py_ssize_t used, Py_ssize_t* room, Py_ssize_t unit) except NULL
