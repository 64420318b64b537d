"""From a snapshot's canonical document to an image.

Contract. A snapshot is compiled whole or refused whole, with every reason. Routes of a disabled service are
left out, as Kong does. What this version cannot serve is refused here too, not only by the Admin API: a
control plane may be newer than its data planes.

The one complication is size: 100,000 routes are to take about a second, so lines are decoded in place into
structs of the fields that matter, and nothing is kept that the image does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final, TypeVar

import msgspec

from fastgw._router_build import TableBuilder
from fastgw.errors import CompileError
from fastgw.model.served import UNSERVED, Unserved
from fastgw.model.snapshot import compress
from fastgw.routing.image import Protocols, Records, RouteRecord, ServiceRecord, pack_image

FAULTS_LIMIT: Final = 1000
"""Reasons beyond this number are counted, not told."""

_PROTOCOL_BITS: Final = {name.lower(): int(bit) for name, bit in Protocols.__members__.items()}
_RETRIES: Final = 5
_TIMEOUT_MS: Final = 60000
_TABLE_FIELDS: Final = {"hosts", "paths", "methods"}
"""The route table refuses what it cannot serve of these by itself; `UNSERVED` then says it better."""

_LEFT_OUT: Final = -2
"""In place of a service's number: it is disabled, or its fault is already told."""


_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Reference(msgspec.Struct, gc=False):
    id: str


class _ServiceRow(msgspec.Struct, gc=False):
    id: str
    name: str | None
    host: str
    port: _Int
    path: str | None
    protocol: str
    retries: _Int | None
    connect_timeout: _Int | None
    write_timeout: _Int | None
    read_timeout: _Int | None
    enabled: bool
    tls_verify: bool | None = None
    tls_verify_depth: _Int | None = None
    # Never served so far: looked at by the table of what is not.
    client_certificate: Any = None
    ca_certificates: Any = None


class _RouteRow(msgspec.Struct, gc=False):
    id: str
    name: str | None
    created_at: _Int
    protocols: list[str]
    strip_path: bool
    preserve_host: bool
    https_redirect_status_code: _Int
    service: _Reference | None = None
    methods: list[str] | None = None
    hosts: list[str] | None = None
    paths: list[str] | None = None
    # Never served so far: looked at by the table of what is not.
    headers: Any = None
    snis: Any = None
    sources: Any = None
    destinations: Any = None


_Row = TypeVar("_Row", _ServiceRow, _RouteRow)


class _Faults:
    """The reasons against a snapshot."""

    def __init__(self) -> None:
        self._told: list[dict[str, str]] = []
        self._count = 0

    def add(self, entity: str, id_: str, field: str, reason: object) -> None:
        self._count += 1
        if self._count <= FAULTS_LIMIT:
            self._told.append({"entity": entity, "id": id_, "field": field, "reason": str(reason)})

    def check(self) -> None:
        """Raise them if there are any."""
        if self._count > FAULTS_LIMIT:
            untold = {"entity": "", "id": "", "field": "", "reason": f"{self._count - FAULTS_LIMIT} more"}
            raise CompileError([*self._told, untold])
        if self._told:
            raise CompileError(self._told)


def compile_snapshot(document: bytes, *, version: int, digest: str, compressed: bytes | None = None) -> bytes:
    """The image of a snapshot.

    Args:
        document: canonical, its digest already checked.
        compressed: the same from `compress`, when it is at hand.
    Raises:
        CompileError: with all reasons, each {entity, id, field, reason}.
    """
    faults = _Faults()
    spans, counts = _spans_of(document, faults)
    services, numbers = _compile_services(document, spans.get("services", []), faults)
    table, routes = _compile_routes(document, spans.get("routes", []), numbers, faults)
    faults.check()
    try:
        block = table.freeze()
    except ValueError as exc:
        faults.add("routes", "", "", exc)
        faults.check()
    return pack_image(
        version=version,
        digest=digest,
        counts=counts,
        table=block,
        routes=routes,
        services=services,
        compressed=compress(document) if compressed is None else compressed,
    )


_Span = tuple[int, int]


def _spans_of(document: bytes, faults: _Faults) -> tuple[dict[str, list[_Span]], dict[str, int]]:
    """Where the JSON of each entity lies, by kind; and how many there are of each."""
    spans: dict[bytes, list[_Span]] = {}
    start = 0
    while (end := document.find(b"\n", start)) >= 0:
        space = document.find(b" ", start, end)
        spans.setdefault(document[start:space], []).append((space + 1, end))
        start = end + 1
    named = {kind.decode(): found for kind, found in spans.items()}
    for kind in named.keys() - UNSERVED.keys():
        faults.add(kind, "", "", f"this version of fastgw does not serve {kind}")
    return named, {kind: len(found) for kind, found in named.items()}


def _rows(
    document: bytes, spans: list[_Span], entity: str, row_type: type[_Row], faults: _Faults
) -> Iterator[tuple[str, _Row | None]]:
    """Each row by its id; None for one that cannot be served, once its faults are told."""
    view = memoryview(document)
    decode = msgspec.json.Decoder(row_type).decode
    uses = [use for use in UNSERVED[entity] if use.field not in _TABLE_FIELDS]
    for start, end in spans:
        try:
            row = decode(view[start:end])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            id_ = _id_of(view[start:end])
            faults.add(entity, id_, "", exc)
            yield id_, None
            continue
        is_served = True
        for field, reason in _refusals(row, uses):
            faults.add(entity, row.id, field, reason)
            is_served = False
        yield row.id, row if is_served else None


def _refusals(row: _ServiceRow | _RouteRow, uses: Iterable[Unserved]) -> Iterator[tuple[str, str]]:
    """(field, reason) for each of *uses* that *row* makes."""
    for use in uses:
        value = getattr(row, use.field)
        fault = None if value is None else use.refuse(value)
        if fault is not None:
            # A list has a place for each element; the first that is not empty will do.
            yield use.field, next(str(one) for one in (fault if isinstance(fault, list) else [fault]) if one)


def _compile_services(document: bytes, spans: list[_Span], faults: _Faults) -> tuple[Records, dict[str, int]]:
    """Their records, and the number of each by id."""
    records = Records()
    numbers: dict[str, int] = {}
    for id_, row in _rows(document, spans, "services", _ServiceRow, faults):
        if row is None or not row.enabled:
            numbers[id_] = _LEFT_OUT
            continue
        numbers[id_] = records.add(
            ServiceRecord(
                id=row.id,
                name=row.name,
                host=row.host,
                port=row.port,
                path=row.path,
                protocol=row.protocol,
                # Null is allowed, and stands for the default.
                retries=_RETRIES if row.retries is None else row.retries,
                connect_timeout_ms=row.connect_timeout or _TIMEOUT_MS,
                write_timeout_ms=row.write_timeout or _TIMEOUT_MS,
                read_timeout_ms=row.read_timeout or _TIMEOUT_MS,
                is_upstream_name=False,
                tls_verify=row.tls_verify,
                tls_verify_depth=row.tls_verify_depth,
            )
        )
    return records, numbers


def _compile_routes(
    document: bytes, spans: list[_Span], services: dict[str, int], faults: _Faults
) -> tuple[TableBuilder, Records]:
    records = Records()
    table = TableBuilder()
    number = 0
    for id_, row in _rows(document, spans, "routes", _RouteRow, faults):
        if row is None:
            continue
        service = -1
        if row.service is not None:
            found = services.get(row.service.id)
            if found is None:
                faults.add("routes", id_, "service", f"there is no service {row.service.id}")
                continue
            if found == _LEFT_OUT:
                continue
            service = found
        try:
            table.add(
                number,
                hosts=[host.lower().encode() for host in row.hosts or ()],
                paths=[path.encode() for path in row.paths or ()],
                methods=[method.encode() for method in row.methods or ()],
                created_at=row.created_at,
                key=bytes.fromhex(row.id.replace("-", "")),
            )
        except ValueError as exc:
            uses = [use for use in UNSERVED["routes"] if use.field in _TABLE_FIELDS]
            for field, reason in list(_refusals(row, uses)) or [("", str(exc))]:
                faults.add("routes", id_, field, reason)
            continue
        records.add(
            RouteRecord(
                id=row.id,
                name=row.name,
                service=service,
                strip_path=row.strip_path,
                preserve_host=row.preserve_host,
                protocols=sum(_PROTOCOL_BITS[protocol] for protocol in set(row.protocols)),
                https_redirect_status_code=row.https_redirect_status_code,
            )
        )
        number += 1
    return table, records


def _id_of(line: memoryview) -> str:
    """The id of a row that cannot be read otherwise; empty if not even that can."""
    try:
        return msgspec.json.decode(line, type=_Reference).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
