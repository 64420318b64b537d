"""The process that reads a declarative document for the control plane, or says what it would change.

    python -m fastgw.cp.documents.child     one job on stdin, frames on stdout, the end

Contract. Of a document that is to be stored, the rows come in frames of some hundred each, so that whoever
takes them has work for milliseconds only, and `Read` at the end; of a plan there is one `Planned`. What is
wrong with the document is one `Faulty` in place of all.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final

from fastgw.cp.documents.jobs import (
    LENGTH,
    Base,
    Conflict,
    DocumentJob,
    Faulty,
    Frame,
    Planned,
    Read,
    Rows,
    decode_job,
    encode,
    frame_of,
)
from fastgw.cp.documents.planning import plan_rows
from fastgw.cp.documents.reading import read_document
from fastgw.errors import DeclarativeError, UniqueViolation
from fastgw.model.entities import Row
from fastgw.model.snapshot import Snapshot

ROWS_IN_FRAME: Final = 500


def answer(job: DocumentJob) -> Iterator[Frame]:
    """The frames that answer *job*."""
    try:
        rows = _read(job)
        if job.base is not None:
            yield _plan(rows, job.base, job.flavor)
            return
    except DeclarativeError as error:
        yield Faulty(list(error.faults), dict(error.fields), list(error.flattened))
        return
    except UniqueViolation as error:
        yield Conflict(error.entity, error.fields)
        return
    for kind, found in rows.items():
        for start in range(0, len(found), ROWS_IN_FRAME):
            yield Rows(kind, found[start : start + ROWS_IN_FRAME])
    yield Read()


def _read(job: DocumentJob) -> dict[str, list[Row]]:
    return read_document(
        job.content,
        is_json=job.is_json,
        created_at_s=job.created_at_s,
        refused_plugins=job.refused_plugins,
        flavor=job.flavor,
    )


def _plan(rows: Mapping[str, list[Row]], base: Base, flavor: str) -> Planned:
    stands = Snapshot.unpack(base.version, base.packed)
    return plan_rows(stands, rows, flavor=flavor, replace=base.replace)


def _receive(stream: BinaryIO) -> DocumentJob:
    (length,) = LENGTH.unpack(stream.read(LENGTH.size))
    return decode_job(stream.read(length))


def main() -> None:
    # What a terminal or a service manager sends to the group is for the parent to obey.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # rows make no cycles
    output = sys.stdout.buffer
    try:
        for frame in answer(_receive(sys.stdin.buffer)):
            output.write(frame_of(encode(frame)))
        output.flush()
    except BrokenPipeError:
        # The parent is gone, and nobody waits for the answer; nothing is left to be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())


if __name__ == "__main__":
    main()
