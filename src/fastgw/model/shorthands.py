"""What shorthand fields stand for: `url` of a service.

The splitting follows the URL parser that Kong uses rather than RFC 3986, since what it lets through decides
which faults a user sees: without a scheme and `//` all is path, and a query stays in the host when no path
stands between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SCHEME = re.compile(r"([A-Za-z0-9][A-Za-z0-9+.\-]*):")
_AUTHORITY = re.compile(r"//([^/]*)")
_PORT = re.compile(r":([^:\]]*)\Z")


def expand_url(url: str) -> Mapping[str, Any]:
    """Split *url* into `protocol`, `host`, `port` and `path`; a part that is missing is None or its default.

    Nothing is refused here: the four fields are validated as if they had been given. A port that is no number
    stays a string, and so is refused there.
    """
    rest = url
    scheme = authority = None
    if match := _SCHEME.match(rest):
        scheme, rest = match[1].lower(), rest[match.end() :]
    if match := _AUTHORITY.match(rest):
        authority, rest = match[1], rest[match.end() :]
    for mark in "#?;":
        rest = rest.partition(mark)[0]

    host: str | None = None
    port: int | str | None = None
    if authority is not None:
        authority = authority.rpartition("@")[2]
        if match := _PORT.search(authority):
            authority, port = authority[: match.start()], _number(match[1])
        if authority.startswith("[") and authority.endswith("]"):
            authority = authority[1:-1]
        host = authority or None
    if scheme is None:
        scheme = "https" if port == 443 else "http"
    if port is None:
        port = 443 if scheme == "https" else 80
    return {"protocol": scheme, "host": host, "port": port, "path": rest or None}


def _number(text: str) -> int | str | None:
    """A port as a number; None when empty. Longer than any port: left to be refused as a string."""
    if text == "":
        return None
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else text
