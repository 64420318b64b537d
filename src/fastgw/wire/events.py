"""What a link tells whoever holds its end: events, returned by `receive_message`, `on_tick` and `offer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fastgw.wire.messages import Ack, Answered, Hello, Nack, Welcome
from fastgw.wire.offering import Offering
from fastgw.wire.signature import Signature


class Joined(NamedTuple):
    """A data plane said Hello."""

    hello: Hello


class Reported(NamedTuple):
    """A data plane told what it runs."""

    version: int
    digest: str
    answered: Answered | None = None
    """What it has answered since its start, if it counts."""


class Accepted(NamedTuple):
    ack: Ack


class Rejected(NamedTuple):
    nack: Nack
    retry_s: float | None
    """In so many seconds what is wanted then is tried again; None: not this one."""


class Withheld(NamedTuple):
    """What is wanted of the data plane cannot be sent to it."""

    version: int
    reason: str


class WholeWanted(NamedTuple):
    """The data plane cannot be sent a delta: have this packed (`Offering.make_whole`), then `offer` again."""

    offering: Offering


class Welcomed(NamedTuple):
    welcome: Welcome


class Confirmed(NamedTuple):
    """What we run is what is wanted of us."""

    version: int
    digest: str
    signatures: Sequence[Signature] = ()
    """Of both, by the keys that sign now; not checked."""


class Received(NamedTuple):
    """A snapshot has arrived, whole or as a delta; it is owed a verdict."""

    version: int
    digest: str
    compressed: bytes
    """From `Snapshot.pack`; of a delta from `pack_delta`."""
    base_digest: str = ""
    """The digest of the snapshot that the delta is to be applied to; empty: it is whole."""
    signatures: Sequence[Signature] = ()
    """Of version and digest; not checked yet."""


class TrustTold(NamedTuple):
    """The control plane names the state of the cluster's authorities, as with every sign of life."""

    trust: str


class Paced(NamedTuple):
    """The control plane wants Pings at another pace; the next may be due before the deadline that was."""


class Ended(NamedTuple):
    """The link is over. `is_refusal`: a rule is broken, and another try may find it broken again."""

    reason: str
    is_refusal: bool


ControlEvent = Joined | Reported | Accepted | Rejected | Withheld | WholeWanted | Ended
DataEvent = Welcomed | Confirmed | Received | TrustTold | Paced | Ended
