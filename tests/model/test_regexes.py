"""Regexes that the engine cannot express: the construct is named, and what to write instead."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw._regex import ANCHORED, compile_regex, literal_prefix, overruns
from fastgw.model.regexes import regex_fault, upgraded_path


@pytest.mark.parametrize(
    ("pattern", "place", "named", "alternative"),
    [
        (r"/a(?=b)", 3, "look-around, '(?='", "a route of its own"),
        (r"/a(?<!b)", 3, "look-around, '(?<!'", "takes precedence"),
        (r"/(a)\1", 5, r"a back-reference, '\1'", "write out the alternatives"),
        (r"/(?P<n>a)(?P=n)", 10, "a back-reference, '(?P='", "write out the alternatives"),
        (r"/a++", 3, "a possessive quantifier, '++'", "leave out its +"),
        (r"/(?>a)", 2, "an atomic group, '(?>'", "write (?:...)"),
        (r"/(?R)", 2, "recursion, '(?R'", "levels that you need"),
        (r"/\\\R", 4, r"this escape, '\R'", "as a class"),
        (r"/a\Z", 3, r"\Z, '\Z'", "write $"),
    ],
)
def test_what_re2_does_not_know_is_named(pattern: str, place: int, named: str, alternative: str) -> None:
    fault = regex_fault(pattern)
    assert fault is not None
    assert fault.startswith(f"RE2 does not know {named} at character {place}: ")
    assert alternative in fault


def test_limits_are_told() -> None:
    assert "at most 1000 times" in (regex_fault("/a{1,2000}") or "")
    assert "more than 1048576 bytes" in (regex_fault(r"/((\pL{100}){10}\pN{0,1000}){1}\PL{1000}") or "")
    assert regex_fault("/(") == "RE2 says: missing ): /("


@pytest.mark.parametrize(
    "pattern", [r"/(?<n>a)/(?P<m>\d+)$", "/[[:alpha:]]+(?i:x)", "/é.", r"/\Qa|b\E", r"/\\1"]
)
def test_what_it_knows_passes(pattern: str) -> None:
    assert regex_fault(pattern) is None


BEYOND_RE2 = [
    (rb"/a(?!b)(?P<item>\d+)", b"/a12/x", [(0, 4), (2, 4)]),
    (rb"/(?!admin)[a-z]+", b"/admin", None),
    (rb"/(a|b)\1", b"/bb", [(0, 3), (1, 2)]),
    (rb"/(x)?(?>a+)b", b"/aab", [(0, 4), (-1, -1)]),
    (rb"/a++/", b"/aa/", [(0, 4)]),
    (rb"/\xe9(?=.)", b"/\xe9\xff", [(0, 2)]),
]


@pytest.mark.parametrize(("pattern", "text", "spans"), BEYOND_RE2)
def test_in_traditional_pcre2_takes_what_re2_does_not_know(
    pattern: bytes, text: bytes, spans: list[tuple[int, int]] | None
) -> None:
    with pytest.raises(ValueError, match=r"invalid|bad repetition"):
        compile_regex(pattern)
    compiled = compile_regex(pattern, is_bytes=True)
    assert compiled.match(ANCHORED, text, 0, len(text)) == (spans or [(-1, -1)])
    assert regex_fault(pattern.decode("latin-1"), is_bytes=True) is None
    if b"item" in pattern:
        assert compiled.names == {"item": 1}


@pytest.mark.parametrize("raised", [b"", b"(*LIMIT_MATCH=4000000000)"])
def test_a_match_that_takes_too_many_steps_is_none(raised: bytes) -> None:
    """Whatever limit the pattern itself names; it is told once."""
    told: list[bytes] = []
    pattern = raised + rb"/(a+)+(?=x)$"
    compiled = compile_regex(pattern, is_bytes=True)
    overruns.on_first, before = told.append, overruns.on_first
    try:
        begun_s = time.process_time()
        for _ in range(2):
            assert compiled.match(ANCHORED, b"/" + b"a" * 60 + b"!", 0, 62) == [(-1, -1)]
        assert time.process_time() - begun_s < 0.5
        assert told == [pattern]
    finally:
        overruns.on_first = before


def test_what_no_engine_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (regex_fault("/(?=a", is_bytes=True) or "").endswith("PCRE2 does not know it either")
    assert (regex_fault("/(", is_bytes=True) or "").endswith("PCRE2 does not know it either")
    monkeypatch.setattr("fastgw._regex.load_pcre2", lambda: None)
    monkeypatch.setattr("fastgw.model.regexes.load_pcre2", lambda: None)
    fault = regex_fault("/only-here(?=a)", is_bytes=True)
    assert fault is not None
    assert "look-around" in fault
    assert fault.endswith("or install fastgw[pcre2], on which 'traditional' runs it")


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        (rb"/users/\d+", b"/users/"),
        (rb"/a\.b/c", b"/a.b/c"),
        (rb"/ab?c", b"/a"),
        (rb"/ab*", b"/a"),
        (rb"/ab{0}", b"/a"),
        (rb"/ab+c", b"/ab"),
        (rb"/a|/b", b""),
        (rb"/a(x|y)", b"/a"),
        (rb"/a[|)]b", b""),
        (rb"/a\Qx|y\E", b""),
        (b"/caf\xc3\xa9?", b"/caf"),
        (b"/caf\xc3\xa9/", b"/caf\xc3\xa9/"),
        (rb"(?i)/a", b""),
        (rb"^/a", b""),
        (rb"/a$", b"/a"),
        (rb"/\x61", b"/"),
        (b"/a)|(b", b""),
    ],
)
def test_literal_prefixes(pattern: bytes, prefix: bytes) -> None:
    assert literal_prefix(pattern) == prefix


@given(
    st.text(st.sampled_from("/ab.*+?()[]|\\{1}^$é"), max_size=10),
    st.text(st.sampled_from("/ab.é1"), max_size=6),
)
def test_every_match_begins_with_the_literal_prefix(pattern: str, rest: str) -> None:
    try:
        compiled = compile_regex(f"/{pattern}".encode())
    except ValueError:
        return
    text = f"/{rest}".encode()
    if compiled.match(ANCHORED, text, 0, len(text))[0][0] >= 0:
        assert text.startswith(literal_prefix(f"/{pattern}".encode()))


def test_a_pattern_that_backtracking_cannot_bear_takes_no_time() -> None:
    compiled = compile_regex(rb"/(a+)+$")
    text = b"/" + b"a" * 5000 + b"!"
    assert compiled.match(ANCHORED, text, 0, len(text))[0] == (-1, -1)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/a-b_c.d~e/%20", "/a-b_c.d~e/%20"),
        (r"/users/\d+", r"~/users/\d+"),
        ("/a(b|c)", "~/a(b|c)"),
        ("/café", "~/café"),
        ("/a@b", "~/a@b"),
    ],
)
def test_paths_of_older_configurations(before: str, after: str) -> None:
    assert upgraded_path(before) == after
