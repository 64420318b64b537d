"""An answer in place of an upgrade: whatever the reason says, it is one field of one answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Response
from websockets.streams import StreamReader

from fastgw.wire.pump import refusal


@given(st.text(max_size=700))
def test_a_refusal_is_one_answer_with_its_reason(reason: str) -> None:
    reader = StreamReader()
    reader.feed_data(refusal(b"403 Forbidden", reason))
    parsing = Response.parse(reader.read_line, reader.read_exact, reader.read_to_eof)
    try:
        next(parsing)
        raise AssertionError("the answer is not whole")
    except StopIteration as end:
        response = end.value
    assert response.status_code == 403
    assert set(response.headers) == {"connection", "x-fastgw-reason", "content-length"}
    if reason.isascii() and reason.isprintable():
        assert response.headers["X-Fastgw-Reason"] == reason[:500].strip()
