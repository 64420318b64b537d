# Hosts and methods as routes and requests write them, and the hash of a host's name.

from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct HostParts:
    const uint8_t* name               # without brackets
    Py_ssize_t name_len
    int port                          # -1: none given


# Name and port of a host; a colon that announces no decimal port belongs to the name.
cdef HostParts split_host(const uint8_t* host, Py_ssize_t n) noexcept nogil

# (HOST_* kind, key, port or -1) of a route's host.
cdef tuple parse_pattern(bytes host)

# The bit of a well-known method; all others share METHOD_OTHER and are compared by name.
cdef uint32_t method_bit(const uint8_t* method, Py_ssize_t n) noexcept nogil


# FNV-1a, one byte at a time and from the right, so that the hashes of all suffixes of a name fall
# off on the way to its own; of HOST_PREFIX from the left.
cdef inline uint64_t hash_start() noexcept nogil:
    return 0xCBF29CE484222325ULL


cdef inline uint64_t hash_step(uint64_t state, uint8_t byte) noexcept nogil:
    return (state ^ byte) * 0x100000001B3ULL


cdef inline uint32_t fold(uint64_t state) noexcept nogil:
    return <uint32_t>(state ^ (state >> 32))


# Of a whole key.
cdef uint32_t hash_key(int kind, const uint8_t* key, Py_ssize_t n) noexcept nogil
