# The compiled route table: one flat block of bytes that says which route a request takes.
#
# A block is position-independent (offsets from its start, little-endian), so that it can lie in a
# file and be mapped by every worker. Offset 0 means "none": the header is there. Its parts:
#
#   TableHeader
#   HostSlot ...    hash indexes over the host records, one for each HOST_* kind
#   HostRecord, Node ...  one record per host name or wildcard that a route lists, each followed by the path
#                   trie that it leads to; a child always lies behind its parent
#   programs        what else must hold of a candidate: headers, SNI, regex path, an expression
#   RegexRecord ... the distinct patterns that programs name
#   uint32_t ...    the crowded nodes: those with many entries whose path is a regex
#   text            paths and conditions of the candidates, for exact checks and `explain`
#   Candidate ...   in the order of precedence: place in it is the candidate's *rank*
#
# A route is one candidate per path (one in all if it has none). A request's host leads to a few
# tries (its exact name, with and without port; wildcards; routes without hosts); its path walks
# down each; the best rank among the entries met that admit the method wins. A trie whose best rank
# cannot win any more is left. Host patterns with equal candidates share one trie.
#
# What a search costs in a large table is memory that is not in a cache: each line of 64 bytes is a wait. So a
# slot holds the hash, a record lies beside its trie (both lines are asked for at once), no small node
# crosses a line, and a search for a plain host reads three lines or so. Blocks are mapped at multiples of 64.
#
# A regex path stands in the trie at the literal text that each of its matches begins with, and an
# expression at a path that it asks for, so that few programs run for one request. Those that call
# a regex are set aside during the walk and run afterwards, best rank first, until one holds. Of a crowded
# node's entries, sieves (an RE2 set for each SIEVE_ENTRIES of them) first tell which may match at all.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastgw._router_regexes cimport Regexes


cdef enum:
    TABLE_MAGIC = 0x54524746          # "FGRT"
    TABLE_VERSION = 4
    NO_RANK = 0xFFFFFFFF
    CONDITIONS_HEADER = 10            # bytes of counts: hosts, methods, SNIs, headers, expressions
    # Entry.flags
    METHOD_OTHER = 0x80               # some method without a bit of its own; the low seven have one
    METHOD_ANY = 0x100                # the route lists no methods
    ENTRY_PROGRAM = 0x200             # the candidate's program must hold
    ENTRY_REGEX = 0x400               # ... and it calls a regex
    ENTRY_OWN_PATH = 0x800            # ... and says how much of the path was matched
    ENTRY_SNIS = 0x1000               # the route lists SNIs
    SIEVE_LEAST = 8                   # entries with a regex path that make a node crowded
    SIEVE_ENTRIES = 256               # judged by one sieve


# Kong's `router_flavor`: the order of precedence, ports of hosts, and some rules on headers.
cpdef enum Flavor:
    FLAVOR_TRADITIONAL = 1
    FLAVOR_COMPATIBLE = 2             # `traditional_compatible`, and `expressions`


# How a route names hosts.
cdef enum:
    HOST_EXACT = 0                    # key: the name, without port and brackets
    HOST_SUFFIX = 1                   # `*.a.com`, key: `.a.com`
    HOST_PREFIX = 2                   # `a.*`, key: `a.`
    HOST_RAW = 3                      # the whole Host, port and all (`traditional`, key 3)
    HOST_KINDS = 4


# Best first: higher priority, older created_at, smaller key, smaller route, first path.
# The bits of a priority, from the most significant, in `traditional_compatible`:
cdef enum:
    PRIORITY_KINDS_SHIFT = 61         # how many of hosts, paths, methods, headers, snis are set
    PRIORITY_EXPRESSION = 7           # in place of that number, which is at most 5
    PRIORITY_PLAIN_HOSTS_SHIFT = 60   # hosts are set and none is a wildcard
    PRIORITY_HEADERS_SHIFT = 52       # how many header names, at most 255
    PRIORITY_REGEX_SHIFT = 51         # the path is a regex
    PRIORITY_REGEX_PRIORITY_SHIFT = 19
    PRIORITY_LENGTH_LIMIT = 0x7FFFF   # the low 19: bytes of a prefix


# And in `traditional`: the low 32 are regex_priority or the length of a prefix.
cdef enum:
    OLD_PRIORITY_MASK_SHIFT = 57      # the kinds' place among all sets of kinds
    OLD_PRIORITY_RAW_SHIFT = 56       # the raw Host is one of the plain hosts (HOST_RAW)
    OLD_PRIORITY_SUBMASK_SHIFT = 53   # 4: a wildcard with port; 2: all hosts plain; 1: a regex
    OLD_PRIORITY_HEADERS_SHIFT = 45


cdef struct HostIndex:
    uint32_t slots_offset
    uint32_t slots                    # a power of two with at least one slot empty; 0: no index


cdef struct TableHeader:
    uint32_t magic
    uint32_t version
    uint32_t size                     # of the block
    uint32_t routes                   # every route number is below this
    uint32_t candidates
    uint32_t candidates_offset        # multiple of 8
    uint32_t any_host_root            # Node: routes without hosts
    HostIndex hosts[4]                # by HOST_* kind
    uint32_t flavor                   # enum Flavor
    uint32_t snis                     # how many candidates list SNIs
    uint32_t regexes
    uint32_t regexes_offset           # multiple of 4
    uint32_t crowded
    uint32_t crowded_offset           # multiple of 4: offsets of nodes


cdef struct Candidate:
    uint64_t priority
    int64_t created_at                # seconds
    uint8_t key[16]                   # the route's id
    uint32_t route
    uint32_t path_offset
    uint32_t path_len                 # 0: the route has no paths
    uint32_t conditions_offset        # see _router_conditions.pxd; for `explain`
    uint32_t program_offset           # Program; 0: none
    uint32_t flags                    # as those of its entries


cdef enum:
    LINE_BYTES = 64                   # of a cache
    NODE_ENTRIES_LIMIT = 0xFFFFFF
    NODE_KEYED = 0x8000


# Followed by label, padded to 4; uint32_t offset of the child for each next byte from `first_key` on, 0 where
# there is none; Entry for each candidate whose path ends here, best first. A node whose children lie too far
# apart for that is *keyed*: the label is followed by the first byte of each child, in the order of their
# offsets.
cdef struct Node:
    uint32_t best                     # least rank in this node and below
    uint32_t entries                  # how many, and from bit 24 on first_key
    uint16_t label_len
    uint16_t children                 # how many offsets, and NODE_KEYED


cdef struct Entry:
    uint32_t rank
    uint32_t route
    uint32_t flags                    # METHOD_* and ENTRY_* bits


# Followed by PortRoot for each port, then the key's bytes, padded to 4.
cdef struct HostRecord:
    uint32_t root                     # Node: any port
    uint32_t ports
    uint32_t key_len


cdef struct PortRoot:
    uint32_t port
    uint32_t root                     # Node


cdef struct HostSlot:
    uint32_t hash
    uint32_t record                   # HostRecord; 0: empty


# One comparison of a request's field. `on_true` and `on_false` are places of instructions further
# on, or PROGRAM_HOLDS or PROGRAM_FAILS; so a program ends, and && and || cost nothing.
cdef struct Instruction:
    uint8_t operator                  # enum Operator
    uint8_t field                     # enum RequestField
    uint8_t flags                     # INSTRUCTION_* bits
    uint8_t family                    # of an address: 4 or 6
    uint16_t on_true
    uint16_t on_false
    uint32_t name_offset              # of a header or query argument, from the start of the program
    uint32_t name_len
    uint32_t text_offset              # what is compared with: text, or 16 bytes of an address
    uint32_t text_len
    int64_t number                    # ... or a number; bits of an address's network
    uint32_t regex                    # ... or a RegexRecord, by its place
    uint16_t first_segment            # of SEGMENTS: these, and those between
    uint16_t last_segment


# Followed by the instructions, then their text.
cdef struct Program:
    uint32_t size                     # in bytes, multiple of 8
    uint32_t instructions             # at least one


cdef struct RegexRecord:
    uint32_t pattern_offset
    uint32_t pattern_len
    uint32_t is_bytes                 # matches bytes; else UTF-8


cdef enum:
    PROGRAM_HOLDS = 0xFFFF
    PROGRAM_FAILS = 0xFFFE


# These four are also what assembles programs (_router_program.py).
cpdef enum InstructionFlag:
    INSTRUCTION_LOWER = 1             # the field is folded to lower case first
    INSTRUCTION_ANY = 2               # one value of several is enough
    INSTRUCTION_ANCHORED = 4          # the regex matches at the start
    INSTRUCTION_DASHES = 8            # `-` and `_` in a header's name are one


cpdef enum Operator:
    OPERATOR_EQUAL = 1
    OPERATOR_NOT_EQUAL
    OPERATOR_PREFIX
    OPERATOR_SUFFIX
    OPERATOR_CONTAINS
    OPERATOR_REGEX
    OPERATOR_LESS
    OPERATOR_LESS_EQUAL
    OPERATOR_GREATER
    OPERATOR_GREATER_EQUAL
    OPERATOR_IN                       # a network
    OPERATOR_NOT_IN
    OPERATORS_END


cpdef enum RequestField:
    FIELD_METHOD = 1
    FIELD_HOST                        # without port and brackets
    FIELD_PATH
    FIELD_PROTOCOL                    # http or https
    FIELD_SNI
    FIELD_SEGMENTS                    # of the path, joined by slashes
    FIELD_HEADER                      # several values
    FIELD_QUERY                       # several values
    FIELD_SEGMENT_COUNT               # a number, as those that follow
    FIELD_SOURCE_PORT
    FIELD_DESTINATION_PORT
    FIELD_SOURCE_IP                   # an address
    FIELDS_END


# Where the parts of a node and of a host's record lie.

cdef inline Py_ssize_t pad(Py_ssize_t size, Py_ssize_t unit) noexcept nogil:
    return (size + unit - 1) & -unit


cdef inline const uint8_t* node_label(const Node* node) noexcept nogil:
    return <const uint8_t*>(node + 1)


cdef inline uint32_t node_slots(const Node* node) noexcept nogil:
    return node.children & ~<uint32_t>NODE_KEYED


cdef inline uint32_t node_entry_count(const Node* node) noexcept nogil:
    return node.entries & NODE_ENTRIES_LIMIT


cdef inline const uint32_t* node_children(const Node* node) noexcept nogil:
    cdef Py_ssize_t text = node.label_len
    if node.children & NODE_KEYED:
        text += node_slots(node)
    return <const uint32_t*>(node_label(node) + pad(text, 4))


cdef inline const Entry* node_entries(const Node* node) noexcept nogil:
    return <const Entry*>(node_children(node) + node_slots(node))


cdef inline Py_ssize_t node_size(const Node* node) noexcept nogil:
    return (
        <const uint8_t*>node_entries(node) - <const uint8_t*>node
        + sizeof(Entry) * <Py_ssize_t>node_entry_count(node)
    )


cdef inline const PortRoot* record_ports(const HostRecord* record) noexcept nogil:
    return <const PortRoot*>(record + 1)


cdef inline const uint8_t* record_key(const HostRecord* record) noexcept nogil:
    return <const uint8_t*>(record_ports(record) + record.ports)


# All that a match may look at. What is absent has length 0; nothing is copied.
cdef struct RouteRequest:
    const uint8_t* method             # as received
    Py_ssize_t method_len
    const uint8_t* host               # lower-case, valid, with or without `:port`
    Py_ssize_t host_len
    const uint8_t* path               # in normal form (_uri)
    Py_ssize_t path_len
    const uint8_t* query              # without its "?"
    Py_ssize_t query_len
    const uint8_t* sni                # lower-case
    Py_ssize_t sni_len
    const uint8_t* peer               # the client's address as text
    Py_ssize_t peer_len
    # Header fields as offsets into *head*. The record of one has *field_words* words, of which the
    # first four are: start and length of its name, start and length of its value.
    const uint8_t* head
    const uint32_t* fields
    uint32_t field_count
    uint32_t field_words
    int host_port                     # the listener's: for hosts that name none
    int peer_port
    bint is_https


cdef struct FoundRoute:
    uint32_t route                    # the number given to TableBuilder.add
    uint32_t path_len                 # bytes of the path that the route's path matched; 0: it has none
    uint32_t rank                     # place among the candidates
    const Candidate* candidate        # in the table's block
    bint is_deferred                  # `traditional`: lists SNIs, met over http


# Whether *a* takes precedence over *b*, of another table of the same flavour.
cdef inline bint outranks(const FoundRoute* a, const FoundRoute* b) noexcept nogil:
    if a.is_deferred != b.is_deferred:
        return b.is_deferred
    if a.candidate.priority != b.candidate.priority:
        return a.candidate.priority > b.candidate.priority
    if a.candidate.created_at != b.candidate.created_at:
        return a.candidate.created_at < b.candidate.created_at
    return memcmp(a.candidate.key, b.candidate.key, sizeof(a.candidate.key)) < 0


# Whether a route's bit is set, in a map that has one for each route of the table.
cdef inline bint is_marked(const uint8_t* bits, uint32_t route) noexcept nogil:
    return bits[route >> 3] >> (route & 7) & 1


# A request whose parts this object keeps alive.
cdef class Request:
    cdef RouteRequest parts
    cdef uint32_t* records
    cdef bytes head
    cdef readonly bytes method, host, path, query, sni, peer
    cdef readonly tuple headers


cdef class Table:
    cdef Py_buffer view               # holds the block's owner; buf is NULL until opened
    cdef const uint8_t* block
    cdef const TableHeader* header
    cdef Regexes regexes
    cdef dict sieves                  # (offset of a crowded node, part) -> its Sieve

    # The best route for a request; False if none matches. Takes the GIL only to call a regex.
    cdef bint find(self, const RouteRequest* request, FoundRoute* out) noexcept nogil

    # The same without the routes that are marked in *removed*; NULL: none are.
    cdef bint find_but(
        self, const uint8_t* removed, const RouteRequest* request, FoundRoute* out
    ) noexcept nogil

    # Mark those of a crowded node's entries, from SIEVE_ENTRIES * *part* on, whose path may match; False: any may.
    cdef bint sift(
        self, const Node* node, uint32_t part, const uint8_t* path, Py_ssize_t n, uint8_t* marks
    ) noexcept with gil
    cdef object sieve(self, const Node* node, uint32_t part)

    cdef const Candidate* candidate_at(self, uint32_t rank) except NULL

    # The path regex of a route that was found, once more, for its groups; None: it has none.
    cdef dict captures(self, const FoundRoute* found, const uint8_t* path, Py_ssize_t n)
