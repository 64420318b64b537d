"""Host, and the authority of a target (see `_host.pxd`). Source: RFC 3986 §3.2; RFC 9112 §3.2."""

from libc.string cimport memcpy

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char* text, void* address)

cdef extern from "sys/socket.h" nogil:
    enum:
        AF_INET6

cdef enum:
    MAX_ADDRESS = 46          # INET6_ADDRSTRLEN: the longest text of an IPv6 address, and its NUL

cdef uint8_t HOST_CHAR[256]   # reg-name and IPv4 of RFC 3986 §3.2.2, percent-encoding left out on purpose


cdef void _fill_table():
    cdef int place
    for place in range(256):
        HOST_CHAR[place] = 0
    for char in b"-._~!$&'()*+;=0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz":
        HOST_CHAR[char] = 1


_fill_table()


cdef Py_ssize_t read_host(Span value, uint8_t* out, Py_ssize_t* port_start) noexcept nogil:
    """Lower-case and check `host [":" port]`; *port_start* is where ":" stands, or the size."""
    cdef Py_ssize_t at = 0, digits = 0
    cdef int port = 0
    cdef uint8_t char
    cdef char[MAX_ADDRESS] literal
    cdef uint8_t[16] address
    if value.size == 0:
        port_start[0] = 0
        return 0
    if value.data[0] == c'[':
        out[0] = c'['
        at = 1
        while at < value.size and value.data[at] != c']':
            char = value.data[at]
            if not (c'0' <= char <= c'9' or c'a' <= (char | 0x20) <= c'f' or char == c':' or char == c'.'):
                return -1
            out[at] = char | 0x20 if c'A' <= char <= c'Z' else char
            at += 1
        if at == value.size or at < 3:
            return -1
        # Digits and colons are not yet an address: RFC 3986 §3.2.2.
        if at > MAX_ADDRESS:
            return -1
        memcpy(literal, out + 1, at - 1)
        literal[at - 1] = 0
        if inet_pton(AF_INET6, literal, address) != 1:
            return -1
        out[at] = c']'
        at += 1
    else:
        while at < value.size and value.data[at] != c':':
            char = value.data[at]
            if not HOST_CHAR[char]:
                return -1
            out[at] = char | 0x20 if c'A' <= char <= c'Z' else char
            at += 1
        if at == 0:
            return -1
    port_start[0] = at
    if at == value.size:
        return at
    if value.data[at] != c':':
        return -1
    out[at] = c':'
    at += 1
    while at < value.size:
        char = value.data[at]
        if char < c'0' or char > c'9' or digits == 5:
            return -1
        port = port * 10 + (char - c'0')
        out[at] = char
        digits += 1
        at += 1
    if port > 65535:
        return -1
    if digits == 0:
        # "name:" has no port (RFC 3986 §3.2.3).
        return port_start[0]
    return at
