"""One worker process: `python -m fastgw.dp.worker --fd N`, started by the supervisor only.

1. Read Configure from the control channel (descriptor N): options, listening sockets, metrics segment.
2. Make the proxy, freeze what is in memory out of the garbage collector's sight, say Ready.
3. Answer the supervisor until Drain or until its end of the channel closes.

It parses no configuration: a generation is an image that it maps. It decides nothing about its life: signals
that a terminal or a service manager sends to the whole group are left to the supervisor, and the kernel kills
it when the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Final

import msgspec
import uvloop

from fastgw._regex import STEPS_LIMIT, overruns
from fastgw.dp import control
from fastgw.dp._runtime import Runtime
from fastgw.dp.process import die_with_parent, raise_file_limit
from fastgw.dp.server import ProxyOptions, ProxyServer
from fastgw.errors import CertificateError, FastgwError, ImageError
from fastgw.obs import logs
from fastgw.obs.accesslog import AccessLog
from fastgw.tls.server import CertificateStore, ProxyTls

CONFIGURE_DEADLINE_S: Final = 10.0

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
_log: Final = logs.get_logger(__name__)
_Channel = control.Channel[control.ToWorker, control.ToSupervisor]


class _Worker:
    """The proxy of this process and the generations that the supervisor speaks about."""

    def __init__(self, channel: _Channel, configure: control.Configure, fds: Sequence[int]) -> None:
        self._channel = channel
        *socket_fds, metrics_fd, tls_fd = fds
        sockets = [socket.socket(fileno=fd) for fd in socket_fds]
        self._listeners = list(zip(sockets, configure.listeners, strict=True))
        options = msgspec.msgpack.decode(configure.options, type=ProxyOptions)
        self._access_log = (
            AccessLog(configure.access_log, is_json=options.access_log_json) if configure.access_log else None
        )
        self._certificates = _read_tls(tls_fd)
        self._server = ProxyServer(
            asyncio.get_running_loop(), options, metrics_fd, self._access_log, self._certificates
        )
        os.close(metrics_fd)
        self._prepared: tuple[int, Runtime] | None = None
        self._staging: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Answer until drained."""
        gc.freeze()
        await self._channel.send(control.Ready())
        while True:
            try:
                message, fds = await self._channel.receive()
            except control.DescriptorsLost as error:
                generation = getattr(error.message, "generation", 0)
                await self._channel.send(control.Refused(generation, str(error), is_passing=True))
                continue
            await self._channel.send(await self._answer(message, fds))
            if isinstance(message, control.Drain):
                return

    def close(self) -> None:
        if self._access_log is not None:
            self._access_log.close()

    async def _answer(self, message: control.ToWorker, fds: Sequence[int]) -> control.ToSupervisor:
        match message:
            case control.Stage():
                self._staging = asyncio.create_task(self._do_stage(message, fds[0]))
                return control.Staged()
            case control.Prepare():
                return await self._do_prepare(message, fds)
            case control.Commit():
                return self._do_commit(message.generation)
            case control.Abandon():
                self._prepared = None
                return control.Abandoned(message.generation)
            case control.Listen():
                await self._server.listen(self._listeners)
                return control.Listening()
            case control.Reopen():
                logs.reopen()
                if self._access_log is not None:
                    self._access_log.reopen()
                return control.Reopened()
            case control.Certify():
                return self._do_certify(fds[0])
            case control.Adjust():
                logs.set_level(message.log_level)
                self._server.adjust(msgspec.msgpack.decode(message.options, type=ProxyOptions))
                return control.Adjusted()
            case control.Drain():
                await self._server.drain(message.deadline_s, message.idle_s)
                return control.Drained()
            case control.Configure():
                raise control.ChannelError("Configure came twice")

    async def _do_stage(self, message: control.Stage, base_fd: int) -> None:
        try:
            await asyncio.to_thread(self._server.stage, base_fd, message.base)
        except (ImageError, OSError, MemoryError) as error:
            # Whatever needs it maps it then, or is refused for the same reason.
            _log.error("a base that was to be mapped ahead: %s", error)
        finally:
            os.close(base_fd)

    async def _do_prepare(self, message: control.Prepare, fds: Sequence[int]) -> control.ToSupervisor:
        begun = time.monotonic()
        try:
            if self._staging is not None:
                await self._staging
                self._staging = None
            # In a thread: the checksum of a large image takes longer than the loop may be held.
            runtime = await asyncio.to_thread(self._server.prepare, *fds, checksum=message.base)
        except ImageError as error:
            return control.Refused(message.generation, str(error))
        except (OSError, MemoryError) as error:
            # What it has it can go on serving.
            reason = getattr(error, "strerror", None) or "out of memory"
            return control.Refused(message.generation, f"cannot map it: {reason}", is_passing=True)
        finally:
            for fd in fds:
                os.close(fd)
        if runtime.digest != message.digest:
            return control.Refused(
                message.generation, f"the image holds {runtime.digest}, not {message.digest}"
            )
        self._prepared = (message.generation, runtime)
        return control.Prepared(message.generation, (time.monotonic() - begun) * 1000)

    def _do_certify(self, tls_fd: int) -> control.ToSupervisor:
        try:
            tls = _decode_tls(tls_fd)
            if self._certificates is not None and tls is not None:
                self._certificates.replace_default(tls.default)
        except CertificateError as error:
            return control.Refused(0, str(error))
        return control.Certified()

    def _do_commit(self, generation: int) -> control.ToSupervisor:
        if self._prepared is None or self._prepared[0] != generation:
            return control.Refused(generation, f"generation {generation} was not prepared")
        runtime = self._prepared[1]
        self._prepared = None
        self._server.commit(runtime)
        return control.Committed(generation)


def _decode_tls(fd: int) -> ProxyTls | None:
    """Read what the supervisor has loaded for ssl listeners; closes *fd*."""
    try:
        # Not read(): the file's position is shared with the other workers.
        content = os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
    return msgspec.msgpack.decode(content, type=ProxyTls) if content else None


def _tell_overrun(pattern: bytes) -> None:
    text = pattern.decode(errors="replace")
    _log.error(
        "the regex %s took more than %d steps on a request: that counts as no match", text, STEPS_LIMIT
    )


def _read_tls(fd: int) -> CertificateStore | None:
    tls = _decode_tls(fd)
    return None if tls is None else CertificateStore(tls.policy, tls.default)


async def _serve(sock: socket.socket) -> int:
    channel = control.make_worker_end(sock)
    worker = None
    try:
        configure, fds = await channel.receive(deadline_s=CONFIGURE_DEADLINE_S)
        if not isinstance(configure, control.Configure):
            raise control.ChannelError(f"the first message is {type(configure).__name__}, not Configure")
        logs.setup(configure.log_level, configure.error_log, process=f"dp worker {configure.worker}")
        overruns.on_first = _tell_overrun
        worker = _Worker(channel, configure, fds)
        await worker.run()
    except control.ChannelClosed:
        return 0  # the supervisor is gone or wants no more of this process
    except (FastgwError, OSError) as error:
        _log.critical("this worker ends: %s", error)
        return 1
    finally:
        if worker is not None:
            worker.close()
        channel.close()
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the worker on the channel that *arguments* name; return the exit code."""
    if len(arguments) != 2 or arguments[0] != "--fd" or not arguments[1].isdigit():
        sys.stderr.write("usage: python -m fastgw.dp.worker --fd N (started by 'fastgw dp')\n")
        return 2
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent()
    raise_file_limit()
    sock = socket.socket(fileno=int(arguments[1]))
    gc.collect()  # of what importing left; on the loop it would hold that for 10 ms
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(sock))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
