"""The PROXY protocol's header, versions 1 and 2: how a load balancer names the client that it stands for.

`read_header` decides from the first byte that cannot be right, so that nothing is waited for in vain, and
takes no more than it must. UNKNOWN, LOCAL and families without ports name nobody.

Source: the PROXY protocol's specification (haproxy.org, proxy-protocol.txt), §2.1 and §2.2.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from typing import Final, NamedTuple

LONGEST_V1: Final = 107
LONGEST_V2: Final = 4096
"""Addresses and everything that may follow them; the format would allow 64 KiB."""
SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"

_V1 = b"PROXY "
_V1_LINE = re.compile(
    rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]{2,39}) ([0-9A-Fa-f:.]{2,39}) ([0-9]{1,5}) ([0-9]{1,5})"
)
_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_NAMES_NOBODY: Final = {0x00: 0, 0x31: 216, 0x32: 216}
"""Unspecified, and unix sockets: their address lengths."""
_TCP4, _TCP6 = 0x11, 0x21


class ProxyHeader(NamedTuple):
    size: int
    """Bytes of the header."""
    client: str | None
    """The client's address; None: the peer speaks for itself."""
    port: int = 0


def read_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the start of *data*; None while it may still become one.

    Raises:
        ValueError: it is none: one clause that says why.
    """
    if data[:1] == b"P":
        return _read_v1(data)
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
        raise ValueError("no PROXY header")
    return _read_v2(data) if len(data) >= _FIXED.size else None


def _read_v1(data: bytes) -> ProxyHeader | None:
    if not data.startswith(_V1[: len(data)]):
        raise ValueError("no PROXY header")
    end = data.find(b"\r\n", 0, LONGEST_V1)
    if end < 0:
        if len(data) >= LONGEST_V1:
            raise ValueError("the line is too long")
        return None
    line, size = data[:end], end + 2
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(size, None)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise ValueError("the line is malformed")
    version = 4 if match[1] == b"TCP4" else 6
    client, _ = (_address(version, text.decode()) for text in match.group(2, 3))
    ports = [int(text) for text in match.group(4, 5)]
    if any(
        port > 65535 or text[:1] == b"0" != text for port, text in zip(ports, match.group(4, 5), strict=True)
    ):
        raise ValueError("a port is out of range")
    return ProxyHeader(size, client, ports[0])


def _address(version: int, text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text) if version == 4 else ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f"{text!r} is no IPv{version} address") from None


def _read_v2(data: bytes) -> ProxyHeader | None:
    _, command, family, length = _FIXED.unpack_from(data)
    if command not in (_LOCAL, _PROXY):
        raise ValueError(f"version and command are {command:#04x}")
    if length > LONGEST_V2:
        raise ValueError(f"{length} bytes of addresses are announced, {LONGEST_V2} is the limit")
    size = _FIXED.size + length
    if command == _LOCAL:
        needed = 0
    elif family in _NAMES_NOBODY:
        needed = _NAMES_NOBODY[family]
    elif family in (_TCP4, _TCP6):
        needed = 12 if family == _TCP4 else 36
    else:
        raise ValueError(f"the family is {family:#04x}, not TCP")
    if length < needed:
        raise ValueError(f"{length} bytes of addresses are announced, {needed} are needed")
    if len(data) < size:
        return None
    if command == _LOCAL or family in _NAMES_NOBODY:
        return ProxyHeader(size, None)
    at = _FIXED.size
    if family == _TCP4:
        source, port = data[at : at + 4], data[at + 8 : at + 10]
    else:
        source, port = data[at : at + 16], data[at + 32 : at + 34]
    return ProxyHeader(size, str(ipaddress.ip_address(source)), int.from_bytes(port, "big"))
