"""Regular expressions as users write them: what the gateway's engine cannot express, said in a sentence.

A regex runs on RE2, in time in proportion to its text. What that cannot express runs on PCRE2 with a limit of
steps in `traditional`, as in Kong; in the other flavors (whose engine in Kong has RE2's own limits), or where
PCRE2 is not installed, it is refused with the name of the construct and what to write in its place.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from fastgw._regex import MEMORY_BYTES, compile_regex, load_pcre2

_ATOM: Final = r"(?<!\\)(?:\\\\)*"

#: What to look for (in order), what it is called, what to do instead.
_BEYOND: Final = tuple(
    (re.compile(f"{_ATOM}({construct})"), name, alternative)
    for construct, name, alternative in (
        (r"\(\?<?=", "look-around", "match the text itself, or test it by a route of its own"),
        (r"\(\?<?!", "look-around", "put what must not match on a route of its own that takes precedence"),
        (r"\\[1-9]|\\k[<{']|\(\?P=|\\g", "a back-reference", "write out the alternatives"),
        (r"\(\?>", "an atomic group", "write (?:...): nothing ever backtracks here"),
        (r"[*+?}]\+", "a possessive quantifier", "leave out its +: nothing ever backtracks here"),
        (r"\(\?(?:R|[0-9+&]|P>)", "recursion", "write out the levels that you need"),
        (r"\(\?\(", "a condition", "write one alternative for each case"),
        (r"\(\?#", "a comment", "leave it out"),
        (r"\(\*", "a verb", "leave it out"),
        (r"\\[KGXRhHvNuU]", "this escape", "write the characters that it stands for as a class"),
        (r"\\Z", "\\Z", "write $ or \\z"),
    )
)
_TOO_OFTEN: Final = re.compile(r"invalid repetition size")


_PREFIX_OF_2X: Final = re.compile(r"[A-Za-z0-9._~/%-]*")


def upgraded_path(path: str) -> str:
    """A route's path of a configuration older than format 3.0, as it is written since: a regex gets its `~`.

    Source: proxying reference §1.2: any character outside a small set made a path a regex.
    """
    return path if _PREFIX_OF_2X.fullmatch(path) else f"~{path}"


@lru_cache(maxsize=1024)
def regex_fault(pattern: str, *, is_bytes: bool = False) -> str | None:
    """Why *pattern* is refused, or None when it can be served.

    Args:
        is_bytes: of the `traditional` flavor: it matches bytes instead of characters, and may use PCRE2.
    """
    try:
        compile_regex(pattern.encode(), is_bytes=is_bytes)
    except ValueError as error:
        explained = _explained(pattern, str(error))
        if not is_bytes:
            return explained
        if load_pcre2() is None:
            return f"{explained}; or install fastgw[pcre2], on which 'traditional' runs it"
        return f"{explained}; PCRE2 does not know it either"
    return None


def _explained(pattern: str, told: str) -> str:
    for construct, name, alternative in _BEYOND:
        found = construct.search(pattern)
        if found is not None:
            return f"RE2 does not know {name}, '{found[1]}' at character {found.start(1) + 1}: {alternative}"
    if _TOO_OFTEN.search(told):
        return f"RE2 repeats a part at most 1000 times ({told}): repeat a group of repetitions, or use + or *"
    if "too large" in told:
        return f"compiled, it needs more than {MEMORY_BYTES} bytes: use fewer or smaller repetitions"
    return f"RE2 says: {told}"
