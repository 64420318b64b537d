"""The loads that proxies are put under, each by its name on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from bench.load.contenders import LARGE_BYTES
from bench.load.generators import LoadResult, run_h2load_count, run_h2load_rate, run_wrk

_MIB: Final = 1024 * 1024
#: Large bodies go over few connections: this many, this many bodies for each second of a round.
_LARGE_CONNECTIONS: Final = 4
_LARGE_PER_S: Final = 6
#: New TLS connections for each second of a round.
_HANDSHAKES_PER_S: Final = 500


class Conditions(msgspec.Struct, frozen=True):
    """What all rounds of one run share."""

    seconds: int
    connections: int
    load_core: int
    directory: Path
    rate: float
    """Requests per second in all, for loads with a fixed rate."""


class Load(msgspec.Struct, frozen=True):
    """A kind of traffic."""

    title: str
    run: Callable[[int, Conditions], LoadResult]
    """(port, conditions) → what was counted."""
    tool: str
    units: int = 1
    """Units of `unit` in one request, that its cost is divided by."""
    unit: str = "request"
    is_rated: bool = False
    """Whether it needs `Conditions.rate`."""
    is_tls: bool = False
    """Whether *port* is the one for TLS."""


def _get(port: int, at: Conditions) -> LoadResult:
    return run_wrk(_url(port, "/"), connections=at.connections, seconds=at.seconds, core=at.load_core)


def _post16k(port: int, at: Conditions) -> LoadResult:
    return run_wrk(
        _url(port, "/bench/post"),
        connections=at.connections,
        seconds=at.seconds,
        core=at.load_core,
        script="wrk_post16k.lua",
    )


def _rate(port: int, at: Conditions) -> LoadResult:
    return run_h2load_rate(
        _url(port, "/"),
        connections=at.connections,
        seconds=at.seconds,
        rate=at.rate,
        core=at.load_core,
        log=at.directory / "h2load.log",
    )


def _download(port: int, at: Conditions) -> LoadResult:
    return run_h2load_count(
        _url(port, "/bench/download"),
        connections=_LARGE_CONNECTIONS,
        requests=_LARGE_PER_S * at.seconds,
        core=at.load_core,
        log=at.directory / "h2load.log",
    )


def _upload(port: int, at: Conditions) -> LoadResult:
    return run_h2load_count(
        _url(port, "/bench/upload"),
        connections=_LARGE_CONNECTIONS,
        requests=_LARGE_PER_S * at.seconds,
        core=at.load_core,
        log=at.directory / "h2load.log",
        body=at.directory / "download.bin",
    )


def _tls(port: int, at: Conditions) -> LoadResult:
    url = _url(port, "/", scheme="https")
    return run_wrk(url, connections=at.connections, seconds=at.seconds, core=at.load_core)


def _handshake(port: int, at: Conditions) -> LoadResult:
    """One connection for each request: h2load resumes no session."""
    count = _HANDSHAKES_PER_S * at.seconds
    return run_h2load_count(
        _url(port, "/", scheme="https"),
        connections=count,
        requests=count,
        core=at.load_core,
        log=at.directory / "h2load.log",
    )


def _url(port: int, path: str, scheme: str = "http") -> str:
    return f"{scheme}://127.0.0.1:{port}{path}"


_LARGE_UNITS: Final = LARGE_BYTES // _MIB

LOADS: Final[Mapping[str, Load]] = {
    "get": Load("GET, keep-alive, 200-byte answers", _get, "wrk"),
    "post16k": Load("POST, keep-alive, 16 KiB bodies, 200-byte answers", _post16k, "wrk"),
    "rate": Load("GET at a fixed rate of half of nginx's peak", _rate, "h2load", is_rated=True),
    "download": Load("GET, 64 MiB answers", _download, "h2load", _LARGE_UNITS, "MiB"),
    "upload": Load("POST, 64 MiB bodies", _upload, "h2load", _LARGE_UNITS, "MiB"),
    "tls": Load("GET over TLS, keep-alive, 200-byte answers", _tls, "wrk", is_tls=True),
    "handshake": Load("TLS handshake, P-256, and one GET", _handshake, "h2load", is_tls=True),
}
