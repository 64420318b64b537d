"""Whose word about the client is taken: trusted peers, and the address that they name.

Contract. A peer is trusted by the address of its TCP connection and nothing else. What a trusted peer says in
`real_ip_header` replaces the client's address; what anybody else says there is passed over. An address that
cannot be read ends the search: the one found before it counts.

Source: proxying reference §2.1; nginx's realip module, whose rules these are.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Sequence
from typing import Final

PROXY_PROTOCOL: Final = "proxy_protocol"
UNIX: Final = "unix:"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_WITH_PORT = re.compile(r"(?P<v4>[0-9.]+):[0-9]{1,5}|\[(?P<v6>[0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")
_KNOWN_ANSWERS: Final = 4096
# Beyond it nobody writes a list of proxies.
_LONGEST_BYTES: Final = 2048


class Forwarding:
    """The trust of one data plane.

    Args:
        trusted: addresses, networks, and `unix:`.
        header: name of the field that holds the client's address, or PROXY_PROTOCOL.
        is_recursive: whether trusted addresses are passed over in that field, from its end.
    """

    def __init__(self, trusted: Sequence[str], header: str, *, is_recursive: bool) -> None:
        networks = [ipaddress.ip_network(one) for one in trusted if one != UNIX]
        by_version = {
            version: [one for one in networks if one.version == version and one.prefixlen > 0]
            for version in (4, 6)
        }
        whole = {one.version for one in networks if one.prefixlen == 0}
        self._networks = by_version
        self._whole = whole
        self._trusts_unix = UNIX in trusted or whole == {4, 6}
        self.header: Final = header.lower().encode()
        """In lower case."""
        self.by_proxy_protocol: Final = header.lower() == PROXY_PROTOCOL
        self._is_recursive = is_recursive
        # The same few proxies and clients ask again and again.
        self.trusts = functools.lru_cache(_KNOWN_ANSWERS)(self._trusts)
        self._find = functools.lru_cache(_KNOWN_ANSWERS)(self._find_client)

    def _trusts(self, peer: str) -> bool:
        """Whether the word of this peer is taken; *peer* is an address, or `unix:`."""
        if peer == UNIX:
            return self._trusts_unix
        address = _parse(peer)
        return address is not None and self._covers(address)

    def client(self, named: bytes | None, peer: bytes) -> bytes:
        """Return the client's address by what a trusted peer named.

        Args:
            named: values of `real_ip_header`, joined by commas; None when it was not sent.
            peer: what counts when nothing is found.
        """
        if not named or len(named) > _LONGEST_BYTES:
            return peer
        return self._find(named) or peer

    def _find_client(self, named: bytes) -> bytes | None:
        found: Address | None = None
        for item in reversed(named.decode("latin-1").split(",")):
            address = _parse(item.strip())
            if address is None:
                break
            found = address
            if not self._is_recursive or not self._covers(address):
                break
        return None if found is None else str(found).encode()

    def _covers(self, address: Address) -> bool:
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.version in self._whole:
            return True
        return any(address in network for network in self._networks[address.version])


def _parse(text: str) -> Address | None:
    """Read an address, with or without a port."""
    if (match := _WITH_PORT.fullmatch(text)) is not None:
        text = match["v4"] or match["v6"]
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
