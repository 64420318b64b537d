"""Route paths of the formats before 3.0, where a path was a regular expression if it looked like one.

From 3.0 on a leading `~` says so. Source: kong/db/migrations/migrate_path_280_300.lua, release 3.9.1.
"""

from __future__ import annotations

import re
from typing import Final

from fastgw._uri import normalise

_PLAIN: Final = re.compile(r"[A-Za-z0-9._~/%-]*")
_ESCAPE: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def migrate_path(path: str) -> str:
    """*path* of a 1.1 or 2.1 file as 3.0 writes it: a normal prefix, or a regular expression with `~`."""
    if _PLAIN.fullmatch(path):
        return normalise(path.encode()).decode(errors="surrogateescape")
    return "~" + _ESCAPE.sub(_unescaped, path)


def _unescaped(match: re.Match[str]) -> str:
    """A percent-escape of an unreserved character as that character, escaped where it is an operator."""
    character = chr(int(match[1], 16))
    if character not in _UNRESERVED:
        return match[0].upper()
    return f"\\{character}" if character in ".-" else character
