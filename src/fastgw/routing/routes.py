"""One route, from its row to the route table and to its record.

Contract. A row has kept the rules of validation, though perhaps those of a newer control plane: what the
table cannot hold is refused here with the fields and reasons, and then nothing of it matches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec

from fastgw._router import Flavor, Operator, RequestField
from fastgw._router_build import TableBuilder
from fastgw._router_program import All, Test
from fastgw.model.expressions import parse_expression
from fastgw.model.served import Unserved, unserved_of
from fastgw.routing.image import Protocols, RouteRecord
from fastgw.routing.plugins import StepRecord

FLAVORS: Final = {
    "traditional": Flavor.FLAVOR_TRADITIONAL,
    "traditional_compatible": Flavor.FLAVOR_COMPATIBLE,
    "expressions": Flavor.FLAVOR_COMPATIBLE,
}
"""Kong's `router_flavor` by the flavor of the table; `expressions` also reads `expression`."""

_PROTOCOL_BITS: Final = {name.lower(): int(bit) for name, bit in Protocols.__members__.items()}
_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Reference(msgspec.Struct, gc=False):
    id: str


class RouteRow(msgspec.Struct, gc=False, kw_only=True):
    """What the data plane needs of a row; the fields stand as in a line, sorted, which reads faster."""

    created_at: _Int
    destinations: Any = None
    """Never served so far, as `sources`: looked at by the table of what is not."""
    expression: str | None = None
    headers: dict[str, list[str]] | None = None
    hosts: list[str] | None = None
    https_redirect_status_code: _Int
    id: str
    methods: list[str] | None = None
    name: str | None
    path_handling: str | None = None
    paths: list[str] | None = None
    preserve_host: bool
    priority: _Int | None = None
    protocols: tuple[str, ...]
    regex_priority: _Int | None = None
    service: Reference | None = None
    snis: list[str] | None = None
    sources: Any = None
    strip_path: bool


class RouteRefused(Exception):
    """A route that cannot be served; `faults` are (field, reason)."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__(faults)
        self.faults = faults


_OVER_HTTP: Final = Test(Operator.OPERATOR_EQUAL, RequestField.FIELD_PROTOCOL, text=b"http")


def add_route(table: TableBuilder, number: int, row: RouteRow, flavor: str) -> int:
    """Add a route to *table*, which is of this `router_flavor`, as *number*; return its `Protocols`.

    Raises:
        RouteRefused: with all reasons.
    """
    mask = _protocol_mask(row.protocols)
    if mask is None or row.sources or row.destinations:
        raise RouteRefused(list(refusals(row, unserved_of("routes", flavor))))
    if row.expression is not None:
        _add_expression(table, number, row, flavor)
        return mask
    if flavor == "traditional" and any("*" in sni for sni in row.snis or ()):
        raise RouteRefused(list(refusals(row, unserved_of("routes", flavor))))
    paths = [path.encode() for path in row.paths or ()]
    regexes = [path[1:] for path in paths if path.startswith(b"~")]
    if regexes:
        paths = [path for path in paths if not path.startswith(b"~")]
    try:
        table.add(
            number,
            hosts=[host.lower().encode() for host in row.hosts or ()],
            paths=paths,
            methods=[method.encode() for method in row.methods or ()],
            regexes=regexes,
            headers=[
                (name.encode(), [value.encode() for value in values]) for name, values in row.headers.items()
            ]
            if row.headers
            else (),
            snis=[sni.encode() for sni in row.snis] if row.snis else (),
            regex_priority=row.regex_priority,
            created_at=row.created_at,
            key=bytes.fromhex(row.id.replace("-", "")),
        )
    except ValueError as error:
        raise RouteRefused(list(refusals(row, unserved_of("routes", flavor))) or [("", str(error))]) from None
    return mask


def _add_expression(table: TableBuilder, number: int, row: RouteRow, flavor: str) -> None:
    assert row.expression is not None
    if flavor == "traditional":
        raise RouteRefused(list(refusals(row, unserved_of("routes", flavor))))
    try:
        tree = parse_expression(row.expression)
        if set(row.protocols) == {"http"}:
            # With https alone the protocol is no condition, so that a redirect can be given.
            tree = All([tree, _OVER_HTTP])
        table.add_expression(
            number,
            text=row.expression.encode(),
            tree=tree,
            priority=row.priority or 0,
            created_at=row.created_at,
            key=bytes.fromhex(row.id.replace("-", "")),
        )
    except (ValueError, OverflowError) as error:
        raise RouteRefused([("expression", str(error))]) from None


@lru_cache(maxsize=1024)
def _protocol_mask(protocols: tuple[str, ...]) -> int | None:
    """`Protocols`; None where one is not served."""
    bits = [_PROTOCOL_BITS.get(protocol) for protocol in set(protocols)]
    return None if None in bits else sum(bit for bit in bits if bit is not None)


def refusals(row: Any, uses: Iterable[Unserved]) -> Iterator[tuple[str, str]]:
    """(field, reason) for each of *uses* that *row* makes."""
    for use in uses:
        value = getattr(row, use.field)
        fault = None if value is None else use.refuse(value)
        if fault is not None:
            # A list has a place for each element; the first that is not empty will do.
            yield use.field, next(str(one) for one in (fault if isinstance(fault, list) else [fault]) if one)


def record_of(
    row: RouteRow,
    service: int,
    protocols: int,
    flavor: str,
    missing_plugin: str | None,
    plugins: tuple[StepRecord, ...] = (),
) -> RouteRecord:
    """What the data plane needs to know once the route has matched.

    Args:
        service: its number, or -1.
        protocols: as `add_route` gave them.
    """
    # By place: there are many.
    return RouteRecord(
        row.id,
        row.name,
        service,
        row.strip_path,
        row.preserve_host,
        protocols,
        row.https_redirect_status_code,
        flavor == "traditional" and row.path_handling == "v1",
        missing_plugin,
        plugins,
    )
