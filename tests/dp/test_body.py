"""Bodies: the strict chunk decoder against its twin, whole and cut anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.dp._body import BodyReader
from tests.reference.body import read_chunked

CHUNKS = st.lists(st.binary(min_size=1, max_size=40), max_size=4)
PIECES = st.sampled_from(
    [b"0", b"1", b"A", b"a", b"5", b"00000000000000001", b"\r\n", b"\r", b"\n", b";x=1", b";", b" ", b"\t", b"hello",
     b"0\r\n\r\n", b"0\r\n", b"X: 1\r\n", b"-", b"0x", b"\x00", b"FFFFFFFFFFFFFFFF", b"8000000000000000", b":"]
)  # fmt: skip


def read_in_cuts(data: bytes, cuts: list[int]) -> tuple[bytes, bytes] | None | str:
    reader = BodyReader("chunked")
    body = b""
    bounds = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in zip(bounds, bounds[1:], strict=False):
        try:
            got, rest = reader.feed(data[start:end])
        except ValueError:
            return "malformed"
        body += got
        if reader.is_complete:
            return body, rest + data[end:]
    return None


@given(st.lists(PIECES, max_size=8).map(b"".join), st.lists(st.integers(0, 60), max_size=6))
@settings(max_examples=3000, deadline=None)
def test_any_bytes_agree_with_the_twin(data: bytes, cuts: list[int]) -> None:
    assert read_in_cuts(data, cuts) == read_chunked(data)


@given(CHUNKS, st.binary(max_size=10), st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=500, deadline=None)
def test_valid_bodies_come_out_whole(chunks: list[bytes], rest: bytes, cuts: list[int]) -> None:
    data = b"".join(b"%X;e=1\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\nT: x\r\n\r\n"
    assert read_in_cuts(data + rest, cuts) == (b"".join(chunks), rest)


def test_a_length_is_a_counter() -> None:
    reader = BodyReader("length", 5)
    assert reader.feed(b"abc") == (b"abc", b"")
    assert not reader.is_complete
    assert reader.feed(b"defgh") == (b"de", b"fgh")
    assert reader.is_complete


@pytest.mark.parametrize("kind", ["none", "length"])
def test_nothing_is_taken_of_an_empty_body(kind: str) -> None:
    reader = BodyReader(kind)  # type: ignore[arg-type]
    assert reader.is_complete
    assert reader.feed(b"x") == (b"", b"x")


def test_extensions_have_a_budget() -> None:
    reader = BodyReader("chunked")
    with pytest.raises(ValueError, match="malformed"):
        reader.feed(b"1;" + b"e" * 20_000)


def test_many_tiny_chunks_with_long_extensions_are_refused() -> None:
    reader = BodyReader("chunked")
    with pytest.raises(ValueError, match="malformed"):
        reader.feed((b"1;" + b"e" * 1000 + b"\r\nx\r\n") * 100)


def test_many_tiny_chunks_without_extensions_pass() -> None:
    reader = BodyReader("chunked")
    assert reader.feed(b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n") == (b"x" * 50_000, b"")


def test_trailers_have_a_budget() -> None:
    reader = BodyReader("chunked")
    with pytest.raises(ValueError, match="malformed"):
        reader.feed(b"0\r\n" + b"T: x\r\n" * 5_000)
