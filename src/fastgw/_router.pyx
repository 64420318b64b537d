"""The compiled route table: building, checking and searching the block that _router.pxd draws.

Contract. `TableBuilder.freeze` lays the block out; `Table` believes nothing of it until every offset,
size and number in it has been checked once. From then on `Table.find` reads without further checks,
without the GIL and without allocating. tests/reference/router.py is the same as the plainest code.

The one complication is that check: nodes lie back to back, so one scan finds where each begins, and a
child must begin behind its parent, so that no damaged block can lead a search round in circles.
"""

from collections import namedtuple

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

Considered = namedtuple(
    "Considered",
    "route path hosts methods host_holds path_holds method_holds matches",
)

cdef enum:
    PATH_LIMIT_BYTES = 0xFFFF         # Node.label_len
    CONDITION_LIMIT = 0xFFFF          # hosts or methods of one route, and bytes of each
    ANY_HOST = 0                      # the pattern number of routes without hosts


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


# ---- parts of a block that follow one another

cdef inline Py_ssize_t pad(Py_ssize_t size, Py_ssize_t unit) noexcept nogil:
    return (size + unit - 1) & -unit


cdef inline const uint8_t* node_label(const Node* node) noexcept nogil:
    return <const uint8_t*>(node + 1)


cdef inline const uint32_t* node_children(const Node* node) noexcept nogil:
    return <const uint32_t*>(node_label(node) + pad(<Py_ssize_t>node.label_len + node.children, 4))


cdef inline const Entry* node_entries(const Node* node) noexcept nogil:
    return <const Entry*>(node_children(node) + node.children)


cdef inline Py_ssize_t node_size(const Node* node) noexcept nogil:
    return (
        sizeof(Node) + pad(<Py_ssize_t>node.label_len + node.children, 4)
        + sizeof(uint32_t) * <Py_ssize_t>node.children + sizeof(Entry) * <Py_ssize_t>node.entries
    )


cdef inline const PortRoot* record_ports(const HostRecord* record) noexcept nogil:
    return <const PortRoot*>(record + 1)


cdef inline const uint8_t* record_key(const HostRecord* record) noexcept nogil:
    return <const uint8_t*>(record_ports(record) + record.ports)


# ---- building

cdef struct Built:
    Candidate kept
    const uint8_t* path               # owned by TableBuilder.owned
    uint32_t methods
    uint32_t number                   # in the order of adding


# One candidate under one of its hosts.
cdef struct Item:
    const uint8_t* path
    uint32_t path_len
    uint32_t pattern
    uint32_t candidate                # Built.number, then rank
    uint32_t route
    uint32_t methods


# A node still to be written: items [low, high) share their first `depth` bytes.
cdef struct Pending:
    Py_ssize_t low
    Py_ssize_t high
    Py_ssize_t depth
    Py_ssize_t patch                  # where the parent wants its offset; 0: nowhere


cdef int compare_paths(const uint8_t* a, Py_ssize_t a_len, const uint8_t* b, Py_ssize_t b_len) noexcept nogil:
    cdef int order = memcmp(a, b, min(a_len, b_len))
    return order if order else (a_len > b_len) - (a_len < b_len)


cdef int compare_built(const void* left, const void* right) noexcept nogil:
    cdef const Built* a = <const Built*>left
    cdef const Built* b = <const Built*>right
    cdef int order
    if a.kept.priority != b.kept.priority:
        return 1 if a.kept.priority < b.kept.priority else -1
    if a.kept.created_at != b.kept.created_at:
        return 1 if a.kept.created_at > b.kept.created_at else -1
    order = memcmp(a.kept.key, b.kept.key, sizeof(a.kept.key))
    if order:
        return order
    if a.kept.route != b.kept.route:
        return 1 if a.kept.route > b.kept.route else -1
    order = compare_paths(a.path, a.kept.path_len, b.path, b.kept.path_len)
    return order if order else (a.number > b.number) - (a.number < b.number)


cdef int compare_items(const void* left, const void* right) noexcept nogil:
    cdef const Item* a = <const Item*>left
    cdef const Item* b = <const Item*>right
    cdef int order
    if a.pattern != b.pattern:
        return 1 if a.pattern > b.pattern else -1
    order = compare_paths(a.path, a.path_len, b.path, b.path_len)
    if order:
        return order
    return (a.candidate > b.candidate) - (a.candidate < b.candidate)


cdef class Output:
    """A growing block; what is reserved reads as zeros."""

    cdef uint8_t* data
    cdef Py_ssize_t size
    cdef Py_ssize_t room

    def __dealloc__(self):
        free(self.data)

    cdef Py_ssize_t reserve(self, Py_ssize_t n, Py_ssize_t unit) except -1:
        """The offset, a multiple of *unit*, of *n* more bytes. Moves `data`."""
        cdef Py_ssize_t offset = pad(self.size, unit)
        cdef Py_ssize_t room
        cdef void* data
        if offset + n > 0xFFFFFFFF:
            raise ValueError("a route table cannot be larger than 4 GiB")
        if offset + n > self.room:
            room = max(2 * self.room, offset + n, 4096)
            data = realloc(self.data, room)
            if data == NULL:
                raise MemoryError
            memset(<uint8_t*>data + self.room, 0, room - self.room)
            self.data = <uint8_t*>data
            self.room = room
        self.size = offset + n
        return offset

    cdef Py_ssize_t put(self, const uint8_t* what, Py_ssize_t n) except -1:
        cdef Py_ssize_t offset = self.reserve(n, 1)
        memcpy(self.data + offset, what, n)
        return offset


cdef void* grown(void* data, Py_ssize_t used, Py_ssize_t* room, Py_ssize_t unit) except NULL:
    """*data* with room for one element of *unit* bytes after the *used* ones."""
    cdef void* moved = data
    if used == room[0]:
        moved = realloc(data, max(2 * used, 64) * unit)
        if moved == NULL:
            raise MemoryError
        room[0] = max(2 * used, 64)
    return moved


cdef class TableBuilder:
    cdef Built* built
    cdef Py_ssize_t built_count, built_room
    cdef Item* items
    cdef Py_ssize_t item_count, item_room
    cdef Pending* stack
    cdef Py_ssize_t stack_room
    cdef list owned                   # the paths' bytes, and the conditions by number
    cdef dict conditions              # packed conditions -> number
    cdef dict patterns                # (HOST_* kind, key, port or -1) -> number; ANY_HOST is nobody's
    cdef uint32_t routes

    def __cinit__(self):
        self.owned = []
        self.conditions = {}
        self.patterns = {}

    def __dealloc__(self):
        free(self.built)
        free(self.items)
        free(self.stack)

    def add(self, uint32_t route, *, hosts, paths, methods, int64_t created_at, bytes key not None):
        cdef Built* built
        cdef Item* item
        cdef uint64_t priority
        cdef uint32_t mask = 0 if methods else METHOD_ANY
        cdef uint32_t number
        cdef bytes text
        cdef list patterns = []
        cdef bint plain = bool(hosts)

        # All checks come first: a refused route leaves nothing behind.
        if len(key) != 16:
            raise ValueError(f"the key of route {route} has {len(key)} bytes, not 16")
        if route == 0xFFFFFFFF:
            raise ValueError(f"route number {route} is too large")
        if not (hosts or paths or methods):
            raise ValueError("a route needs a host, a path or a method")
        for text in paths:
            if not text.startswith(b"/"):
                raise ValueError(f"path {text!r} does not begin with a slash")
            if len(text) > PATH_LIMIT_BYTES:
                raise ValueError(f"a path of {len(text)} bytes is longer than {PATH_LIMIT_BYTES}")
        for text in methods:
            if not text:
                raise ValueError("a method is empty")
            mask |= method_bit(<const uint8_t*>PyBytes_AS_STRING(text), len(text))
        for text in hosts:
            pattern = parse_pattern(text)
            plain = plain and pattern[0] == HOST_EXACT
            patterns.append(pattern)
        packed = pack_conditions(hosts, methods)

        number = self.conditions.setdefault(packed, len(self.conditions))
        numbers = [self.patterns.setdefault(pattern, len(self.patterns) + 1) for pattern in patterns]
        if len(numbers) > 1:
            numbers = list(dict.fromkeys(numbers))
        self.routes = max(self.routes, route + 1)
        priority = <uint64_t>(bool(hosts) + bool(paths) + bool(methods)) << PRIORITY_KINDS_SHIFT
        priority |= <uint64_t>plain << PRIORITY_PLAIN_HOSTS_SHIFT
        for text in (dict.fromkeys(paths) if len(paths) > 1 else paths) if paths else (b"",):
            self.owned.append(text)
            self.built = <Built*>grown(self.built, self.built_count, &self.built_room, sizeof(Built))
            built = &self.built[self.built_count]
            built.kept.priority = priority | <uint64_t>min(len(text), PRIORITY_LENGTH_LIMIT)
            built.kept.created_at = created_at
            memcpy(built.kept.key, PyBytes_AS_STRING(key), 16)
            built.kept.route = route
            built.kept.path_len = <uint32_t>len(text)
            built.kept.path_offset = 0
            built.kept.conditions_offset = number      # its offset once it is laid out
            built.path = <const uint8_t*>PyBytes_AS_STRING(text)
            built.methods = mask
            built.number = <uint32_t>self.built_count
            for pattern_number in numbers or (ANY_HOST,):
                self.items = <Item*>grown(self.items, self.item_count, &self.item_room, sizeof(Item))
                item = &self.items[self.item_count]
                item.path = built.path
                item.path_len = built.kept.path_len
                item.pattern = pattern_number
                item.candidate = built.number
                item.route = route
                item.methods = mask
                self.item_count += 1
            self.built_count += 1

    def freeze(self):
        cdef Output out = Output()
        cdef TableHeader* header
        cdef Item* items
        cdef uint32_t* ranks = NULL
        cdef Py_ssize_t i, nodes_offset, nodes_end, candidates_offset
        cdef list roots

        out.reserve(sizeof(TableHeader), 8)
        qsort(self.built, self.built_count, sizeof(Built), compare_built)
        ranks = <uint32_t*>calloc(max(self.built_count, 1), sizeof(uint32_t))
        items = <Item*>calloc(max(self.item_count, 1), sizeof(Item))
        try:
            if ranks == NULL or items == NULL:
                raise MemoryError
            for i in range(self.built_count):
                ranks[self.built[i].number] = <uint32_t>i
            for i in range(self.item_count):
                items[i] = self.items[i]
                items[i].candidate = ranks[self.items[i].candidate]
            qsort(items, self.item_count, sizeof(Item), compare_items)
            nodes_offset = out.reserve(0, 4)
            roots = self.write_tries(out, items)
            nodes_end = out.size
        finally:
            free(ranks)
            free(items)
        indexes = self.write_hosts(out, roots)
        candidates_offset = self.write_candidates(out)

        header = <TableHeader*>out.data
        header.magic = TABLE_MAGIC
        header.version = TABLE_VERSION
        header.size = <uint32_t>out.size
        header.routes = self.routes
        header.candidates = <uint32_t>self.built_count
        header.candidates_offset = <uint32_t>candidates_offset
        header.nodes_offset = <uint32_t>nodes_offset
        header.nodes_end = <uint32_t>nodes_end
        header.any_host_root = roots[ANY_HOST]
        for i in range(HOST_KINDS):
            header.hosts[i].slots_offset, header.hosts[i].slots = indexes[i]
        return PyBytes_FromStringAndSize(<char*>out.data, out.size)

    cdef list write_tries(self, Output out, const Item* items):
        """Write a trie for each run of one pattern; the offset of its root by pattern number."""
        cdef list roots = [0] * (len(self.patterns) + 1)
        cdef dict known = {}              # the ranks under a pattern -> its root
        cdef bytes ranks
        cdef uint32_t* rank
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high, i
        while low < self.item_count:
            high = low + 1
            while high < self.item_count and items[high].pattern == items[low].pattern:
                high += 1
            ranks = PyBytes_FromStringAndSize(NULL, (high - low) * sizeof(uint32_t))
            rank = <uint32_t*>PyBytes_AS_STRING(ranks)
            for i in range(low, high):
                rank[i - low] = items[i].candidate
            root = known.get(ranks)
            if root is None:
                root = known[ranks] = self.write_trie(out, items, low, high)
            roots[items[low].pattern] = root
            low = high
        return roots

    cdef Py_ssize_t write_trie(
        self, Output out, const Item* items, Py_ssize_t low, Py_ssize_t high
    ) except -1:
        cdef Py_ssize_t root = pad(out.size, 4)
        cdef Py_ssize_t depth, end, own, i, offset, first_child, children, patch
        cdef Py_ssize_t waiting = 1
        cdef Pending here
        cdef const Item* first
        cdef const Item* last
        cdef Node* node
        cdef Entry* entry
        cdef uint8_t* keys
        cdef uint32_t best
        cdef bint changes
        self.stack = <Pending*>grown(self.stack, 0, &self.stack_room, sizeof(Pending))
        self.stack[0] = Pending(low, high, 0, 0)
        while waiting:
            waiting -= 1
            here = self.stack[waiting]
            first = &items[here.low]
            last = &items[here.high - 1]
            # The items are sorted: what first and last share, all share.
            depth = here.depth
            end = min(first.path_len, last.path_len)
            while depth < end and first.path[depth] == last.path[depth]:
                depth += 1
            own = here.low
            while own < here.high and <Py_ssize_t>items[own].path_len == depth:
                own += 1
            best = NO_RANK
            children = 0
            for i in range(here.low, here.high):
                best = min(best, items[i].candidate)
                if i >= own and (i == own or items[i].path[depth] != items[i - 1].path[depth]):
                    children += 1

            offset = out.reserve(
                sizeof(Node) + pad(depth - here.depth + children, 4)
                + sizeof(uint32_t) * children + sizeof(Entry) * (own - here.low), 4,
            )
            if here.patch:
                (<uint32_t*>(out.data + here.patch))[0] = <uint32_t>offset
            node = <Node*>(out.data + offset)
            node.best = best
            node.entries = <uint32_t>(own - here.low)
            node.label_len = <uint16_t>(depth - here.depth)
            node.children = <uint16_t>children
            memcpy(<uint8_t*>node_label(node), first.path + here.depth, node.label_len)
            entry = <Entry*>node_entries(node)
            for i in range(here.low, own):
                entry.rank = items[i].candidate
                entry.route = items[i].route
                entry.methods = items[i].methods
                entry += 1

            # Children are pushed last first, so that the first lies right behind its parent.
            keys = <uint8_t*>node_label(node) + node.label_len
            first_child = <Py_ssize_t>(<uint8_t*>node_children(node) - out.data)
            end = here.high
            for i in range(here.high - 1, own - 1, -1):
                changes = i == own or items[i].path[depth] != items[i - 1].path[depth]
                if changes:
                    children -= 1
                    keys[children] = items[i].path[depth]
                    self.stack = <Pending*>grown(self.stack, waiting, &self.stack_room, sizeof(Pending))
                    patch = first_child + sizeof(uint32_t) * children
                    self.stack[waiting] = Pending(i, end, depth + 1, patch)
                    waiting += 1
                    end = i
        return root

    cdef list write_hosts(self, Output out, list roots):
        """Write records and hash indexes; (offset, slots) of each index by kind."""
        cdef list found = [{}, {}, {}]    # by kind: key -> [(port, root)]
        cdef list indexes = []
        cdef HostRecord* record
        cdef PortRoot* port_root
        cdef HostSlot* slot
        cdef Py_ssize_t offset, slots_offset
        cdef uint32_t slots, place, hashed
        cdef bytes key
        for (kind, key, port), number in self.patterns.items():
            (<dict>found[kind]).setdefault(key, []).append((port, roots[number]))
        for kind in range(HOST_KINDS):
            slots = 0
            if found[kind]:
                slots = 4
                while slots < 2 * len(found[kind]):
                    slots *= 2
            slots_offset = out.reserve(sizeof(HostSlot) * <Py_ssize_t>slots, 8)
            for key, ports in (<dict>found[kind]).items():
                with_port = sorted(pair for pair in ports if pair[0] >= 0)
                offset = out.reserve(sizeof(HostRecord) + sizeof(PortRoot) * len(with_port) + len(key), 4)
                record = <HostRecord*>(out.data + offset)
                for port, root in ports:
                    if port < 0:
                        record.root = root
                record.ports = len(with_port)
                record.key_len = len(key)
                port_root = <PortRoot*>record_ports(record)
                for port, root in with_port:
                    port_root.port = port
                    port_root.root = root
                    port_root += 1
                memcpy(<uint8_t*>record_key(record), PyBytes_AS_STRING(key), len(key))

                hashed = hash_key(kind, <const uint8_t*>PyBytes_AS_STRING(key), len(key))
                place = hashed & (slots - 1)
                slot = <HostSlot*>(out.data + slots_offset)
                while slot[place].record:
                    place = (place + 1) & (slots - 1)
                slot[place].hash = hashed
                slot[place].record = <uint32_t>offset
            indexes.append((slots_offset, slots))
        return indexes

    cdef Py_ssize_t write_candidates(self, Output out) except -1:
        """Write the text, then the candidates; the offset of the latter."""
        cdef list offsets = []
        cdef bytes packed
        cdef Candidate* candidate
        cdef Py_ssize_t i, text_offset, candidates_offset
        for packed in self.conditions:
            offsets.append(out.put(<const uint8_t*>PyBytes_AS_STRING(packed), len(packed)))
        text_offset = out.size
        for i in range(self.built_count):
            out.put(self.built[i].path, self.built[i].kept.path_len)
        candidates_offset = out.reserve(sizeof(Candidate) * self.built_count, 8)
        candidate = <Candidate*>(out.data + candidates_offset)
        for i in range(self.built_count):
            candidate[i] = self.built[i].kept
            candidate[i].conditions_offset = offsets[self.built[i].kept.conditions_offset]
            candidate[i].path_offset = <uint32_t>text_offset
            text_offset += candidate[i].path_len
        return candidates_offset


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


cdef bytes pack_conditions(hosts, methods):
    cdef list parts = [len(hosts).to_bytes(2, "little") if len(hosts) <= CONDITION_LIMIT else None]
    parts.append(len(methods).to_bytes(2, "little") if len(methods) <= CONDITION_LIMIT else None)
    for text in (*hosts, *methods):
        parts.append(len(text).to_bytes(2, "little") if len(text) <= CONDITION_LIMIT else None)
        parts.append(text)
    if None in parts:
        raise ValueError(f"more than {CONDITION_LIMIT} hosts or methods, or bytes in one of them")
    return b"".join(parts)


# ---- checking and searching

cdef struct Search:
    const uint8_t* block
    const Candidate* candidates
    const uint8_t* path
    Py_ssize_t path_len
    const uint8_t* method
    Py_ssize_t method_len
    uint32_t method_bit
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
