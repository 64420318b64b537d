"""A route table in two blocks, searched as one: a base, and a small overlay that changes it."""

from collections.abc import Collection
from typing import Any

from typing_extensions import disjoint_base

from fastgw._router import CandidateRecord, Flavor, Request, Table, TestRecord

@disjoint_base
class LayeredTable:
    def __init__(
        self, base: Table, base_routes: int, overlay: Table | None = None, removed: Collection[int] = ()
    ) -> None:
        """Lay *overlay* over *base*.

        Args:
            base_routes: how many routes the base holds, those that its table leaves out included; the
                overlay's numbers go on from there.
            removed: routes of the base that are not found any more.
        Raises:
            ValueError: a number is out of range.
        """

    @property
    def base(self) -> Table: ...
    @property
    def overlay(self) -> Table | None: ...
    @property
    def base_routes(self) -> int: ...
    def match(self, method: bytes, host: bytes, path: bytes, **more: Any) -> tuple[int, int] | None:
        """As `Table.match`."""

    def match_request(self, request: Request) -> tuple[int, int] | None: ...
    def captures_of(self, request: Request) -> dict[int | str, bytes] | None:
        """As `Table.captures_of`."""

    # What `_router_explain` asks of a table. Ranks count the candidates in force, of both; the first question
    # costs in proportion to the table.
    @property
    def flavor(self) -> Flavor: ...
    @property
    def candidates(self) -> int: ...
    def candidate(self, rank: int) -> CandidateRecord: ...
    def ranks_near(self, path: bytes) -> list[int]: ...
    def run_program(self, rank: int, request: Request) -> tuple[bool, list[TestRecord]]: ...
