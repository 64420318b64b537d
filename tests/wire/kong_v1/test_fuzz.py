"""Whatever a peer sends, a link ends or goes on; nothing else comes of it."""

from __future__ import annotations

import contextlib
import gzip
import json

from hypothesis import given
from hypothesis import strategies as st

from fastgw.errors import RemoteLinkError
from fastgw.wire.kong_v1.frames import Opcode, encode_frame
from fastgw.wire.kong_v1.hashes import ZERO_HASH
from fastgw.wire.kong_v1.link import KongControlLink, KongDataLink
from fastgw.wire.kong_v1.messages import decode_basic_info, decode_error, decode_push, parse_arguments

INFO = b'{"type":"basic_info","plugins":[]}'
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.just("reconfigure"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "plugins", "labels", "config_table", "error"]), inner)
    ),
    max_leaves=8,
)
OPCODES = st.sampled_from([Opcode.BINARY, Opcode.TEXT, Opcode.PING, Opcode.PONG, Opcode.CLOSE, Opcode.CONT])
FRAMES = st.lists(st.tuples(OPCODES, st.binary(max_size=60) | st.just(INFO) | st.just(b"a" * 32)), max_size=5)


@given(st.binary(max_size=200), FRAMES, st.booleans(), st.booleans())
def test_any_bytes(noise: bytes, frames: list[tuple[Opcode, bytes]], is_masked: bool, greets: bool) -> None:
    control, data = KongControlLink(0.0), KongDataLink(0.0, INFO, ZERO_HASH, 1000)
    if greets:
        control.receive(encode_frame(Opcode.BINARY, INFO, is_masked=True), 0.0)
    for piece in [*(encode_frame(*frame, is_masked=is_masked) for frame in frames), noise]:
        control.receive(piece, 0.0)
        data.receive(piece, 0.0)
    for link in (control, data):
        while link.next_bytes() is not None:
            pass
        link.close()
        link.next_bytes()
        assert link.next_bytes() is None


@given(JSON | st.binary(max_size=60))
def test_any_message(value: object) -> None:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    for read in (decode_basic_info, decode_push, lambda text: decode_push(gzip.compress(text))):
        with contextlib.suppress(RemoteLinkError):
            read(data)
    decode_error(data)


@given(st.text(max_size=60))
def test_any_arguments(query: str) -> None:
    with contextlib.suppress(RemoteLinkError):
        parse_arguments(f"/v1/outlet?node_id={query}&node_version=3.9.1&{query}")
