"""One child process: started in a group of its own, its lines labelled, ended within a deadline.

The group matters twice: Ctrl-C in the terminal reaches only the quickstart, which then stops the children in
order; and what a dying child leaves behind is killed with its group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

MAX_LINE_BYTES: Final = 16384


class Child:
    """A running child; `ended` is set once it is gone and its last line is printed."""

    def __init__(self, name: str, color: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.ended = asyncio.Event()
        self._label = click.style(f"[{name}]", fg=color)
        self._process = process
        self._watch = asyncio.create_task(self._print_until_end())

    @classmethod
    async def start(
        cls, name: str, color: str, arguments: Sequence[str], environ: Mapping[str, str]
    ) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "fastgw.cli.quickstart.child",
            str(os.getpid()),
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            env=dict(environ),
        )
        return cls(name, color, process)

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative when a signal ended it."""
        return self._process.returncode

    async def stop(self, deadline_s: float) -> None:
        """Send SIGTERM, and SIGKILL to the whole group when the deadline passes."""
        if self.exit_code is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(deadline_s):
                await self.ended.wait()
        except TimeoutError:
            click.echo(f"{self._label} still there after {deadline_s:g} s: killed", err=True)
            self.kill()
            await self.ended.wait()

    def kill(self) -> None:
        """Send SIGKILL to the child and to all that it started in its group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the whole group is gone

    async def _print_until_end(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        copying = asyncio.create_task(self._copy(stream))
        await self._process.wait()
        # Workers hold the pipe too; they end with the child, and those that do not have had their time.
        await asyncio.wait([copying], timeout=2)
        if not copying.done():
            self.kill()
        await copying
        self.ended.set()

    async def _copy(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(MAX_LINE_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._print(line)
            if len(rest) > MAX_LINE_BYTES:
                self._print(rest)
                rest = b""
        if rest:
            self._print(rest)

    def _print(self, line: bytes) -> None:
        click.echo(f"{self._label} {line.decode('utf-8', 'replace')}")
