"""Reading and planning of declarative documents in a process of its own, one per job.

Contract. Whatever the size of a document, the event loop is busy with it for milliseconds at a time only.
Small ones are read in a thread, since starting a process takes longer than reading them. A job that takes too
long, or whose asker goes away, ends with its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from fastgw.cp.documents.jobs import (
    LENGTH,
    Base,
    Conflict,
    DocumentJob,
    Faulty,
    Frame,
    Planned,
    Rows,
    decode_frame,
    encode,
    frame_of,
)
from fastgw.cp.documents.reading import SOURCE, read_document
from fastgw.errors import DeclarativeError, FastgwError, UniqueViolation
from fastgw.model.entities import ENTITIES, Row

DEADLINE_S: Final = 120.0
SMALL_BYTES: Final = 64 * 1024
_MOST_FRAME_BYTES: Final = 256 * 1024 * 1024


class DocumentJobFailed(FastgwError):
    code = "document_job"


async def read_rows(
    content: bytes, *, is_json: bool, refused_plugins: Mapping[str, str], flavor: str
) -> dict[str, list[Row]]:
    """The rows of a document, by kind.

    Raises:
        DeclarativeError: with all faults.
        DocumentJobFailed: it could not be read in time.
    """
    now_s = int(time.time())
    if len(content) <= SMALL_BYTES:
        return await asyncio.to_thread(
            read_document,
            content,
            is_json=is_json,
            created_at_s=now_s,
            refused_plugins=refused_plugins,
            flavor=flavor,
        )
    rows: dict[str, list[Row]] = {kind: [] for kind in ENTITIES}
    async with contextlib.aclosing(
        _frames(DocumentJob(content, is_json, now_s, dict(refused_plugins), flavor))
    ) as frames:
        async for frame in frames:
            if isinstance(frame, Rows):
                rows[frame.kind] += frame.rows
    return rows


async def plan_document(
    content: bytes, *, is_json: bool, refused_plugins: Mapping[str, str], flavor: str, base: Base
) -> Planned:
    """What storing a document would do.

    Raises:
        DeclarativeError: with all faults.
        UniqueViolation: a row that stays holds a unique value of one that would come.
        DocumentJobFailed: it could not be said in time.
    """
    job = DocumentJob(content, is_json, int(time.time()), dict(refused_plugins), flavor, base)
    async with contextlib.aclosing(_frames(job)) as frames:
        async for frame in frames:
            if isinstance(frame, Planned):
                return frame
    raise DocumentJobFailed("the plan came without an end")


async def _frames(job: DocumentJob) -> AsyncGenerator[Frame, None]:
    """The frames that a process of its own answers with; faults are raised."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # whatever lies in the working directory is not ours
        "-m",
        "fastgw.cp.documents.child",
        stdin=PIPE,
        stdout=PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            sending = asyncio.create_task(_send(process, encode(job)), name="document job")
            assert process.stdout is not None
            while True:
                try:
                    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                    if length > _MOST_FRAME_BYTES:
                        raise DocumentJobFailed(f"a frame of {length} bytes is too large")
                    frame = decode_frame(await process.stdout.readexactly(length))
                except asyncio.IncompleteReadError:
                    break
                if isinstance(frame, Faulty):
                    raise DeclarativeError(SOURCE, frame.faults, frame.fields, frame.flattened)
                if isinstance(frame, Conflict):
                    raise UniqueViolation(frame.entity, frame.fields)
                yield frame
            await sending
            status = await process.wait()
        if status:
            raise DocumentJobFailed(f"the process that read the document ended with status {status}")
    except TimeoutError:
        raise DocumentJobFailed(f"the document was not read within {DEADLINE_S:.0f} s") from None
    finally:
        await _end(process)


async def _send(process: Process, content: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(frame_of(content))
        await process.stdin.drain()
    process.stdin.close()


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()
