"""Change in proportion: an overlay of what changed since a base was compiled, and the two read as one.

    base      a whole image, large, mapped once and kept for many generations
    overlay   a small image: routes and services that are new or changed since, and a list of the base's
              routes and services that they replace or that are gone (`Patch`)

Contract. A `LayeredImage` of both answers as one image compiled of the overlay's snapshot would; only the
numbers of routes and services are others. An overlay is always made against its base, never against another.

The one complication is that routes depend on their service. A service that merely changes is replaced by
number, and its routes stay where they are. But one that comes into force, or ceases to, brings in or takes
out all of its routes: those go into the overlay with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from fastgw.model.snapshot import Delta, Snapshot, key_of, pack_delta
from fastgw.routing.certificates import KINDS
from fastgw.routing.compile import LEFT_OUT, compile_layer
from fastgw.routing.image import Image, Patch, pack_overlay
from fastgw.routing.surroundings import Surroundings

CERTIFICATE_KEYS: Final = tuple(f"{kind} ".encode() for kind in KINDS)


class Base:
    """A base as its overlays are compiled against it."""

    def __init__(self, image: Image, snapshot: Snapshot) -> None:
        self.image: Final = image
        self.snapshot: Final = snapshot
        """What *image* was compiled of."""
        self._numbers: dict[bytes, int | None] = {}
        """Of those that were asked for before."""
        self._held: dict[bytes, bool] = {}
        """Whether the snapshot has an entity; of those that were asked for before."""

    def number(self, key: bytes) -> int | None:
        """The number of a route or service, by its key; None: the base has none, or left it out."""
        if key not in self._numbers:
            self._numbers[key] = self._find(key)
        return self._numbers[key]

    def service(self, id_: str) -> int | None:
        """The same for a service, `LEFT_OUT` where it is disabled: for `compile_layer`."""
        key = f"services {id_}".encode()
        number = self.number(key)
        return LEFT_OUT if number is None and self._holds(key) else number

    def has_other_state(self, key: bytes, line: bytes | None) -> bool:
        """Whether a service of the base comes into force with its new line, ceases to be, or is gone.

        One that is new cannot have routes that did not change.
        """
        if not self._holds(key):
            return False
        return line is None or _is_enabled(line) != (self.number(key) is not None)

    def _holds(self, key: bytes) -> bool:
        if key not in self._held:
            self._held[key] = self.snapshot.line(key) is not None
        return self._held[key]

    def _find(self, key: bytes) -> int | None:
        kind, _, id_bytes = key.partition(b" ")
        if kind == b"routes":
            count, record = self.image.route_count, self.image.route
        elif kind == b"services":
            count, record = self.image.service_count, self.image.service  # type: ignore[assignment]
        else:
            return None
        # Numbers follow the ids (`compile_snapshot`).
        low, high = 0, count
        while low < high:
            middle = (low + high) // 2
            if record(middle).id.encode() < id_bytes:
                low = middle + 1
            else:
                high = middle
        return low if low < count and record(low).id.encode() == id_bytes else None


class _Enabled(msgspec.Struct):
    enabled: bool


_enabled_decoder: Final = msgspec.json.Decoder(_Enabled)


def compile_overlay(
    base: Base,
    snapshot: Snapshot,
    delta: Delta,
    *,
    flavor: str = "traditional_compatible",
    around: Surroundings | None = None,
) -> bytes:
    """The overlay of *base* that leads to *snapshot*.

    Args:
        delta: from the base's snapshot to *snapshot*.
        flavor: that of the base.
        around: of *snapshot*, where they are known already.
    Raises:
        CompileError: with all reasons, each {entity, id, field, reason}.
    """
    touched = dict(delta)
    changed_certificates = [key for key in delta if key.startswith(CERTIFICATE_KEYS)]
    if changed_certificates:
        # Who connects with a certificate, or verifies by one, gets an entry that knows the new one.
        ids = [key.partition(b" ")[2] for key in changed_certificates]
        touched.update(
            (key_of(line), line)
            for id_ in ids
            for line in snapshot.lines_with(id_)
            if line.startswith(b"services ")
        )
        touched.update((key_of(line), line) for line in snapshot.lines() if line.startswith(b"snis "))
    for key in delta:
        if key.startswith(b"services ") and base.has_other_state(key, delta[key]):
            touched.update(
                (key_of(line), line)
                for line in snapshot.lines_with(key.partition(b" ")[2])
                if line.startswith(b"routes ")
            )

    def service(id_: str) -> int | None:
        return None if f"services {id_}".encode() in delta else base.service(id_)

    layer = compile_layer(
        sorted(line for line in touched.values() if line is not None),
        base_service=service,
        first_service=base.image.service_count,
        around=around or Surroundings(snapshot),
        flavor=flavor,
        with_certificates=bool(changed_certificates),
    )
    replaced = {
        old: new
        for id_, new in layer.service_numbers.items()
        if new != LEFT_OUT and (old := base.number(f"services {id_}".encode())) is not None
    }
    return pack_overlay(
        base=base.image.checksum,
        version=snapshot.version,
        digest=snapshot.digest,
        counts=snapshot.counts(),
        table=layer.table,
        routes=layer.routes,
        services=layer.services,
        patch=Patch(_route_numbers(base, touched), replaced),
        packed_delta=pack_delta(delta),
        certificates=layer.certificates,
    )


def _route_numbers(base: Base, keys: Iterable[bytes]) -> list[int]:
    found = [base.number(key) for key in keys if key.startswith(b"routes ")]
    return [number for number in found if number is not None]


def _is_enabled(line: bytes) -> bool:
    """Whether a service is, by its line; one that cannot be read is refused when it is compiled."""
    try:
        return _enabled_decoder.decode(line.split(b" ", 2)[2]).enabled
    except (msgspec.DecodeError, UnicodeDecodeError):
        return True
