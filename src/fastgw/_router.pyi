"""The compiled route table, matched on bytes; `_router_build` makes it, `_router_explain` tells about it.

Precedence is that of Kong's router flavors; _router.pxd has it bit by bit.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, final

from typing_extensions import Buffer, disjoint_base

class Flavor(IntEnum):
    """Kong's `router_flavor`; `expressions` is `traditional_compatible` with expressions in it."""

    FLAVOR_TRADITIONAL = 1
    FLAVOR_COMPATIBLE = 2

class InstructionFlag(IntEnum):
    INSTRUCTION_LOWER = 1
    INSTRUCTION_ANY = 2
    INSTRUCTION_ANCHORED = 4
    INSTRUCTION_DASHES = 8

class Operator(IntEnum):
    OPERATOR_EQUAL = 1
    OPERATOR_NOT_EQUAL = 2
    OPERATOR_PREFIX = 3
    OPERATOR_SUFFIX = 4
    OPERATOR_CONTAINS = 5
    OPERATOR_REGEX = 6
    OPERATOR_LESS = 7
    OPERATOR_LESS_EQUAL = 8
    OPERATOR_GREATER = 9
    OPERATOR_GREATER_EQUAL = 10
    OPERATOR_IN = 11
    OPERATOR_NOT_IN = 12
    OPERATORS_END = 13

class RequestField(IntEnum):
    FIELD_METHOD = 1
    FIELD_HOST = 2
    FIELD_PATH = 3
    FIELD_PROTOCOL = 4
    FIELD_SNI = 5
    FIELD_SEGMENTS = 6
    FIELD_HEADER = 7
    FIELD_QUERY = 8
    FIELD_SEGMENT_COUNT = 9
    FIELD_SOURCE_PORT = 10
    FIELD_DESTINATION_PORT = 11
    FIELD_SOURCE_IP = 12
    FIELDS_END = 13

class CandidateRecord(NamedTuple):
    """A route with one of its paths, as the table keeps it; best first in the order of `rank`."""

    rank: int
    route: int
    priority: int
    created_at: int
    key: bytes
    path: bytes | None
    """A prefix, or `~` and a regex."""
    hosts: tuple[bytes, ...]
    methods: tuple[bytes, ...]
    snis: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    """Each is name, NUL, one value."""
    expressions: tuple[bytes, ...]
    """The text of the one, if it has one."""

class TestRecord(NamedTuple):
    """One test of a program and whether it holds by itself; members as in `_router_program.Test`."""

    operator: int
    field: int
    flags: int
    name: bytes
    text: bytes
    """Of a regex: its pattern."""
    number: int
    segments: tuple[int, int]
    holds: bool

@disjoint_base
class Request:
    """What a match looks at.

    Args:
        host: lower-case, valid, with or without port; empty if the request has none.
        path: in normal form (`_uri.normalise`).
        query: without its `?`.
        headers: (name, value) of each field.
        sni: lower-case.
        peer: the client's address as text.
        host_port: the listener's port, for a *host* that names none.
    """

    def __init__(
        self,
        method: bytes = b"GET",
        host: bytes = b"",
        path: bytes = b"/",
        *,
        query: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        sni: bytes = b"",
        peer: bytes = b"",
        peer_port: int = 0,
        host_port: int = 80,
        is_https: bool = False,
    ) -> None: ...
    @property
    def method(self) -> bytes: ...
    @property
    def host(self) -> bytes: ...
    @property
    def path(self) -> bytes: ...
    @property
    def query(self) -> bytes: ...
    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]: ...
    @property
    def sni(self) -> bytes: ...
    @property
    def peer(self) -> bytes: ...
    @property
    def peer_port(self) -> int: ...
    @property
    def host_port(self) -> int: ...
    @property
    def is_https(self) -> bool: ...

@disjoint_base
class Table:
    def __init__(self, block: Buffer) -> None:
        """Open a block and check all of it; *block* is kept alive and must not change.

        The check reads the block once, with the GIL released (about 10 ms for 100,000 routes).

        Raises:
            ValueError: *block* is damaged, or not aligned to 8 bytes.
        """

    def warm(self) -> None:
        """Compile ahead what a search in a table with many regexes compiles on first use.

        Some milliseconds for each 256 regexes that begin alike.
        """

    @property
    def routes(self) -> int:
        """Every route number in the table is below this."""

    @property
    def candidates(self) -> int: ...
    @property
    def flavor(self) -> Flavor: ...
    def match(
        self,
        method: bytes,
        host: bytes,
        path: bytes,
        *,
        query: bytes = b"",
        headers: Sequence[tuple[bytes, bytes]] = (),
        sni: bytes = b"",
        peer: bytes = b"",
        peer_port: int = 0,
        host_port: int = 80,
        is_https: bool = False,
    ) -> tuple[int, int] | None:
        """(route, bytes of *path* that its path matched), or None; arguments as of `Request`."""

    def match_request(self, request: Request) -> tuple[int, int] | None: ...
    def captures_of(self, request: Request) -> dict[int | str, bytes] | None:
        """The groups of the path regex of the route that matches, by number and by name.

        0 is all that was matched; a group that took no part is not there. None without such a route.
        """

    def candidate(self, rank: int) -> CandidateRecord:
        """Raises IndexError where there is none."""

    def ranks_near(self, path: bytes) -> list[int]:
        """The candidates, in order, whose path is a prefix of *path*, a regex, an expression or absent."""

    def run_program(self, rank: int, request: Request) -> tuple[bool, list[TestRecord]]:
        """Whether a candidate's program holds, and each of its tests by itself; (True, []) without one."""
