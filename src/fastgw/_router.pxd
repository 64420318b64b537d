# The compiled route table: one flat block of bytes that says which route a request takes.
#
# A block is position-independent (offsets from its start, little-endian), so that it can lie in a
# file and be mapped by every worker. Offset 0 means "none": the header is there. Its parts:
#
#   TableHeader
#   Node ...        path tries, back to back, a child always behind its parent
#   HostRecord ...  one per host name or wildcard that a route lists
#   HostSlot ...    three hash indexes over the records: exact names, `*.x`, `x.*`
#   text            paths and conditions of the candidates, for exact checks and `explain`
#   Candidate ...   in the order of precedence: place in it is the candidate's *rank*
#
# A route is one candidate per path (one in all if it has none). A request's host leads to a few
# tries (its exact name, with and without port; wildcards; routes without hosts); its path walks
# down each; the best rank among the entries met that admit the method wins. A trie whose best rank
# cannot win any more is left. Host patterns with equal candidates share one trie.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef enum:
    TABLE_MAGIC = 0x54524746          # "FGRT"
    TABLE_VERSION = 1
    NO_RANK = 0xFFFFFFFF
    METHOD_OTHER = 0x80000000         # some method without a bit of its own
    METHOD_ANY = 0xFFFFFFFF           # the route lists no methods


# How a route names hosts.
cdef enum:
    HOST_EXACT = 0                    # key: the name, without port and brackets
    HOST_SUFFIX = 1                   # `*.a.com`, key: `.a.com`
    HOST_PREFIX = 2                   # `a.*`, key: `a.`
    HOST_KINDS = 3


# Best first: higher priority, older created_at, smaller key, smaller route, smaller path.
# The bits of a priority, from the most significant:
cdef enum:
    PRIORITY_KINDS_SHIFT = 61         # how many of hosts, paths, methods (and kinds to come) are set
    PRIORITY_PLAIN_HOSTS_SHIFT = 60   # hosts are set and none is a wildcard
    PRIORITY_LENGTH_LIMIT = 0x7FFFF   # the low 19: bytes of the path; between: header count, regex


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
    uint32_t nodes_offset
    uint32_t nodes_end
    uint32_t any_host_root            # Node: routes without hosts
    HostIndex hosts[3]                # by HOST_* kind


cdef struct Candidate:
    uint64_t priority
    int64_t created_at                # seconds
    uint8_t key[16]                   # the route's id
    uint32_t route
    uint32_t path_offset
    uint32_t path_len                 # 0: the route has no paths
    # u16 hosts, u16 methods, then each as u16 length and bytes
    uint32_t conditions_offset


# Followed by label, then the first bytes of the children, padded to 4; uint32_t offset of each
# child; Entry for each candidate whose path ends here, best first.
cdef struct Node:
    uint32_t best                     # least rank in this node and below
    uint32_t entries
    uint16_t label_len
    uint16_t children


cdef struct Entry:
    uint32_t rank
    uint32_t route
    uint32_t methods                  # METHOD_* bits


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


# Where the parts of a node and of a host's record lie.

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


# Bits of a method; names of a host: (HOST_* kind, key, port or -1); hash of a key. See _router.pyx.
cdef uint32_t method_bit(const uint8_t* method, Py_ssize_t n) noexcept nogil
cdef tuple parse_pattern(bytes host)
cdef uint32_t hash_key(int kind, const uint8_t* key, Py_ssize_t n) noexcept nogil


cdef struct FoundRoute:
    uint32_t route                    # the number given to TableBuilder.add
    uint32_t path_len                 # bytes of the path that the route's path matched; 0: it has none


cdef class Table:
    cdef Py_buffer view               # holds the block's owner; buf is NULL until opened
    cdef const uint8_t* block
    cdef const TableHeader* header

    # The best route for a request; False if none matches.
    # method: as received. host: lower-case, valid, with or without `:port`; host_len 0: no host.
    # host_port: the listener's port, for hosts that name none. path: in normal form (_uri).
    cdef bint find(
        self,
        const uint8_t* method, Py_ssize_t method_len,
        const uint8_t* host, Py_ssize_t host_len, int host_port,
        const uint8_t* path, Py_ssize_t path_len,
        FoundRoute* out,
    ) noexcept nogil
