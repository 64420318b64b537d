"""Building a route table: routes in, the block that _router.pxd draws out.

Contract. Rules are those of _router.pyi; the same routes added in the same order give the same bytes. A
route that is refused leaves nothing behind that matches.

The one complication is that candidates are sorted twice: by precedence, which gives each its rank, then (in
`_router_tries`) by host pattern and path.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memcmp, memcpy

from fastgw._router cimport (
    ENTRY_OWN_PATH, ENTRY_PROGRAM, ENTRY_REGEX, ENTRY_SNIS, FLAVOR_COMPATIBLE,
    FLAVOR_TRADITIONAL, HOST_EXACT,
    HOST_KINDS, HOST_RAW, METHOD_ANY, OLD_PRIORITY_HEADERS_SHIFT, OLD_PRIORITY_MASK_SHIFT,
    OLD_PRIORITY_RAW_SHIFT, OLD_PRIORITY_SUBMASK_SHIFT, PRIORITY_EXPRESSION, PRIORITY_HEADERS_SHIFT,
    PRIORITY_KINDS_SHIFT, PRIORITY_LENGTH_LIMIT, PRIORITY_PLAIN_HOSTS_SHIFT, PRIORITY_REGEX_PRIORITY_SHIFT,
    PRIORITY_REGEX_SHIFT, TABLE_MAGIC, TABLE_VERSION, Candidate, RegexRecord, TableHeader,
)
from fastgw._router_conditions cimport CONDITION_LIMIT, TEXTS_LIMIT, Text, pack_conditions, pack_plain
from fastgw._router_hosts cimport method_bit, parse_pattern
from fastgw._router_interning cimport Interner, Patterns, grown, hash_text
from fastgw._router_tries cimport Item, Output, TrieWriter

from fastgw._regex import compile_regex, literal_prefix
from fastgw._router_program import All, assemble, conditions, has_regex, hints_of, with_regexes
from fastgw._router_program import Test as ProgramTest
from fastgw._router import InstructionFlag, Operator, RequestField

cdef enum:
    PATH_LIMIT_BYTES = 0xFFFF         # Node.label_len
    ANY_HOST = 0                      # the pattern number of routes without hosts
    HEADERS_LIMIT = 255               # header names that count
    NO_PROGRAM = 0xFFFFFFFF

# The place of each set of kinds in `traditional`: more kinds first of all, then the larger mask.
cdef dict MASK_PLACES = {
    mask: place for place, mask in enumerate(sorted(range(128), key=lambda mask: (mask.bit_count(), mask)))
}

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


cdef class TableBuilder:
    def __cinit__(self):
        self.flavor = FLAVOR_COMPATIBLE
        self.owned = []
        self.conditions = Interner()
        self.scratch = Output()
        self.patterns = Patterns()
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

    cdef bint add_plain(
        self, uint32_t route, const PlainRoute* plain, int64_t created_at, const uint8_t* key, object owner,
    ) except -1:
        cdef uint32_t numbers[TEXTS_LIMIT]
        cdef uint32_t flags = METHOD_ANY
        cdef uint32_t place, number
        cdef uint64_t priority
        cdef Py_ssize_t patterns = 0
        cdef Py_ssize_t i
        cdef Text nothing = Text(<const uint8_t*>b"", 0)
        cdef const Text* path
        if (
            self.flavor != FLAVOR_COMPATIBLE or route == 0xFFFFFFFF
            or not (plain.hosts.count or plain.paths.count) or not is_plain(plain)
        ):
            return False
        if plain.methods.count:
            flags = 0
            for i in range(plain.methods.count):
                flags |= method_bit(plain.methods.at[i].at, plain.methods.at[i].n)
        for i in range(plain.hosts.count):
            number = self.patterns.number(HOST_EXACT, plain.hosts.at[i].at, plain.hosts.at[i].n, -1)
            if not is_among(number, numbers, patterns):
                numbers[patterns] = number
                patterns += 1
        if plain.hosts.count == 1 and not plain.methods.count:
            # Most routes: their conditions need not be packed to be found.
            if not self.patterns.patterns[numbers[0]].alone:
                self.patterns.patterns[numbers[0]].alone = 1 + self.number_of_plain(plain)
            place = self.patterns.patterns[numbers[0]].alone - 1
        else:
            place = self.number_of_plain(plain)
        if not patterns:
            numbers[0] = ANY_HOST
            patterns = 1

        self.routes = max(self.routes, route + 1)
        self.owned.append(owner)
        priority = (
            <uint64_t>((plain.hosts.count > 0) + (plain.paths.count > 0) + (plain.methods.count > 0))
            << PRIORITY_KINDS_SHIFT
            | <uint64_t>(plain.hosts.count > 0) << PRIORITY_PLAIN_HOSTS_SHIFT
        )
        for i in range(max(plain.paths.count, 1)):
            path = &plain.paths.at[i] if plain.paths.count else <const Text*>&nothing
            if stands_before(path, plain.paths.at, i):
                continue
            self.put_candidate(
                route, priority | <uint64_t>min(path.n, PRIORITY_LENGTH_LIMIT), created_at, key,
                path.at, path.n, place, NO_PROGRAM, flags,
            )
            for number in numbers[:patterns]:
                self.put_item(path.at, path.n, number, patterns == 1)
        return True

    cdef uint32_t number_of_plain(self, const PlainRoute* plain) except? 0xFFFFFFFF:
        """The number of a plain route's conditions."""
        self.scratch.size = 0
        pack_plain(self.scratch, &plain.hosts, &plain.methods)
        return self.number_of_packed(self.scratch.data, self.scratch.size)

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
        cdef bytes packed = pack_conditions(hosts, methods, snis, headers, expression)
        return self.number_of_packed(<const uint8_t*>PyBytes_AS_STRING(packed), len(packed))

    cdef uint32_t number_of_packed(self, const uint8_t* packed, Py_ssize_t n) except? 0xFFFFFFFF:
        return self.conditions.number(0, packed, n, hash_text(packed, n))

    cdef uint32_t number_of_program(self, tree) except? 0xFFFFFFFF:
        return self.programs.setdefault(assemble(tree), len(self.programs))

    cdef list numbers_of(self, list patterns):
        """The number of each host pattern, each once; for none that of any host."""
        cdef list numbers = []
        cdef bytes key
        for kind, key, port in patterns:
            numbers.append(
                self.patterns.number(kind, <const uint8_t*>PyBytes_AS_STRING(key), len(key), port)
            )
        if len(numbers) > 1:
            return list(dict.fromkeys(numbers))
        return numbers or [ANY_HOST]

    cdef int put(
        self, uint32_t route, uint64_t priority, int64_t created_at, bytes key, bytes text, uint32_t place,
        uint32_t program, uint32_t flags, list numbers, tuple begins,
    ) except -1:
        """Add a candidate: *text* is its path, *begins* what a request's path must begin with."""
        cdef bytes begin
        self.owned.append(text)
        self.put_candidate(
            route, priority, created_at, <const uint8_t*>PyBytes_AS_STRING(key),
            <const uint8_t*>PyBytes_AS_STRING(text), len(text), place, program, flags,
        )
        for begin in begins:
            if begin is not text:
                self.owned.append(begin)
            for number in numbers:
                self.put_item(
                    <const uint8_t*>PyBytes_AS_STRING(begin), len(begin), number, len(numbers) == 1
                )
        return 0

    cdef int put_candidate(
        self, uint32_t route, uint64_t priority, int64_t created_at, const uint8_t* key, const uint8_t* path,
        Py_ssize_t path_len, uint32_t place, uint32_t program, uint32_t flags,
    ) except -1:
        """Add a candidate without items; whoever owns *path* is among the owned."""
        cdef Built* built
        self.built = <Built*>grown(self.built, self.built_count, &self.built_room, sizeof(Built))
        built = &self.built[self.built_count]
        built.kept.priority = priority
        built.kept.created_at = created_at
        memcpy(built.kept.key, key, 16)
        built.kept.route = route
        built.kept.path_len = <uint32_t>path_len
        built.kept.path_offset = 0
        built.kept.conditions_offset = place      # their offsets once they are laid out
        built.kept.program_offset = program
        built.kept.flags = flags
        built.path = path
        built.number = <uint32_t>self.built_count
        self.built_count += 1
        return 0

    cdef int put_item(self, const uint8_t* begin, Py_ssize_t n, uint32_t pattern, bint is_alone) except -1:
        """Have the last candidate stand at *begin* under a pattern; *is_alone*: under no other."""
        cdef const Built* built = &self.built[self.built_count - 1]
        cdef Item* item
        self.items = <Item*>grown(self.items, self.item_count, &self.item_room, sizeof(Item))
        item = &self.items[self.item_count]
        item.path = begin
        item.path_len = <uint32_t>n
        item.pattern = pattern
        item.candidate = built.number
        item.route = built.kept.route
        item.flags = built.kept.flags
        item.is_alone = is_alone
        self.item_count += 1
        return 0

    def freeze(self):
        cdef Output out = Output.__new__(Output)
        cdef TrieWriter writer
        cdef TableHeader* header
        cdef Item* items
        cdef uint32_t* ranks = NULL
        cdef Py_ssize_t i, candidates_offset, regexes_offset, crowded_offset

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
            writer = TrieWriter.__new__(TrieWriter)
            writer.out = out
            any_host_root, indexes = writer.write(items, self.item_count, self.patterns)
        finally:
            free(ranks)
            free(items)
        programs = self.write_programs(out)
        regexes_offset = self.write_regexes(out)
        crowded_offset = out.reserve(sizeof(uint32_t) * len(writer.crowded), 4)
        for i in range(len(writer.crowded)):
            (<uint32_t*>(out.data + crowded_offset))[i] = writer.crowded[i]
        candidates_offset = self.write_candidates(out, programs)

        header = <TableHeader*>out.data
        header.magic = TABLE_MAGIC
        header.version = TABLE_VERSION
        header.size = <uint32_t>out.size
        header.routes = self.routes
        header.candidates = <uint32_t>self.built_count
        header.candidates_offset = <uint32_t>candidates_offset
        header.any_host_root = any_host_root
        for i in range(HOST_KINDS):
            header.hosts[i].slots_offset, header.hosts[i].slots = indexes[i]
        header.flavor = self.flavor
        header.snis = self.snis
        header.regexes = <uint32_t>len(self.regexes)
        header.regexes_offset = <uint32_t>regexes_offset
        header.crowded = <uint32_t>len(writer.crowded)
        header.crowded_offset = <uint32_t>crowded_offset
        return PyBytes_FromStringAndSize(<char*>out.data, out.size)

    cdef list write_programs(self, Output out):
        """Write the programs; their offsets by number."""
        cdef list offsets = []
        cdef bytes program
        for program in self.programs:
            out.reserve(0, 8)
            offsets.append(out.put(<const uint8_t*>PyBytes_AS_STRING(program), len(program)))
        return offsets

    cdef Py_ssize_t write_regexes(self, Output out) except -1:
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

    cdef Py_ssize_t write_candidates(self, Output out, list programs) except -1:
        """Write the text, then the candidates; the offset of the latter."""
        cdef Candidate* candidate
        cdef Py_ssize_t i, text_offset, candidates_offset
        cdef Py_ssize_t conditions_offset = out.put(self.conditions.data, self.conditions.size)
        text_offset = out.size
        for i in range(self.built_count):
            out.put(self.built[i].path, self.built[i].kept.path_len)
        candidates_offset = out.reserve(sizeof(Candidate) * self.built_count, 8)
        candidate = <Candidate*>(out.data + candidates_offset)
        for i in range(self.built_count):
            candidate[i] = self.built[i].kept
            candidate[i].conditions_offset = <uint32_t>(
                conditions_offset + self.conditions.texts[self.built[i].kept.conditions_offset].offset
            )
            candidate[i].program_offset = 0
            if self.built[i].kept.program_offset != NO_PROGRAM:
                candidate[i].program_offset = programs[self.built[i].kept.program_offset]
            candidate[i].path_offset = <uint32_t>text_offset
            text_offset += candidate[i].path_len
        return candidates_offset


cdef bint is_plain(const PlainRoute* route) noexcept nogil:
    """Whether hosts are plain names, paths prefixes, and all within the limits of `add`."""
    cdef const Text* text
    cdef Py_ssize_t i, k
    for i in range(route.hosts.count):
        text = &route.hosts.at[i]
        if not 0 < text.n <= CONDITION_LIMIT:
            return False
        for k in range(text.n):
            if not is_plain_name_byte(text.at[k]):
                return False
    for i in range(route.paths.count):
        text = &route.paths.at[i]
        if not 0 < text.n <= PATH_LIMIT_BYTES or text.at[0] != c'/':
            return False
    for i in range(route.methods.count):
        if not 0 < route.methods.at[i].n <= CONDITION_LIMIT:
            return False
    return True


cdef inline bint is_plain_name_byte(uint8_t byte) noexcept nogil:
    return (
        c'a' <= byte <= c'z' or c'0' <= byte <= c'9' or byte == c'.' or byte == c'-' or byte == c'_'
    )


cdef bint is_among(uint32_t number, const uint32_t* numbers, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(count):
        if numbers[i] == number:
            return True
    return False


cdef bint stands_before(const Text* text, const Text* texts, Py_ssize_t count) noexcept nogil:
    """Whether one of the first *count* texts is equal."""
    cdef Py_ssize_t i
    for i in range(count):
        if texts[i].n == text.n and memcmp(texts[i].at, text.at, text.n) == 0:
            return True
    return False


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
