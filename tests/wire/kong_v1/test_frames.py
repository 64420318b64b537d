"""Frames as Kong's nodes take them: whole, plain, masked by one side only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import RemoteLinkError
from fastgw.wire.kong_v1.frames import FrameReader, KongFrame, Opcode, encode_frame
from tests.wire.kong_v1.recorded import CONTROL_PLANE, DATA_PLANE, PUSHED_FRAMES

KINDS = st.sampled_from([Opcode.BINARY, Opcode.TEXT, Opcode.PING, Opcode.PONG, Opcode.CLOSE])


@given(st.lists(st.tuples(KINDS, st.binary(max_size=125)), max_size=6), st.booleans(), st.integers(1, 40))
def test_frames_survive_any_cut(frames: list[tuple[Opcode, bytes]], is_masked: bool, size: int) -> None:
    data = b"".join(encode_frame(kind, payload, is_masked=is_masked) for kind, payload in frames)
    reader = FrameReader(is_masked=is_masked, limit_bytes=125)
    found = [frame for at in range(0, len(data), size) for frame in reader.feed(data[at : at + size])]
    assert found == [KongFrame(kind, payload) for kind, payload in frames]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x02\x80\0\0\0\0", "fragment"),
        (b"\x80\x80\0\0\0\0", "fragment"),
        (b"\xc2\x80\0\0\0\0", "reserved bits"),
        (b"\x82\x01x", "incorrect masking"),
        (b"\x83\x80\0\0\0\0", "invalid opcode"),
        (b"\x82\xfe\x01\x01\0\0\0\0", "exceeding max payload len"),
        (b"\x89\xfe\x00\x7e\0\0\0\0" + bytes(126), "control frame too long"),
    ],
)
def test_what_kong_does_not_take_ends_the_connection(data: bytes, complaint: str) -> None:
    with pytest.raises(RemoteLinkError, match=complaint):
        FrameReader(is_masked=True, limit_bytes=256).feed(data)


def test_the_recorded_heads_of_frames() -> None:
    pings = [event for event in DATA_PLANE if event.get("opcode") == 9]
    for event in pings:
        frame = encode_frame(Opcode.PING, event["payload"].encode(), is_masked=True)
        assert frame[:2].hex() == event["first2"]
    pushes = [event for event in CONTROL_PLANE if event["kind"] == "push"]
    for event, payload in zip(pushes, PUSHED_FRAMES, strict=True):
        assert encode_frame(Opcode.BINARY, payload, is_masked=False)[:2].hex() == event["first2"]
    assert encode_frame(Opcode.PONG, is_masked=False) == b"\x8a\x00"
    assert encode_frame(Opcode.CLOSE, is_masked=False) == b"\x88\x00"
