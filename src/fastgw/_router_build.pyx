"""Building a route table: routes in, the block that _router.pxd draws out.

Contract. Rules are those of _router.pyi; the same routes added in the same order give the same bytes. A
route that is refused leaves nothing behind that matches.

The one complication is that candidates are sorted twice: by precedence, which gives each its rank, then by
host pattern and path, so that every trie is one run of the array and is written in one pass over it, parents
before children, with a stack of its own since paths may nest thousands deep.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from fastgw._router cimport (
    CONDITIONS_HEADER, ENTRY_OWN_PATH, ENTRY_PROGRAM, ENTRY_REGEX, ENTRY_SNIS, FLAVOR_COMPATIBLE,
    FLAVOR_TRADITIONAL, HOST_EXACT,
    HOST_KINDS, HOST_RAW, METHOD_ANY, NO_RANK, OLD_PRIORITY_HEADERS_SHIFT, OLD_PRIORITY_MASK_SHIFT,
    OLD_PRIORITY_RAW_SHIFT, OLD_PRIORITY_SUBMASK_SHIFT, PRIORITY_EXPRESSION, PRIORITY_HEADERS_SHIFT,
    PRIORITY_KINDS_SHIFT, PRIORITY_LENGTH_LIMIT, PRIORITY_PLAIN_HOSTS_SHIFT, PRIORITY_REGEX_PRIORITY_SHIFT,
    PRIORITY_REGEX_SHIFT, TABLE_MAGIC, TABLE_VERSION, Candidate, Entry, HostRecord, HostSlot, Node, PortRoot,
    RegexRecord, TableHeader, hash_key, method_bit, node_children, node_entries, node_label, pad,
    parse_pattern, record_key, record_ports,
)

from fastgw._regex import compile_regex, literal_prefix
from fastgw._router_program import All, assemble, conditions, has_regex, hints_of, with_regexes
from fastgw._router_program import Test as ProgramTest
from fastgw._router import InstructionFlag, Operator, RequestField

cdef enum:
    PATH_LIMIT_BYTES = 0xFFFF         # Node.label_len
    CONDITION_LIMIT = 0xFFFF          # hosts or methods of one route, and bytes of each
    ANY_HOST = 0                      # the pattern number of routes without hosts
    HEADERS_LIMIT = 255               # header names that count
    NO_PROGRAM = 0xFFFFFFFF

# The place of each set of kinds in `traditional`: more kinds first of all, then the larger mask.
cdef dict MASK_PLACES = {
    mask: place for place, mask in enumerate(sorted(range(128), key=lambda mask: (mask.bit_count(), mask)))
}


cdef struct Built:
    Candidate kept
    const uint8_t* path               # owned by TableBuilder.owned
    uint32_t number                   # in the order of adding


# One candidate under one of its hosts and the text that a path must begin with.
cdef struct Item:
    const uint8_t* path
    uint32_t path_len
    uint32_t pattern
    uint32_t candidate                # Built.number, then rank
    uint32_t route
    uint32_t flags


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
    return (a.number > b.number) - (a.number < b.number)


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


cdef class _Output:
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
    cdef list owned                   # the bytes of all paths
    cdef dict conditions              # packed conditions -> number
    cdef dict patterns                # (HOST_* kind, key, port or -1) -> number; ANY_HOST is nobody's
    cdef dict programs                # program -> number
    cdef dict regexes                 # pattern -> number
    cdef uint32_t routes
    cdef uint32_t snis
    cdef int flavor

    def __cinit__(self):
        self.flavor = FLAVOR_COMPATIBLE
        self.owned = []
        self.conditions = {}
        self.patterns = {}
        self.programs = {}
        self.regexes = {}

    def __init__(self, int flavor=2):
        if flavor != FLAVOR_COMPATIBLE and flavor != FLAVOR_TRADITIONAL:
            raise ValueError(f"there is no flavor {flavor}")
        if self.built_count:
            raise TypeError("a builder is made once")
        self.flavor = flavor

    def __dealloc__(self):
        free(self.built)
        free(self.items)
        free(self.stack)

    def add(
        self, uint32_t route, *, hosts, paths, methods, int64_t created_at, bytes key not None,
        regexes=(), headers=(), snis=(), regex_priority=0,
    ):
        cdef uint32_t flags = METHOD_ANY
        cdef uint32_t regex_flags, program
        cdef uint64_t priority, low
        cdef uint32_t place
        cdef bint is_old = self.flavor == FLAVOR_TRADITIONAL
        cdef bytes text
        cdef list patterns = []
        cdef list checks = None
        cdef bint plain = bool(hosts)

        # All checks come first: a refused route leaves nothing behind.
        check_identity(route, key)
        if not (hosts or paths or methods or regexes or headers or snis):
            raise ValueError("a route needs a host, a path, a method, a header or an SNI")
        for text in paths:
            check_path(text)
        if methods:
            flags = mask_of(methods)
        for text in hosts:
            pattern = parse_pattern(text)
            plain = plain and pattern[0] == HOST_EXACT
            patterns.append(pattern)
        conditions_number = self.number_of_conditions(hosts, methods, snis, headers, b"")
        program = NO_PROGRAM
        if headers or snis:
            checks = conditions(headers, snis, is_old=is_old, number_of=self.regex)
            flags |= ENTRY_SNIS if snis else 0
            flags |= ENTRY_PROGRAM
            program = self.number_of_program(All(checks))
            if has_regex(All(checks)):
                flags |= ENTRY_REGEX

        numbers = self.numbers_of(patterns)
        self.routes = max(self.routes, route + 1)
        self.snis += 1 if snis else 0
        raw_numbers = None
        if is_old:
            priority = old_priority(hosts, paths or regexes, methods, headers, snis, patterns, plain)
            raw = [text for text, pattern in zip(hosts, patterns) if pattern[0] == HOST_EXACT]
            if raw:
                raw_numbers = self.numbers_of([(HOST_RAW, text, -1) for text in raw])
        else:
            priority = <uint64_t>(
                bool(hosts) + bool(paths or regexes) + bool(methods) + bool(headers) + bool(snis)
            ) << PRIORITY_KINDS_SHIFT
            priority |= <uint64_t>plain << PRIORITY_PLAIN_HOSTS_SHIFT
            if headers:
                priority |= <uint64_t>min(len(headers), HEADERS_LIMIT) << PRIORITY_HEADERS_SHIFT
        place = conditions_number
        for text in (dict.fromkeys(paths) if len(paths) > 1 else paths) if paths or regexes else (b"",):
            low = priority | <uint64_t>min(len(text), PRIORITY_LENGTH_LIMIT)
            self.put(route, low, created_at, key, text, place, program, flags, numbers, (text,))
            if raw_numbers is not None:
                low |= <uint64_t>1 << OLD_PRIORITY_RAW_SHIFT
                self.put(route, low, created_at, key, text, place, program, flags, raw_numbers, (text,))
        if not regexes:
            return
        low = <uint64_t>(min(max(regex_priority or 0, -(2**31)), 2**31 - 1) + 2**31)
        if is_old:
            priority |= <uint64_t>1 << OLD_PRIORITY_SUBMASK_SHIFT | low
        else:
            priority |= <uint64_t>1 << PRIORITY_REGEX_SHIFT | low << PRIORITY_REGEX_PRIORITY_SHIFT
        regex_flags = flags | ENTRY_PROGRAM | ENTRY_REGEX | ENTRY_OWN_PATH
        for text in dict.fromkeys(regexes):
            test = ProgramTest(
                Operator.OPERATOR_REGEX, RequestField.FIELD_PATH, InstructionFlag.INSTRUCTION_ANCHORED,
                regex=self.regex(text),
            )
            program = self.number_of_program(All([*(checks or ()), test]))
            begin = (literal_prefix(text),)
            text = b"~" + text
            self.put(route, priority, created_at, key, text, place, program, regex_flags, numbers, begin)
            if raw_numbers is not None:
                self.put(
                    route, priority | <uint64_t>1 << OLD_PRIORITY_RAW_SHIFT, created_at, key, text, place,
                    program, regex_flags, raw_numbers, begin,
                )

    def add_expression(
        self, uint32_t route, *, bytes text not None, tree, uint64_t priority, int64_t created_at,
        bytes key not None,
    ):
        cdef uint32_t flags = METHOD_ANY | ENTRY_PROGRAM | ENTRY_OWN_PATH
        cdef bytes prefix
        check_identity(route, key)
        if self.flavor != FLAVOR_COMPATIBLE:
            raise ValueError("expressions have no place in the traditional flavor")
        if priority >> 46:
            raise ValueError(f"a priority of {priority} is not below 2^46")
        hints = hints_of(tree)
        methods = sorted(hints.methods or ())
        prefixes = sorted(hints.prefixes or ())
        for prefix in prefixes:
            if len(prefix) > PATH_LIMIT_BYTES:
                raise ValueError(f"a path of {len(prefix)} bytes is longer than {PATH_LIMIT_BYTES}")
        if methods:
            flags = flags & ~<uint32_t>METHOD_ANY | mask_of(methods)
        if has_regex(tree):
            flags |= ENTRY_REGEX
            tree = with_regexes(tree, self.regex)
        place = self.number_of_conditions((), methods, (), (), text)
        program = self.number_of_program(tree)
        numbers = self.numbers_of([(HOST_EXACT, host, -1) for host in sorted(hints.hosts or ())])
        self.routes = max(self.routes, route + 1)
        self.put(
            route, <uint64_t>PRIORITY_EXPRESSION << PRIORITY_KINDS_SHIFT | priority, created_at, key, b"", place,
            program, flags, numbers, tuple(prefixes) or (b"",),
        )

    def regex(self, bytes pattern not None):
        number = self.regexes.get(pattern)
        if number is None:
            compile_regex(pattern, is_bytes=self.flavor == FLAVOR_TRADITIONAL)
            number = self.regexes[pattern] = len(self.regexes)
        return number

    cdef uint32_t number_of_conditions(self, hosts, methods, snis, headers, bytes expression) except? 0xFFFFFFFF:
        packed = pack_conditions(hosts, methods, snis, headers, expression)
        return self.conditions.setdefault(packed, len(self.conditions))

    cdef uint32_t number_of_program(self, tree) except? 0xFFFFFFFF:
        return self.programs.setdefault(assemble(tree), len(self.programs))

    cdef list numbers_of(self, list patterns):
        """The number of each host pattern, each once; for none that of any host."""
        cdef list numbers = [self.patterns.setdefault(pattern, len(self.patterns) + 1) for pattern in patterns]
        if len(numbers) > 1:
            return list(dict.fromkeys(numbers))
        return numbers or [ANY_HOST]

    cdef int put(
        self, uint32_t route, uint64_t priority, int64_t created_at, bytes key, bytes text, uint32_t place,
        uint32_t program, uint32_t flags, list numbers, tuple begins,
    ) except -1:
        """Add a candidate: *text* is its path, *begins* what a request's path must begin with."""
        cdef Built* built
        cdef Item* item
        cdef bytes begin
        self.owned.append(text)
        self.built = <Built*>grown(self.built, self.built_count, &self.built_room, sizeof(Built))
        built = &self.built[self.built_count]
        built.kept.priority = priority
        built.kept.created_at = created_at
        memcpy(built.kept.key, PyBytes_AS_STRING(key), 16)
        built.kept.route = route
        built.kept.path_len = <uint32_t>len(text)
        built.kept.path_offset = 0
        built.kept.conditions_offset = place      # their offsets once they are laid out
        built.kept.program_offset = program
        built.kept.flags = flags
        built.path = <const uint8_t*>PyBytes_AS_STRING(text)
        built.number = <uint32_t>self.built_count
        for begin in begins:
            if begin is not text:
                self.owned.append(begin)
            for number in numbers:
                self.items = <Item*>grown(self.items, self.item_count, &self.item_room, sizeof(Item))
                item = &self.items[self.item_count]
                item.path = <const uint8_t*>PyBytes_AS_STRING(begin)
                item.path_len = <uint32_t>len(begin)
                item.pattern = number
                item.candidate = built.number
                item.route = route
                item.flags = flags
                self.item_count += 1
        self.built_count += 1
        return 0

    def freeze(self):
        cdef _Output out = _Output()
        cdef TableHeader* header
        cdef Item* items
        cdef uint32_t* ranks = NULL
        cdef Py_ssize_t i, nodes_offset, nodes_end, candidates_offset, regexes_offset
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
        programs = self.write_programs(out)
        regexes_offset = self.write_regexes(out)
        candidates_offset = self.write_candidates(out, programs)

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
        header.flavor = self.flavor
        header.snis = self.snis
        header.regexes = <uint32_t>len(self.regexes)
        header.regexes_offset = <uint32_t>regexes_offset
        return PyBytes_FromStringAndSize(<char*>out.data, out.size)

    cdef list write_tries(self, _Output out, const Item* items):
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
        self, _Output out, const Item* items, Py_ssize_t low, Py_ssize_t high
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

    cdef list write_hosts(self, _Output out, list roots):
        """Write records and hash indexes; (offset, slots) of each index by kind."""
        cdef list found = [{}, {}, {}, {}]  # by kind: key -> [(port, root)]
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

    cdef list write_programs(self, _Output out):
        """Write the programs; their offsets by number."""
        cdef list offsets = []
        cdef bytes program
        for program in self.programs:
            out.reserve(0, 8)
            offsets.append(out.put(<const uint8_t*>PyBytes_AS_STRING(program), len(program)))
        return offsets

    cdef Py_ssize_t write_regexes(self, _Output out) except -1:
        """Write the patterns and their records; the offset of the latter."""
        cdef list offsets = []
        cdef bytes pattern
        cdef RegexRecord* record
        cdef Py_ssize_t records_offset
        for pattern in self.regexes:
            offsets.append(out.put(<const uint8_t*>PyBytes_AS_STRING(pattern), len(pattern)))
        records_offset = out.reserve(sizeof(RegexRecord) * len(offsets), 4)
        record = <RegexRecord*>(out.data + records_offset)
        for pattern, offset in zip(self.regexes, offsets):
            record.pattern_offset = offset
            record.pattern_len = <uint32_t>len(pattern)
            record.is_bytes = self.flavor == FLAVOR_TRADITIONAL
            record += 1
        return records_offset

    cdef Py_ssize_t write_candidates(self, _Output out, list programs) except -1:
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
            candidate[i].program_offset = 0
            if self.built[i].kept.program_offset != NO_PROGRAM:
                candidate[i].program_offset = programs[self.built[i].kept.program_offset]
            candidate[i].path_offset = <uint32_t>text_offset
            text_offset += candidate[i].path_len
        return candidates_offset


cdef int check_identity(uint32_t route, bytes key) except -1:
    if len(key) != 16:
        raise ValueError(f"the key of route {route} has {len(key)} bytes, not 16")
    if route == 0xFFFFFFFF:
        raise ValueError(f"route number {route} is too large")
    return 0


cdef int check_path(bytes path) except -1:
    if not path.startswith(b"/"):
        raise ValueError(f"path {path!r} does not begin with a slash")
    if len(path) > PATH_LIMIT_BYTES:
        raise ValueError(f"a path of {len(path)} bytes is longer than {PATH_LIMIT_BYTES}")
    return 0


cdef uint32_t mask_of(methods) except 0:
    cdef uint32_t mask = 0
    cdef bytes method
    for method in methods:
        if not method:
            raise ValueError("a method is empty")
        mask |= method_bit(<const uint8_t*>PyBytes_AS_STRING(method), len(method))
    return mask


cdef uint64_t old_priority(hosts, paths, methods, headers, snis, list patterns, bint plain) except? 0:
    """A priority of the `traditional` flavor, without the low bits, for a prefix path."""
    cdef int mask = 64 * bool(hosts) + 32 * bool(headers) + 16 * bool(paths) + 8 * bool(methods) + 4 * bool(snis)
    cdef int submask = 2 * plain
    for kind, _, port in patterns:
        if kind != HOST_EXACT and port >= 0:
            submask |= 4
    return (
        <uint64_t>MASK_PLACES[mask] << OLD_PRIORITY_MASK_SHIFT
        | <uint64_t>submask << OLD_PRIORITY_SUBMASK_SHIFT
        | <uint64_t>min(len(headers), HEADERS_LIMIT) << OLD_PRIORITY_HEADERS_SHIFT
    )


cdef bytes pack_conditions(hosts, methods, snis, headers, bytes expression):
    """How many of each group (CONDITIONS_HEADER bytes), then each text behind its length, both as u16.

    A header is one text for each of its values: name, NUL, value. Of expressions there is one or none.
    """
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


cdef inline uint8_t* put_u16(uint8_t* at, uint32_t value) noexcept nogil:
    at[0] = value & 0xFF
    at[1] = value >> 8
    return at + 2
