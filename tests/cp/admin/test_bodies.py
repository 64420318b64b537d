"""Forms taken apart: whatever a client encodes comes out as it went in."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.cp.admin.answers import Answer
from fastgw.cp.admin.bodies import parse_multipart, parse_urlencoded, unescape

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
pairs = st.lists(st.tuples(texts.filter(bool), texts), max_size=5)


@given(pairs, st.booleans())
def test_urlencoded(given_pairs: list[tuple[str, str]], is_form: bool) -> None:
    if is_form:
        encoded = urlencode(given_pairs)
    else:
        encoded = "&".join(f"{quote(name)}={quote(value)}" for name, value in given_pairs)
    assert list(parse_urlencoded(encoded.encode())) == given_pairs


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a", [("a", True)]),
        (b"a=", [("a", "")]),
        (b"a=b=c&&d", [("a", "b=c"), ("d", True)]),
        (b"a+b=c+d%2B", [("a b", "c d+")]),
        (b"paths%5B%5D=%2Fa", [("paths[]", "/a")]),
        (b"a=%zz%", [("a", "%zz%")]),
        (b"a=%FF", [("a", "\udcff")]),
    ],
)
def test_urlencoded_corners(data: bytes, expected: list[tuple[str, str | bool]]) -> None:
    assert list(parse_urlencoded(data)) == expected


names = st.text(st.sampled_from('ab[].é"\\ '), min_size=1, max_size=8)


@given(st.dictionaries(names, texts, min_size=1, max_size=4), st.booleans())
def test_multipart(given_values: dict[str, str], as_files: bool) -> None:
    files = {name: ("f.pem" if as_files else None, value.encode()) for name, value in given_values.items()}
    request = httpx.Request("POST", "http://a/", files=files)
    found = parse_multipart(request.headers["content-type"], request.read())
    assert [(name.replace("%22", '"'), value) for name, value in found] == list(given_values.items())


@given(st.binary(max_size=60))
def test_no_multipart_body_raises_anything_else(data: bytes) -> None:
    assert _status_of(data.replace(b"\x00", b"\r\n--x")) in (200, 400)


def _status_of(data: bytes) -> int:
    try:
        parse_multipart("multipart/form-data; boundary=x", data)
    except Answer as answer:
        return answer.status
    return 200


@given(texts)
def test_unescape_undoes_quote(text: str) -> None:
    assert unescape(quote(text, safe="").encode()) == text
