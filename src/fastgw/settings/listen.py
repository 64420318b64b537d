"""Listen strings: `address:port flags…`, comma-separated, or `off`.

The address is an IPv4 address, an IPv6 address in brackets, or a name. A flag that Kong does not know is
refused; one that Kong knows and that does nothing here is kept in `Listen.idle_flags`, so that the loader
can say so in one line.
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
_KEEPALIVE = re.compile(r"on|off|\w*:\w*:\w*")


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
    idle_flags: tuple[str, ...] = ()
    """Flags of Kong's that were given and do nothing here."""

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
    idle: list[str] = []
    backlog = DEFAULT_BACKLOG
    for flag in flags:
        name, _, value = flag.partition("=")
        if flag in ("ssl", "http2", "reuseport", "proxy_protocol"):
            on.add(flag)
        elif name == "backlog" and value.isascii() and value.isdigit() and 0 < int(value) < 2**31:
            backlog = int(value)
        elif flag == "bind":
            pass  # every address has a socket of its own here anyway
        elif (
            flag == "deferred"
            or (name == "ipv6only" and value in ("on", "off"))
            or (name == "so_keepalive" and _KEEPALIVE.fullmatch(value))
        ):
            idle.append(name)
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
        idle_flags=tuple(idle),
    )


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
