"""The compiled route table, matched on bytes; `_router_build` makes it.

Precedence is that of Kong's `traditional_compatible` flavour for hosts, paths and methods: more
kinds set, then hosts all plain, then the longer path, then the older route, then the smaller key.
"""

from typing import NamedTuple

from typing_extensions import Buffer, disjoint_base

class Considered(NamedTuple):
    """One candidate of `Table.explain`: what it asks for, and what of that holds.

    A `*_holds` of None means that the route does not ask for it.
    """

    route: int
    path: bytes | None
    hosts: tuple[bytes, ...]
    methods: tuple[bytes, ...]
    host_holds: bool | None
    path_holds: bool | None
    method_holds: bool | None
    matches: bool

@disjoint_base
class Table:
    def __init__(self, block: Buffer) -> None:
        """Open a block and check all of it; *block* is kept alive and must not change.

        The check reads the block once, with the GIL released (about 10 ms for 100,000 routes).

        Raises:
            ValueError: *block* is damaged, or not aligned to 8 bytes.
        """

    @property
    def routes(self) -> int:
        """Every route number in the table is below this."""

    def match(self, method: bytes, host: bytes, path: bytes, *, host_port: int = 80) -> tuple[int, int] | None:
        """(route, bytes of *path* that its path matched), or None.

        Args:
            host: lower-case, with or without port; empty if the request has none.
            path: in normal form (`_uri.normalise`).
            host_port: the listener's port, for a *host* that names none.
        """

    def explain(self, method: bytes, host: bytes, path: bytes, *, host_port: int = 80) -> list[Considered]:
        """Every candidate in order of precedence; the first that matches is the one `match` answers.

        The cost grows with the number of routes: not for the path of a request.
        """
