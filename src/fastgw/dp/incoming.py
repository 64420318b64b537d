"""What a link or a file brings, and what came of it: the words between source and supervisor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastgw.wire.signature import Signature


class NodeIdentity(NamedTuple):
    """Who this data plane is; the id is kept in PREFIX/fastgw.id."""

    id: str
    hostname: str


class IncomingSnapshot(NamedTuple):
    version: int
    digest: str
    compressed: bytes
    """From `Snapshot.pack`; with a base from `pack_delta`."""
    base_digest: str = ""
    """The digest of what the delta is to be applied to; empty: the snapshot is whole."""
    signatures: Sequence[Signature] = ()
    """Of version and digest in the cluster; not checked yet."""
    cluster_id: str = ""
    """Which cluster the control plane says that it is of."""


class Applied(NamedTuple):
    """All workers run it, and it is stored."""

    version: int
    digest: str
    decode_ms: float
    compile_ms: float
    commit_ms: float
    store_ms: float
    warnings: Sequence[str] = ()


class Refused(NamedTuple):
    """It is not applied, for each of these reasons ({entity, id, field, reason}, as far as they apply)."""

    version: int
    faults: list[dict[str, Any]]
    wants_whole: bool = False
    """It was a delta that does not lead there from what runs."""
    is_passing: bool = False
    """The reasons are the moment's: the same may be taken later."""


ApplyResult = Applied | Refused


class AppliedState(NamedTuple):
    """What the data plane runs; the digest is empty while that is nothing, not even the empty one."""

    version: int
    digest: str
