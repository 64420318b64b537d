"""Routes that can never match, by whom they are shadowed, and routes that ask for the same.

Contract. For each candidate of a route a few requests are made up that it was made for, in parts that no
configuration names (a label, a path, a method of ours); the table says who takes them. A route that takes one
is alive. One that takes none is told with the routes that took them, and is *certain* to be shadowed where
these ask for nothing that it does not ask for as well.

The one complication are regexes and expressions: nothing that matches is made up for them. A route with one
counts as alive unless one before it asks for nothing more than it does (the same; a regex that is a mere
prefix of its text; an expression of some of its conditions), or an expression contradicts itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any, Final, NamedTuple

from fastgw._regex import literal_prefix
from fastgw._router import CandidateRecord, Flavor, InstructionFlag, Operator, Request, RequestField
from fastgw._router_explain import RAW_HOST_BIT, split_host
from fastgw._router_program import All, Test, Tree
from fastgw.model.expressions import parse_expression
from fastgw.routing.image import Protocols
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
    known = _Known(image, candidates)
    shadowed = [
        found for route in candidates if (found := _shadowed(image, route, candidates, known)) is not None
    ]

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
        "contradictions": [
            {"route": named(route), "reason": reason} for route, reason in known.contradictions.items()
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
    """Each group in the order of precedence: age, or of the same age the id, or the priority."""
    groups: dict[frozenset[tuple[Any, ...]], list[int]] = {}
    for route, own in candidates.items():
        groups.setdefault(frozenset(map(_asks_for, own)), []).append(route)
    return [
        sorted(group, key=lambda route: min(one.rank for one in candidates[route]))
        for group in groups.values()
        if len(group) > 1
    ]


class _Known:
    """What stands before a candidate for which no request can be made up."""

    def __init__(self, image: LayeredImage, candidates: dict[int, list[CandidateRecord]]) -> None:
        everyone = sorted(
            ((one.rank, route, one) for route, own in candidates.items() for one in own),
            key=lambda found: found[0],
        )
        self.contradictions: Final[dict[int, str]] = {}
        """By route, in a few words."""
        self._first: Final[dict[tuple[Any, ...], tuple[int, int]]] = {}
        self._broad: Final[list[tuple[int, int, CandidateRecord]]] = []
        self._expressions: Final[list[tuple[int, int, frozenset[str]]]] = []
        self._conjuncts: Final[dict[int, frozenset[str]]] = {}
        for rank, route, one in everyone:
            if one.expressions:
                self._add_expression(image, rank, route, one.expressions[0].decode())
            else:
                self._first.setdefault(_asks_for(one), (rank, route))
                if one.path is not None and one.path.startswith(b"~") and _mere_prefix(one.path) is not None:
                    self._broad.append((rank, route, one))

    def _add_expression(self, image: LayeredImage, rank: int, route: int, text: str) -> None:
        parts = list(_conjuncts_of(parse_expression(text)))
        reason = _contradiction(parts)
        if reason is not None:
            self.contradictions[route] = reason
        asked = {repr(part) for part in parts}
        if image.route(route).protocols == Protocols.HTTP:
            asked.add("http alone")
        self._conjuncts[route] = frozenset(asked)
        self._expressions.append((rank, route, frozenset(asked)))

    def before(self, own: CandidateRecord, route: int) -> int | None:
        """The first route that takes all that *own* asks for."""
        if own.expressions:
            asked = self._conjuncts[route]
            return next(
                (other for rank, other, theirs in self._expressions if rank < own.rank and theirs <= asked),
                None,
            )
        rank, twin = self._first[_asks_for(own)]
        if rank < own.rank and twin != route:
            return twin
        for rank, other, one in self._broad:
            if rank >= own.rank:
                break
            if other != route and _covers(one, own):
                return other
        return None


def _conjuncts_of(tree: Tree) -> Iterator[Tree]:
    if isinstance(tree, All):
        for part in tree.parts:
            yield from _conjuncts_of(part)
    else:
        yield tree


_SINGLE: Final = {
    RequestField.FIELD_METHOD: "http.method",
    RequestField.FIELD_HOST: "http.host",
    RequestField.FIELD_PATH: "http.path",
    RequestField.FIELD_PROTOCOL: "net.protocol",
    RequestField.FIELD_SNI: "tls.sni",
}
"""Fields of one value."""


def _contradiction(parts: Sequence[Tree]) -> str | None:
    """Why all of *parts* cannot hold together, if that is plain."""
    tests = [
        part
        for part in parts
        if isinstance(part, Test)
        and part.field in _SINGLE
        and not part.flags & InstructionFlag.INSTRUCTION_LOWER
        and part.operator in (Operator.OPERATOR_EQUAL, Operator.OPERATOR_PREFIX)
    ]
    for one, other in combinations(tests, 2):
        if one.field != other.field:
            continue
        shorter, longer = sorted((one, other), key=lambda test: len(test.text))
        fits = longer.text.startswith(shorter.text)
        if shorter.operator == Operator.OPERATOR_EQUAL:
            fits = longer.text == shorter.text
        if not fits:
            texts = " and ".join(repr(test.text.decode(errors="replace")) for test in (one, other))
            return f"{_SINGLE[RequestField(one.field)]} cannot suit both {texts}"
    return None


def _shadowed(
    image: LayeredImage, route: int, candidates: dict[int, list[CandidateRecord]], known: _Known
) -> Shadowed | None:
    table = image.table()
    others: dict[int, None] = {}
    certain = True
    for own in candidates[route]:
        requests = list(_requests_for(own))
        if not requests:
            other = known.before(own, route)
            if other is None:
                return None
            others[other] = None
            continue
        for request in requests:
            found = table.match_request(request)
            if found is None or found[0] == route:
                return None
            others[found[0]] = None
            certain = certain and any(_covers(one, own) for one in candidates[found[0]])
    return Shadowed(route, tuple(others), certain)


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
    if other == own:
        return True
    own = own or b"/"
    # All that a regex matches begins with its literal prefix.
    begin = literal_prefix(own[1:]) if own.startswith(b"~") else own
    prefix = _mere_prefix(other) if other.startswith(b"~") else other
    return prefix is not None and begin.startswith(prefix)


def _mere_prefix(path: bytes) -> bytes | None:
    """The prefix that a regex path is equal to; None where it asks for more."""
    literal = literal_prefix(path[1:])
    rest = path[1 + len(literal) :]
    return literal if rest in (b"", b".*") and b"\\" not in path else None


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
