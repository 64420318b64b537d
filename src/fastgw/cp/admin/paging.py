"""The arguments of lists: `size`, `offset` and `tags`, and the links to the next page.

An offset is opaque to clients: unpadded base64 of a JSON array that holds the last id of the page.
Source: kong/db/dao/init.lua and kong/api/endpoints.lua, release 3.9.1.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import msgspec

from fastgw.cp.admin.answers import invalid_offset, invalid_option, invalid_size
from fastgw.cp.storage.contract import TagFilter
from fastgw.model.formats import FORMATS, is_uuid

_DEFAULT_SIZE: Final = 100
_MOST_ROWS: Final = 1000
_MOST_TAGS: Final = 5

#: First value of each query argument; True for a name without `=`.
Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PageRequest:
    size: int
    #: The id after which the page begins.
    after: str | None


def page_request(arguments: Arguments) -> PageRequest:
    return PageRequest(_size(arguments.get("size")), _after(arguments.get("offset")))


def _size(given: Any) -> int:
    if given is None:
        return _DEFAULT_SIZE
    if not isinstance(given, str) or not re.fullmatch(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{0,15})?\s*", given):
        raise invalid_size("size must be a number")
    number = float(given)
    if not number.is_integer() or not 1 <= number <= _MOST_ROWS:
        raise invalid_size(f"size must be an integer between 1 and {_MOST_ROWS}")
    return int(number)


def _after(token: Any) -> str | None:
    if token is None:
        return None
    token = token if isinstance(token, str) else ""
    try:
        if not re.fullmatch(r"[A-Za-z0-9+/]+={0,2}", token):
            raise binascii.Error
        data = base64.b64decode(token.rstrip("=") + "=" * (-len(token.rstrip("=")) % 4))
    except binascii.Error:
        raise invalid_offset(token, "bad base64 encoding") from None
    try:
        (last,) = msgspec.json.decode(data, type=tuple[str])
    except msgspec.DecodeError:
        raise invalid_offset(token, "bad json encoding") from None
    if not is_uuid(last):
        raise invalid_offset(token, "it holds no id")
    return last.lower()


def tag_filter(arguments: Arguments) -> TagFilter | None:
    """Read `?tags=a,b` (rows with all of them) or `?tags=a/b` (with any)."""
    given = arguments.get("tags")
    if given is None:
        return None
    if not isinstance(given, str) or given == "":
        raise invalid_option("tags", "cannot be null")
    separator = "," if "," in given else "/"
    tags = given.split(separator)
    for tag in tags:
        # A lone surrogate is a byte that was no UTF-8.
        if FORMATS["tag"](tag) is not None or any("\ud800" <= char <= "\udfff" for char in tag):
            raise invalid_option("tags", "invalid filter syntax")
    if len(tags) > _MOST_TAGS:
        raise invalid_option("tags", f"cannot query more than {_MOST_TAGS} tags")
    return TagFilter(tuple(dict.fromkeys(tags)), "all" if separator == "," else "any")


def page_body(
    rows: Sequence[Mapping[str, Any]], *, path: str, next_after: str | None, repeated: Arguments
) -> dict[str, Any]:
    """The body of a list.

    Args:
        path: of the list, as it is to stand in `next`.
        repeated: the query arguments that `next` repeats.
    """
    if next_after is None:
        return {"data": rows, "next": None}
    offset = base64.b64encode(msgspec.json.encode([next_after])).decode().rstrip("=")
    query = f"offset={quote(offset, safe='')}"
    for name in ("tags", "size"):
        if isinstance(repeated.get(name), str):
            query += f"&{name}={quote(repeated[name], safe='')}"
    return {"data": rows, "next": f"{path}?{query}", "offset": offset}
