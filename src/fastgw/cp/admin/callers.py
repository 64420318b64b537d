"""Who may call the Admin API: tokens with names, read-only ones among them, and how often each may write.

The file of tokens has a line per caller, `name:token` or `name:token:read`; `#` begins a comment. Only hashes
are kept. A token is sent as `Authorization: Bearer TOKEN` or, as clients of Kong can, as `Kong-Admin-Token`.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers

from fastgw.errors import SettingsError

_LINE: Final = re.compile(r"([A-Za-z0-9._@-]{1,100}):([!-9;-~]{16,200})(:read)?")
#: Callers whose rate is remembered; more come only from an API that is open to all.
_MOST_CALLERS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Caller:
    name: str
    may_write: bool


class Tokens:
    """The callers by their tokens.

    Raises:
        SettingsError: the file cannot be read, or a line of it is no token.
    """

    def __init__(self, path: Path) -> None:
        self._callers = {_hash(token): caller for token, caller in _read(path)}

    def caller(self, headers: Headers) -> Caller | None:
        """Who sent the token; None without one, or with an unknown one."""
        token = headers.get("kong-admin-token")
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if token is None and scheme.lower() == "bearer":
            token = given.strip()
        # The look-up is by hash, so its time tells nothing of a token.
        return None if token is None else self._callers.get(_hash(token))


def first_token(path: Path, *, may_write: bool) -> str | None:
    """The first token of the file that may do this, for a command of the file's owner.

    Raises:
        SettingsError: as `Tokens`.
    """
    return next((token for token, caller in _read(path) if caller.may_write or not may_write), None)


def _read(path: Path) -> list[tuple[str, Caller]]:
    found: list[tuple[str, Caller]] = []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SettingsError(f"admin_token_file: cannot read {path}: {reason.lower()}") from None
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            text = "expected name:token or name:token:read, the token of 16 to 200 characters"
            raise SettingsError(f"admin_token_file: {path}, line {number}: {text}")
        found.append((match[2], Caller(match[1], match[3] is None)))
    if not found:
        raise SettingsError(f"admin_token_file: {path} holds no token")
    return found


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


class RateLimit:
    """So many writes per second and caller, with as many at once; 0 is unlimited."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: str, now_s: float | None = None) -> float:
        """Take one write; 0 when there was one, else the seconds until there is.

        Args:
            now_s: monotonic seconds.
        """
        if self._per_second == 0:
            return 0.0
        now_s = time.monotonic() if now_s is None else now_s
        left, at = self._buckets.pop(caller, (float(self._per_second), now_s))
        left = min(float(self._per_second), left + (now_s - at) * self._per_second)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_second
        # The newest stand last, so that the first to be forgotten has been idle the longest.
        self._buckets[caller] = (left - 1 if wait_s == 0 else left, now_s)
        if len(self._buckets) > _MOST_CALLERS:
            del self._buckets[next(iter(self._buckets))]
        return wait_s
