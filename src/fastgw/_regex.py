"""Regular expressions with a bound on what one match may cost: the one place that knows its engines.

google-re2, in time in proportion to the text. Its own `re`-like interface makes an object per match; the
class beneath (`_re2.RE2`) costs a third of that and is what its releases have kept unchanged, so that is what
is used here.

For what RE2 cannot express, and only where the caller allows it: PCRE2, if the package `pcre2` is installed
(it is an extra, with the library inside of its wheels). It has no interface for limits, and needs none: a
pattern may begin with limits of its own, and of several for the same the lowest counts, so that nobody's
pattern can lift ours. A match that reaches one is no match.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, NamedTuple

from re2 import _re2

MEMORY_BYTES: Final = 1 << 20
"""For one compiled pattern and what its matches build up."""

SIEVE_MEMORY_BYTES: Final = 4 << 20
"""The same for a `Sieve`."""

STEPS_LIMIT: Final = 10_000
"""Of one match of PCRE2, as in Kong."""
_LIMITS: Final = b"(*LIMIT_MATCH=%d)(*LIMIT_DEPTH=%d)(*LIMIT_HEAP=8192)" % (STEPS_LIMIT, STEPS_LIMIT)

ANCHORED: Final = _re2.RE2.Anchor.ANCHOR_START
UNANCHORED: Final = _re2.RE2.Anchor.UNANCHORED

Match = Callable[[object, bytes, int, int], list[tuple[int, int]]]


class Regex(NamedTuple):
    match: Match
    """(ANCHORED or UNANCHORED, text, 0, length) -> the span of each group; (-1, -1): took no part."""
    names: dict[str, int]
    """The groups that have one."""


class Overruns:
    """Patterns that reached the limit of steps, for whoever looks (the worker's log)."""

    def __init__(self) -> None:
        self.on_first: Callable[[bytes], None] = lambda pattern: None
        """Is told each pattern once."""
        self._seen: set[bytes] = set()

    def add(self, pattern: bytes) -> None:
        if pattern not in self._seen and len(self._seen) < 1000:
            self._seen.add(pattern)
            self.on_first(pattern)


overruns: Final = Overruns()


@cache
def load_pcre2() -> Any:
    """The package, or None; imported only where a pattern needs it."""
    try:
        return importlib.import_module("pcre2")
    except ImportError:
        return None


def compile_regex(pattern: bytes, *, is_bytes: bool = False) -> Regex:
    """Compile *pattern*, which is UTF-8.

    Args:
        is_bytes: it matches single bytes, instead of characters of valid UTF-8, and may use PCRE2 for what
            RE2 does not know, as in the `traditional` flavor.
    Raises:
        ValueError: with RE2's words, such as `invalid perl operator: (?=`.
    """
    try:
        return _compile_re2(pattern, is_bytes)
    except ValueError:
        beyond = _compile_pcre2(pattern) if is_bytes else None
        if beyond is None:
            raise
        return beyond


def _compile_re2(pattern: bytes, is_bytes: bool) -> Regex:
    compiled = _re2.RE2(pattern, _options(is_bytes, MEMORY_BYTES))
    if not compiled.ok():
        error = compiled.error()
        raise ValueError(error.decode("utf-8", "replace") if isinstance(error, bytes) else error)
    return Regex(compiled.Match, {name.decode(): number for name, number in compiled.NamedCapturingGroups()})


def _options(is_bytes: bool, memory_bytes: int) -> Any:
    options = _re2.RE2.Options()
    options.log_errors = False
    options.max_mem = memory_bytes
    if is_bytes:
        options.encoding = _re2.RE2.Options.Encoding.LATIN1
    return options


def _compile_pcre2(pattern: bytes) -> Regex | None:
    """None where PCRE2 does not know it either, or is not installed."""
    pcre2 = load_pcre2()
    if pcre2 is None:
        return None
    try:
        # Compiled to machine code, it would count its steps another way, and have a stack to overflow.
        compiled = pcre2.compile(_LIMITS + pattern, jit=False)
    except (pcre2.PatternError, pcre2.LibraryError):
        return None
    numbers = range(compiled.groups + 1)

    def match(anchor: object, text: bytes, start: int, end: int) -> list[tuple[int, int]]:
        try:
            found = compiled.match(text) if anchor is ANCHORED else compiled.search(text)
        except pcre2.LibraryError:
            overruns.add(pattern)
            found = None
        return [(-1, -1)] if found is None else [found.span(number) for number in numbers]

    return Regex(match, dict(compiled.groupindex))


class Sieve:
    """Which of many patterns may match at the start of a text: one pass over it, however many they are."""

    __slots__ = ("_always", "_match", "_places")

    def __init__(self, patterns: Sequence[bytes | None], *, is_bytes: bool) -> None:
        """None stands for what is not to be judged: it may always match."""
        options = _options(is_bytes, SIEVE_MEMORY_BYTES)
        made = _re2.Set(ANCHORED, options)
        self._always: list[int] = []
        self._places: list[int] = []
        for place, pattern in enumerate(patterns):
            # What RE2 does not know (PCRE2 may) is not added.
            if pattern is None or made.Add(pattern) < 0:
                self._always.append(place)
            else:
                self._places.append(place)
        # The last matches everything: when it is missing, the set ran out of memory and says nothing.
        is_ready = bool(self._places) and made.Add(b"") >= 0 and made.Compile()
        self._match: Callable[[bytes], list[int]] | None = made.Match if is_ready else None

    def may_match(self, text: bytes) -> list[int] | None:
        """The places of the patterns that may match, in no order; None: any may."""
        if self._match is None:
            return None
        found = self._match(text)
        if len(self._places) not in found:
            return None
        return self._always + [self._places[at] for at in found if at < len(self._places)]


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
