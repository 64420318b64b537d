"""What travels between the control plane and the process that reads documents for it.

A frame is a length of four bytes and so much msgpack: one `DocumentJob` there, the rest back.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgspec

LENGTH: Final = struct.Struct(">I")


class Base(msgspec.Struct, frozen=True):
    """What a plan is made against."""

    version: int
    packed: bytes
    replace: bool


class DocumentJob(msgspec.Struct, frozen=True):
    content: bytes
    """Text; or JSON of a document that was parsed once already."""
    is_json: bool
    created_at_s: float
    refused_plugins: dict[str, str]
    """What is wrong with the plugins that may not be configured on this node, by name."""
    flavor: str
    """The `router_flavor`."""
    base: Base | None = None
    """None: the rows themselves are wanted."""


class Rows(msgspec.Struct, frozen=True, tag=True):
    kind: str
    rows: list[dict[str, Any]]


class Read(msgspec.Struct, frozen=True, tag=True):
    """All rows were sent."""


class Faulty(msgspec.Struct, frozen=True, tag=True):
    faults: list[tuple[str, str]]
    fields: dict[str, Any]
    flattened: list[dict[str, Any]]


class Conflict(msgspec.Struct, frozen=True, tag=True):
    """A row that stays holds a unique value of one that would come."""

    entity: str
    fields: dict[str, Any]


class Planned(msgspec.Struct, frozen=True, tag=True):
    """What would happen."""

    counts: dict[str, int]
    """created, updated, deleted, unchanged: rows."""
    changes: list[dict[str, Any]]
    """The first of them: entity, id, op, before and after (secrets masked), and of an update fields."""
    left_out: int
    """Changes that are not among them."""
    faults: list[dict[str, str]]
    """Why it would not be published; empty when it would."""
    shadowed: list[dict[str, Any]]
    """Routes that could never match, which can now: each with route, by, certain."""
    duplicates: list[list[dict[str, Any]]]
    """Groups of routes that would ask for the same, and do not now."""
    plugins: dict[str, int]
    """How many enabled plugins of each name there would be."""
    packed_bytes: int
    """What a data plane would be sent as a whole."""


Frame = Rows | Read | Faulty | Conflict | Planned

encode: Final = msgspec.msgpack.Encoder().encode
decode_job: Final = msgspec.msgpack.Decoder(DocumentJob).decode
decode_frame: Final = msgspec.msgpack.Decoder(Frame).decode


def frame_of(content: bytes) -> bytes:
    return LENGTH.pack(len(content)) + content
