"""From a snapshot's lines to route table and records: a whole image, or the layer of an overlay.

Contract. Lines are compiled all or refused all, with every reason. Routes of a disabled service are left out,
as Kong does. What this version cannot serve is refused here too, not only by the Admin API: a control plane
may be newer than its data planes.

The one complication is size: 100,000 routes are to take about a second, so lines are decoded into structs of
the fields that matter, and nothing is kept that the image does not need.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Final, Generic, NamedTuple, TypeVar

import msgspec

from fastgw._router_build import TableBuilder
from fastgw.errors import CompileError
from fastgw.model.entities import ENTITIES
from fastgw.model.served import SERVED_PLUGINS, UNSERVED
from fastgw.model.snapshot import Snapshot
from fastgw.routing._plain_routes import add_plain_routes
from fastgw.routing.certificates import KINDS as CERTIFICATE_KINDS
from fastgw.routing.compile_certificates import compile_certificates
from fastgw.routing.image import Records, ServiceRecord, pack_image, packed_tail
from fastgw.routing.plugins import StepRecord
from fastgw.routing.routes import (
    FLAVORS,
    Reference,
    RouteRefused,
    RouteRow,
    add_route,
    record_of,
    refusals,
)
from fastgw.routing.surroundings import Surroundings

FAULTS_LIMIT: Final = 1000
"""Reasons beyond this number are counted, not told."""

_RETRIES: Final = 5
_TIMEOUT_MS: Final = 60000
LEFT_OUT: Final = -2
"""In place of a service's number: it is disabled, or its fault is already told."""


_Int = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _ServiceRow(msgspec.Struct, gc=False, kw_only=True):
    """What a worker needs of a row; the fields stand as in a line, sorted, which reads faster."""

    ca_certificates: list[str] | None = None
    client_certificate: Reference | None = None
    connect_timeout: _Int | None
    enabled: bool
    host: str
    id: str
    name: str | None
    path: str | None
    port: _Int
    protocol: str
    read_timeout: _Int | None
    retries: _Int | None
    tls_verify: bool | None = None
    tls_verify_depth: _Int | None = None
    write_timeout: _Int | None


_Row = TypeVar("_Row", _ServiceRow, RouteRow)


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


class Layer(NamedTuple):
    """What came of some lines."""

    table: bytes
    """Numbers count the records of `routes`."""
    routes: Records
    services: Records
    service_numbers: dict[str, int]
    """By id, of each service among the lines; `LEFT_OUT` of those that are not served."""
    certificates: bytes | None
    """The CERTIFICATES section; None: it needs none."""


def compile_snapshot(
    snapshot: Snapshot,
    *,
    flavor: str = "traditional_compatible",
    served_plugins: frozenset[str] = SERVED_PLUGINS,
) -> bytes:
    """The image of a snapshot, whole; its routes and services are numbered in the order of their ids.

    Args:
        flavor: Kong's `router_flavor`.
        served_plugins: names of those whose behaviour the data plane has; routes with others answer 503.
    Raises:
        CompileError: with all reasons, each {entity, id, field, reason}.
    """
    counts = snapshot.counts()
    around = Surroundings(snapshot, served_plugins)
    layer = compile_layer(
        snapshot.lines(),
        around=around,
        flavor=flavor,
        with_certificates=any(counts.get(kind) for kind in CERTIFICATE_KINDS),
    )
    plugins = Records()
    for record in around.plugins.records:
        plugins.add(record)
    return pack_image(
        version=snapshot.version,
        digest=snapshot.digest,
        counts=counts,
        table=layer.table,
        routes=layer.routes,
        services=layer.services,
        plugins=plugins,
        packed=snapshot.pack(),
        certificates=layer.certificates,
    )


def compile_layer(
    lines: list[bytes],
    *,
    around: Surroundings,
    base_service: Callable[[str], int | None] = lambda id_: None,
    first_service: int = 0,
    flavor: str = "traditional_compatible",
    with_certificates: bool = False,
) -> Layer:
    """Table and records of *lines*, which are sorted.

    Args:
        around: of the whole snapshot.
        base_service: the number (or `LEFT_OUT`) of a service that is not among the lines, by its id; None
            where there is none.
        first_service: the number that the first service among the lines gets.
        flavor: Kong's `router_flavor`; the same for all layers of one table.
        with_certificates: whether the layer has a section for them; *lines* then hold all `snis`.
    Raises:
        CompileError: with all reasons, each {entity, id, field, reason}.
    """
    faults = _Faults()
    by_kind = dict(_kinds_of(lines))
    for kind in by_kind.keys() - ENTITIES.keys():
        faults.add(kind, "", "", f"this version of fastgw does not know {kind}")
    services, numbers = _compile_services(by_kind.get("services", []), first_service, around, faults)
    routes = _Routes(numbers, base_service, around, flavor, faults)
    routes.add(by_kind.get("routes", []))
    certificates = None
    if with_certificates:
        certificates = compile_certificates(by_kind, around.has, faults.add)
    faults.check()
    try:
        block = routes.table.freeze()
    except ValueError as exc:
        faults.add("routes", "", "", exc)
        faults.check()
    return Layer(block, routes.records, services, numbers, certificates)


def _kinds_of(lines: list[bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """The lines of each kind."""
    at = 0
    while at < len(lines):
        kind = lines[at].partition(b" ")[0]
        end = bisect_left(lines, kind + b"!", at)  # the byte after the space
        yield kind.decode(), lines[at:end]
        at = end


class _Reader(Generic[_Row]):
    """Makes rows of lines."""

    def __init__(self, entity: str, row_type: type[_Row], faults: _Faults) -> None:
        self._entity = entity
        self._decoder: msgspec.json.Decoder[_Row] = msgspec.json.Decoder(row_type)
        self._faults = faults
        # Of routes, the table and its translation refuse what they cannot hold.
        self._uses = UNSERVED[entity] if entity == "services" else ()

    def read(self, line: bytes) -> tuple[str, _Row | None]:
        """The row and its id; None for one that cannot be served, once its faults are told."""
        _, id_, content = line.split(b" ", 2)
        try:
            row = self._decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            name = id_.decode(errors="replace")
            self._faults.add(self._entity, name, "", exc)
            return name, None
        id_of_row = row.id
        is_served = id_of_row.encode() == id_
        if not is_served:
            self._faults.add(self._entity, id_.decode(errors="replace"), "id", f"its row says {id_of_row}")
        for field, reason in refusals(row, self._uses) if self._uses else ():
            self._faults.add(self._entity, id_of_row, field, reason)
            is_served = False
        return id_of_row, row if is_served else None


def _compile_services(
    lines: Sequence[bytes], first: int, around: Surroundings, faults: _Faults
) -> tuple[Records, dict[str, int]]:
    """Their records, and the number of each by id."""
    records = Records()
    numbers: dict[str, int] = {}
    for id_, row in map(_Reader("services", _ServiceRow, faults).read, lines):
        if row is None or not row.enabled:
            numbers[id_] = LEFT_OUT
            continue
        _check_certificates(row, around, faults)
        numbers[id_] = first + records.add(
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
                is_upstream_name=row.host in around.upstreams,
                tls_verify=row.tls_verify,
                tls_verify_depth=row.tls_verify_depth,
                client_certificate=None if row.client_certificate is None else row.client_certificate.id,
                ca_certificates=tuple(row.ca_certificates) if row.ca_certificates else None,
            )
        )
    return records, numbers


def _check_certificates(row: _ServiceRow, around: Surroundings, faults: _Faults) -> None:
    """What a service connects with must be there: nothing else is presented or trusted in its place."""
    if row.client_certificate is not None and not around.has("certificates", row.client_certificate.id):
        reason = f"there is no certificate {row.client_certificate.id}"
        faults.add("services", row.id, "client_certificate", reason)
    for id_ in row.ca_certificates or ():
        if not around.has("ca_certificates", id_):
            faults.add("services", row.id, "ca_certificates", f"there is no CA certificate {id_}")


class _Routes:
    """Table and records of routes in the making."""

    def __init__(
        self,
        services: dict[str, int],
        base_service: Callable[[str], int | None],
        around: Surroundings,
        flavor: str,
        faults: _Faults,
    ) -> None:
        self.table = TableBuilder(FLAVORS[flavor])
        self.records = Records()
        self._services = services
        self._base_service = base_service
        self._around = around
        self._flavor = flavor
        self._faults = faults
        self._reader = _Reader("routes", RouteRow, faults)
        self._number = 0

    def add(self, lines: list[bytes]) -> None:
        """Add all of them; those that are refused are told."""
        tail_of = self._tail_of if self._around.has_plugins else None
        at = 0
        while at < len(lines):
            at, self._number, records, ends = add_plain_routes(
                self.table, lines, at, self._number, self._services, tail_of
            )
            if ends:
                self.records.extend(records, ends)
            if at < len(lines):
                self._add_one(lines[at])
                at += 1

    def _tail_of(self, id_: str, service_id: str | None) -> bytes:
        return packed_tail(
            self._around.missing_plugin(id_, service_id), self._around.plugins.steps(id_, service_id)
        )

    def _add_one(self, line: bytes) -> None:
        """Add what may be anything."""
        id_, row = self._reader.read(line)
        if row is None:
            return
        service, service_id = -1, None
        if row.service is not None:
            service_id = row.service.id
            found = self._services.get(service_id)
            if found is None:
                found = self._base_service(service_id)
            if found is None:
                self._faults.add("routes", id_, "service", f"there is no service {service_id}")
                return
            if found == LEFT_OUT:
                return
            service = found
        try:
            protocols = add_route(self.table, self._number, row, self._flavor)
        except RouteRefused as refused:
            for field, reason in refused.faults:
                self._faults.add("routes", id_, field, reason)
            return
        missing: str | None = None
        steps: tuple[StepRecord, ...] = ()
        if self._around.has_plugins:
            missing = self._around.missing_plugin(id_, service_id)
            steps = self._around.plugins.steps(id_, service_id)
        self.records.add(record_of(row, service, protocols, self._flavor, missing, steps))
        self._number += 1
