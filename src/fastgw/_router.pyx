"""The compiled route table: checking and searching the block that _router.pxd draws.

Contract. `_router_build` lays the block out; `Table` believes nothing of it until every offset, size and
number in it has been checked once. From then on `Table.find` reads without further checks, without the GIL
and without allocating. tests/reference/router.py says the same as the plainest code.

The one complication is that check: nodes lie back to back, so one scan finds where each begins, and a
child must begin behind its parent, so that no damaged block can lead a search round in circles.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr

Considered = namedtuple(
    "Considered",
    "route path hosts methods host_holds path_holds method_holds matches",
)


# ---- hosts and methods, as routes and requests write them

cdef struct HostParts:
    const uint8_t* name               # without brackets
    Py_ssize_t name_len
    int port                          # -1: none given


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


# ---- checking and searching

cdef struct Search:
    const uint8_t* block
    const Candidate* candidates
    const uint8_t* path
    Py_ssize_t path_len
    const uint8_t* method
    Py_ssize_t method_len
    uint32_t method_bit
    const uint8_t* removed            # a bit for each route that another block replaces; NULL: none
    uint32_t rank                     # the best so far; NO_RANK: none
    FoundRoute found


cdef inline uint32_t read_u16(const uint8_t* at) noexcept nogil:
    return at[0] | <uint32_t>at[1] << 8


cdef bint lists_method(const uint8_t* conditions, const uint8_t* method, Py_ssize_t n) noexcept nogil:
    cdef uint32_t hosts = read_u16(conditions)
    cdef uint32_t total = hosts + read_u16(conditions + 2)
    cdef uint32_t i
    conditions += 4
    for i in range(total):
        if i >= hosts and read_u16(conditions) == n and memcmp(conditions + 2, method, n) == 0:
            return True
        conditions += 2 + read_u16(conditions)
    return False


cdef void walk(Search* search, uint32_t root) noexcept nogil:
    """Search one trie for a candidate better than the best so far."""
    cdef const Node* node
    cdef const Entry* entry
    cdef const uint8_t* label
    cdef const uint8_t* key
    cdef Py_ssize_t at = 0
    cdef uint32_t i
    if root == 0:
        return
    node = <const Node*>(search.block + root)
    while node.best < search.rank:
        label = node_label(node)
        if search.path_len - at < node.label_len or memcmp(search.path + at, label, node.label_len) != 0:
            return
        at += node.label_len
        entry = node_entries(node)
        for i in range(node.entries):
            if entry[i].rank >= search.rank:
                break
            if search.removed != NULL and is_marked(search.removed, entry[i].route):
                continue
            if entry[i].methods == METHOD_ANY or (
                entry[i].methods & search.method_bit
                and (
                    search.method_bit != METHOD_OTHER
                    or lists_method(
                        search.block + search.candidates[entry[i].rank].conditions_offset,
                        search.method, search.method_len,
                    )
                )
            ):
                search.rank = entry[i].rank
                search.found.route = entry[i].route
                search.found.path_len = <uint32_t>at
                search.found.rank = entry[i].rank
                break
        if at == search.path_len or node.children == 0:
            return
        label += node.label_len
        key = <const uint8_t*>memchr(label, search.path[at], node.children)
        if key == NULL:
            return
        at += 1
        node = <const Node*>(search.block + node_children(node)[key - label])


cdef void look_up(
    Search* search, const HostIndex* index, uint32_t hashed,
    const uint8_t* key, Py_ssize_t key_len, uint32_t port,
) noexcept nogil:
    """Walk the tries of the record with this key, if there is one."""
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
                    if port_root[i].port == port:
                        walk(search, port_root[i].root)
                return
        place = (place + 1) & (index.slots - 1)


cdef void look_up_host(Search* search, const TableHeader* header, HostParts host) noexcept nogil:
    """Walk the tries of the name itself and of each wildcard that it satisfies."""
    cdef const HostIndex* suffixes = &header.hosts[HOST_SUFFIX]
    cdef uint32_t port = <uint32_t>host.port
    cdef uint64_t state = HASH_START
    cdef Py_ssize_t i
    if header.hosts[HOST_EXACT].slots or suffixes.slots:
        for i in range(host.name_len - 1, -1, -1):
            state = (state ^ host.name[i]) * HASH_STEP
            if host.name[i] == c'.' and suffixes.slots and i > 0:
                look_up(search, suffixes, fold(state), host.name + i, host.name_len - i, port)
        if header.hosts[HOST_EXACT].slots:
            look_up(search, &header.hosts[HOST_EXACT], fold(state), host.name, host.name_len, port)
    if header.hosts[HOST_PREFIX].slots:
        state = HASH_START
        for i in range(host.name_len - 1):
            state = (state ^ host.name[i]) * HASH_STEP
            if host.name[i] == c'.':
                look_up(search, &header.hosts[HOST_PREFIX], fold(state), host.name, i + 1, port)


cdef const char* fault_in(const uint8_t* block, Py_ssize_t size) noexcept nogil:
    """What is wrong with a block, or NULL: every number that a search will follow is looked at."""
    cdef const TableHeader* header = <const TableHeader*>block
    cdef uint8_t* starts              # one byte per four of the block: whether a node begins there
    cdef const char* fault
    if size < <Py_ssize_t>sizeof(TableHeader) or header.magic != TABLE_MAGIC:
        return b"it does not begin like one"
    if header.version != TABLE_VERSION:
        return b"its version is another"
    if header.size != size:
        return b"its size is another"
    if (
        header.nodes_offset % 4 or header.nodes_offset < sizeof(TableHeader)
        or header.nodes_end < header.nodes_offset or header.nodes_end > size
    ):
        return b"its nodes lie outside"
    if (
        header.candidates_offset % 8 or header.candidates == NO_RANK
        or header.candidates_offset + <uint64_t>header.candidates * sizeof(Candidate) > <uint64_t>size
    ):
        return b"its candidates lie outside"
    starts = <uint8_t*>calloc(size // 4 + 1, 1)
    if starts == NULL:
        return b"there is no memory to check it"
    fault = fault_in_nodes(block, header, starts)
    if fault == NULL:
        fault = fault_in_hosts(block, header, starts)
    if fault == NULL:
        fault = fault_in_candidates(block, header)
    free(starts)
    return fault


cdef const char* fault_in_nodes(
    const uint8_t* block, const TableHeader* header, uint8_t* starts
) noexcept nogil:
    cdef const Node* node
    cdef const Entry* entry
    cdef Py_ssize_t at = header.nodes_offset
    cdef Py_ssize_t end = header.nodes_end
    cdef uint32_t i, child
    while at < end:
        node = <const Node*>(block + at)
        if end - at < <Py_ssize_t>sizeof(Node) or node.children > 256 or end - at < node_size(node):
            return b"a node is cut short"
        starts[at // 4] = 1
        entry = node_entries(node)
        for i in range(node.entries):
            if entry[i].rank >= header.candidates or entry[i].route >= header.routes:
                return b"a node names a route that does not exist"
        at += node_size(node)
    at = header.nodes_offset
    while at < end:
        node = <const Node*>(block + at)
        for i in range(node.children):
            child = node_children(node)[i]
            if child <= at or child >= end or child % 4 or not starts[child // 4]:
                return b"a node's child is none"
        at += node_size(node)
    return NULL


cdef bint is_root(const TableHeader* header, const uint8_t* starts, uint32_t offset) noexcept nogil:
    return offset == 0 or (offset < header.size and offset % 4 == 0 and starts[offset // 4])


cdef const char* fault_in_hosts(
    const uint8_t* block, const TableHeader* header, const uint8_t* starts
) noexcept nogil:
    cdef const HostIndex* index
    cdef const HostSlot* slots
    cdef const HostRecord* record
    cdef uint64_t room
    cdef uint32_t i, j, used
    cdef int kind
    if not is_root(header, starts, header.any_host_root):
        return b"the root for any host is none"
    for kind in range(HOST_KINDS):
        index = &header.hosts[kind]
        if index.slots == 0:
            continue
        if (
            index.slots & (index.slots - 1) or index.slots_offset % 4
            or index.slots_offset + <uint64_t>index.slots * sizeof(HostSlot) > header.size
        ):
            return b"an index of hosts lies outside"
        slots = <const HostSlot*>(block + index.slots_offset)
        used = 0
        for i in range(index.slots):
            if slots[i].record == 0:
                continue
            used += 1
            record = <const HostRecord*>(block + slots[i].record)
            if slots[i].record % 4 or slots[i].record + <uint64_t>sizeof(HostRecord) > header.size:
                return b"a host lies outside"
            room = header.size - slots[i].record - sizeof(HostRecord)
            if <uint64_t>record.ports * sizeof(PortRoot) + record.key_len > room:
                return b"a host is cut short"
            if not is_root(header, starts, record.root):
                return b"a host's root is none"
            for j in range(record.ports):
                if not is_root(header, starts, record_ports(record)[j].root):
                    return b"a host's root is none"
        if used == index.slots:
            return b"an index of hosts is full"      # a search ends at an empty slot
    return NULL


cdef const char* fault_in_candidates(const uint8_t* block, const TableHeader* header) noexcept nogil:
    cdef const Candidate* candidate = <const Candidate*>(block + header.candidates_offset)
    cdef uint64_t at
    cdef uint32_t i, left
    for i in range(header.candidates):
        if candidate[i].route >= header.routes:
            return b"a candidate names a route that does not exist"
        if <uint64_t>candidate[i].path_offset + candidate[i].path_len > header.size:
            return b"a candidate's path lies outside"
        at = candidate[i].conditions_offset
        if i and at == candidate[i - 1].conditions_offset:
            continue
        if at + 4 > header.size:
            return b"a candidate's conditions lie outside"
        left = read_u16(block + at) + read_u16(block + at + 2)
        at += 4
        while left:
            if at + 2 > header.size or at + 2 + read_u16(block + at) > header.size:
                return b"a candidate's conditions are cut short"
            at += 2 + read_u16(block + at)
            left -= 1
    return NULL


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

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    cdef bint find(
        self,
        const uint8_t* method, Py_ssize_t method_len,
        const uint8_t* host, Py_ssize_t host_len, int host_port,
        const uint8_t* path, Py_ssize_t path_len,
        FoundRoute* out,
    ) noexcept nogil:
        return self.find_but(NULL, method, method_len, host, host_len, host_port, path, path_len, out)

    cdef bint find_but(
        self,
        const uint8_t* removed,
        const uint8_t* method, Py_ssize_t method_len,
        const uint8_t* host, Py_ssize_t host_len, int host_port,
        const uint8_t* path, Py_ssize_t path_len,
        FoundRoute* out,
    ) noexcept nogil:
        cdef Search search
        cdef HostParts parts
        if self.block == NULL:
            return False
        search.block = self.block
        search.candidates = <const Candidate*>(self.block + self.header.candidates_offset)
        search.path = path
        search.path_len = path_len
        search.method = method
        search.method_len = method_len
        search.method_bit = method_bit(method, method_len)
        search.removed = removed
        search.rank = NO_RANK
        if host_len:
            parts = split_host(host, host_len)
            if parts.port < 0:
                parts.port = host_port
            look_up_host(&search, self.header, parts)
        walk(&search, self.header.any_host_root)
        if search.rank == NO_RANK:
            return False
        out[0] = search.found
        return True

    @property
    def routes(self):
        return self.header.routes if self.block != NULL else 0

    def match(self, bytes method not None, bytes host not None, bytes path not None, *, int host_port=80):
        cdef FoundRoute found
        if not self.find(
            <const uint8_t*>PyBytes_AS_STRING(method), len(method),
            <const uint8_t*>PyBytes_AS_STRING(host), len(host), host_port,
            <const uint8_t*>PyBytes_AS_STRING(path), len(path),
            &found,
        ):
            return None
        return found.route, found.path_len

    def explain(self, bytes method not None, bytes host not None, bytes path not None, *, int host_port=80):
        cdef const Candidate* candidate
        cdef HostParts parts = split_host(<const uint8_t*>PyBytes_AS_STRING(host), len(host))
        cdef bytes name = parts.name[:parts.name_len]
        cdef int port = host_port if parts.port < 0 else parts.port
        cdef list considered = []
        cdef uint32_t rank
        if self.block == NULL:
            return considered
        candidate = <const Candidate*>(self.block + self.header.candidates_offset)
        for rank in range(self.header.candidates):
            hosts, methods = unpack_conditions(self.block + candidate[rank].conditions_offset)
            own_path = None
            if candidate[rank].path_len:
                own_path = PyBytes_FromStringAndSize(
                    <const char*>self.block + candidate[rank].path_offset, candidate[rank].path_len
                )
            holds = (
                any([admits(pattern, name, port) for pattern in hosts]) if hosts else None,
                path.startswith(own_path) if own_path is not None else None,
                method in methods if methods else None,
            )
            considered.append(
                Considered(candidate[rank].route, own_path, hosts, methods, *holds, False not in holds)
            )
        return considered


cdef tuple unpack_conditions(const uint8_t* at):
    cdef uint32_t hosts = read_u16(at)
    cdef uint32_t total = hosts + read_u16(at + 2)
    cdef list texts = []
    at += 4
    while <uint32_t>len(texts) < total:
        texts.append(PyBytes_FromStringAndSize(<const char*>at + 2, read_u16(at)))
        at += 2 + read_u16(at)
    return tuple(texts[:hosts]), tuple(texts[hosts:])


cdef bint admits(bytes pattern, bytes name, int port) except -1:
    """Whether a route's host stands for a request's name and port."""
    kind, key, own_port = parse_pattern(pattern)
    if own_port >= 0 and own_port != port:
        return False
    if kind == HOST_SUFFIX:
        return len(name) > len(key) and name.endswith(key)
    if kind == HOST_PREFIX:
        return len(name) > len(key) and name.startswith(key)
    return name == key
