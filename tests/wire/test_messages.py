"""Messages: strict in their bounds, tolerant of what a newer peer adds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fastgw.errors import RemoteLinkError
from fastgw.wire import messages as m
from tests.wire.ends import NODE_ID, ONE, ack, hello, welcome

TO_CONTROL_PLANE = [hello(labels={"region": "eu"}), ack(3, ONE), m.Nack(version=1, faults=[{"reason": "x"}])]
TO_DATA_PLANE = [
    welcome(),
    m.Same(version=1, digest=ONE),
    m.SnapshotBegin(version=1, digest=ONE, size=1),
    m.SnapshotChunk(data=b"x"),
    m.Delta(version=2, digest=ONE, base_digest=ONE, data=b"x"),
    m.Pong(),
]


@pytest.mark.parametrize("message", [*TO_CONTROL_PLANE, m.Ping(version=1, digest=""), m.Bye(reason="x")])
def test_round_trip_to_the_control_plane(message: m.Message) -> None:
    assert m.decode_to_control_plane(m.encode(message)) == message


@pytest.mark.parametrize("message", [*TO_DATA_PLANE, m.Bye(reason="x", is_refusal=True)])
def test_round_trip_to_the_data_plane(message: m.Message) -> None:
    assert m.decode_to_data_plane(m.encode(message)) == message


@pytest.mark.parametrize("message", [*TO_CONTROL_PLANE, *TO_DATA_PLANE])
def test_unknown_fields_are_ignored(message: m.Message) -> None:
    fields = msgspec.msgpack.decode(m.encode(message))
    grown = msgspec.msgpack.encode({**fields, "added_later": [1, {"deep": True}]})
    decode = m.decode_to_control_plane if message in TO_CONTROL_PLANE else m.decode_to_data_plane
    assert decode(grown) == message


@pytest.mark.parametrize(
    "change",
    [
        {"node_id": "not-a-uuid"},
        {"node_id": NODE_ID.upper()},
        {"hostname": ""},
        {"hostname": "x" * 256},
        {"applied_version": -1},
        {"applied_digest": "abc"},
        {"max_snapshot_bytes": 0},
        {"labels": {str(number): "x" for number in range(65)}},
        {"type": "unheard-of"},
    ],
)
def test_what_is_out_of_bounds_is_no_message(change: dict[str, Any]) -> None:
    fields = msgspec.msgpack.decode(m.encode(hello()))
    with pytest.raises(RemoteLinkError, match="no message of a data plane"):
        m.decode_to_control_plane(msgspec.msgpack.encode({**fields, **change}))


def test_messages_have_a_largest_size() -> None:
    with pytest.raises(RemoteLinkError, match="more than"):
        m.decode_to_control_plane(bytes(m.MESSAGE_LIMIT_BYTES + 1))


def test_verdicts_are_cut_to_what_a_message_may_tell() -> None:
    faults = m.bounded_faults([{"id": number, "reason": "y" * 5000} for number in range(250)])
    assert len(faults) == m.FAULTS_LIMIT
    assert faults[-1] == {"reason": "and 151 more"}
    assert faults[0] == {"id": "0", "reason": "y" * m.TEXT_LIMIT}
    nack = m.encode(m.Nack(version=1, faults=faults))
    assert isinstance(m.decode_to_control_plane(nack), m.Nack)
    assert m.bounded_texts(["z"] * 101)[-1] == "and 2 more"
    assert m.bounded_texts(["z"] * 100) == ["z"] * 100


def test_the_clusters_id_travels_under_its_first_name() -> None:
    """Data planes and control planes of 0.1.0 know it by this one, and nothing of the others."""
    fields = msgspec.msgpack.decode(m.encode(welcome(node_id="n", hostname="cp-1")))
    assert (fields.pop("control_plane_id"), fields.pop("node_id"), fields.pop("hostname")) == (
        "cluster", "n", "cp-1"
    )  # fmt: skip
    old = m.decode_to_data_plane(msgspec.msgpack.encode({**fields, "control_plane_id": "cluster"}))
    assert old == welcome()
    assert "cluster_id" in msgspec.msgpack.decode(m.encode(hello()))
