"""Routes that can never match, by whom they are shadowed, and routes that ask for the same.

Contract. For each candidate of a route a few requests are made up that it was made for, in parts that no
configuration names (a label, a path, a method of ours); the table says who takes them. A route that takes one
is alive. One that takes none is told with the routes that took them, and is *certain* to be shadowed where
these ask for nothing that it does not ask for as well.

The one complication are regexes: no text that matches is made up for them, so a route with a regex counts as
alive unless another with the same conditions stands before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

from fastgw._regex import literal_prefix
from fastgw._router import CandidateRecord, Flavor, Request
from fastgw._router_explain import RAW_HOST_BIT, split_host
from fastgw.routing.layered import LayeredImage

REQUESTS_LIMIT: Final = 64
"""Made up for one candidate."""

_LABEL: Final = b"fastgw-lint"
_METHOD: Final = b"FASTGWLINT"


class Shadowed(NamedTuple):
    route: int
    by: tuple[int, ...]
    certain: bool


def lint(image: LayeredImage) -> dict[str, Any]:
    """All findings, as plain data."""
    table = image.table()
    candidates = _candidates_by_route(image)
    duplicates = _duplicates(candidates)
    shadowed = [found for route in candidates if (found := _shadowed(image, route, candidates)) is not None]

    def named(number: int) -> dict[str, Any]:
        record = image.route(number)
        return {"id": record.id, "name": record.name}

    return {
        "version": image.meta.version,
        "routes": len(candidates),
        "candidates": table.candidates,
        "shadowed": [
            {
                "route": named(found.route),
                "by": [named(other) for other in found.by],
                "certain": found.certain,
            }
            for found in shadowed
        ],
        "duplicates": [[named(route) for route in group] for group in duplicates],
    }


def _candidates_by_route(image: LayeredImage) -> dict[int, list[CandidateRecord]]:
    table = image.table()
    is_old = table.flavor == Flavor.FLAVOR_TRADITIONAL
    found: dict[int, list[CandidateRecord]] = {}
    for rank in range(table.candidates):
        candidate = table.candidate(rank)
        if not (is_old and candidate.priority & RAW_HOST_BIT):
            found.setdefault(candidate.route, []).append(candidate)
    return found


def _asks_for(candidate: CandidateRecord) -> tuple[Any, ...]:
    return (
        candidate.path,
        frozenset(candidate.hosts),
        frozenset(candidate.methods),
        frozenset(candidate.snis),
        frozenset(candidate.headers),
        candidate.expressions,
    )


def _duplicates(candidates: dict[int, list[CandidateRecord]]) -> list[list[int]]:
    groups: dict[frozenset[tuple[Any, ...]], list[int]] = {}
    for route, own in candidates.items():
        groups.setdefault(frozenset(map(_asks_for, own)), []).append(route)
    return [group for group in groups.values() if len(group) > 1]


def _shadowed(
    image: LayeredImage, route: int, candidates: dict[int, list[CandidateRecord]]
) -> Shadowed | None:
    table = image.table()
    others: dict[int, None] = {}
    certain = True
    for own in candidates[route]:
        requests = list(_requests_for(own))
        if not requests:
            twin = _twin_before(own, route, candidates)
            if twin is None:
                return None
            others[twin] = None
            continue
        for request in requests:
            found = table.match_request(request)
            if found is None or found[0] == route:
                return None
            others[found[0]] = None
            certain = certain and any(_covers(other, own) for other in candidates[found[0]])
    return Shadowed(route, tuple(others), certain)


def _twin_before(
    own: CandidateRecord, route: int, candidates: dict[int, list[CandidateRecord]]
) -> int | None:
    # Told in order of precedence, so only what comes before its first candidate is looked at.
    wanted = _asks_for(own)
    for other, theirs in candidates.items():
        if other == route:
            return None
        if any(_asks_for(one) == wanted and one.rank < own.rank for one in theirs):
            return other
    return None


def _requests_for(candidate: CandidateRecord) -> Iterator[Request]:
    """Requests that the candidate matches; none where they cannot be made up."""
    if candidate.expressions or (candidate.path or b"").startswith(b"~"):
        return
    headers: dict[bytes, list[bytes]] = {}
    for text in candidate.headers:
        name, _, value = text.partition(b"\0")
        if not value.startswith(b"~*"):
            headers.setdefault(name, []).append(value)
        else:
            headers.setdefault(name, [])
    if not all(headers.values()):
        return
    hosts = [host.replace(b"*", _LABEL) for host in candidate.hosts] or [_LABEL + b".invalid"]
    path = candidate.path or b"/"
    snis = [sni.strip(b".").replace(b"*", _LABEL) for sni in candidate.snis] or [
        b"",
        _LABEL + b".invalid",
    ]
    made = product(
        hosts,
        [path + _LABEL, path],
        candidate.methods or [_METHOD],
        snis,
        product(*([(name, value) for value in values] for name, values in headers.items())),
    )
    for number, (host, asked, method, sni, fields) in enumerate(made):
        if number == REQUESTS_LIMIT:
            return
        port = split_host(host)[1]
        yield Request(
            method,
            host,
            asked,
            headers=fields,
            sni=sni,
            is_https=bool(sni),
            host_port=port or 1,
        )


def _covers(other: CandidateRecord, own: CandidateRecord) -> bool:
    """Whether *other* matches each request that *own* matches, as far as can be told."""
    if other.expressions or own.expressions:
        return False
    return (
        _covers_path(other.path, own.path)
        and (not other.methods or (bool(own.methods) and set(own.methods) <= set(other.methods)))
        and (not other.snis or (bool(own.snis) and set(own.snis) <= set(other.snis)))
        and (not other.headers or set(own.headers) == set(other.headers))
        and (
            not other.hosts
            or (
                bool(own.hosts)
                and all(any(_covers_host(theirs, host) for theirs in other.hosts) for host in own.hosts)
            )
        )
    )


def _covers_path(other: bytes | None, own: bytes | None) -> bool:
    if other is None:
        return True
    own = own or b"/"
    if other.startswith(b"~"):
        literal = literal_prefix(other[1:])
        rest = other[1 + len(literal) :]
        is_prefix = rest in (b"", b".*", b".*$") and b"\\" not in other
        return other == own or (is_prefix and own.startswith(literal))
    return own.startswith(other)


def _covers_host(other: bytes, own: bytes) -> bool:
    other_name, other_port = split_host(other)
    own_name, own_port = split_host(own)
    if other_port is not None and other_port != own_port:
        return False
    fixed = other_name.strip(b"*")
    if other_name.startswith(b"*"):
        return own_name.endswith(fixed) and len(own_name) > len(fixed)
    if other_name.endswith(b"*"):
        return own_name.startswith(fixed) and len(own_name) > len(fixed)
    return other_name == own_name


def names_of(findings: Sequence[dict[str, Any]]) -> str:
    """Routes for people: names, or ids of those without."""
    return ", ".join(one["name"] or one["id"] for one in findings)
