"""Closing the door: who has connected gets in while there is room, and the others are left to who else serves."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest
import uvloop

from fastgw.dp.accepting import Acceptor
from fastgw.obs.logs import get_logger


class Greeting(asyncio.Protocol):
    """Says who it is to whoever gets in."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its type.
        out = cast("asyncio.Transport", transport)
        out.write(b"in")
        out.close()


@pytest.mark.parametrize("room", [-1, 0, 2, 3, 5])
@pytest.mark.parametrize("is_paused", [False, True])
def test_closing(room: int, is_paused: bool) -> None:
    async def scenario() -> None:
        acceptor = Acceptor(asyncio.get_running_loop(), get_logger("dp worker"))
        listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        with listener.dup() as elsewhere:
            elsewhere.setblocking(False)
            await acceptor.add(listener, Greeting, 16)
            if is_paused:
                acceptor.pause()
            # The loop does not turn meanwhile.
            clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
            await acceptor.close(room)
            taken = max(0, min(room, 3))
            for client in clients[:taken]:
                assert await asyncio.to_thread(client.recv, 2) == b"in"
            for _ in clients[taken:]:
                elsewhere.accept()[0].close()
            with pytest.raises(BlockingIOError):
                elsewhere.accept()
            for client in clients:
                client.close()

    uvloop.run(scenario())
