# What a route asks for, as text: for exact checks of methods, and for `explain`.
#
# How many hosts, methods, SNIs, headers and expressions (CONDITIONS_HEADER bytes), then each text behind its
# length, all as u16. A header is one text for each of its values: name, NUL, value. Of expressions there is
# one or none.

from libc.stdint cimport uint8_t, uint32_t

from fastgw._router_tries cimport Output


cdef enum:
    CONDITION_LIMIT = 0xFFFF          # hosts or methods of one route, and bytes of each
    TEXTS_LIMIT = 32                  # of one list in `Texts`


cdef struct Text:
    const uint8_t* at
    Py_ssize_t n


cdef struct Texts:
    Text at[TEXTS_LIMIT]
    Py_ssize_t count


cdef inline uint32_t read_u16(const uint8_t* at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8


# Raises ValueError where something is too long or too many.
cdef bytes pack_conditions(hosts, methods, snis, headers, bytes expression)

# The same of hosts and methods alone, behind what *out* holds; the texts are not above the limit.
cdef int pack_plain(Output out, const Texts* hosts, const Texts* methods) except -1

# (hosts, methods, SNIs, headers, expressions)
cdef tuple unpack_conditions(const uint8_t* at)

# Whether a method is among them.
cdef bint lists_method(const uint8_t* conditions, const uint8_t* method, Py_ssize_t n) noexcept nogil
