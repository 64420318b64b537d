"""Programs at work: what must hold of a request beyond host, path and method (see `_router_tests.pxd`).

Contract. A program that `_router_check` has looked at ends, and reads nothing outside of itself and the
request. Nothing is allocated but for a query of more than 1 KiB. `_router_program` assembles them.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from fastgw._router cimport (
    FIELD_DESTINATION_PORT, FIELD_HEADER, FIELD_HOST, FIELD_METHOD, FIELD_PATH, FIELD_PROTOCOL, FIELD_QUERY,
    FIELD_SEGMENT_COUNT, FIELD_SEGMENTS, FIELD_SNI, FIELD_SOURCE_PORT, INSTRUCTION_ANY, INSTRUCTION_DASHES,
    INSTRUCTION_LOWER, OPERATOR_CONTAINS, OPERATOR_EQUAL, OPERATOR_GREATER, OPERATOR_GREATER_EQUAL,
    OPERATOR_IN, OPERATOR_LESS, OPERATOR_LESS_EQUAL, OPERATOR_NOT_EQUAL, OPERATOR_PREFIX, OPERATOR_REGEX,
    OPERATOR_SUFFIX, PROGRAM_FAILS, PROGRAM_HOLDS, Instruction, Program, RouteRequest,
)
from fastgw._router_regexes cimport Regexes

cdef extern from "arpa/inet.h" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char* text, void* out)


cdef inline uint8_t lower(uint8_t byte) noexcept nogil:
    return byte + 32 if c'A' <= byte <= c'Z' else byte


cdef bint same(const uint8_t* data, const uint8_t* text, Py_ssize_t n, bint folds) noexcept nogil:
    cdef Py_ssize_t i
    if not folds:
        return memcmp(data, text, n) == 0
    for i in range(n):
        if lower(data[i]) != text[i]:
            return False
    return True


cdef bint same_name(const uint8_t* data, const uint8_t* name, Py_ssize_t n, bint dashes) noexcept nogil:
    """Whether a header's name is *name*, which is in lower case (with dashes, where both are one)."""
    cdef Py_ssize_t i
    for i in range(n):
        if lower(data[i]) != name[i] and not (dashes and data[i] == c'_' and name[i] == c'-'):
            return False
    return True


cdef bint compare_text(
    Subject* subject, const uint8_t* program, const Instruction* test, const uint8_t* data, Py_ssize_t n
) noexcept nogil:
    cdef const uint8_t* text = program + test.text_offset
    cdef Py_ssize_t size = test.text_len
    cdef bint folds = test.flags & INSTRUCTION_LOWER != 0
    cdef uint32_t end
    cdef Py_ssize_t i
    if test.operator == OPERATOR_EQUAL:
        return n == size and same(data, text, n, folds)
    if test.operator == OPERATOR_NOT_EQUAL:
        return n != size or not same(data, text, n, folds)
    if test.operator == OPERATOR_PREFIX:
        if n < size or not same(data, text, size, folds):
            return False
        if test.field == FIELD_PATH:
            subject.own_path_len = <uint32_t>size
        return True
    if test.operator == OPERATOR_SUFFIX:
        return n >= size and same(data + n - size, text, size, folds)
    if test.operator == OPERATOR_CONTAINS:
        for i in range(n - size + 1):
            if same(data + i, text, size, folds):
                return True
        return False
    if test.operator == OPERATOR_REGEX:
        if not (<Regexes>subject.regexes).search(test.regex, test.flags, data, n, &end):
            return False
        if test.field == FIELD_PATH:
            subject.own_path_len = end
        return True
    return False


cdef bint compare_number(const Instruction* test, int64_t value) noexcept nogil:
    if test.operator == OPERATOR_EQUAL:
        return value == test.number
    if test.operator == OPERATOR_NOT_EQUAL:
        return value != test.number
    if test.operator == OPERATOR_LESS:
        return value < test.number
    if test.operator == OPERATOR_LESS_EQUAL:
        return value <= test.number
    if test.operator == OPERATOR_GREATER:
        return value > test.number
    return test.operator == OPERATOR_GREATER_EQUAL and value >= test.number


cdef bint compare_address(
    const uint8_t* program, const Instruction* test, const uint8_t* peer, Py_ssize_t n
) noexcept nogil:
    """Compare an address in text with a network; one of the other family is not in it."""
    cdef char text[48]
    cdef uint8_t address[16]
    cdef const uint8_t* network = program + test.text_offset
    cdef Py_ssize_t whole = test.number // 8
    cdef int rest = test.number % 8
    cdef bint is_in = False
    cdef int family = 4
    if n < 2 or n >= <Py_ssize_t>sizeof(text):
        return False
    memcpy(text, peer, n)
    text[n] = 0
    if inet_pton(AF_INET, text, address) != 1:
        if inet_pton(AF_INET6, text, address) != 1:
            return False
        family = 6
    if family == test.family and memcmp(address, network, whole) == 0:
        is_in = rest == 0 or (address[whole] ^ network[whole]) >> (8 - rest) == 0
    if test.operator == OPERATOR_EQUAL or test.operator == OPERATOR_IN:
        return is_in
    return not is_in


cdef bint compare_headers(
    Subject* subject, const uint8_t* program, const Instruction* test
) noexcept nogil:
    cdef const RouteRequest* request = subject.request
    cdef const uint32_t* field = request.fields
    cdef bint any_is_enough = test.flags & INSTRUCTION_ANY != 0
    cdef bint is_there = False
    cdef uint32_t _i
    for _i in range(request.field_count):
        if field[1] == test.name_len and same_name(
            request.head + field[0], program + test.name_offset, test.name_len,
            test.flags & INSTRUCTION_DASHES,
        ):
            is_there = True
            if compare_text(subject, program, test, request.head + field[2], field[3]) == any_is_enough:
                return any_is_enough
        field += request.field_words
    return is_there and not any_is_enough


cdef inline int hex_digit(uint8_t byte) noexcept nogil:
    if c'0' <= byte <= c'9':
        return byte - c'0'
    byte = lower(byte)
    return byte - c'a' + 10 if c'a' <= byte <= c'f' else -1


cdef Py_ssize_t unescape(const uint8_t* data, Py_ssize_t n, uint8_t* out) noexcept nogil:
    """Decode a piece of a query into *out*, of *n* bytes; the length."""
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t size = 0
    while i < n:
        if data[i] == c'%' and i + 2 < n and hex_digit(data[i + 1]) >= 0 and hex_digit(data[i + 2]) >= 0:
            out[size] = <uint8_t>(hex_digit(data[i + 1]) << 4 | hex_digit(data[i + 2]))
            i += 3
        else:
            out[size] = c' ' if data[i] == c'+' else data[i]
            i += 1
        size += 1
    return size


cdef bint compare_arguments(
    Subject* subject, const uint8_t* program, const Instruction* test
) noexcept nogil:
    """Compare the values of a query argument; one without a value reads as empty."""
    cdef const uint8_t* at = subject.request.query
    cdef const uint8_t* end = at + subject.request.query_len
    cdef const uint8_t* stop
    cdef const uint8_t* equals
    cdef bint any_is_enough = test.flags & INSTRUCTION_ANY != 0
    cdef bint is_there = False
    cdef bint verdict
    cdef uint8_t kept[1024]
    cdef uint8_t* buffer = kept
    cdef Py_ssize_t size
    if subject.request.query_len > <Py_ssize_t>sizeof(kept):
        buffer = <uint8_t*>malloc(subject.request.query_len)
        if buffer == NULL:
            return False
    verdict = not any_is_enough
    while at < end:
        stop = <const uint8_t*>memchr(at, c'&', end - at)
        if stop == NULL:
            stop = end
        equals = <const uint8_t*>memchr(at, c'=', stop - at)
        if equals == NULL:
            equals = stop
        size = unescape(at, equals - at, buffer)
        if size == test.name_len and memcmp(buffer, program + test.name_offset, size) == 0:
            is_there = True
            size = unescape(equals + 1, stop - equals - 1, buffer) if equals < stop else 0
            if compare_text(subject, program, test, buffer, size) == any_is_enough:
                verdict = any_is_enough
                break
        at = stop + 1
    if buffer != kept:
        free(buffer)
    return is_there and verdict


cdef bint compare_segments(
    Subject* subject, const uint8_t* program, const Instruction* test
) noexcept nogil:
    """Compare the path's segments from first to last, or their number."""
    cdef const uint8_t* path = subject.request.path
    cdef Py_ssize_t n = subject.request.path_len
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t i
    cdef int64_t segment = 0
    if n and path[0] == c'/':
        path += 1
        n -= 1
    if n and path[n - 1] == c'/':
        n -= 1
    if n == 0:
        return test.field == FIELD_SEGMENT_COUNT and compare_number(test, 0)
    for i in range(n + 1):
        if i < n and path[i] != c'/':
            continue
        if test.field == FIELD_SEGMENTS and segment == test.last_segment:
            return compare_text(subject, program, test, path + start, i - start)
        segment += 1
        if segment <= test.first_segment:
            start = i + 1
    return test.field == FIELD_SEGMENT_COUNT and compare_number(test, segment)


cdef bint compare(Subject* subject, const uint8_t* program, const Instruction* test) noexcept nogil:
    """One test of a program; a field that the request does not have fails each of them."""
    cdef const RouteRequest* request = subject.request
    if test.field == FIELD_HEADER:
        return compare_headers(subject, program, test)
    if test.field == FIELD_SNI:
        return request.sni_len and compare_text(subject, program, test, request.sni, request.sni_len)
    if test.field == FIELD_PATH:
        return compare_text(subject, program, test, request.path, request.path_len)
    if test.field == FIELD_HOST:
        return request.host_len and compare_text(
            subject, program, test, subject.host.name, subject.host.name_len
        )
    if test.field == FIELD_METHOD:
        return compare_text(subject, program, test, request.method, request.method_len)
    if test.field == FIELD_PROTOCOL:
        return compare_text(subject, program, test, <const uint8_t*>b"https", 4 + request.is_https)
    if test.field == FIELD_QUERY:
        return compare_arguments(subject, program, test)
    if test.field == FIELD_SEGMENTS or test.field == FIELD_SEGMENT_COUNT:
        return compare_segments(subject, program, test)
    if test.field == FIELD_SOURCE_PORT:
        return compare_number(test, request.peer_port)
    if test.field == FIELD_DESTINATION_PORT:
        return compare_number(test, subject.port)
    return compare_address(program, test, request.peer, request.peer_len)


cdef bint holds(Subject* subject, const uint8_t* program) noexcept nogil:
    """Run a program."""
    cdef const Instruction* instructions = <const Instruction*>(program + sizeof(Program))
    cdef const Instruction* here
    cdef uint32_t at = 0
    subject.own_path_len = 0
    while True:
        here = &instructions[at]
        at = here.on_true if compare(subject, program, here) else here.on_false
        if at >= PROGRAM_FAILS:
            return at == PROGRAM_HOLDS
