"""Hosts and methods as routes and requests write them (see `_router_hosts.pxd`)."""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from fastgw._router cimport HOST_EXACT, HOST_PREFIX, HOST_SUFFIX, METHOD_OTHER


cdef HostParts split_host(const uint8_t* host, Py_ssize_t n) noexcept nogil:
    """Name and port of a host; a colon that announces no decimal port belongs to the name."""
    cdef HostParts parts
    cdef const uint8_t* colon
    cdef const uint8_t* end = host + n
    parts.name = host
    parts.name_len = n
    parts.port = -1
    if n and host[0] == c'[':
        colon = <const uint8_t*>memchr(host, c']', n)
        if colon == NULL or (colon + 1 < end and colon[1] != c':'):
            return parts
        parts.name = host + 1
        parts.name_len = colon - parts.name
        colon += 1
        if colon == end:
            return parts
    else:
        colon = <const uint8_t*>memchr(host, c':', n) if n else NULL
        if colon == NULL or memchr(colon + 1, c':', end - colon - 1) != NULL:
            return parts
        parts.name_len = colon - host
    parts.port = parse_port(colon + 1, end - colon - 1)
    if parts.port < 0 and colon + 1 != end:
        parts.name = host
        parts.name_len = n
    return parts


cdef int parse_port(const uint8_t* digits, Py_ssize_t n) noexcept nogil:
    cdef int port = 0
    cdef Py_ssize_t i
    if n < 1 or n > 5:
        return -1
    for i in range(n):
        if digits[i] < c'0' or digits[i] > c'9':
            return -1
        port = port * 10 + (digits[i] - c'0')
    return port if port <= 0xFFFF else -1


cdef uint32_t method_bit(const uint8_t* method, Py_ssize_t n) noexcept nogil:
    """The bit of a well-known method; all others share METHOD_OTHER and are compared by name."""
    if n == 3:
        if memcmp(method, b"GET", 3) == 0:
            return 1
        if memcmp(method, b"PUT", 3) == 0:
            return 2
    elif n == 4:
        if memcmp(method, b"POST", 4) == 0:
            return 4
        if memcmp(method, b"HEAD", 4) == 0:
            return 8
    elif n == 5:
        if memcmp(method, b"PATCH", 5) == 0:
            return 16
    elif n == 6:
        if memcmp(method, b"DELETE", 6) == 0:
            return 32
    elif n == 7:
        if memcmp(method, b"OPTIONS", 7) == 0:
            return 64
    return METHOD_OTHER


cdef uint32_t hash_key(int kind, const uint8_t* key, Py_ssize_t n) noexcept nogil:
    cdef uint64_t state = hash_start()
    cdef Py_ssize_t i
    for i in range(n):
        state = hash_step(state, key[i if kind == HOST_PREFIX else n - 1 - i])
    return fold(state)


cdef tuple parse_pattern(bytes host):
    """(HOST_* kind, key, port or -1) of a route's host."""
    cdef HostParts parts = split_host(<const uint8_t*>PyBytes_AS_STRING(host), len(host))
    cdef bytes name = parts.name[:parts.name_len]
    if name != name.lower():
        raise ValueError(f"host {host!r} is not in lower case")
    if name.startswith(b"*.") and len(name) > 2 and name.count(b"*") == 1:
        return (HOST_SUFFIX, name[1:], parts.port)
    if name.endswith(b".*") and len(name) > 2 and name.count(b"*") == 1:
        return (HOST_PREFIX, name[:len(name) - 1], parts.port)
    if not name or b"*" in name:
        raise ValueError(f"host {host!r} is neither a name nor a wildcard for whole labels at one end")
    return (HOST_EXACT, name, parts.port)
