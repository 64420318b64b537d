"""What `fastgw._router` must answer: every candidate in order, the first that matches.

Written straight from the rules of Kong's `traditional_compatible` flavour, for hosts, paths and methods.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Candidate(NamedTuple):
    """A route with one of its paths, or with none; sorts best first."""

    fewer_kinds: int
    not_all_plain: bool
    shorter_path: int
    created_at: int
    key: bytes
    route: int
    path: bytes
    hosts: tuple[bytes, ...]
    methods: tuple[bytes, ...]


class Router:
    def __init__(self) -> None:
        self._candidates: list[Candidate] = []

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
        kinds = sum(map(bool, (hosts, paths, methods)))
        all_plain = bool(hosts) and not any(b"*" in host for host in hosts)
        for path in paths or [b""]:
            self._candidates.append(
                Candidate(
                    -kinds,
                    not all_plain,
                    -len(path),
                    created_at,
                    key,
                    route,
                    path,
                    tuple(hosts),
                    tuple(methods),
                )
            )
        self._candidates.sort()

    def match(
        self, method: bytes, host: bytes, path: bytes, *, host_port: int = 80
    ) -> tuple[int, int] | None:
        for candidate in self._candidates:
            if candidate.hosts and not any(host_matches(own, host, host_port) for own in candidate.hosts):
                continue
            if not path.startswith(candidate.path):
                continue
            if candidate.methods and method not in candidate.methods:
                continue
            return candidate.route, len(candidate.path)
        return None


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


def host_matches(own: bytes, host: bytes, host_port: int) -> bool:
    own_name, own_port = split_host(own)
    name, port = split_host(host)
    if own_port is not None and own_port != (host_port if port is None else port):
        return False
    if own_name.startswith(b"*"):
        return len(name) > len(own_name) - 1 and name.endswith(own_name[1:])
    if own_name.endswith(b"*"):
        return len(name) > len(own_name) - 1 and name.startswith(own_name[:-1])
    return name == own_name
