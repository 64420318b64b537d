"""What travels on the link: one message in one binary websocket message, msgpack, a tagged struct each.

Contract. A receiver ignores fields that it does not know, and a field added later has a default, so peers one
minor version apart understand each other; the tags and what they oblige a peer to are `states`'s matter.
Everything is bounded: a message by `MESSAGE_LIMIT_BYTES`, strings and lists by the types below; what is not
within its bounds is not a message.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from fastgw.errors import RemoteLinkError
from fastgw.wire.signature import Signatures

LINK_PATH: Final = "/fastgw/v1/link"
SUBPROTOCOL: Final = "fastgw-link-1"
MINOR_VERSION: Final = 2
"""1: the data plane takes a `Delta`, and says `wants_whole` and `is_passing` in a Nack.
2: its Pings tell what it has answered, and come as often as a Pong asks for."""

CHUNK_BYTES: Final = 16 * 1024
"""What a control plane puts into one chunk: a TLS record. OpenSSL keeps for each connection a buffer as large
as the largest message that ever went through it, which a thousand data planes multiply."""
CHUNK_LIMIT_BYTES: Final = 256 * 1024
DELTA_LIMIT_BYTES: Final = 512 * 1024
MESSAGE_LIMIT_BYTES: Final = 1024 * 1024
FAULTS_LIMIT: Final = 100
"""A verdict tells at most so many reasons or warnings; what makes one says how many more there are."""
TEXT_LIMIT: Final = 1000

Count = Annotated[int, Meta(ge=0, le=2**53)]
Milliseconds = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=TEXT_LIMIT)]
NodeId = Annotated[str, Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
AppliedDigest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
"""A digest, or the empty string while nothing has been applied: not even the empty configuration."""
Faults = Annotated[list[dict[str, Any]], Meta(max_length=FAULTS_LIMIT)]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages."""


class Hello(Message, tag="hello", frozen=True, kw_only=True):
    """The data plane's first message: who it is and what it runs."""

    node_id: NodeId
    hostname: Annotated[str, Meta(min_length=1, max_length=255)]
    version: Annotated[str, Meta(max_length=64)]
    """Of fastgw, for people; no decision hangs on it."""
    minor: Count = MINOR_VERSION
    """What it understands: a Delta from 1 on."""
    applied_version: Count
    applied_digest: AppliedDigest
    max_snapshot_bytes: Annotated[int, Meta(ge=1)]
    """The largest compressed snapshot that it takes (its `cluster_max_payload`)."""
    labels: Annotated[dict[Text, Text], Meta(max_length=64)] = {}
    plugins: Annotated[list[Text], Meta(max_length=1000)] | None = None
    """Whose behaviour it has; None from one that does not say."""
    cluster_id: Text = ""
    """The cluster that it belongs to, and takes configurations of; empty while it belongs to none."""


class Welcome(Message, tag="welcome", frozen=True, kw_only=True):
    """The control plane's answer to Hello."""

    cluster_id: Text = msgspec.field(name="control_plane_id")
    """On the wire under the name that it had when a cluster had one control plane."""
    node_id: Text = ""
    """Of this control plane's process, which has another one after a restart."""
    hostname: Annotated[str, Meta(max_length=255)] = ""
    version: Annotated[str, Meta(max_length=64)]
    minor: Count = MINOR_VERSION
    spread_s: Annotated[float, Meta(ge=0, le=3600)]
    """How far apart this control plane wants reconnecting data planes: see `pacing`."""
    heartbeat_s: Annotated[float, Meta(ge=0.1, le=300)]
    """How often to send a Ping; one and a half of it without any message is silence."""
    trust: Text = ""
    """Names the state of the cluster's authorities and signing keys; a data plane that knows another one asks
    for them anew (`enrolment`). Empty: they are not the control plane's business."""


class Same(Message, tag="same", frozen=True, kw_only=True):
    """What the data plane runs is what is wanted of it; its version bears this number now."""

    version: Count
    digest: Digest
    signatures: Signatures = ()
    """By the keys that sign now: those that came with what runs may be of keys that sign no longer."""


class SnapshotBegin(Message, tag="snapshot", frozen=True, kw_only=True):
    """A whole snapshot follows in chunks that add up to `size` bytes of compressed document."""

    version: Count
    digest: Digest
    size: Annotated[int, Meta(ge=1)]
    signatures: Signatures = ()


class SnapshotChunk(Message, tag="chunk", frozen=True, kw_only=True):
    data: Annotated[bytes, Meta(min_length=1, max_length=CHUNK_LIMIT_BYTES)]


class Delta(Message, tag="delta", frozen=True, kw_only=True):
    """What leads from one snapshot, which the data plane runs, to another. Since minor version 1."""

    version: Count
    digest: Digest
    """Of the result; the receiver makes sure that it is."""
    base_digest: Digest
    """What `data` is to be applied to, and to nothing else."""
    data: Annotated[bytes, Meta(min_length=1, max_length=DELTA_LIMIT_BYTES)]
    """Of `pack_delta`."""
    signatures: Signatures = ()
    """Of the result."""


class Ack(Message, tag="ack", frozen=True, kw_only=True):
    """All workers of the data plane run this version."""

    version: Count
    digest: Digest
    decode_ms: Milliseconds
    compile_ms: Milliseconds
    store_ms: Milliseconds
    commit_ms: Milliseconds
    warnings: Annotated[list[Text], Meta(max_length=FAULTS_LIMIT)] = []


class Nack(Message, tag="nack", frozen=True, kw_only=True):
    """The data plane refuses this version, for every reason listed, and stays with what it has."""

    version: Count
    faults: Faults
    wants_whole: bool = False
    """It was a delta that does not lead there from what runs here: nothing speaks against the version."""
    is_passing: bool = False
    """The reasons are the moment's (a full disk, a time-out): the same may be taken later."""


class Answered(msgspec.Struct, frozen=True):
    """What a data plane has answered since its start."""

    requests: Count
    server_errors: Count
    """Of these with 5xx, whether by an upstream or by the gateway."""


class Ping(Message, tag="ping", frozen=True, kw_only=True):
    """Sent at every heartbeat, and at once when what is applied changes."""

    version: Count
    digest: AppliedDigest
    answered: Answered | None = None
    """None from one that does not count. Since minor version 2."""


class Pong(Message, tag="pong", frozen=True, kw_only=True):
    """The answer to Ping; sent unasked, too, when `ping_s` changes."""

    trust: Text = ""
    """As `Welcome.trust`, as it is now."""
    ping_s: Annotated[float, Meta(ge=0, le=300)] = 0.0
    """How often to send a Ping from now on; 0: at every heartbeat. Silence goes by heartbeats all the same.
    Since minor version 2."""


class Bye(Message, tag="bye", frozen=True, kw_only=True):
    """The sender ends the link: it is going away, or the other side broke a rule that `reason` names."""

    reason: Text
    is_refusal: bool = False


ToControlPlane = Hello | Ack | Nack | Ping | Bye
ToDataPlane = Welcome | Same | SnapshotBegin | SnapshotChunk | Delta | Pong | Bye

_encoder = msgspec.msgpack.Encoder()
_to_control_plane = msgspec.msgpack.Decoder(ToControlPlane)
_to_data_plane = msgspec.msgpack.Decoder(ToDataPlane)


def encode(message: Message) -> bytes:
    """The bytes of one message."""
    return _encoder.encode(message)


def decode_to_control_plane(data: bytes | bytearray) -> ToControlPlane:
    """Read what a data plane sent.

    Raises:
        RemoteLinkError: these bytes are no message that a data plane may send.
    """
    try:
        message: ToControlPlane = _to_control_plane.decode(_bounded(data))
    except msgspec.DecodeError as exc:
        raise RemoteLinkError(f"the peer sent what is no message of a data plane: {exc}") from exc
    return message


def decode_to_data_plane(data: bytes | bytearray) -> ToDataPlane:
    """Read what a control plane sent.

    Raises:
        RemoteLinkError: these bytes are no message that a control plane may send.
    """
    try:
        message: ToDataPlane = _to_data_plane.decode(_bounded(data))
    except msgspec.DecodeError as exc:
        raise RemoteLinkError(f"the peer sent what is no message of a control plane: {exc}") from exc
    return message


def _bounded(data: bytes | bytearray) -> bytes | bytearray:
    if len(data) > MESSAGE_LIMIT_BYTES:
        raise RemoteLinkError(
            f"the peer sent a message of {len(data)} bytes, more than {MESSAGE_LIMIT_BYTES}"
        )
    return data


def bounded_texts(texts: list[str]) -> list[str]:
    """*texts* within what one message may tell."""
    kept = [text[:TEXT_LIMIT] for text in texts[:FAULTS_LIMIT]]
    if len(texts) > FAULTS_LIMIT:
        kept[-1] = f"and {len(texts) - FAULTS_LIMIT + 1} more"
    return kept


def bounded_faults(faults: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """*faults* within what one message may tell."""
    kept = [
        {str(key)[:TEXT_LIMIT]: str(value)[:TEXT_LIMIT] for key, value in fault.items()} for fault in faults
    ]
    if len(kept) > FAULTS_LIMIT:
        kept[FAULTS_LIMIT - 1 :] = [{"reason": f"and {len(kept) - FAULTS_LIMIT + 1} more"}]
    return kept
