"""Start, watch and stop everything of a quickstart.

Steps: one quickstart per state directory (flock) → every port free → key pair there → control plane answers →
demo configured → data plane has applied a configuration, and serves the demo → banner → a signal, or a
child's end → data plane stops, then the control plane. Whatever fails on the way, both are stopped before
this returns.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final

import click

from fastgw.cli.ask import Answer, ask
from fastgw.cli.hybrid import write_pair
from fastgw.cli.quickstart.banner import make_banner
from fastgw.cli.quickstart.children import Child
from fastgw.cli.quickstart.demo import EchoUpstream
from fastgw.cli.quickstart.layout import Layout, child_environment
from fastgw.errors import FastgwError, SettingsError
from fastgw.settings import Listen

START_DEADLINE_S: Final = 30.0
STOP_DEADLINE_S: Final = 10.0
POLL_S: Final = 0.05


class QuickstartError(FastgwError):
    code = "quickstart"


async def run(layout: Layout, *, demo: bool, fresh: bool) -> int:
    """Run until a signal asks to stop; returns the exit code.

    Raises:
        SettingsError: a port is taken, or the state directory is in use.
        QuickstartError: a child ended or did not answer in time.
    """
    stopping = asyncio.Event()
    children: list[Child] = []

    def on_signal() -> None:
        if stopping.is_set():  # asked twice: no more patience
            for child in children:
                child.kill()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    with _only_one(layout):
        check_ports(layout)
        _prepare_state(layout, fresh)
        _warn_of_variables()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_stop_all, children)
            starting = asyncio.create_task(_start(layout, demo, children, stack))
            try:
                if await _first(starting, stopping):
                    click.echo(starting.result())
                    await _watch(children, stopping)
            finally:
                starting.cancel()
                await asyncio.wait([starting])
            click.echo("stopping …")
    click.echo("stopped")
    return 0


def check_ports(layout: Layout) -> None:
    """Raise SettingsError that names every port that is taken, and the option that chooses another."""
    taken = []
    for name, listen, option in layout.doors:
        with socket.socket(socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen.host, listen.port))
                # Bound is not enough: a listener on all addresses shows itself only here.
                probe.listen(1)
            except OSError as error:
                taken.append(f"{listen} ({name}; {option} chooses another): {(error.strerror or '').lower()}")
    if taken:
        raise SettingsError(f"cannot listen on {' and on '.join(taken)}")


@contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    lock_path = layout.state.with_name("quickstart.lock")
    try:
        lock_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingsError(
            f"cannot write to {lock_path.parent}: {reason} (--prefix chooses another place)"
        ) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            f"another quickstart runs with {layout.state}: stop it, or use --prefix"
        ) from None
    else:
        yield
    finally:
        os.close(fd)


def _prepare_state(layout: Layout, fresh: bool) -> None:
    if fresh and layout.state.exists():
        shutil.rmtree(layout.state)
        click.echo(f"removed {layout.state}")
    layout.state.mkdir(mode=0o700, exist_ok=True)
    if not (layout.certificate.exists() and layout.key.exists()):
        # One without the other is what a crash between the two left.
        layout.certificate.unlink(missing_ok=True)
        layout.key.unlink(missing_ok=True)
        write_pair(layout.certificate, layout.key)


def _warn_of_variables() -> None:
    names = sorted(name for name in os.environ if name.startswith(("FASTGW_", "KONG_")))
    if names:
        click.echo(f"fastgw: warning: not used by quickstart: {', '.join(names)}", err=True)


async def _start(layout: Layout, demo: bool, children: list[Child], stack: AsyncExitStack) -> str:
    """Start everything, in order; returns the banner."""
    environ = child_environment(os.environ)
    children.append(await Child.start("cp", "cyan", layout.arguments("cp"), environ))
    await _answering("the control plane", layout.admin, "/status", children)
    demo_port = None
    if demo:
        # Before the data plane starts, so that its first configuration has the demo already.
        upstream = await stack.enter_async_context(_echo_upstream())
        demo_port = upstream.port
        await _configure_demo(layout, demo_port)
    children.append(await Child.start("dp", "magenta", layout.arguments("dp"), environ))
    await _answering("the data plane", layout.status, "/status/ready", children)
    if demo:
        # A data plane that starts from disk is ready before it has this start's upstream.
        await _answering("the demo's route", layout.proxy, "/demo", children)
    return make_banner(layout, demo_port)


@asynccontextmanager
async def _echo_upstream() -> AsyncIterator[EchoUpstream]:
    upstream = EchoUpstream()
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.close()


async def _configure_demo(layout: Layout, port: int) -> None:
    service = await _put(
        layout.admin, "/services/demo", {"host": "127.0.0.1", "port": port, "protocol": "http"}
    )
    await _put(layout.admin, "/routes/demo", {"paths": ["/demo"], "service": {"id": service.body["id"]}})


async def _put(listen: Listen, path: str, document: object) -> Answer:
    answer = await asyncio.to_thread(ask, listen, path, method="PUT", document=document)
    if answer.status not in (200, 201):
        raise QuickstartError(f"PUT http://{listen}{path} answered {answer.status}: {answer.body}")
    return answer


async def _answering(what: str, listen: Listen, path: str, children: list[Child]) -> None:
    """Wait until *path* answers 200, or say why it does not: a child's end, or the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_DEADLINE_S
    last = "no answer"
    while loop.time() < deadline:
        try:
            answer = await asyncio.to_thread(ask, listen, path, timeout_s=2.0)
            if answer.status == 200:
                return
            last = f"it answered {answer.status}"
        except OSError as error:
            last = (error.strerror or str(error)).lower()
        _check_children(children)
        await asyncio.sleep(POLL_S)
    raise QuickstartError(
        f"{what} is not ready after {START_DEADLINE_S:g} s at http://{listen}{path}: {last}"
    )


def _check_children(children: list[Child]) -> None:
    for child in children:
        if child.exit_code is not None:
            how = f"signal {-child.exit_code}" if child.exit_code < 0 else f"exit code {child.exit_code}"
            raise QuickstartError(f"{child.name} ended by itself with {how}; its lines above say why")


async def _watch(children: list[Child], stopping: asyncio.Event) -> None:
    """Return when a signal asks to stop; raise when a child ends before that."""
    waiting = [
        asyncio.create_task(event.wait()) for event in (stopping, *(child.ended for child in children))
    ]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    if not stopping.is_set():
        _check_children(children)


async def _first(starting: asyncio.Task[str], stopping: asyncio.Event) -> bool:
    """Wait for the start or for a signal; True when the start is through. Raises what the start raised."""
    signalled = asyncio.create_task(stopping.wait())
    await asyncio.wait([starting, signalled], return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if starting.done():
        starting.result()
    return starting.done()


async def _stop_all(children: list[Child]) -> None:
    """Stop in reverse order, so that the data plane does not report the control plane as lost."""
    for child in reversed(children):
        await child.stop(STOP_DEADLINE_S)
