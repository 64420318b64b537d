"""Writing path tries and the hosts that lead to them (see `_router_tries.pxd`).

The one complication: items are sorted by pattern and path, so that every trie is one run of the array and is
written in one pass over it, parents before children, with a stack of its own since paths may nest thousands
deep.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from fastgw._router cimport (
    HOST_KINDS, NO_RANK, Entry, HostRecord, HostSlot, Node, PortRoot, node_children, node_entries, node_label,
    pad, record_key, record_ports,
)
from fastgw._router_hosts cimport hash_key


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

    cdef Py_ssize_t put(self, const uint8_t* what, Py_ssize_t n) except -1:
        cdef Py_ssize_t offset = self.reserve(n, 1)
        memcpy(self.data + offset, what, n)
        return offset


cdef void* grown(void* data, Py_ssize_t used, Py_ssize_t* room, Py_ssize_t unit) except NULL:
    cdef void* moved = data
    if used == room[0]:
        moved = realloc(data, max(2 * used, 64) * unit)
        if moved == NULL:
            raise MemoryError
        room[0] = max(2 * used, 64)
    return moved


cdef class TrieWriter:
    def __dealloc__(self):
        free(self.stack)

    cdef list write(self, Item* items, Py_ssize_t count, Py_ssize_t patterns):
        cdef list roots = [0] * (patterns + 1)
        cdef dict known = {}              # the ranks under a pattern -> its root
        cdef bytes ranks
        cdef uint32_t* rank
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high, i
        qsort(items, count, sizeof(Item), compare_items)
        while low < count:
            high = low + 1
            while high < count and items[high].pattern == items[low].pattern:
                high += 1
            ranks = PyBytes_FromStringAndSize(NULL, (high - low) * sizeof(uint32_t))
            rank = <uint32_t*>PyBytes_AS_STRING(ranks)
            for i in range(low, high):
                rank[i - low] = items[i].candidate
            root = known.get(ranks)
            if root is None:
                root = known[ranks] = self.write_one(items, low, high)
            roots[items[low].pattern] = root
            low = high
        return roots

    cdef Py_ssize_t write_one(self, const Item* items, Py_ssize_t low, Py_ssize_t high) except -1:
        cdef Output out = self.out
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
                entry.flags = items[i].flags
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


cdef list write_hosts(Output out, dict patterns, list roots):
    cdef list found = [{}, {}, {}, {}]  # by kind: key -> [(port, root)]
    cdef list indexes = []
    cdef HostRecord* record
    cdef PortRoot* port_root
    cdef HostSlot* slot
    cdef Py_ssize_t offset, slots_offset
    cdef uint32_t slots, place, hashed
    cdef bytes key
    for (kind, key, port), number in patterns.items():
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
