"""The compile process itself: answers jobs on a socket until it closes.

    python -m fastgw.routing.compile_child --fd N

The only place where a data plane parses configuration. It imports little, so that it is there soon, and
gives memory back after a large job, since it then waits for the next one for a long time.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import socket
import sys
import time
from typing import Final

import msgspec

from fastgw.errors import CompileError, SnapshotError
from fastgw.model.snapshot import check_document, decompress
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.jobs import (
    Answer,
    Done,
    Job,
    Ready,
    Refusal,
    Refused,
    make_sealed_memfd,
    read_memfd,
    receive,
)

_LARGE_BYTES: Final = 4 * 1024 * 1024
"""A document beyond this size leaves enough behind to be worth giving back."""

_jobs = msgspec.msgpack.Decoder(Job)


def serve(channel: socket.socket) -> None:
    """Answer jobs until the parent closes its end, or is gone."""
    _send(channel, Ready(), None)
    while True:
        packet, fd = receive(channel)
        if not packet:
            return
        document_bytes = _answer(channel, _jobs.decode(packet), read_memfd(fd))
        if document_bytes > _LARGE_BYTES:
            _give_memory_back()


def _answer(channel: socket.socket, job: Job, compressed: bytes) -> int:
    """Do one job and send its answer; returns the size of the document, 0 if there is none."""
    document = b""
    warnings: list[str] = []
    begun = time.perf_counter()
    try:
        document = decompress(compressed)
        counts = check_document(job.version, document, job.digest)
        decoded = time.perf_counter()
        image = compile_snapshot(
            document, version=job.version, digest=job.digest, compressed=compressed, warnings=warnings
        )
    except CompileError as exc:
        refusal = Refusal(str(exc), exc.faults)
    except SnapshotError as exc:
        refusal = Refusal(str(exc), [])
    else:
        done = Done(counts, (decoded - begun) * 1e3, (time.perf_counter() - decoded) * 1e3, warnings)
        _send(channel, done, make_sealed_memfd("fastgw-image", image))
        return len(document)
    _send(channel, Refused(), make_sealed_memfd("fastgw-refusal", msgspec.msgpack.encode(refusal)))
    return len(document)


def _give_memory_back() -> None:
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc's; musl keeps little by itself
        libc.malloc_trim(0)


def _send(channel: socket.socket, answer: Answer, fd: int | None) -> None:
    packet = msgspec.msgpack.encode(answer)
    if fd is None:
        channel.sendall(packet)
        return
    with open(fd, "rb", buffering=0):  # closes it
        socket.send_fds(channel, [packet], [fd])


def main() -> None:
    # What a terminal or a service manager sends to the group is for the parent to obey.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # decoded rows make no cycles
    fd = int(sys.argv[sys.argv.index("--fd") + 1])
    try:
        with socket.socket(fileno=fd) as channel:
            serve(channel)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the parent is gone, and nobody waits for the answer


if __name__ == "__main__":
    main()
