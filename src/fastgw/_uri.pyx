"""Request paths on bytes: normal form for matching, upstream path, re-encoding.

The rules are those of Kong 3.9 with `path_handling` v0; tests/reference/uri.py says the same plainly.
The one complication: decoding, joining slashes and removing dot segments happen in one pass over the
output, which is never longer than what was read, so a buffer can be normalised in place.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int8_t, uint8_t
from libc.string cimport memcpy

# What a byte means in a path; filled once below, read-only afterwards.
cdef uint8_t RESERVED[256]      # `%XX` of these stays encoded
cdef uint8_t PASSES[256]        # these go upstream as they are
cdef uint8_t PLAIN[256]         # as PASSES, less `%`
cdef int8_t HEX_VALUE[256]      # -1: no hex digit
cdef const char* HEX_DIGITS = b"0123456789ABCDEF"


cdef void fill_tables() noexcept:
    cdef const char* reserved = b"!*'();:@&=+$,/?%#[]"
    cdef const char* unreserved = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
    cdef const char* digits = b"0123456789abcdef"
    cdef int i
    for i in range(256):
        RESERVED[i] = PASSES[i] = 0
        HEX_VALUE[i] = -1
    for i in range(19):
        RESERVED[<uint8_t>reserved[i]] = 1
        PASSES[<uint8_t>reserved[i]] = 1
    for i in range(66):
        PASSES[<uint8_t>unreserved[i]] = 1
    for i in range(256):
        PLAIN[i] = PASSES[i]
    PLAIN[c'%'] = 0
    for i in range(16):
        HEX_VALUE[<uint8_t>digits[i]] = i
        HEX_VALUE[<uint8_t>HEX_DIGITS[i]] = i


fill_tables()


cdef bint is_plain(const uint8_t* path, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef Py_ssize_t after
    if n == 0 or path[0] != c'/':
        return False
    for i in range(n):
        if not PLAIN[path[i]]:
            return False
        if path[i] == c'/' and i + 1 < n:
            if path[i + 1] == c'/':
                return False
            if path[i + 1] == c'.':
                after = i + 2
                if after < n and path[after] == c'.':
                    after += 1
                if after == n or path[after] == c'/':
                    return False
    return True


cdef inline Py_ssize_t close_segment(uint8_t* dst, Py_ssize_t start, Py_ssize_t end) noexcept nogil:
    """Where the output ends once the segment dst[start:end] is known whole.

    dst[start - 1] is its slash. A dot segment is taken back, `..` with the segment before it.
    """
    cdef Py_ssize_t size = end - start
    if size == 1 and dst[start] == c'.':
        return start
    if size == 2 and dst[start] == c'.' and dst[start + 1] == c'.':
        if start > 1:
            start -= 1
            while dst[start - 1] != c'/':
                start -= 1
        return start
    return end


cdef Py_ssize_t normalise_into(const uint8_t* src, Py_ssize_t n, uint8_t* dst) noexcept nogil:
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t end = 0       # of the output
    cdef Py_ssize_t start = 1     # of the output's last segment
    cdef bint rooted = n > 0 and src[0] == c'/'
    cdef uint8_t byte
    cdef uint8_t decoded
    while i < n:
        byte = src[i]
        if byte == c'/' and rooted:
            i += 1
            if end > 0:
                if dst[end - 1] == c'/':
                    continue
                end = close_segment(dst, start, end)
                if dst[end - 1] == c'/':
                    start = end
                    continue
            dst[end] = c'/'
            end += 1
            start = end
            continue
        if byte == c'%' and i + 2 < n and HEX_VALUE[src[i + 1]] >= 0 and HEX_VALUE[src[i + 2]] >= 0:
            decoded = <uint8_t>(HEX_VALUE[src[i + 1]] << 4 | HEX_VALUE[src[i + 2]])
            if RESERVED[decoded]:
                dst[end] = c'%'
                dst[end + 1] = HEX_DIGITS[decoded >> 4]
                dst[end + 2] = HEX_DIGITS[decoded & 15]
                end += 3
            else:
                dst[end] = decoded
                end += 1
            i += 3
            continue
        dst[end] = byte
        end += 1
        i += 1
    return close_segment(dst, start, end) if rooted else end


cdef Py_ssize_t encode_into(const uint8_t* src, Py_ssize_t n, uint8_t* dst) noexcept nogil:
    cdef Py_ssize_t i
    cdef Py_ssize_t end = 0
    for i in range(n):
        if PASSES[src[i]]:
            dst[end] = src[i]
            end += 1
        else:
            dst[end] = c'%'
            dst[end + 1] = HEX_DIGITS[src[i] >> 4]
            dst[end + 2] = HEX_DIGITS[src[i] & 15]
            end += 3
    return end


cdef Py_ssize_t upstream_path_into(
    const uint8_t* service, Py_ssize_t service_len,
    const uint8_t* path, Py_ssize_t path_len,
    Py_ssize_t matched_len, bint strip, bint is_v1,
    uint8_t* dst,
) noexcept nogil:
    cdef const uint8_t* rest = path
    cdef Py_ssize_t rest_len = path_len
    cdef Py_ssize_t end
    cdef bint slash_between = False
    if service_len == 0:
        service = <const uint8_t*>b"/"
        service_len = 1
    cdef bint service_ends_in_slash = service[service_len - 1] == c'/'
    end = service_len

    if strip:
        if matched_len:
            rest += matched_len
            rest_len -= matched_len
        elif path_len and path[0] == c'/':
            rest += 1
            rest_len -= 1
        # What follows a prefix that ends inside a segment may begin like a dot segment.
        if rest_len >= 1 and rest[0] == c'.':
            if rest_len == 1 or (rest_len == 2 and rest[1] == c'.'):
                rest_len = 0
            elif rest[1] == c'/':
                rest += 2
                rest_len -= 2
            elif rest[1] == c'.' and rest[2] == c'/':
                rest += 3
                rest_len -= 3
        if is_v1:
            if rest_len and rest[0] == c'/' and service_ends_in_slash:
                end -= 1
        elif rest_len == 0:
            if service_ends_in_slash:
                if service_len > 1 and path_len and path[path_len - 1] != c'/':
                    end -= 1
            else:
                slash_between = path_len > 1 and path[path_len - 1] == c'/'
        elif rest[0] == c'/':
            if service_ends_in_slash:
                end -= 1
        else:
            slash_between = not service_ends_in_slash
    elif service_ends_in_slash or is_v1:
        if rest_len and rest[0] == c'/':
            rest += 1
            rest_len -= 1
    elif rest_len == 1 and rest[0] == c'/':
        rest_len = 0

    memcpy(dst, service, end)
    if slash_between:
        dst[end] = c'/'
        end += 1
    memcpy(dst + end, rest, rest_len)
    return end + rest_len


# The same for Python callers. An output buffer of the longest possible size is cut to what was written.

def is_plain_path(bytes path not None):
    return is_plain(<const uint8_t*>PyBytes_AS_STRING(path), len(path))


def normalise(bytes path not None):
    cdef Py_ssize_t size = len(path)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    size = normalise_into(<const uint8_t*>PyBytes_AS_STRING(path), size, <uint8_t*>PyBytes_AS_STRING(out))
    return out[:size]


def encode(bytes path not None):
    cdef Py_ssize_t size = len(path)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, 3 * size)
    size = encode_into(<const uint8_t*>PyBytes_AS_STRING(path), size, <uint8_t*>PyBytes_AS_STRING(out))
    return out[:size]


def upstream_path(
    bytes service_path, bytes path not None, Py_ssize_t matched_len, bint strip, *, bint is_v1=False
):
    cdef bytes service = b"" if service_path is None else service_path
    cdef bytes out
    cdef Py_ssize_t size
    if not 0 <= matched_len <= len(path):
        raise ValueError(f"matched length {matched_len} is not within a path of {len(path)} bytes")
    out = PyBytes_FromStringAndSize(NULL, len(service) + len(path) + 2)
    size = upstream_path_into(
        <const uint8_t*>PyBytes_AS_STRING(service), len(service),
        <const uint8_t*>PyBytes_AS_STRING(path), len(path),
        matched_len, strip, is_v1, <uint8_t*>PyBytes_AS_STRING(out),
    )
    return out[:size]
