# Texts by number in the making of a block, and the host patterns that are made of them.

from libc.stdint cimport int32_t, uint8_t, uint32_t


# One text; its bytes are `data[offset:offset + len]`.
cdef struct Interned:
    Py_ssize_t offset
    uint32_t len
    uint32_t hash
    uint32_t tag                      # what tells equal bytes apart
    uint32_t value                    # the owner's, 0 at first


# Numbers texts from 0 in the order of their coming, equal ones alike.
cdef class Interner:
    cdef uint8_t* data                # the texts one after the other, each once
    cdef Py_ssize_t size, data_room
    cdef Interned* texts
    cdef Py_ssize_t count, room
    cdef uint32_t* slots              # number + 1; 0: free
    cdef uint32_t slot_count

    # The number of a text. *hash* must be the same for equal ones; may move `data` and `texts`.
    cdef uint32_t number(self, uint32_t tag, const uint8_t* text, Py_ssize_t n, uint32_t hash) except? 0xFFFFFFFF
    cdef int grow(self) except -1


# One pattern of hosts. Those of one key differ in their ports.
cdef struct Pattern:
    uint32_t key                      # its number among the keys
    int32_t port                      # -1: any
    uint32_t other                    # one more pattern of the same key; 0: none
    uint32_t alone                    # number + 1 of the conditions of routes with this host and no other; 0: unknown


# Numbers patterns from 1: 0 is that of any host.
cdef class Patterns:
    cdef Interner keys                # tagged by HOST_*; `value` is the first pattern
    cdef Interner others              # key and port of all that are not the first of their key; `value` is the pattern
    cdef Pattern* patterns
    cdef Py_ssize_t count, room

    cdef uint32_t number(self, int kind, const uint8_t* key, Py_ssize_t n, int port) except 0


# A hash of any bytes, eight at a time.
cdef uint32_t hash_text(const uint8_t* text, Py_ssize_t n) noexcept nogil

# *data* with room for one element of *unit* bytes after the *used* ones.
cdef void* grown(void* data, Py_ssize_t used, Py_ssize_t* room, Py_ssize_t unit) except NULL
