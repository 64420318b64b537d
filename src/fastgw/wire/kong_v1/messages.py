"""What Kong's nodes say to each other: arguments of the upgrade, `basic_info`, pushes, reports of errors.

Contract. Decoders bound what they take and ignore what they do not know; empty objects and empty arrays are
one and the same, since Lua's tables are. Encoders make what Kong's decoders take: UTF-8 without duplicate
keys, integers without a fraction.

Source: kong/clustering/{control_plane,data_plane,utils}.lua, 2.8.1 to 3.9.1.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from fastgw.errors import RemoteLinkError
from fastgw.wire.kong_v1.hashes import HASH_LENGTH, ConfigHashes
from fastgw.wire.messages import TEXT_LIMIT, NodeId

OUTLET_PATH: Final = "/v1/outlet"
HELLO_LIMIT_BYTES: Final = 1024 * 1024
"""The largest frame that a control plane takes; `basic_info` with a whole process_conf has some 15 KiB."""
INFLATED_LIMIT_BYTES: Final = 256 * 1024 * 1024
"""The largest configuration that a data plane inflates."""
PING_INTERVAL_S: Final = 30.0
SILENCE_S: Final = 1.5 * PING_INTERVAL_S
_HASH: Final = rf"^[ -~]{{{HASH_LENGTH}}}$"

Text = Annotated[str, Meta(max_length=255)]
Hash = Annotated[str, Meta(pattern=_HASH)]


class Arguments(msgspec.Struct, frozen=True):
    """Who dials, from the upgrade's query."""

    node_id: NodeId
    node_hostname: Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[A-Za-z0-9._-]+$")]
    node_version: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[!-~]+$")]


class PluginInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One plugin that a data plane has loaded."""

    name: Text
    version: Text | None = None


class BasicInfo(msgspec.Struct, frozen=True):
    """The first message of a data plane."""

    plugins: Mapping[str, str | None]
    """Version by name; None where the plugin does not tell it."""
    labels: Mapping[str, str]
    max_payload_bytes: int | None
    """Its cluster_max_payload, where it tells (3.4 and later)."""
    router_flavor: str | None
    """The same."""


class Push(NamedTuple):
    """A configuration, whole."""

    table: dict[str, Any]
    config_hash: str | None
    """None from control planes that leave it to their data planes."""


class ErrorReport(NamedTuple):
    """Why a data plane refused a push; sent by Kong's data planes in konnect mode only."""

    reason: str
    config_hash: str


class _BasicInfoMessage(msgspec.Struct):
    """As it is on the wire; what the decoder leaves alone is checked field by field, for Kong's messages."""

    type: Any = None
    plugins: Any = None
    labels: Any = None
    process_conf: Any = None


class _PushMessage(msgspec.Struct):
    type: str
    config_table: dict[str, Any] | None = None
    config_hash: Hash | None = None


class _Error(msgspec.Struct):
    name: str = "generic or unknown error"
    message: str = ""
    config_hash: str = ""


class _ErrorMessage(msgspec.Struct):
    type: str
    error: _Error | None = None


_encode_json: Final = msgspec.json.Encoder().encode
_decode_push: Final = msgspec.json.Decoder(_PushMessage).decode
_decode_error: Final = msgspec.json.Decoder(_ErrorMessage).decode


def parse_arguments(path: str) -> Arguments:
    """Read the query of an upgrade's *path*; nothing in it is percent-encoded.

    Raises:
        RemoteLinkError: something is missing, or is not what it must be; answer 400.
    """
    given = dict(pair.partition("=")[::2] for pair in path.partition("?")[2].split("&"))
    if not given.get("node_id"):
        raise RemoteLinkError("data plane didn't pass the id")
    if not given.get("node_version"):
        raise RemoteLinkError("data plane didn't pass the version")
    try:
        return msgspec.convert(given, Arguments)
    except msgspec.ValidationError as exc:
        raise RemoteLinkError(f"the data plane's arguments are wrong: {exc}") from None


def outlet_path(arguments: Arguments) -> str:
    """The path and query of an upgrade, as Kong's data planes write it."""
    return (
        f"{OUTLET_PATH}?node_id={arguments.node_id}&node_hostname={arguments.node_hostname}"
        f"&node_version={arguments.node_version}"
    )


def encode_basic_info(
    plugins: Sequence[PluginInfo], labels: Mapping[str, str], process_conf: Mapping[str, Any]
) -> bytes:
    """The first message, plain JSON; sort *plugins* by name, and leave secrets out of *process_conf*."""
    message = {"type": "basic_info", "plugins": plugins, "process_conf": process_conf, "filters": {}}
    return _encode_json({**message, "labels": labels} if labels else message)


def decode_basic_info(data: bytes) -> BasicInfo:
    """Read a data plane's first message.

    Raises:
        RemoteLinkError: in Kong's words.
    """
    try:
        message = msgspec.json.decode(data, type=_BasicInfoMessage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RemoteLinkError(f"failed to decode websocket basic info data: {exc}") from None
    if message.type != "basic_info":
        raise RemoteLinkError(f"invalid basic info data type: {str(message.type or 'unknown')[:64]}")
    if not isinstance(message.plugins, list | dict):
        raise RemoteLinkError("missing plugins in basic info data")
    listed = message.plugins if isinstance(message.plugins, list) else []
    conf = message.process_conf if isinstance(message.process_conf, dict) else {}
    try:
        plugins = msgspec.convert(listed, list[PluginInfo])
        labels = msgspec.convert(message.labels or {}, dict[Text, Text])
    except msgspec.ValidationError as exc:
        raise RemoteLinkError(f"failed to decode websocket basic info data: {exc}") from None
    limit, flavor = conf.get("cluster_max_payload"), conf.get("router_flavor")
    return BasicInfo(
        plugins={plugin.name: plugin.version for plugin in plugins},
        labels=labels,
        max_payload_bytes=limit if isinstance(limit, int) and limit > 0 else None,
        router_flavor=flavor if isinstance(flavor, str) else None,
    )


def encode_push(table: Mapping[str, Any], hashes: ConfigHashes, timestamp_s: float) -> bytes:
    """A push as it stands in its frame: gzip of JSON. Takes time in proportion to its size."""
    message = {
        "type": "reconfigure",
        "timestamp": round(timestamp_s, 3),
        "config_table": table,
        "config_hash": hashes.config,
        "hashes": hashes._asdict(),
    }
    return gzip.compress(_encode_json(message), mtime=0)


def decode_push(frame: bytes, limit_bytes: int = INFLATED_LIMIT_BYTES) -> Push | None:
    """Read a push, never inflating more than *limit_bytes*; None: a message of a type that is to be ignored.

    Takes time in proportion to its size.

    Raises:
        RemoteLinkError: it is no gzip of one member, no JSON in UTF-8, or a field is not what it must be.
    """
    inflater = zlib.decompressobj(wbits=31)
    try:
        text = inflater.decompress(frame, limit_bytes)
    except zlib.error as exc:
        raise RemoteLinkError(f"the control plane sent what is no gzip: {exc}") from None
    if inflater.unconsumed_tail:
        raise RemoteLinkError(f"the control plane sent more than {limit_bytes} inflated bytes")
    if not inflater.eof or inflater.unused_data:
        raise RemoteLinkError("the control plane sent what is not one whole gzip")
    try:
        message = _decode_push(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise RemoteLinkError(f"the control plane sent what is no push: {exc}") from None
    if message.type != "reconfigure":
        return None
    if message.config_table is None:
        raise RemoteLinkError("the control plane sent a push without a config_table")
    return Push(message.config_table, message.config_hash)


def decode_error(data: bytes) -> ErrorReport | None:
    """Read a data plane's report of why it refused a push; None: it is none."""
    try:
        message = _decode_error(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if message.type != "error" or message.error is None:
        return None
    error = message.error
    reason = f"{error.name}: {error.message}" if error.message else error.name
    return ErrorReport(reason[:TEXT_LIMIT], error.config_hash)
