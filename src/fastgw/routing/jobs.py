"""What the compile process and its parent say to each other.

A `SOCK_SEQPACKET` socket pair: one packet is one message in msgpack. Everything large travels as a sealed
memfd beside it (SCM_RIGHTS), mapped by whoever needs it and never copied through the socket::

    parent                                   child
                                             Ready
    Job    (+ packed, base, overlay)         Done      (+ new base, overlay)
                                             Refused   (+ `Refusal` in msgpack)
    Merge                                    Merged    (+ new base), whenever it is done

One job at a time, and one merge beside it. A closed socket ends the child.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
from typing import Final

import msgspec

MESSAGE_LIMIT_BYTES: Final = 65536
FDS_LIMIT: Final = 3

_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(FDS_LIMIT * array.array("i").itemsize)


class Job(msgspec.Struct, frozen=True, tag=True):
    version: int
    digest: str
    base: str
    """Checksum of the base that its sender has, which then comes second; empty: none."""
    since: str = ""
    """What is packed is a delta from the snapshot with this digest; empty: it is a whole snapshot. Together
    with its overlay, if one comes third, the base is what that snapshot was compiled to."""


class Merge(msgspec.Struct, frozen=True, tag=True):
    """Make a new base of what the last job led to."""

    digest: str
    """Which that was."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    pass


class Done(msgspec.Struct, frozen=True, tag=True):
    counts: dict[str, int]
    """Entities of the snapshot by kind."""
    has_base: bool
    """Whether a new base comes with it; else the one of the job stays."""
    has_overlay: bool
    wants_merge: bool
    """The overlay has grown: answer it with Merge once it is in force."""
    decode_ms: float
    compile_ms: float
    warnings: list[str]
    """What is served otherwise than the snapshot says, one line each."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    pass


class Merged(msgspec.Struct, frozen=True, tag=True):
    """Without a descriptor: there is no such base, and no reason to wait for it."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a snapshot is refused: `faults` of a CompileError, or the one `reason` of another error."""

    reason: str
    faults: list[dict[str, str]]
    wants_whole: bool = False
    """A delta was of no use (DeltaError)."""


Question = Job | Merge
Answer = Ready | Done | Refused | Merged


def receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """The next packet, empty at the end, and its descriptors, which are the caller's to close.

    Not `socket.recv_fds`, which drops its flags: the descriptors would stay open across exec.
    """
    packet, ancillary, _, _ = channel.recvmsg(MESSAGE_LIMIT_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return packet, fds.tolist()


def make_memfd(name: str) -> int:
    """An empty descriptor of memory, to be filled with `fill_memfd`; the caller's to close."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def fill_memfd(fd: int, data: bytes) -> None:
    """Write *data*; nobody can change it any more."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)


def make_sealed_memfd(name: str, data: bytes) -> int:
    """A descriptor of memory that holds *data* and that nobody can change any more; the caller's to close."""
    fd = make_memfd(name)
    try:
        fill_memfd(fd, data)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_memfd(fd: int) -> bytes:
    """All that *fd* holds; closes it."""
    with open(fd, "rb", buffering=0) as file:
        file.seek(0)
        return file.readall()
