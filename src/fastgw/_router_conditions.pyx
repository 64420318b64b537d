"""What a route asks for, as text (see `_router_conditions.pxd`)."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from fastgw._router cimport CONDITIONS_HEADER

cdef bytes pack_conditions(hosts, methods, snis, headers, bytes expression):
    cdef list texts = list(hosts)
    cdef uint32_t[5] counts
    cdef Py_ssize_t size = CONDITIONS_HEADER
    cdef bytes packed
    cdef bytes text
    cdef uint8_t* out
    cdef int group
    texts += methods
    texts += snis
    counts[0], counts[1], counts[2] = len(hosts), len(methods), len(snis)
    for name, values in headers:
        texts += [name + b"\0" + value for value in values]
    counts[3] = len(texts) - counts[0] - counts[1] - counts[2]
    counts[4] = 1 if expression else 0
    if expression:
        texts.append(expression)
    for group in range(5):
        if counts[group] > CONDITION_LIMIT:
            raise ValueError(f"more than {CONDITION_LIMIT} values in one field")
    for text in texts:
        if len(text) > CONDITION_LIMIT:
            raise ValueError(f"a value of more than {CONDITION_LIMIT} bytes")
        size += 2 + len(text)
    packed = PyBytes_FromStringAndSize(NULL, size)
    out = <uint8_t*>PyBytes_AS_STRING(packed)
    for group in range(5):
        out = put_u16(out, counts[group])
    for text in texts:
        out = put_u16(out, <uint32_t>len(text))
        memcpy(out, PyBytes_AS_STRING(text), len(text))
        out += len(text)
    return packed


cdef int pack_plain(Output out, const Texts* hosts, const Texts* methods) except -1:
    cdef Py_ssize_t size = CONDITIONS_HEADER + size_of(hosts) + size_of(methods)
    cdef uint8_t* at
    cdef Py_ssize_t begin = out.reserve(size, 1)
    at = out.data + begin
    memset(at, 0, CONDITIONS_HEADER)
    put_u16(at, <uint32_t>hosts.count)
    put_u16(at + 2, <uint32_t>methods.count)
    put_texts(put_texts(at + CONDITIONS_HEADER, hosts), methods)
    return 0


cdef Py_ssize_t size_of(const Texts* texts) noexcept nogil:
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t i
    for i in range(texts.count):
        size += 2 + texts.at[i].n
    return size


cdef uint8_t* put_texts(uint8_t* out, const Texts* texts) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(texts.count):
        out = put_u16(out, <uint32_t>texts.at[i].n)
        memcpy(out, texts.at[i].at, texts.at[i].n)
        out += texts.at[i].n
    return out


cdef inline uint8_t* put_u16(uint8_t* at, uint32_t value) noexcept nogil:
    at[0] = value & 0xFF
    at[1] = value >> 8
    return at + 2


cdef tuple unpack_conditions(const uint8_t* at):
    cdef list counts = [read_u16(at + 2 * group) for group in range(CONDITIONS_HEADER // 2)]
    cdef list groups = []
    at += CONDITIONS_HEADER
    for count in counts:
        texts = []
        for _ in range(<uint32_t>count):
            texts.append(PyBytes_FromStringAndSize(<const char*>at + 2, read_u16(at)))
            at += 2 + read_u16(at)
        groups.append(tuple(texts))
    return tuple(groups)


cdef bint lists_method(const uint8_t* conditions, const uint8_t* method, Py_ssize_t n) noexcept nogil:
    cdef uint32_t hosts = read_u16(conditions)
    cdef uint32_t total = hosts + read_u16(conditions + 2)
    cdef uint32_t i
    conditions += CONDITIONS_HEADER
    for i in range(total):
        if i >= hosts and <Py_ssize_t>read_u16(conditions) == n and memcmp(conditions + 2, method, n) == 0:
            return True
        conditions += 2 + read_u16(conditions)
    return False
