"""Routes from their canonical lines straight to table and records, for those that are plain."""

from collections.abc import Callable

from fastgw._router_build import TableBuilder

def add_plain_routes(
    table: TableBuilder,
    lines: list[bytes],
    at: int,
    number: int,
    services: dict[str, int],
    tail_of: Callable[[str, str | None], bytes] | None = None,
) -> tuple[int, int, bytes, bytes]:
    """Add the routes of *lines* from place *at* to the first that is not plain.

    Args:
        number: that of the next route.
        services: numbers by id, or `compile.LEFT_OUT`, whose routes are left out. A route whose service is not
            among them counts as not plain.
        tail_of: the end of a record, its missing plugin and its steps in MessagePack, by the ids of route and
            service; None: no route has any.
    Returns:
        the place where it ended, the number of the next route, the records that were made, and where each of
        them ends, as 32-bit integers.
    """
