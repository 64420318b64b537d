"""Request bodies: read under a limit and a deadline, then JSON, urlencoded or multipart arguments.

Which type is allowed is decided by prefix, and case counts, as in Kong. What the strings of a form mean
depends on the entity, so a `Body` is decoded by the endpoint that knows it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from starlette.requests import ClientDisconnect, Request

from fastgw.cp.admin.answers import message
from fastgw.model.entities import Entity
from fastgw.model.forms import FormValue, decode_form

LIMIT_BYTES: Final = 10 * 1024 * 1024
DEADLINE_S: Final = 60.0
MOST_ARGUMENTS: Final = 1000

_JSON = "application/json"
_URLENCODED = "application/x-www-form-urlencoded"
_MULTIPART = "multipart/form-data"
_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))')
_PART_NAME = re.compile(
    rb'(?i)\r\ncontent-disposition:[^\r\n]*?[;\s]name=(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]+))'
)


@dataclass(frozen=True, slots=True)
class Body:
    """The arguments of a request: a JSON object, or the pairs of a form."""

    json: dict[str, Any] | None = None
    pairs: tuple[tuple[str, FormValue], ...] = ()

    #: A body of any other type, as it came.
    raw: bytes | None = None

    def data_for(self, entity: Entity, stored: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The data for *entity*; a form's may need what is *stored* to know its types."""
        return decode_form(self.pairs, entity, stored) if self.json is None else self.json


def check_content_type(request: Request, more: tuple[str, ...] = ()) -> None:
    """Refuse with 415 a type that is not read here, or a body without one."""
    content_type = request.headers.get("content-type")
    if content_type is None:
        if request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers:
            return
        raise message(415, "Unsupported Media Type: say which with a Content-Type header")
    if not content_type.startswith((_JSON, _URLENCODED, _MULTIPART, *more)):
        allowed = f"{_JSON}, {_URLENCODED} or {_MULTIPART}"
        raise message(415, f"Unsupported Media Type: send {allowed}")


async def read_body(request: Request) -> Body:
    """Read and take apart the body of a request whose type was checked."""
    content_type = request.headers.get("content-type", "")
    data = await _read_bytes(request)
    if content_type.startswith(_JSON):
        return Body(json=_parse_json(data))
    if content_type.startswith(_MULTIPART):
        return Body(pairs=parse_multipart(content_type, data))
    if content_type and not content_type.startswith(_URLENCODED):
        return Body(raw=data)
    return Body(pairs=parse_urlencoded(data))


async def _read_bytes(request: Request) -> bytes:
    too_large = message(413, f"Request body is larger than {LIMIT_BYTES} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > LIMIT_BYTES:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > LIMIT_BYTES:
                    raise too_large
    except TimeoutError:
        raise message(408, f"Request body did not arrive within {DEADLINE_S:.0f} seconds") from None
    except ClientDisconnect:
        raise message(400, "Request body was cut off") from None
    return bytes(data)


def _parse_json(data: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise message(400, "Cannot parse JSON body")
    return value


def parse_urlencoded(data: bytes) -> tuple[tuple[str, FormValue], ...]:
    """Take apart `a=1&b`; a name without `=` has the value True, bytes that are no UTF-8 are surrogates."""
    if data.count(b"&") >= MOST_ARGUMENTS:
        raise message(400, "Too many arguments")
    pairs: list[tuple[str, FormValue]] = []
    for piece in data.split(b"&"):
        if piece:
            name, equals, value = piece.partition(b"=")
            pairs.append((unescape(name), unescape(value) if equals else True))
    return tuple(pairs)


def unescape(piece: bytes) -> str:
    """Decode percent-escapes once, and `+` as a space."""
    return unquote_to_bytes(piece.replace(b"+", b" ")).decode("utf-8", "surrogateescape")


def parse_multipart(content_type: str, data: bytes) -> tuple[tuple[str, FormValue], ...]:
    """The named parts, a file's content being its value.

    Source: RFC 7578; parts are split at `CRLF--boundary` (RFC 2046 §5.1.1).
    """
    match = _BOUNDARY.search(content_type)
    if match is None:
        raise message(400, "Cannot parse multipart body: no boundary in Content-Type")
    delimiter = b"\r\n--" + (match[1] or match[2]).encode("latin-1")
    data = b"\r\n" + data
    if data.count(delimiter) > MOST_ARGUMENTS + 1:
        raise message(400, "Too many arguments")
    preamble, *parts = data.split(delimiter)
    if not parts or not parts[-1].startswith(b"--"):
        raise message(400, "Cannot parse multipart body: it does not end with its boundary")
    pairs: list[tuple[str, FormValue]] = []
    for part in parts[:-1]:
        head, blank, value = part.partition(b"\r\n\r\n")
        name = _PART_NAME.search(head)
        if not blank or name is None:
            raise message(400, "Cannot parse multipart body: a part has no name")
        text = re.sub(rb"\\(.)", rb"\1", name[1]) if name[1] is not None else name[2]
        pairs.append((text.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")))
    return tuple(pairs)
