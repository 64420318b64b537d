"""Whether a block is a route table: every number that a search will follow is looked at, once.

Contract. `fault_in` takes any bytes at a multiple of 8 and reads nothing outside of them. What it finds no
fault in, `Table.find` may search without further checks, and every search ends.

The one complication: what is a node is known only from what leads to it. A child must begin behind its parent,
so that no damaged block can lead a search round in circles; so one pass upwards, from the roots that the hosts
name, meets every node after all that lead to it. Programs only ever go on to instructions further down, for
the same reason.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr

from fastgw._router cimport (
    CONDITIONS_HEADER, ENTRY_PROGRAM, FIELD_SOURCE_IP, FIELDS_END, FLAVOR_COMPATIBLE, FLAVOR_TRADITIONAL,
    HOST_KINDS, NO_RANK, NODE_KEYED, OPERATOR_REGEX, OPERATORS_END, PROGRAM_FAILS, TABLE_MAGIC, TABLE_VERSION,
    Candidate, Entry, HostIndex, HostRecord, HostSlot, Instruction, Node, PortRoot, Program, RegexRecord,
    TableHeader, node_children, node_entries, node_entry_count, node_size, node_slots, record_ports,
)
from fastgw._router_conditions cimport read_u16


cdef const char* fault_in(const uint8_t* block, Py_ssize_t size) noexcept nogil:
    """What is wrong with a block, or NULL: every number that a search will follow is looked at."""
    cdef const TableHeader* header = <const TableHeader*>block
    cdef uint8_t* starts              # one byte per four of the block: whether a node is to begin there
    cdef const char* fault
    if size < <Py_ssize_t>sizeof(TableHeader) or header.magic != TABLE_MAGIC:
        return b"it does not begin like one"
    if header.version != TABLE_VERSION:
        return b"its version is another"
    if header.size != size:
        return b"its size is another"
    if (
        header.candidates_offset % 8 or header.candidates == NO_RANK
        or header.candidates_offset + <uint64_t>header.candidates * sizeof(Candidate) > <uint64_t>size
    ):
        return b"its candidates lie outside"
    if header.flavor != FLAVOR_TRADITIONAL and header.flavor != FLAVOR_COMPATIBLE:
        return b"its flavor is unknown"
    starts = <uint8_t*>calloc(size // 4 + 1, 1)
    if starts == NULL:
        return b"there is no memory to check it"
    fault = fault_in_hosts(block, header, starts)
    if fault == NULL:
        fault = fault_in_nodes(block, header, starts)
    if fault == NULL:
        fault = fault_in_crowded(block, header, starts)
    if fault == NULL:
        fault = fault_in_regexes(block, header)
    if fault == NULL:
        fault = fault_in_candidates(block, header)
    free(starts)
    return fault


cdef bint mark(const TableHeader* header, uint8_t* starts, uint32_t offset) noexcept nogil:
    """Note that a node is to begin at *offset*; False if none can. 0 is no node."""
    if offset % 4 or offset >= header.size or (offset and offset < sizeof(TableHeader)):
        return False
    starts[offset // 4] = offset != 0
    return True


cdef const char* fault_in_nodes(
    const uint8_t* block, const TableHeader* header, uint8_t* starts
) noexcept nogil:
    cdef const Node* node
    cdef const Entry* entry
    cdef const uint32_t* children
    cdef const Candidate* candidates = <const Candidate*>(block + header.candidates_offset)
    cdef const uint8_t* next = starts
    cdef const uint8_t* last = starts + header.size // 4
    cdef Py_ssize_t at, left
    cdef uint32_t i
    while True:
        next = <const uint8_t*>memchr(next, 1, last - next)
        if next == NULL:
            return NULL
        at = 4 * (next - starts)
        next += 1
        left = header.size - at
        node = <const Node*>(block + at)
        if left < <Py_ssize_t>sizeof(Node) or node_slots(node) > 256 or left < node_size(node):
            return b"a node is cut short"
        entry = node_entries(node)
        for i in range(node_entry_count(node)):
            if entry[i].rank >= header.candidates or entry[i].route >= header.routes:
                return b"a node names a route that does not exist"
            if entry[i].flags != candidates[entry[i].rank].flags:
                return b"a node and its route differ"
        children = node_children(node)
        for i in range(node_slots(node)):
            if children[i] and (children[i] <= at or not mark(header, starts, children[i])):
                return b"a node's child is none"
            if not children[i] and node.children & NODE_KEYED:
                return b"a node's child is none"


cdef const char* fault_in_hosts(
    const uint8_t* block, const TableHeader* header, uint8_t* starts
) noexcept nogil:
    cdef const HostIndex* index
    cdef const HostSlot* slots
    cdef const HostRecord* record
    cdef uint64_t room
    cdef uint32_t i, j, used
    cdef int kind
    if not mark(header, starts, header.any_host_root):
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
            if not mark(header, starts, record.root):
                return b"a host's root is none"
            for j in range(record.ports):
                if not mark(header, starts, record_ports(record)[j].root):
                    return b"a host's root is none"
        if used == index.slots:
            return b"an index of hosts is full"      # a search ends at an empty slot
    return NULL


cdef const char* fault_in_candidates(const uint8_t* block, const TableHeader* header) noexcept nogil:
    cdef const Candidate* candidate = <const Candidate*>(block + header.candidates_offset)
    cdef uint64_t at
    cdef uint32_t i, left
    cdef int group
    cdef const char* fault
    for i in range(header.candidates):
        if candidate[i].route >= header.routes:
            return b"a candidate names a route that does not exist"
        if <uint64_t>candidate[i].path_offset + candidate[i].path_len > header.size:
            return b"a candidate's path lies outside"
        if candidate[i].flags & ENTRY_PROGRAM:
            fault = fault_in_program(block, header, candidate[i].program_offset)
            if fault != NULL:
                return fault
        at = candidate[i].conditions_offset
        if i and at == candidate[i - 1].conditions_offset:
            continue
        if at + CONDITIONS_HEADER > header.size:
            return b"a candidate's conditions lie outside"
        left = 0
        for group in range(CONDITIONS_HEADER // 2):
            left += read_u16(block + at + 2 * group)
        at += CONDITIONS_HEADER
        while left:
            if at + 2 > header.size or at + 2 + read_u16(block + at) > header.size:
                return b"a candidate's conditions are cut short"
            at += 2 + read_u16(block + at)
            left -= 1
    return NULL


cdef const char* fault_in_program(
    const uint8_t* block, const TableHeader* header, uint32_t offset
) noexcept nogil:
    cdef const Program* program = <const Program*>(block + offset)
    cdef const Instruction* test = <const Instruction*>(program + 1)
    cdef uint64_t room = header.size - offset if offset < header.size else 0
    cdef uint32_t i
    if offset % 8 or room < sizeof(Program) or program.size > room:
        return b"a program lies outside"
    if (
        program.instructions == 0 or program.instructions >= PROGRAM_FAILS
        or sizeof(Program) + <uint64_t>program.instructions * sizeof(Instruction) > program.size
    ):
        return b"a program is cut short"
    for i in range(program.instructions):
        if (
            (test[i].on_true < PROGRAM_FAILS and not i < test[i].on_true < program.instructions)
            or (test[i].on_false < PROGRAM_FAILS and not i < test[i].on_false < program.instructions)
        ):
            return b"a program does not end"
        if (
            <uint64_t>test[i].name_offset + test[i].name_len > program.size
            or <uint64_t>test[i].text_offset + test[i].text_len > program.size
        ):
            return b"a program's text lies outside"
        if test[i].operator == OPERATOR_REGEX and test[i].regex >= header.regexes:
            return b"a program names a regex that does not exist"
        if test[i].field == FIELD_SOURCE_IP and (
            test[i].text_len != 16 or not 0 <= test[i].number <= (128 if test[i].family == 6 else 32)
        ):
            return b"a program's network is none"
        if not 0 < test[i].operator < OPERATORS_END or not 0 < test[i].field < FIELDS_END:
            return b"a program holds an unknown instruction"
    return NULL


cdef const char* fault_in_regexes(const uint8_t* block, const TableHeader* header) noexcept nogil:
    cdef const RegexRecord* regex = <const RegexRecord*>(block + header.regexes_offset)
    cdef uint32_t i
    if (
        header.regexes_offset % 4
        or header.regexes_offset + <uint64_t>header.regexes * sizeof(RegexRecord) > header.size
    ):
        return b"its regexes lie outside"
    for i in range(header.regexes):
        if <uint64_t>regex[i].pattern_offset + regex[i].pattern_len > header.size:
            return b"a regex lies outside"
    return NULL


cdef const char* fault_in_crowded(
    const uint8_t* block, const TableHeader* header, const uint8_t* starts
) noexcept nogil:
    cdef const uint32_t* offsets = <const uint32_t*>(block + header.crowded_offset)
    cdef uint32_t i
    if header.crowded_offset % 4 or header.crowded_offset + <uint64_t>header.crowded * 4 > header.size:
        return b"its crowded nodes lie outside"
    for i in range(header.crowded):
        if offsets[i] % 4 or offsets[i] >= header.size or not starts[offsets[i] // 4]:
            return b"a crowded node is none"
    return NULL
