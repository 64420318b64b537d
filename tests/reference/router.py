"""What `fastgw._router` must answer: every candidate in the order of precedence, the first that matches.

Written straight from the rules of Kong's flavors, one route against one request at a time. Regular
expressions are Python's: the generators use what all engines agree on.
Expressions are judged by `expressions`.
Source: proxying reference §1.3 (matching), §1.4 (`traditional`), §1.10 (`traditional_compatible`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tests.reference.expressions import Expression, Fields, segments_of

Flavor = Literal["traditional", "traditional_compatible"]
KIND_BITS = {"hosts": 64, "headers": 32, "paths": 16, "methods": 8, "snis": 4}


@dataclass(frozen=True)
class Request:
    method: bytes = b"GET"
    host: bytes = b""
    path: bytes = b"/"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    sni: bytes = b""
    is_https: bool = False
    host_port: int = 80
    query: bytes = b""


@dataclass(frozen=True)
class Route:
    number: int
    hosts: tuple[bytes, ...] = ()
    paths: tuple[bytes, ...] = ()
    regexes: tuple[bytes, ...] = ()
    methods: tuple[bytes, ...] = ()
    headers: tuple[tuple[bytes, tuple[bytes, ...]], ...] = ()
    snis: tuple[bytes, ...] = ()
    regex_priority: int = 0
    created_at: int = 0
    key: bytes = b""
    expression: Expression | None = None
    priority: int = 0

    def kinds(self) -> list[str]:
        return [
            name
            for name in KIND_BITS
            if (self.paths or self.regexes if name == "paths" else getattr(self, name))
        ]


class Candidate(NamedTuple):
    """A route with one of its paths."""

    route: Route
    path: bytes
    is_regex: bool
    place: int


@dataclass
class Router:
    flavor: Flavor = "traditional_compatible"
    candidates: list[Candidate] = field(default_factory=list)
    _ordered: dict[object, list[Candidate]] = field(default_factory=dict)
    """Of candidates so far, by what of a request decides it."""

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
        regex_priority: int = 0,
    ) -> None:
        self._ordered.clear()
        frozen_headers = tuple((name, tuple(values)) for name, values in headers)
        made = Route(route, tuple(hosts), tuple(paths), tuple(regexes), tuple(methods), frozen_headers,
                     tuple(snis), regex_priority, created_at, key)  # fmt: skip
        for path in paths:
            self.candidates.append(Candidate(made, path, False, len(self.candidates)))
        for pattern in regexes:
            self.candidates.append(Candidate(made, pattern, True, len(self.candidates)))
        if not paths and not regexes:
            self.candidates.append(Candidate(made, b"", False, len(self.candidates)))

    def add_expression(
        self, route: int, *, expression: Expression, priority: int, created_at: int, key: bytes
    ) -> None:
        self._ordered.clear()
        made = Route(route, created_at=created_at, key=key, expression=expression, priority=priority)
        self.candidates.append(Candidate(made, b"", False, len(self.candidates)))

    def match(self, method: bytes, host: bytes, path: bytes, *, headers: Sequence[tuple[bytes, bytes]] = (),
              sni: bytes = b"", is_https: bool = False, host_port: int = 80,
              query: bytes = b"") -> tuple[int, int] | None:  # fmt: skip
        request = Request(method, host, path, tuple(headers), sni, is_https, host_port, query)
        for candidate in self._in_order(request):
            matched = match_one(candidate, request, self.flavor)
            if matched is not None:
                return candidate.route.number, matched
        return None

    def _in_order(self, request: Request) -> list[Candidate]:
        is_old = self.flavor == "traditional"
        decisive = (request.host, request.is_https) if is_old else None
        if decisive not in self._ordered:
            self._ordered[decisive] = sorted(
                self.candidates,
                key=(lambda candidate: traditional_order(candidate, request)) if is_old else compatible_order,
            )
        return self._ordered[decisive]


def compatible_order(candidate: Candidate) -> tuple[object, ...]:
    """Less is better."""
    route = candidate.route
    all_plain = bool(route.hosts) and not any(b"*" in host for host in route.hosts)
    return (
        route.expression is None,
        -route.priority,
        -len(route.kinds()),
        not all_plain,
        -len(route.headers),
        not candidate.is_regex,
        -route.regex_priority if candidate.is_regex else 0,
        0 if candidate.is_regex else -len(candidate.path),
        route.created_at,
        route.key,
        route.number,
        candidate.place,
    )


def traditional_order(candidate: Candidate, request: Request) -> tuple[object, ...]:
    """Less is better."""
    route = candidate.route
    plain = [host for host in route.hosts if b"*" not in host]
    wild = [host for host in route.hosts if b"*" in host]
    submask = 4 * any(split_host(host)[1] is not None for host in wild)
    submask += 2 * (bool(plain) and not wild)
    submask += candidate.is_regex
    return (
        bool(route.snis) and not request.is_https,
        -len(route.kinds()),
        -sum(KIND_BITS[kind] for kind in route.kinds()),
        request.host not in plain,
        -submask,
        -len(route.headers),
        -route.regex_priority if candidate.is_regex else 0,
        0 if candidate.is_regex else -len(candidate.path),
        route.created_at,
        route.key,
        route.number,
        candidate.place,
    )


def match_one(candidate: Candidate, request: Request, flavor: Flavor) -> int | None:
    """How much of the path the candidate's path matched, if the candidate matches."""
    route = candidate.route
    if route.expression is not None:
        fields = fields_of(request)
        return fields.matched if fields.holds(route.expression) else None
    if route.hosts and not any(host_matches(host, request, flavor) for host in route.hosts):
        return None
    if route.methods and request.method not in route.methods:
        return None
    if not all(header_matches(name, values, request, flavor) for name, values in route.headers):
        return None
    if (
        route.snis
        and request.is_https
        and not any(sni_matches(sni, request.sni, flavor) for sni in route.snis)
    ):
        return None
    if candidate.is_regex:
        found = re.match(candidate.path, request.path)
        return None if found is None else found.end()
    return len(candidate.path) if request.path.startswith(candidate.path) else None


def fields_of(request: Request) -> Fields:
    name, port = split_host(request.host)
    values: dict[str, Any] = {
        "http.method": request.method,
        "http.host": name if request.host else None,
        "http.path": request.path,
        "net.protocol": b"https" if request.is_https else b"http",
        "tls.sni": request.sni or None,
        "net.dst.port": request.host_port if port is None else port,
        "http.path.segments.len": len(segments_of(request.path)),
    }
    segments = segments_of(request.path)
    for first in range(len(segments)):
        values[f"http.path.segments.{first}"] = segments[first]
        for last in range(first + 1, len(segments)):
            values[f"http.path.segments.{first}_{last}"] = b"/".join(segments[first : last + 1])
    for own, value in request.headers:
        values.setdefault("http.headers." + own.lower().replace(b"-", b"_").decode(), []).append(value)
    for argument in request.query.split(b"&") if request.query else []:
        own, _, value = argument.partition(b"=")
        values.setdefault("http.queries." + own.decode(), []).append(value)
    return Fields(values, request.path)


def split_host(host: bytes) -> tuple[bytes, int | None]:
    name, colon, port = host.rpartition(b":")
    bracketed = host.startswith(b"[")
    if not colon or (bracketed and not name.endswith(b"]")) or (not bracketed and b":" in name):
        name, port = host, b""
    elif port and not (port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        return host, None
    if name.startswith(b"[") and name.endswith(b"]"):
        name = name[1:-1]
    return name, int(port) if port else None


def host_matches(own: bytes, request: Request, flavor: Flavor) -> bool:
    own_name, own_port = split_host(own)
    name, port = split_host(request.host)
    if own_port is not None:
        if port is None and flavor == "traditional_compatible":
            port = request.host_port
        elif port is None and b"*" in own_name:
            port = 443 if request.is_https else 80
        if port != own_port:
            return False
    if own_name.startswith(b"*"):
        return len(name) > len(own_name) - 1 and name.endswith(own_name[1:])
    if own_name.endswith(b"*"):
        return len(name) > len(own_name) - 1 and name.startswith(own_name[:-1])
    return bool(request.host) and name == own_name


def header_matches(name: bytes, values: tuple[bytes, ...], request: Request, flavor: Flavor) -> bool:
    def folded(text: bytes) -> bytes:
        return text.lower() if flavor == "traditional" else text.lower().replace(b"_", b"-")

    for own, sent in request.headers:
        if folded(own) != folded(name):
            continue
        for value in values:
            if value.startswith(b"~*") and (len(values) == 1 or flavor == "traditional_compatible"):
                pattern = value[2:] if flavor == "traditional" else value[2:].lower()
                if re.search(pattern, sent.lower()):
                    return True
            elif value.lower() == sent.lower():
                return True
    return False


def sni_matches(own: bytes, sni: bytes, flavor: Flavor) -> bool:
    own = own.lower()
    if len(own) > 1 and own.endswith(b"."):
        own = own[:-1]
    if not sni:
        return False
    if flavor == "traditional_compatible" and own.startswith(b"*"):
        return sni.endswith(own[1:])
    if flavor == "traditional_compatible" and own.endswith(b"*"):
        return sni.startswith(own[:-1])
    return sni == own
