"""Regular expressions in linear time: the one place that knows how google-re2 is called.

Its own `re`-like interface makes an object per match; the class beneath (`_re2.RE2`) costs a third of that
and is what its releases have kept unchanged, so that is what is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from re2 import _re2

MEMORY_BYTES: Final = 1 << 20
"""For one compiled pattern and what its matches build up."""

ANCHORED: Final = _re2.RE2.Anchor.ANCHOR_START
UNANCHORED: Final = _re2.RE2.Anchor.UNANCHORED

Match = Callable[[object, bytes, int, int], list[tuple[int, int]]]


class Regex(NamedTuple):
    match: Match
    """(ANCHORED or UNANCHORED, text, 0, length) -> the span of each group; (-1, -1): took no part."""
    names: dict[str, int]
    """The groups that have one."""


def compile_regex(pattern: bytes, *, is_bytes: bool = False) -> Regex:
    """Compile *pattern*, which is UTF-8.

    Args:
        is_bytes: it matches single bytes, instead of characters of valid UTF-8.
    Raises:
        ValueError: with RE2's words, such as `invalid perl operator: (?=`.
    """
    options = _re2.RE2.Options()
    options.log_errors = False
    options.max_mem = MEMORY_BYTES
    if is_bytes:
        options.encoding = _re2.RE2.Options.Encoding.LATIN1
    compiled = _re2.RE2(pattern, options)
    if not compiled.ok():
        error = compiled.error()
        raise ValueError(error.decode("utf-8", "replace") if isinstance(error, bytes) else error)
    return Regex(compiled.Match, {name.decode(): number for name, number in compiled.NamedCapturingGroups()})


def literal_prefix(pattern: bytes) -> bytes:
    """The text that each match of *pattern* begins with, if it is anchored; empty if that is not plain.

    Never more than the truth: what is not understood ends it.
    """
    characters: list[str] = []
    text = pattern.decode("utf-8", "replace")
    at = 0
    while at < len(text):
        character = text[at]
        if character in "^$.[(|)":
            break
        if character in "*?{":
            # The character before need not be there.
            characters = characters[:-1]
            break
        if character == "+":
            break
        if character == "\\":
            at += 1
            character = text[at : at + 1]
            if not character or character.isalnum() or not character.isascii():
                break
        characters.append(character)
        at += 1
    if "\ufffd" in characters or _has_branches(text):
        return b""
    return "".join(characters).encode()


def _has_branches(text: str) -> bool:
    """Whether a `|` stands outside of all groups; a class or an escape that hides one counts as well."""
    depth = 0
    at = 0
    while at < len(text):
        if text[at] == "\\":
            if text[at + 1 : at + 2] == "Q":
                return True
            at += 1
        elif text[at] == "(":
            depth += 1
        elif text[at] == ")":
            depth -= 1
        elif text[at] == "|" and depth <= 0:
            return True
        elif text[at] == "[":
            # What a class holds cannot be told from groups here: look for branches the cautious way.
            return "|" in text[at:]
        at += 1
    return False
