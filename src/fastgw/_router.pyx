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
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memset

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void* at) nogil

cdef enum:
    PENDING_LIMIT = 64                # candidates whose regex waits for the end of the walk

from collections import namedtuple

from fastgw._router_check cimport fault_in
from fastgw._router_conditions cimport lists_method, unpack_conditions
from fastgw._router_hosts cimport (
    HostParts, fold, hash_key, hash_start, hash_step, method_bit, split_host,
)
from fastgw._router_regexes cimport Regexes
from fastgw._router_tests cimport Subject, compare, holds

from fastgw._regex import Sieve

CandidateRecord = namedtuple(
    "CandidateRecord", "rank route priority created_at key path hosts methods snis headers expressions"
)
TestRecord = namedtuple("TestRecord", "operator field flags name text number segments holds")


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
    Subject subject
    uint32_t method_bit
    uint32_t skipped                  # entries with one of these flags are passed over
    uint32_t pending_count
    FoundRoute found                  # the best so far; its rank is NO_RANK without any
    Pending[PENDING_LIMIT] pending


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
    return holds(&search.subject, search.block + search.candidates[entry.rank].program_offset)


cdef inline void take(
    Search* search, uint32_t rank, uint32_t route, uint32_t flags, uint32_t path_len
) noexcept nogil:
    search.found.rank = rank
    search.found.route = route
    search.found.path_len = search.subject.own_path_len if flags & ENTRY_OWN_PATH else path_len


cdef void walk(Search* search, uint32_t root) noexcept nogil:
    """Search one trie for a candidate better than the best so far."""
    cdef const RouteRequest* request = search.subject.request
    cdef const Node* node
    cdef const uint8_t* label
    cdef const uint8_t* key
    cdef const uint32_t* children
    cdef Py_ssize_t at = 0
    cdef uint32_t i, child, slots
    if root == 0:
        return
    node = <const Node*>(search.block + root)
    while node.best < search.found.rank:
        label = node_label(node)
        if node.label_len:
            if (
                request.path_len - at < node.label_len
                or memcmp(request.path + at, label, node.label_len) != 0
            ):
                return
            at += node.label_len
        if node_entry_count(node):
            take_best(search, node, <uint32_t>at)
        slots = node_slots(node)
        if at == request.path_len or slots == 0:
            return
        children = node_children(node)
        if node.children & NODE_KEYED:
            label += node.label_len
            key = <const uint8_t*>memchr(label, request.path[at], slots)
            if key == NULL:
                return
            child = children[key - label]
        else:
            i = <uint32_t>request.path[at] - (node.entries >> 24)
            if i >= slots:
                return
            child = children[i]
            if child == 0:
                return
        at += 1
        node = <const Node*>(search.block + child)


cdef void take_best(Search* search, const Node* node, uint32_t path_len) noexcept nogil:
    """Take the first candidate of a node that holds, if it is better than the best so far."""
    cdef const RouteRequest* request = search.subject.request
    cdef const Entry* entry = node_entries(node)
    cdef uint32_t count = node_entry_count(node)
    cdef uint32_t part = NO_RANK
    cdef bint is_sifted = False
    cdef uint8_t[SIEVE_ENTRIES] marks
    cdef uint32_t i
    for i in range(count):
        if entry[i].rank >= search.found.rank:
            break
        if not entry[i].flags & METHOD_ANY:
            if not entry[i].flags & search.method_bit:
                continue
            if search.method_bit == METHOD_OTHER and not lists_method(
                search.block + search.candidates[entry[i].rank].conditions_offset,
                request.method, request.method_len,
            ):
                continue
        if search.removed != NULL and is_marked(search.removed, entry[i].route):
            continue
        if count >= SIEVE_LEAST and entry[i].flags & ENTRY_OWN_PATH and entry[i].flags & ENTRY_REGEX:
            if i // SIEVE_ENTRIES != part:
                part = i // SIEVE_ENTRIES
                # The better ones before these are few: run them first.
                settle(search)
                if entry[i].rank >= search.found.rank:
                    break
                is_sifted = (<Table>search.table).sift(
                    node, part, request.path, request.path_len, marks
                )
            if is_sifted and not marks[i % SIEVE_ENTRIES]:
                continue
        if entry[i].flags & (ENTRY_PROGRAM | ENTRY_SNIS) and not admits(search, &entry[i], path_len):
            continue
        take(search, entry[i].rank, entry[i].route, entry[i].flags, path_len)
        break


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
        if holds(&search.subject, search.block + search.candidates[pending.rank].program_offset):
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
            prefetch(<const uint8_t*>record + LINE_BYTES)      # its trie
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
    cdef const HostParts* host = &search.subject.host
    cdef bint has_suffixes = header.hosts[HOST_SUFFIX].slots != 0
    cdef uint64_t state = hash_start()
    cdef Py_ssize_t i
    if header.hosts[HOST_RAW].slots:
        look_up(
            search, HOST_RAW, hash_key(HOST_RAW, search.subject.request.host, search.subject.request.host_len),
            search.subject.request.host, search.subject.request.host_len, -1,
        )
    if header.hosts[HOST_EXACT].slots or has_suffixes:
        for i in range(host.name_len - 1, -1, -1):
            state = hash_step(state, host.name[i])
            if host.name[i] == c'.' and has_suffixes and i > 0:
                look_up(search, HOST_SUFFIX, fold(state), host.name + i, host.name_len - i, wild_port)
        if header.hosts[HOST_EXACT].slots:
            look_up(search, HOST_EXACT, fold(state), host.name, host.name_len, plain_port)
    if header.hosts[HOST_PREFIX].slots:
        state = hash_start()
        for i in range(host.name_len - 1):
            state = hash_step(state, host.name[i])
            if host.name[i] == c'.':
                look_up(search, HOST_PREFIX, fold(state), host.name, i + 1, wild_port)


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
        self.block = <const uint8_t*>self.view.buf
        self.header = <const TableHeader*>self.view.buf
        self.sieves = {}
        self.regexes = Regexes.over(self.block, self.header.regexes_offset, self.header.regexes)

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

    cdef bint sift(
        self, const Node* node, uint32_t part, const uint8_t* path, Py_ssize_t n, uint8_t* marks
    ) noexcept with gil:
        # What may fail is memory, which is then told as unraisable.
        cdef int place
        found = self.sieve(node, part).may_match(PyBytes_FromStringAndSize(<const char*>path, n))
        if found is None:
            return False
        memset(marks, 0, SIEVE_ENTRIES)
        for place in found:
            marks[place] = 1
        return True

    cdef object sieve(self, const Node* node, uint32_t part):
        cdef const Entry* entry = node_entries(node) + SIEVE_ENTRIES * part
        cdef uint32_t end = min(node_entry_count(node) - SIEVE_ENTRIES * part, SIEVE_ENTRIES)
        cdef const Candidate* candidate
        cdef uint32_t i
        cdef list patterns = []
        key = <const uint8_t*>node - self.block, part
        made = self.sieves.get(key)
        if made is None:
            for i in range(end):
                candidate = self.candidate_at(entry[i].rank)
                # An expression may hold by something else than a path's regex.
                if candidate.path_len and self.block[candidate.path_offset] == c'~':
                    patterns.append(PyBytes_FromStringAndSize(
                        <const char*>self.block + candidate.path_offset + 1, candidate.path_len - 1
                    ))
                else:
                    patterns.append(None)
            made = self.sieves[key] = Sieve(patterns, is_bytes=self.header.flavor == FLAVOR_TRADITIONAL)
        return made

    def warm(self):
        cdef const uint32_t* offsets = <const uint32_t*>(self.block + self.header.crowded_offset)
        cdef const Node* node
        cdef uint32_t i, part
        for i in range(self.header.crowded):
            node = <const Node*>(self.block + offsets[i])
            for part in range((node_entry_count(node) + SIEVE_ENTRIES - 1) // SIEVE_ENTRIES):
                self.sieve(node, part)

    cdef dict captures(self, const FoundRoute* found, const uint8_t* path, Py_ssize_t n):
        cdef const uint8_t* program = self.block + found.candidate.program_offset
        cdef const Instruction* test = <const Instruction*>(program + sizeof(Program))
        cdef Regexes regexes = self.regexes
        cdef bytes text
        cdef uint32_t i
        if not found.candidate.flags & ENTRY_OWN_PATH:
            return None
        text = PyBytes_FromStringAndSize(<const char*>path, n)
        for i in range((<const Program*>program).instructions):
            if test[i].field == FIELD_PATH and test[i].operator == OPERATOR_REGEX:
                groups = regexes.groups(test[i].regex, test[i].flags, text)
                if groups is not None:
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
        cdef Regexes regexes = self.regexes
        cdef Search search
        cdef list tests = []
        cdef uint32_t i
        if not candidate.flags & ENTRY_PROGRAM:
            return True, tests
        prepare(&search, self, NULL, &request.parts)
        for i in range((<const Program*>program).instructions):
            text = PyBytes_FromStringAndSize(<const char*>program + test[i].text_offset, test[i].text_len)
            if test[i].operator == OPERATOR_REGEX:
                text = regexes.pattern(test[i].regex)
            name = PyBytes_FromStringAndSize(<const char*>program + test[i].name_offset, test[i].name_len)
            tests.append(TestRecord(
                test[i].operator, test[i].field, test[i].flags, name, text, test[i].number,
                (test[i].first_segment, test[i].last_segment), bool(compare(&search.subject, program, &test[i])),
            ))
        return bool(holds(&search.subject, program)), tests

    def captures_of(self, Request request not None):
        cdef FoundRoute found
        if not self.find(&request.parts, &found):
            return None
        return self.captures(&found, request.parts.path, request.parts.path_len)


cdef void prepare(Search* search, Table table, const uint8_t* removed, const RouteRequest* request) noexcept nogil:
    search.table = <void*>table
    search.subject.regexes = <void*>table.regexes
    search.block = table.block
    search.candidates = <const Candidate*>(table.block + table.header.candidates_offset)
    search.removed = removed
    search.subject.request = request
    search.method_bit = method_bit(request.method, request.method_len)
    search.skipped = 0
    search.pending_count = 0
    search.found.rank = NO_RANK
    search.found.is_deferred = False
    search.subject.host = split_host(request.host, request.host_len)
    search.subject.port = request.host_port if search.subject.host.port < 0 else search.subject.host.port


cdef void search_all(Search* search, const TableHeader* header, bint is_old) noexcept nogil:
    """Search under the request's host, then among the routes without hosts."""
    cdef int plain_port = search.subject.host.port
    cdef int wild_port = search.subject.host.port
    if search.subject.request.host_len:
        if not is_old:
            plain_port = wild_port = search.subject.port
        elif wild_port < 0:
            wild_port = 443 if search.subject.request.is_https else 80
        look_up_host(search, header, plain_port, wild_port)
    walk(search, header.any_host_root)
    settle(search)
