"""Building a route table; `_router` opens and searches it."""

from collections.abc import Sequence

from typing_extensions import disjoint_base

@disjoint_base
class TableBuilder:
    def __init__(self) -> None: ...
    def add(
        self,
        route: int,
        *,
        hosts: Sequence[bytes],
        paths: Sequence[bytes],
        methods: Sequence[bytes],
        created_at: int,
        key: bytes,
    ) -> None:
        """Add a route under the number that `Table.match` will answer with.

        Args:
            hosts: lower-case names, `*.x`, `x.*` or IP literals, each with or without `:port`.
            paths: prefixes in normal form.
            methods: compared byte for byte.
            created_at: seconds; the older route wins a tie.
            key: 16 bytes, the last tie-break: the smaller wins.
        Raises:
            ValueError: a condition cannot be served, or there is none; says which. The builder
                is as it was before.
        """

    def freeze(self) -> bytes:
        """The block that `_router.Table` opens; the same for the same routes added in the same order.

        Raises:
            ValueError: the block would exceed 4 GiB.
        """
