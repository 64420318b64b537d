"""The control channel: messages and descriptors across a real socket pair, and everything that is none."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.dp import control

T = TypeVar("T")
Ends = tuple[
    control.Channel[control.ToSupervisor, control.ToWorker],
    control.Channel[control.ToWorker, control.ToSupervisor],
]
CONFIGURE = control.Configure(
    node_id="7f2f1b4e-8f3c-4f3e-9d4a-0d7a1f0f5a11",
    worker=3,
    options=msgspec.Raw(msgspec.msgpack.encode({"any": ["thing", 1]})),
    listeners=(control.ListenerKind(), control.ListenerKind(is_tls=True)),
    log_level="notice",
    error_log=None,
    access_log="/dev/stdout",
)
TO_WORKER: list[control.ToWorker] = [
    control.Commit(7),
    control.Abandon(7),
    control.Listen(),
    control.Drain(2.5, 0.5),
    control.Reopen(),
    control.Adjust(msgspec.Raw(b"\x80"), "debug"),
]
TO_SUPERVISOR: list[control.ToSupervisor] = [
    control.Ready(),
    control.Adjusted(),
    control.Prepared(7, 1.25),
    control.Refused(7, "its checksum is wrong"),
    control.Abandoned(7),
    control.Committed(7),
    control.Listening(),
    control.Drained(),
    control.Reopened(),
]


def run(test: Callable[[Ends], Awaitable[T]]) -> T:
    async def main() -> T:
        ours, theirs = control.make_pair()
        ends = control.make_supervisor_end(ours), control.make_worker_end(theirs)
        try:
            async with asyncio.timeout(10):
                return await test(ends)
        finally:
            for end in ends:
                end.close()

    return asyncio.run(main())


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def raw_worker_end() -> tuple[socket.socket, control.Channel[Any, Any]]:
    """A socket to write anything to, and the end that has to make sense of it."""
    ours, theirs = control.make_pair()
    return ours, control.make_worker_end(theirs)


def test_every_message_arrives_as_it_was_sent() -> None:
    async def test(ends: Ends) -> None:
        supervisor, worker = ends
        for message in TO_WORKER:
            await supervisor.send(message)
            assert await worker.receive() == (message, ())
        for answer in TO_SUPERVISOR:
            await worker.send(answer)
            assert await supervisor.receive() == (answer, ())

    run(test)


def test_descriptors_arrive_in_their_order_and_are_not_inherited() -> None:
    async def test(ends: Ends) -> None:
        supervisor, worker = ends
        files = [os.memfd_create(f"file-{number}") for number in range(4)]
        for number, fd in enumerate(files):
            os.write(fd, b"%d" % number)
        await supervisor.send(CONFIGURE, files)
        message, fds = await worker.receive()
        assert message == CONFIGURE
        assert [os.pread(fd, 9, 0) for fd in fds] == [b"0", b"1", b"2", b"3"]
        assert not any(os.get_inheritable(fd) for fd in fds)
        for fd in (*files, *fds):
            os.close(fd)

    run(test)


def test_a_receiver_that_waits_is_woken() -> None:
    async def test(ends: Ends) -> None:
        supervisor, worker = ends
        receiving = asyncio.create_task(worker.receive())
        await asyncio.sleep(0)
        assert not receiving.done()
        await supervisor.send(control.Listen())
        assert (await receiving).message == control.Listen()

    run(test)


def test_a_sender_waits_for_a_slow_receiver_and_nothing_is_lost() -> None:
    async def test(ends: Ends) -> None:
        supervisor, worker = ends

        async def send_all() -> None:
            for number in range(2000):
                await supervisor.send(control.Commit(number))

        sending = asyncio.create_task(send_all())
        received = [(await worker.receive()).message for _ in range(2000)]
        await sending
        assert received == [control.Commit(number) for number in range(2000)]

    run(test)


def test_deadlines_hold_on_both_sides() -> None:
    async def test(ends: Ends) -> None:
        supervisor, worker = ends
        with pytest.raises(TimeoutError):
            await worker.receive(deadline_s=0.01)

        async def send_for_ever() -> None:
            while True:
                await supervisor.send(control.Commit(1), deadline_s=0.05)

        with pytest.raises(TimeoutError):
            await send_for_ever()

    run(test)


def test_the_end_of_the_other_side_is_noticed() -> None:
    async def test(ends: Ends) -> None:
        supervisor, worker = ends
        await worker.send(control.Ready())
        worker.close()
        assert (await supervisor.receive()).message == control.Ready()
        with pytest.raises(control.ChannelClosed):
            await supervisor.receive()
        with pytest.raises(control.ChannelClosed):
            await supervisor.send(control.Listen())
        supervisor.close()
        with pytest.raises(control.ChannelClosed):
            await supervisor.receive()

    run(test)


def test_too_much_is_not_sent() -> None:
    async def test(ends: Ends) -> None:
        supervisor, _ = ends
        with pytest.raises(ValueError, match="are too many"):
            await supervisor.send(control.Prepare(1, 1, "x" * control.MESSAGE_LIMIT_BYTES, "", False), [0])
        with pytest.raises(ValueError, match="are too many"):
            await supervisor.send(control.Listen(), [0] * (control.FDS_LIMIT + 1))

    run(test)


@pytest.mark.parametrize(
    ("packet", "count", "reason"),
    [
        (b"x" * (control.MESSAGE_LIMIT_BYTES + 1), 0, "larger than"),
        (msgspec.msgpack.encode(control.Listen()), control.FDS_LIMIT + 60, "larger than"),
        (msgspec.msgpack.encode(control.Listen()), 1, "Listen came with 1 descriptors"),
        (msgspec.msgpack.encode(control.Prepare(1, 1, "", "", False)), 0, "Prepare came with 0 descriptors"),
        (msgspec.msgpack.encode(CONFIGURE), 3, "Configure came with 3 descriptors"),
        (msgspec.msgpack.encode(control.Ready()), 0, "not a control message"),
        (b"\xc1", 1, "not a control message"),
    ],
)
def test_what_is_no_message_is_refused_and_its_descriptors_are_closed(
    packet: bytes, count: int, reason: str
) -> None:
    async def main() -> None:
        sock, worker = raw_worker_end()
        with sock:
            before = open_fds()
            fds = array.array("i", [sock.fileno()] * count)
            sock.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if count else [])
            with pytest.raises(control.ChannelError, match=reason):
                await worker.receive()
            assert open_fds() == before
        worker.close()

    asyncio.run(main())


@given(st.binary(min_size=1, max_size=200))
def test_arbitrary_packets_are_messages_or_refused(packet: bytes) -> None:
    async def main() -> None:
        sock, worker = raw_worker_end()
        with sock:
            sock.send(packet)
            try:
                message, fds = await worker.receive()
            except control.ChannelError:
                pass
            else:
                assert isinstance(message, control.ToWorker)
                assert fds == ()
        worker.close()

    asyncio.run(main())
