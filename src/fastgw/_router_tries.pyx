"""Writing path tries and the hosts that lead to them (see `_router_tries.pxd`).

The one complication: items are sorted by pattern and path, so that every trie is one run of the array and is
written in one pass over it, parents before children, with a stack of its own since paths may nest thousands
deep.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from fastgw._router cimport (
    ENTRY_OWN_PATH, ENTRY_REGEX, HOST_KINDS, LINE_BYTES, NO_RANK, NODE_ENTRIES_LIMIT, NODE_KEYED, SIEVE_LEAST,
    Entry, HostRecord, HostSlot, Node, PortRoot, node_children, node_entries, node_label, pad, record_key,
    record_ports,
)
from fastgw._router_interning cimport Interned, Pattern, Patterns, grown


cdef int compare_paths(const uint8_t* a, Py_ssize_t a_len, const uint8_t* b, Py_ssize_t b_len) noexcept nogil:
    cdef int order = memcmp(a, b, min(a_len, b_len))
    return order if order else (a_len > b_len) - (a_len < b_len)


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
    def __dealloc__(self):
        free(self.data)

    cdef Py_ssize_t reserve(self, Py_ssize_t n, Py_ssize_t unit) except -1:
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

    cdef Py_ssize_t reserve_in_lines(self, Py_ssize_t n) except -1:
        cdef Py_ssize_t at = pad(self.size, 4) % LINE_BYTES
        cdef Py_ssize_t least = (n + LINE_BYTES - 1) // LINE_BYTES
        return self.reserve(n, LINE_BYTES if at + n > least * LINE_BYTES else 4)

    cdef Py_ssize_t put(self, const uint8_t* what, Py_ssize_t n) except -1:
        cdef Py_ssize_t offset = self.reserve(n, 1)
        memcpy(self.data + offset, what, n)
        return offset


cdef Shape shape_of(const Item* items, const Pending* here) noexcept nogil:
    cdef const Item* first = &items[here.low]
    cdef const Item* last = &items[here.high - 1]
    cdef Shape shape
    cdef Py_ssize_t end, i
    # The items are sorted: what first and last share, all share.
    shape.depth = here.depth
    shape.own = here.low
    shape.best = NO_RANK
    shape.children = shape.span = 0
    shape.is_keyed = False
    shape.size = 0
    if here.low == here.high:
        return shape
    end = min(first.path_len, last.path_len)
    while shape.depth < end and first.path[shape.depth] == last.path[shape.depth]:
        shape.depth += 1
    while shape.own < here.high and <Py_ssize_t>items[shape.own].path_len == shape.depth:
        shape.own += 1
    for i in range(here.low, here.high):
        shape.best = min(shape.best, items[i].candidate)
        if i >= shape.own and (
            i == shape.own or items[i].path[shape.depth] != items[i - 1].path[shape.depth]
        ):
            shape.children += 1
    if shape.children:
        shape.span = 1 + last.path[shape.depth] - items[shape.own].path[shape.depth]
        shape.is_keyed = shape.span > 2 * shape.children + 4
    shape.size = (
        sizeof(Node) + sizeof(uint32_t) * (shape.children if shape.is_keyed else shape.span)
        + pad(shape.depth - here.depth + (shape.children if shape.is_keyed else 0), 4)
        + sizeof(Entry) * (shape.own - here.low)
    )
    return shape


cdef class TrieWriter:
    def __cinit__(self):
        self.known = {}
        self.crowded = []

    def __dealloc__(self):
        free(self.stack)
        free(self.runs)

    cdef tuple write(self, Item* items, Py_ssize_t count, Patterns patterns):
        cdef Py_ssize_t i
        self.items = items
        self.patterns = patterns
        self.runs = <Run*>calloc(patterns.count, sizeof(Run))
        if self.runs == NULL:
            raise MemoryError
        qsort(items, count, sizeof(Item), compare_items)
        for i in range(count):
            if i == 0 or items[i].pattern != items[i - 1].pattern:
                self.runs[items[i].pattern].low = i
            self.runs[items[i].pattern].high = i + 1
        indexes = [self.write_index(kind) for kind in range(HOST_KINDS)]
        return self.write_root(0), indexes

    cdef uint32_t write_root(self, uint32_t pattern) except? 0xFFFFFFFF:
        """Write a pattern's trie right here, or find one that is equal; its root, 0 if it has no items."""
        cdef const Run* run = &self.runs[pattern]
        cdef Pending here
        cdef Shape shape
        cdef Py_ssize_t root, i
        cdef Py_ssize_t waiting = 0
        cdef bytes ranks = None
        cdef uint32_t* rank
        if run.low == run.high:
            return 0
        if not self.items[run.low].is_alone:
            ranks = PyBytes_FromStringAndSize(NULL, (run.high - run.low) * sizeof(uint32_t))
            rank = <uint32_t*>PyBytes_AS_STRING(ranks)
            for i in range(run.low, run.high):
                rank[i - run.low] = self.items[i].candidate
            if ranks in self.known:
                return self.known[ranks]
        here = Pending(run.low, run.high, 0, 0)
        shape = shape_of(self.items, &here)
        root = self.out.reserve(shape.size, 4)
        waiting = self.write_node(root, &here, &shape, waiting)
        while waiting:
            waiting -= 1
            here = self.stack[waiting]
            shape = shape_of(self.items, &here)
            waiting = self.write_node(self.out.reserve_in_lines(shape.size), &here, &shape, waiting)
        if ranks is not None:
            self.known[ranks] = root
        return <uint32_t>root

    cdef Py_ssize_t write_node(
        self, Py_ssize_t offset, const Pending* here, const Shape* shape, Py_ssize_t waiting
    ) except -1:
        """Write a node and push its children behind the *waiting* ones; how many wait then."""
        cdef const Item* items = self.items
        cdef uint8_t* data = self.out.data
        cdef Node* node = <Node*>(data + offset)
        cdef Entry* entry
        cdef uint8_t* keys
        cdef Py_ssize_t i, first_child
        cdef Py_ssize_t end = here.high
        cdef uint32_t slot = shape.children
        cdef uint32_t regexes
        if shape.own - here.low > NODE_ENTRIES_LIMIT:
            raise ValueError(f"more than {NODE_ENTRIES_LIMIT} routes of one host and path")
        if here.patch:
            (<uint32_t*>(data + here.patch))[0] = <uint32_t>offset
        node.best = shape.best
        node.entries = <uint32_t>(shape.own - here.low)
        node.label_len = <uint16_t>(shape.depth - here.depth)
        if shape.is_keyed:
            node.children = <uint16_t>(shape.children | NODE_KEYED)
        elif shape.children:
            node.entries |= <uint32_t>items[shape.own].path[shape.depth] << 24
            node.children = <uint16_t>shape.span
        memcpy(<uint8_t*>node_label(node), items[here.low].path + here.depth, node.label_len)
        entry = <Entry*>node_entries(node)
        regexes = 0
        for i in range(here.low, shape.own):
            regexes += items[i].flags & ENTRY_OWN_PATH != 0 and items[i].flags & ENTRY_REGEX != 0
            entry.rank = items[i].candidate
            entry.route = items[i].route
            entry.flags = items[i].flags
            entry += 1

        if regexes >= SIEVE_LEAST:
            self.crowded.append(offset)

        # Children are pushed last first, so that the first lies right behind its parent.
        keys = <uint8_t*>node_label(node) + node.label_len
        first_child = <Py_ssize_t>(<uint8_t*>node_children(node) - data)
        for i in range(here.high - 1, shape.own - 1, -1):
            if i == shape.own or items[i].path[shape.depth] != items[i - 1].path[shape.depth]:
                if shape.is_keyed:
                    slot -= 1
                    keys[slot] = items[i].path[shape.depth]
                else:
                    slot = items[i].path[shape.depth] - items[shape.own].path[shape.depth]
                self.stack = <Pending*>grown(self.stack, waiting, &self.stack_room, sizeof(Pending))
                self.stack[waiting] = Pending(i, end, shape.depth + 1, first_child + sizeof(uint32_t) * slot)
                waiting += 1
                end = i
        return waiting

    cdef uint32_t write_record(self, uint32_t key) except 0:
        """Write the record of a key and its tries."""
        cdef const Interned* text = &self.patterns.keys.texts[key]
        cdef const Pattern* patterns = self.patterns.patterns
        cdef HostRecord* record
        cdef Pending first
        cdef Py_ssize_t size, offset, i, count
        cdef uint32_t number = text.value
        cdef uint32_t root
        cdef int port = patterns[number].port
        cdef bint is_plain = port < 0
        cdef list ports = None
        count = 1 - is_plain
        if patterns[number].other:
            ports = []
            while number:
                ports.append((patterns[number].port, number))
                number = patterns[number].other
            # Any port first: that is the trie that lies beside the record.
            ports.sort()
            port, number = ports[0]
            is_plain = port < 0
            count = len(ports) - is_plain
        size = pad(sizeof(HostRecord) + sizeof(PortRoot) * count + text.len, 4)
        first = Pending(self.runs[number].low, self.runs[number].high, 0, 0)
        offset = self.out.reserve_in_lines(size + shape_of(self.items, &first).size)
        self.out.size = offset + size
        for i in range(count + is_plain):
            if ports is not None:
                port, number = ports[i]
            root = self.write_root(number)
            record = <HostRecord*>(self.out.data + offset)
            if port < 0:
                record.root = root
            else:
                (<PortRoot*>record_ports(record))[i - is_plain] = PortRoot(port, root)
        record = <HostRecord*>(self.out.data + offset)
        record.ports = count
        record.key_len = text.len
        memcpy(<uint8_t*>record_key(record), self.patterns.keys.data + text.offset, text.len)
        return <uint32_t>offset

    cdef tuple write_index(self, int kind):
        cdef HostSlot* slot
        cdef const Interned* texts = self.patterns.keys.texts
        cdef uint32_t slots = 0
        cdef uint32_t hashed, place, record
        cdef Py_ssize_t records = 0
        cdef Py_ssize_t slots_offset, i
        for i in range(self.patterns.keys.count):
            records += <int>texts[i].tag == kind
        if records:
            slots = 4
            while 4 * <Py_ssize_t>slots < 5 * records:   # at most four fifths of them are taken
                slots *= 2
        slots_offset = self.out.reserve(sizeof(HostSlot) * <Py_ssize_t>slots, LINE_BYTES)
        for i in range(self.patterns.keys.count):
            if <int>texts[i].tag != kind:
                continue
            record = self.write_record(<uint32_t>i)
            hashed = texts[i].hash
            place = hashed & (slots - 1)
            slot = <HostSlot*>(self.out.data + slots_offset)
            while slot[place].record:
                place = (place + 1) & (slots - 1)
            slot[place].hash = hashed
            slot[place].record = record
        return slots_offset, slots
