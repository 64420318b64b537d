"""The compiled route table: searching the block that _router.pxd draws.

Contract. `_router_build` lays the block out; `Table` believes nothing of it until `_router_check` has looked
at every offset, size and number in it once. From then on `Table.find` reads without further checks and without
allocating, and without the GIL except to call a regex. tests/reference/router.py says the same as the
plainest code; `_router_explain` tells it to people.

The one complication are regexes, the only dear test of a route: what calls one is set aside while the tries
are walked, and runs afterwards in order of precedence, unless something better has been found by then.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "arpa/inet.h" nogil:
    enum:
        AF_INET
        AF_INET6
    int inet_pton(int family, const char* text, void* out)

cdef enum:
    PENDING_LIMIT = 64                # candidates whose regex waits for the end of the walk

from collections import namedtuple

from fastgw._router_check cimport fault_in

from fastgw._regex import ANCHORED, UNANCHORED, compile_regex

CandidateRecord = namedtuple(
    "CandidateRecord", "rank route priority created_at key path hosts methods snis headers expressions"
)
TestRecord = namedtuple("TestRecord", "operator field flags name text number segments holds")

cdef object _ANCHORED = ANCHORED
cdef object _UNANCHORED = UNANCHORED


# ---- hosts and methods, as routes and requests write them

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


# FNV-1a, one byte at a time and from the right, so that the hashes of all suffixes of a name fall
# off on the way to its own.
cdef uint64_t HASH_START = 0xCBF29CE484222325
cdef uint64_t HASH_STEP = 0x100000001B3


cdef inline uint32_t fold(uint64_t state) noexcept nogil:
    return <uint32_t>(state ^ (state >> 32))


cdef uint32_t hash_key(int kind, const uint8_t* key, Py_ssize_t n) noexcept nogil:
    cdef uint64_t state = HASH_START
    cdef Py_ssize_t i
    for i in range(n):
        state = (state ^ key[i if kind == HOST_PREFIX else n - 1 - i]) * HASH_STEP
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


# ---- searching

cdef struct Pending:
    uint32_t rank
    uint32_t route
    uint32_t path_len
    uint32_t flags


cdef struct Search:
    void* table                       # a Table, which the caller keeps
    const uint8_t* block
    const Candidate* candidates
    const uint8_t* removed            # a bit for each route that another block replaces; NULL: none
    const RouteRequest* request
    HostParts host
    uint32_t port                     # the host's or the listener's
    uint32_t method_bit
    uint32_t skipped                  # entries with one of these flags are passed over
    uint32_t own_path_len             # what the last program matched of the path
    uint32_t pending_count
    FoundRoute found                  # the best so far; its rank is NO_RANK without any
    Pending[PENDING_LIMIT] pending


cdef bint lists_method(const uint8_t* conditions, const RouteRequest* request) noexcept nogil:
    cdef uint32_t hosts = read_u16(conditions)
    cdef uint32_t total = hosts + read_u16(conditions + 2)
    cdef uint32_t i
    conditions += CONDITIONS_HEADER
    for i in range(total):
        if (
            i >= hosts and read_u16(conditions) == request.method_len
            and memcmp(conditions + 2, request.method, request.method_len) == 0
        ):
            return True
        conditions += 2 + read_u16(conditions)
    return False


cdef bint admits(Search* search, const Entry* entry, uint32_t path_len) noexcept nogil:
    """Whether the candidate's program holds; one that calls a regex is set aside, which is not to hold yet."""
    cdef Pending* pending
    if entry.flags & search.skipped:
        return False
    if not entry.flags & ENTRY_PROGRAM:
        return True
    if entry.flags & ENTRY_REGEX and search.pending_count < PENDING_LIMIT:
        pending = &search.pending[search.pending_count]
        pending.rank = entry.rank
        pending.route = entry.route
        pending.path_len = path_len
        pending.flags = entry.flags
        search.pending_count += 1
        return False
    return holds(search, search.block + search.candidates[entry.rank].program_offset)


cdef inline void take(
    Search* search, uint32_t rank, uint32_t route, uint32_t flags, uint32_t path_len
) noexcept nogil:
    search.found.rank = rank
    search.found.route = route
    search.found.path_len = search.own_path_len if flags & ENTRY_OWN_PATH else path_len


cdef void walk(Search* search, uint32_t root) noexcept nogil:
    """Search one trie for a candidate better than the best so far."""
    cdef const RouteRequest* request = search.request
    cdef const Node* node
    cdef const Entry* entry
    cdef const uint8_t* label
    cdef const uint8_t* key
    cdef Py_ssize_t at = 0
    cdef uint32_t i
    if root == 0:
        return
    node = <const Node*>(search.block + root)
    while node.best < search.found.rank:
        label = node_label(node)
        if (
            request.path_len - at < node.label_len
            or memcmp(request.path + at, label, node.label_len) != 0
        ):
            return
        at += node.label_len
        entry = node_entries(node)
        for i in range(node.entries):
            if entry[i].rank >= search.found.rank:
                break
            if not entry[i].flags & METHOD_ANY:
                if not entry[i].flags & search.method_bit:
                    continue
                if search.method_bit == METHOD_OTHER and not lists_method(
                    search.block + search.candidates[entry[i].rank].conditions_offset, request
                ):
                    continue
            if search.removed != NULL and is_marked(search.removed, entry[i].route):
                continue
            if (
                entry[i].flags & (ENTRY_PROGRAM | ENTRY_SNIS)
                and not admits(search, &entry[i], <uint32_t>at)
            ):
                continue
            take(search, entry[i].rank, entry[i].route, entry[i].flags, <uint32_t>at)
            break
        if at == request.path_len or node.children == 0:
            return
        label += node.label_len
        key = <const uint8_t*>memchr(label, request.path[at], node.children)
        if key == NULL:
            return
        at += 1
        node = <const Node*>(search.block + node_children(node)[key - label])


cdef void settle(Search* search) noexcept nogil:
    """Run the programs that were set aside, best rank first, until one holds."""
    cdef Pending pending
    cdef uint32_t i, j
    for i in range(1, search.pending_count):
        pending = search.pending[i]
        j = i
        while j > 0 and search.pending[j - 1].rank > pending.rank:
            search.pending[j] = search.pending[j - 1]
            j -= 1
        search.pending[j] = pending
    for i in range(search.pending_count):
        pending = search.pending[i]
        if pending.rank >= search.found.rank:
            break
        if i and pending.rank == search.pending[i - 1].rank:
            continue                      # met under two patterns of the host
        if holds(search, search.block + search.candidates[pending.rank].program_offset):
            take(search, pending.rank, pending.route, pending.flags, pending.path_len)
            break
    search.pending_count = 0


cdef void look_up(
    Search* search, int kind, uint32_t hashed, const uint8_t* key, Py_ssize_t key_len, int port
) noexcept nogil:
    """Walk the tries of the record with this key, if there is one."""
    cdef const HostIndex* index = &(<const TableHeader*>search.block).hosts[kind]
    cdef const HostSlot* slots = <const HostSlot*>(search.block + index.slots_offset)
    cdef const HostRecord* record
    cdef const PortRoot* port_root
    cdef uint32_t place = hashed & (index.slots - 1)
    cdef uint32_t i
    while slots[place].record:
        if slots[place].hash == hashed:
            record = <const HostRecord*>(search.block + slots[place].record)
            if record.key_len == key_len and memcmp(record_key(record), key, key_len) == 0:
                walk(search, record.root)
                port_root = record_ports(record)
                for i in range(record.ports):
                    if <int64_t>port_root[i].port == port:
                        walk(search, port_root[i].root)
                return
        place = (place + 1) & (index.slots - 1)


cdef void look_up_host(Search* search, const TableHeader* header, int plain_port, int wild_port) noexcept nogil:
    """Walk the tries of the name itself and of each wildcard that it satisfies."""
    cdef const HostParts* host = &search.host
    cdef bint has_suffixes = header.hosts[HOST_SUFFIX].slots != 0
    cdef uint64_t state = HASH_START
    cdef Py_ssize_t i
    if header.hosts[HOST_RAW].slots:
        look_up(
            search, HOST_RAW, hash_key(HOST_RAW, search.request.host, search.request.host_len),
            search.request.host, search.request.host_len, -1,
        )
    if header.hosts[HOST_EXACT].slots or has_suffixes:
        for i in range(host.name_len - 1, -1, -1):
            state = (state ^ host.name[i]) * HASH_STEP
            if host.name[i] == c'.' and has_suffixes and i > 0:
                look_up(search, HOST_SUFFIX, fold(state), host.name + i, host.name_len - i, wild_port)
        if header.hosts[HOST_EXACT].slots:
            look_up(search, HOST_EXACT, fold(state), host.name, host.name_len, plain_port)
    if header.hosts[HOST_PREFIX].slots:
        state = HASH_START
        for i in range(host.name_len - 1):
            state = (state ^ host.name[i]) * HASH_STEP
            if host.name[i] == c'.':
                look_up(search, HOST_PREFIX, fold(state), host.name, i + 1, wild_port)


# ---- programs

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
    Search* search, const uint8_t* program, const Instruction* test, const uint8_t* data, Py_ssize_t n
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
            search.own_path_len = <uint32_t>size
        return True
    if test.operator == OPERATOR_SUFFIX:
        return n >= size and same(data + n - size, text, size, folds)
    if test.operator == OPERATOR_CONTAINS:
        for i in range(n - size + 1):
            if same(data + i, text, size, folds):
                return True
        return False
    if test.operator == OPERATOR_REGEX:
        if not (<Table>search.table).search_regex(test.regex, test.flags, data, n, &end):
            return False
        if test.field == FIELD_PATH:
            search.own_path_len = end
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
    Search* search, const uint8_t* program, const Instruction* test
) noexcept nogil:
    cdef const RouteRequest* request = search.request
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
            if compare_text(search, program, test, request.head + field[2], field[3]) == any_is_enough:
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
    Search* search, const uint8_t* program, const Instruction* test
) noexcept nogil:
    """Compare the values of a query argument; one without a value reads as empty."""
    cdef const uint8_t* at = search.request.query
    cdef const uint8_t* end = at + search.request.query_len
    cdef const uint8_t* stop
    cdef const uint8_t* equals
    cdef bint any_is_enough = test.flags & INSTRUCTION_ANY != 0
    cdef bint is_there = False
    cdef bint verdict
    cdef uint8_t kept[1024]
    cdef uint8_t* buffer = kept
    cdef Py_ssize_t size
    if search.request.query_len > <Py_ssize_t>sizeof(kept):
        buffer = <uint8_t*>malloc(search.request.query_len)
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
            if compare_text(search, program, test, buffer, size) == any_is_enough:
                verdict = any_is_enough
                break
        at = stop + 1
    if buffer != kept:
        free(buffer)
    return is_there and verdict


cdef bint compare_segments(
    Search* search, const uint8_t* program, const Instruction* test
) noexcept nogil:
    """Compare the path's segments from first to last, or their number."""
    cdef const uint8_t* path = search.request.path
    cdef Py_ssize_t n = search.request.path_len
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
            return compare_text(search, program, test, path + start, i - start)
        segment += 1
        if segment <= test.first_segment:
            start = i + 1
    return test.field == FIELD_SEGMENT_COUNT and compare_number(test, segment)


cdef bint compare(Search* search, const uint8_t* program, const Instruction* test) noexcept nogil:
    """One test of a program; a field that the request does not have fails each of them."""
    cdef const RouteRequest* request = search.request
    if test.field == FIELD_HEADER:
        return compare_headers(search, program, test)
    if test.field == FIELD_SNI:
        return request.sni_len and compare_text(search, program, test, request.sni, request.sni_len)
    if test.field == FIELD_PATH:
        return compare_text(search, program, test, request.path, request.path_len)
    if test.field == FIELD_HOST:
        return request.host_len and compare_text(
            search, program, test, search.host.name, search.host.name_len
        )
    if test.field == FIELD_METHOD:
        return compare_text(search, program, test, request.method, request.method_len)
    if test.field == FIELD_PROTOCOL:
        return compare_text(search, program, test, <const uint8_t*>b"https", 4 + request.is_https)
    if test.field == FIELD_QUERY:
        return compare_arguments(search, program, test)
    if test.field == FIELD_SEGMENTS or test.field == FIELD_SEGMENT_COUNT:
        return compare_segments(search, program, test)
    if test.field == FIELD_SOURCE_PORT:
        return compare_number(test, request.peer_port)
    if test.field == FIELD_DESTINATION_PORT:
        return compare_number(test, search.port)
    return compare_address(program, test, request.peer, request.peer_len)


cdef bint holds(Search* search, const uint8_t* program) noexcept nogil:
    """Run a program."""
    cdef const Instruction* instructions = <const Instruction*>(program + sizeof(Program))
    cdef const Instruction* here
    cdef uint32_t at = 0
    search.own_path_len = 0
    while True:
        here = &instructions[at]
        at = here.on_true if compare(search, program, here) else here.on_false
        if at >= PROGRAM_FAILS:
            return at == PROGRAM_HOLDS


# ---- in Python

cdef class Request:
    def __init__(
        self, bytes method not None=b"GET", bytes host not None=b"", bytes path not None=b"/", *,
        bytes query not None=b"", headers=(), bytes sni not None=b"", bytes peer not None=b"",
        int peer_port=0, int host_port=80, bint is_https=False,
    ):
        cdef RouteRequest* parts = &self.parts
        cdef uint32_t* record
        cdef uint32_t at = 0
        if self.records != NULL:
            raise TypeError("a request is made once")
        self.records = <uint32_t*>calloc(max(len(headers), 1), 4 * sizeof(uint32_t))
        if self.records == NULL:
            raise MemoryError
        record = self.records
        for name, value in headers:
            record[0], record[1] = at, len(name)
            record[2], record[3] = at + len(name), len(value)
            at += len(name) + len(value)
            record += 4
        self.head = b"".join([name + value for name, value in headers])
        self.headers = tuple(headers)
        self.method, self.host, self.path, self.query = method, host, path, query
        self.sni, self.peer = sni, peer
        parts.method, parts.method_len = bytes_at(method), len(method)
        parts.host, parts.host_len = bytes_at(host), len(host)
        parts.path, parts.path_len = bytes_at(path), len(path)
        parts.query, parts.query_len = bytes_at(query), len(query)
        parts.sni, parts.sni_len = bytes_at(sni), len(sni)
        parts.peer, parts.peer_len = bytes_at(peer), len(peer)
        parts.head = bytes_at(self.head)
        parts.fields, parts.field_count, parts.field_words = self.records, len(headers), 4
        parts.host_port, parts.peer_port, parts.is_https = host_port, peer_port, is_https

    def __dealloc__(self):
        free(self.records)

    @property
    def peer_port(self):
        return self.parts.peer_port

    @property
    def host_port(self):
        return self.parts.host_port

    @property
    def is_https(self):
        return bool(self.parts.is_https)


def _match_nothing(anchor, text, start, end):
    return [(-1, -1)]


cdef inline const uint8_t* bytes_at(bytes value) noexcept:
    return <const uint8_t*>PyBytes_AS_STRING(value)


@cython.no_gc  # to clear it would drop the buffer without giving it back; nothing in it refers to it
cdef class Table:
    def __init__(self, block):
        cdef const char* fault
        if self.view.buf != NULL:
            raise TypeError("a table is opened once")
        PyObject_GetBuffer(block, &self.view, PyBUF_SIMPLE)
        if <uintptr_t>self.view.buf % 8:
            raise ValueError("a route table must lie at a multiple of 8 bytes")
        with nogil:
            fault = fault_in(<const uint8_t*>self.view.buf, self.view.len)
        if fault != NULL:
            raise ValueError(f"not a route table: {fault.decode('ascii')}")
        self.regexes = [None] * (<const TableHeader*>self.view.buf).regexes
        self.block = <const uint8_t*>self.view.buf
        self.header = <const TableHeader*>self.view.buf

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    cdef bint find(self, const RouteRequest* request, FoundRoute* out) noexcept nogil:
        return self.find_but(NULL, request, out)

    cdef bint find_but(
        self, const uint8_t* removed, const RouteRequest* request, FoundRoute* out
    ) noexcept nogil:
        cdef Search search
        cdef const TableHeader* header = self.header
        cdef bint is_old
        if header == NULL:
            return False
        is_old = header.flavor == FLAVOR_TRADITIONAL
        prepare(&search, self, removed, request)
        # Over http an SNI cannot be asked for: `traditional` prefers the routes that do not.
        if is_old and header.snis and not request.is_https:
            search.skipped = ENTRY_SNIS
        search_all(&search, header, is_old)
        if search.skipped and search.found.rank == NO_RANK:
            search.skipped = 0
            search.found.is_deferred = True
            search_all(&search, header, is_old)
        if search.found.rank == NO_RANK:
            return False
        search.found.candidate = &search.candidates[search.found.rank]
        out[0] = search.found
        return True

    cdef bint search_regex(
        self, uint32_t regex, int flags, const uint8_t* text, Py_ssize_t n, uint32_t* end
    ) noexcept with gil:
        # What may fail is memory, which is then told as unraisable.
        end[0] = 0
        spans = self.spans(regex, flags, PyBytes_FromStringAndSize(<const char*>text, n))
        if spans[0][0] == 0:
            end[0] = spans[0][1]
        return spans[0][0] >= 0

    cdef list spans(self, uint32_t regex, int flags, bytes text):
        """The spans of a regex's groups in *text*."""
        cdef const RegexRecord* record
        compiled = self.regexes[regex]
        if compiled is None:
            record = <const RegexRecord*>(self.block + self.header.regexes_offset) + regex
            pattern = PyBytes_FromStringAndSize(
                <const char*>self.block + record.pattern_offset, record.pattern_len
            )
            try:
                compiled = compile_regex(pattern, is_bytes=bool(record.is_bytes))
            except ValueError:
                # It compiled when the table was made, so its text is damaged: it matches nothing.
                compiled = (_match_nothing, {})
            self.regexes[regex] = compiled
        if flags & INSTRUCTION_LOWER:
            text = text.lower()
        return compiled[0](
            _ANCHORED if flags & INSTRUCTION_ANCHORED else _UNANCHORED, text, 0, len(text)
        )

    cdef dict captures(self, const FoundRoute* found, const uint8_t* path, Py_ssize_t n):
        cdef const uint8_t* program = self.block + found.candidate.program_offset
        cdef const Instruction* test = <const Instruction*>(program + sizeof(Program))
        cdef bytes text
        cdef uint32_t i
        if not found.candidate.flags & ENTRY_OWN_PATH:
            return None
        text = PyBytes_FromStringAndSize(<const char*>path, n)
        for i in range((<const Program*>program).instructions):
            if test[i].field == FIELD_PATH and test[i].operator == OPERATOR_REGEX:
                spans = self.spans(test[i].regex, test[i].flags, text)
                if spans[0][0] >= 0:
                    groups = {
                        number: text[start:end] for number, (start, end) in enumerate(spans) if start >= 0
                    }
                    names = self.regexes[test[i].regex][1]
                    groups.update({name: groups[at] for name, at in names.items() if at in groups})
                    return groups
        return None

    @property
    def routes(self):
        return self.header.routes if self.block != NULL else 0

    @property
    def flavor(self):
        return Flavor(self.header.flavor) if self.block != NULL else None

    def match(self, bytes method not None, bytes host not None, bytes path not None, **more):
        return self.match_request(Request(method, host, path, **more))

    def match_request(self, Request request not None):
        cdef FoundRoute found
        if not self.find(&request.parts, &found):
            return None
        return found.route, found.path_len

    @property
    def candidates(self):
        return self.header.candidates if self.block != NULL else 0

    def candidate(self, uint32_t rank):
        cdef const Candidate* candidate = self.candidate_at(rank)
        path = PyBytes_FromStringAndSize(
            <const char*>self.block + candidate.path_offset, candidate.path_len
        ) if candidate.path_len else None
        return CandidateRecord(
            rank, candidate.route, candidate.priority, candidate.created_at, candidate.key[:16], path,
            *unpack_conditions(self.block + candidate.conditions_offset),
        )

    cdef const Candidate* candidate_at(self, uint32_t rank) except NULL:
        if self.block == NULL or rank >= self.header.candidates:
            raise IndexError(f"there is no candidate {rank}")
        return <const Candidate*>(self.block + self.header.candidates_offset) + rank

    def ranks_near(self, bytes path not None):
        cdef const Candidate* candidate
        cdef list ranks = []
        cdef uint32_t rank
        for rank in range(self.candidates):
            candidate = self.candidate_at(rank)
            if candidate.flags & ENTRY_OWN_PATH or (
                candidate.path_len <= <uint32_t>len(path)
                and memcmp(self.block + candidate.path_offset, bytes_at(path), candidate.path_len) == 0
            ):
                ranks.append(rank)
        return ranks

    def run_program(self, uint32_t rank, Request request not None):
        cdef const Candidate* candidate = self.candidate_at(rank)
        cdef const uint8_t* program = self.block + candidate.program_offset
        cdef const Instruction* test = <const Instruction*>(program + sizeof(Program))
        cdef const RegexRecord* regex
        cdef Search search
        cdef list tests = []
        cdef uint32_t i
        if not candidate.flags & ENTRY_PROGRAM:
            return True, tests
        prepare(&search, self, NULL, &request.parts)
        for i in range((<const Program*>program).instructions):
            text = PyBytes_FromStringAndSize(<const char*>program + test[i].text_offset, test[i].text_len)
            if test[i].operator == OPERATOR_REGEX:
                regex = <const RegexRecord*>(self.block + self.header.regexes_offset) + test[i].regex
                text = PyBytes_FromStringAndSize(
                    <const char*>self.block + regex.pattern_offset, regex.pattern_len
                )
            name = PyBytes_FromStringAndSize(<const char*>program + test[i].name_offset, test[i].name_len)
            tests.append(TestRecord(
                test[i].operator, test[i].field, test[i].flags, name, text, test[i].number,
                (test[i].first_segment, test[i].last_segment), bool(compare(&search, program, &test[i])),
            ))
        return bool(holds(&search, program)), tests

    def captures_of(self, Request request not None):
        cdef FoundRoute found
        if not self.find(&request.parts, &found):
            return None
        return self.captures(&found, request.parts.path, request.parts.path_len)


cdef tuple unpack_conditions(const uint8_t* at):
    """(hosts, methods, SNIs, headers, expressions) as `pack_conditions` of _router_build.pyx wrote them."""
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


cdef void prepare(Search* search, Table table, const uint8_t* removed, const RouteRequest* request) noexcept nogil:
    search.table = <void*>table
    search.block = table.block
    search.candidates = <const Candidate*>(table.block + table.header.candidates_offset)
    search.removed = removed
    search.request = request
    search.method_bit = method_bit(request.method, request.method_len)
    search.skipped = 0
    search.pending_count = 0
    search.found.rank = NO_RANK
    search.found.is_deferred = False
    search.host = split_host(request.host, request.host_len)
    search.port = request.host_port if search.host.port < 0 else search.host.port


cdef void search_all(Search* search, const TableHeader* header, bint is_old) noexcept nogil:
    """Search under the request's host, then among the routes without hosts."""
    cdef int plain_port = search.host.port
    cdef int wild_port = search.host.port
    if search.request.host_len:
        if not is_old:
            plain_port = wild_port = search.port
        elif wild_port < 0:
            wild_port = 443 if search.request.is_https else 80
        look_up_host(search, header, plain_port, wild_port)
    walk(search, header.any_host_root)
    settle(search)
