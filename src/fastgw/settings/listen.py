"""Listen strings: `address:port flags…`, comma-separated, or `off`.

The address is an IPv4 address, an IPv6 address in brackets, or a name. A flag that Kong does not know is
refused.
Source: Kong's listener syntax (`proxy_listen`, `admin_listen`, `status_listen`, `cluster_listen`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

DEFAULT_BACKLOG: Final = 16384

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:\[\],]+):(?P<port>\d{1,5})")
_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
# nginx's "idle:interval:count", each may be left out; times in seconds unless they say otherwise.
_KEEPALIVE = re.compile(r"(\d{1,5}[smh]?)?:(\d{1,5}[smh]?)?:(\d{1,3})?")
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Listen:
    """One address to listen on; `str()` is `127.0.0.1:8001`, IPv6 in brackets."""

    host: str
    """Without brackets."""
    port: int
    """0 lets the system choose."""
    ssl: bool = False
    http2: bool = False
    reuseport: bool = False
    backlog: int = DEFAULT_BACKLOG
    proxy_protocol: bool = False
    deferred: bool = False
    """Accept only connections whose first bytes have come."""
    ipv6only: bool = True
    """False: an IPv6 address takes IPv4 connections too."""
    so_keepalive: tuple[int, int, int] | None = None
    """Idle seconds, seconds between probes, probes; 0 leaves one to the system. None: no probes."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address; names other than localhost count as reachable."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"

    @property
    def is_wildcard(self) -> bool:
        return self.host in ("0.0.0.0", "::")

    @staticmethod
    def parse(text: str) -> tuple[Listen, ...]:
        """Read a listen string; `off` is the empty tuple.

        Raises:
            ValueError: one line that says which part is wrong.
        """
        if text.strip().lower() == "off":
            return ()
        listens = tuple(_parse_one(part.strip()) for part in text.split(","))
        seen: set[str] = set()
        for listen in listens:
            if str(listen) in seen and listen.port != 0:
                raise ValueError(f"{listen} is listed twice")
            seen.add(str(listen))
        return listens


def _parse_one(part: str) -> Listen:
    if not part:
        raise ValueError("an empty address; expected 'address:port flags…', or 'off' alone")
    address, *flags = part.split()
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"{address!r} is not 'address:port' (an IPv6 address stands in brackets)")
    host = _parse_host(match["host"], address)
    port = int(match["port"])
    if port > 65535:
        raise ValueError(f"port {port} in {address!r} is above 65535")
    on: set[str] = set()
    ipv6only = True
    so_keepalive: tuple[int, int, int] | None = None
    backlog = DEFAULT_BACKLOG
    for flag in flags:
        name, _, value = flag.partition("=")
        if flag in ("ssl", "http2", "reuseport", "proxy_protocol", "deferred"):
            on.add(flag)
        elif name == "backlog" and value.isascii() and value.isdigit() and 0 < int(value) < 2**31:
            backlog = int(value)
        elif flag == "bind":
            pass  # every address has a socket of its own here anyway
        elif name == "ipv6only" and value in ("on", "off"):
            ipv6only = value == "on"
        elif name == "so_keepalive" and value in ("on", "off"):
            so_keepalive = (0, 0, 0) if value == "on" else None
        elif name == "so_keepalive" and (probes := _KEEPALIVE.fullmatch(value)):
            so_keepalive = (_seconds(probes[1]), _seconds(probes[2]), int(probes[3] or 0))
        else:
            raise ValueError(f"flag {flag!r} of {address!r} is unknown")
    return Listen(
        host,
        port,
        ssl="ssl" in on,
        http2="http2" in on,
        reuseport="reuseport" in on,
        backlog=backlog,
        proxy_protocol="proxy_protocol" in on,
        deferred="deferred" in on,
        ipv6only=ipv6only,
        so_keepalive=so_keepalive,
    )


def _seconds(text: str | None) -> int:
    if not text:
        return 0
    return int(text) if text.isdigit() else int(text[:-1]) * _UNITS_S[text[-1]]


def _parse_host(host: str, address: str) -> str:
    if host.startswith("["):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"{host} in {address!r} is not an IPv6 address") from None
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{host!r} in {address!r} is not an IPv4 address") from None
    if not _NAME.fullmatch(host):
        raise ValueError(f"{host!r} in {address!r} is neither an address nor a host name")
    return host
