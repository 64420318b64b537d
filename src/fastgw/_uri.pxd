# Request paths on bytes: normalise before matching, build the upstream path, re-encode it.
#
# The order on a request: `is_plain` (most paths are; the next two steps would change nothing and
# are skipped) -> `normalise_into` -> match -> `upstream_path_into` -> `encode_into`.
# Buffers are the caller's, and must not overlap unless it says so; nothing allocates or raises.

from libc.stdint cimport uint8_t

cdef bint is_plain(const uint8_t* path, Py_ssize_t n) noexcept nogil

# dst holds n bytes; dst may be src.
cdef Py_ssize_t normalise_into(const uint8_t* src, Py_ssize_t n, uint8_t* dst) noexcept nogil

# dst holds 3 * n bytes.
cdef Py_ssize_t encode_into(const uint8_t* src, Py_ssize_t n, uint8_t* dst) noexcept nogil

# dst holds service_len + path_len + 2 bytes; service_len 0 stands for "/". is_v1: Kong's old path_handling.
cdef Py_ssize_t upstream_path_into(
    const uint8_t* service, Py_ssize_t service_len,
    const uint8_t* path, Py_ssize_t path_len,
    Py_ssize_t matched_len, bint strip, bint is_v1,
    uint8_t* dst,
) noexcept nogil
