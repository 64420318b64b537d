"""What the compile process and its parent say to each other.

A `SOCK_SEQPACKET` socket pair: one packet is one message in msgpack. Everything large travels as a sealed
memfd beside it (SCM_RIGHTS), mapped by whoever needs it and never copied through the socket::

    parent                             child
                                       Ready
    Job      (+ compressed document)   Done     (+ image)
                                       Refused  (+ `Refusal` in msgpack)

One job at a time. A closed socket ends the child.
"""

from __future__ import annotations

import fcntl
import os
import socket
from struct import Struct
from typing import Final

import msgspec

MESSAGE_LIMIT_BYTES: Final = 65536

_FD: Final = Struct("i")


class Job(msgspec.Struct, frozen=True, tag=True):
    version: int
    digest: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    pass


class Done(msgspec.Struct, frozen=True, tag=True):
    counts: dict[str, int]
    """Entities of the snapshot by kind."""
    decode_ms: float
    compile_ms: float
    warnings: list[str]
    """What is served otherwise than the snapshot says, one line each."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    pass


class Refusal(msgspec.Struct, frozen=True):
    """Why a snapshot is refused: `faults` of a CompileError, or the one `reason` of a SnapshotError."""

    reason: str
    faults: list[dict[str, str]]


Answer = Ready | Done | Refused


def receive(channel: socket.socket) -> tuple[bytes, int]:
    """The next packet, empty at the end, and its descriptor (the caller's to close) or -1.

    Not `socket.recv_fds`, which drops its flags: the descriptor would stay open across exec.
    """
    packet, ancillary, _, _ = channel.recvmsg(
        MESSAGE_LIMIT_BYTES, socket.CMSG_SPACE(_FD.size), socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return packet, _FD.unpack_from(data)[0]
    return packet, -1


def make_sealed_memfd(name: str, data: bytes) -> int:
    """A descriptor of memory that holds *data* and that nobody can change any more; the caller's to close."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(fd, rest) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_memfd(fd: int) -> bytes:
    """All that *fd* holds; closes it."""
    with open(fd, "rb", buffering=0) as file:
        file.seek(0)
        return file.readall()
