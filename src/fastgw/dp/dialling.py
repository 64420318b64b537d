"""Whom a data plane dials next: an order of its own over the control planes, gone through in rounds.

    first ──fails──> second ──fails──> ... last ──fails──> wait ──> first ...

Contract. The order follows from the id of the data plane and the addresses alone (rendezvous hashing), so a
fleet spreads evenly without a word between its members, one data plane tries the same order after each
restart, and an address that comes or goes moves only those whose first it is. A round tries each once; a link
that has lasted begins a new one, one that has not is a try that failed, so that control planes which take a
link and drop it are not dialled in a circle.

Source: Thaler and Ravishankar, "Using Name-Based Mappings to Increase Hit Rates", 1998.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def preferred_order(node_id: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """*addresses* in the order in which the data plane with this id prefers them."""

    def weight(address: str) -> bytes:
        return hashlib.sha256(f"{node_id}\0{address}".encode()).digest()

    return tuple(sorted(addresses, key=weight, reverse=True))


class Rounds:
    """Which control plane is next.

    Args:
        order: all of them, from `preferred_order`.
    """

    def __init__(self, order: Sequence[str]) -> None:
        self.order = tuple(order)
        self.failures = 0
        """Rounds in which all failed, in a row: since the last link that has lasted."""
        self._left = list(order)

    @property
    def next(self) -> str:
        """Whom to dial now."""
        return self._left[0]

    def before(self, address: str) -> Sequence[str]:
        """Those that are preferred to *address*."""
        return self.order[: self.order.index(address)]

    def lasted(self) -> None:
        """A link has lasted: all have another chance."""
        self.failures = 0
        self._left = list(self.order)

    def failed(self, address: str) -> bool:
        """Note that a try or a link failed; tell whether that ends the round, which has failed then."""
        self._left = [one for one in self._left if one != address]
        if self._left:
            return False
        self._left = list(self.order)
        self.failures += 1
        return True
