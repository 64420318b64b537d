"""Building a route table; `_router` opens and searches it."""

from collections.abc import Sequence

from typing_extensions import disjoint_base

from fastgw._router_program import Tree

@disjoint_base
class TableBuilder:
    def __init__(self, flavor: int = 2) -> None:
        """*flavor*: `_router.Flavor`."""

    def add(
        self,
        route: int,
        *,
        hosts: Sequence[bytes],
        paths: Sequence[bytes],
        methods: Sequence[bytes],
        created_at: int,
        key: bytes,
        regexes: Sequence[bytes] = (),
        headers: Sequence[tuple[bytes, Sequence[bytes]]] = (),
        snis: Sequence[bytes] = (),
        regex_priority: int | None = 0,
    ) -> None:
        """Add a route under the number that `Table.match` will answer with.

        Args:
            hosts: lower-case names, `*.x`, `x.*` or IP literals, each with or without `:port`.
            paths: prefixes in normal form.
            regexes: paths too, without the `~`; matched at the start of a path.
            methods: compared byte for byte.
            headers: (name, values); a value `~*` and a regex where the flavor allows.
            snis: names, with `*` at one edge in `traditional_compatible`.
            created_at: seconds; the older route wins a tie.
            key: 16 bytes, the last tie-break: the smaller wins.
        Raises:
            ValueError: a condition cannot be served, or there is none; says which. The builder
                matches as it did before.
        """

    def add_expression(
        self,
        route: int,
        *,
        text: bytes,
        tree: Tree,
        priority: int,
        created_at: int,
        key: bytes,
    ) -> None:
        """Add a route that is an expression; it stands before all that are not.

        Args:
            text: the expression itself, for `explain`.
            tree: what must hold; a regex stands in it by its pattern.
            priority: 0 to 2^46 - 1; higher is better.
        Raises:
            ValueError: it cannot be served; the builder matches as it did before.
        """

    def regex(self, pattern: bytes) -> int:
        """The number of a regex in this table.

        Raises:
            ValueError: it does not compile.
        """

    def freeze(self) -> bytes:
        """The block that `_router.Table` opens; the same for the same routes added in the same order.

        Raises:
            ValueError: the block would exceed 4 GiB.
        """
