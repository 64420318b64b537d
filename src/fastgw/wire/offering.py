"""One version as it goes on the wire: as a delta from what a data plane runs, or whole.

Contract. Everything is encoded once and shared by all links that need it: a delta per base, the whole packed
and cut into messages. Packing a large snapshot takes long, so nobody does it before somebody needs it, and
then in a thread (`make_whole`). Until it is done an earlier whole serves, if a delta leads on from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fastgw.model.snapshot import pack_delta
from fastgw.wire.messages import CHUNK_BYTES, DELTA_LIMIT_BYTES, Delta, SnapshotBegin, SnapshotChunk, encode
from fastgw.wire.signature import Signature
from fastgw.wire.steps import Steps


class Whole:
    """A packed snapshot, and its messages in the order of sending. Immutable."""

    __slots__ = ("compressed", "digest", "messages", "signatures", "version")

    def __init__(
        self, version: int, digest: str, compressed: bytes, signatures: Sequence[Signature] = ()
    ) -> None:
        self.version: Final = version
        self.digest: Final = digest
        self.compressed: Final = compressed
        self.signatures: Final = tuple(signatures)
        view = memoryview(compressed)
        chunks = [
            SnapshotChunk(data=bytes(view[start : start + CHUNK_BYTES]))
            for start in range(0, len(view), CHUNK_BYTES)
        ]
        begin = SnapshotBegin(
            version=version, digest=digest, size=len(compressed), signatures=self.signatures
        )
        self.messages: Final = (encode(begin), *map(encode, chunks))


class Offering:
    """One version; any number of links send from the same one.

    Args:
        pack: gives the packed snapshot; may take long.
        steps: what leads from other versions to this one, if anything does.
        earlier: the whole of an earlier version, to begin with while there is none of this.
        sign: gives the signatures of this version.
    """

    def __init__(
        self,
        version: int,
        digest: str,
        pack: Callable[[], bytes],
        *,
        steps: Steps | None = None,
        earlier: Whole | None = None,
        sign: Callable[[int, str], Sequence[Signature]] = lambda _version, _digest: (),
    ) -> None:
        self.version: Final = version
        self.digest: Final = digest
        self.whole: Whole | None = None
        """This version, once `make_whole` was called."""
        self.is_for_all = True
        """False while it is tried on some data planes only: then nobody else begins with it."""
        self._pack = pack
        self._steps = steps
        self._earlier = earlier
        self._sign = sign
        self._signatures = tuple(sign(version, digest))
        self._deltas: dict[str, bytes] = {}

    @property
    def signatures(self) -> tuple[Signature, ...]:
        """Of this version, by the keys that there are now."""
        return self._signatures

    @property
    def newest_whole(self) -> Whole | None:
        """This version or the nearest earlier one that is there whole, and that anybody may run."""
        return (self.whole if self.is_for_all else None) or self._earlier

    def make_whole(self) -> Whole:
        """Pack it, unless that is done. Takes long: for a thread."""
        if self.whole is None:
            self.whole = Whole(self.version, self.digest, self._pack(), self._signatures)
        return self.whole

    def sign_again(self) -> None:
        """Have what is sent from now on bear the signatures of the keys that there are now."""
        signatures = tuple(self._sign(self.version, self.digest))
        if signatures == self._signatures:
            return
        self._signatures = signatures
        self._deltas.clear()
        self._earlier = None
        if self.whole is not None:
            self.whole = Whole(self.version, self.digest, self.whole.compressed, self._signatures)

    def begin_with(self, earlier: Whole) -> None:
        """Have *earlier* serve until this version is packed, if it is newer than what served so far."""
        if self._earlier is None or self._earlier.version < earlier.version < self.version:
            self._earlier = earlier

    def delta_from(self, digest: str) -> bytes | None:
        """The encoded `Delta` from the snapshot with this digest; None: there is none."""
        if digest in self._deltas:
            return self._deltas[digest]
        delta = self._steps.between(digest, self.digest) if self._steps is not None else None
        if delta is None:
            return None
        data = pack_delta(delta)
        if len(data) > DELTA_LIMIT_BYTES:
            return None
        message = encode(
            Delta(
                version=self.version,
                digest=self.digest,
                base_digest=digest,
                data=data,
                signatures=self._signatures,
            )
        )
        self._deltas[digest] = message
        return message

    def whole_for(self, applied_version: int) -> Whole | None:
        """What a data plane begins with that cannot be sent a delta; None: it has to be packed first.

        An earlier version will do for one that runs an older one still: nobody goes back.
        """
        if self.whole is not None:
            return self.whole
        earlier = self._earlier
        if earlier is None or earlier.version <= applied_version or self.delta_from(earlier.digest) is None:
            return None
        return earlier
