"""Accepts on a worker's listening sockets, and not while there is no room for more connections.

The event loop cannot pause a listening socket, so it is given a duplicate: closing that stops the accepting,
while the socket itself goes on to hold clients in the kernel's backlog until a new duplicate is served.
"""

from __future__ import annotations

import asyncio
import itertools
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from fastgw.obs.logs import Logger

#: Descriptors of a worker that are not for connections: log, image, listening sockets, links, resolver.
SPARE_DESCRIPTORS: Final = 64
#: How long until accepting is tried again when it could not be taken up, in seconds.
RETRY_S: Final = 0.1


class _Entry(NamedTuple):
    sock: socket.socket
    make_connection: Callable[[], asyncio.BaseProtocol]
    backlog: int


def connections_for(limit: int) -> int:
    """Lower *limit* to what the limit of open files allows: each client may need an upstream connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return limit if soft == resource.RLIM_INFINITY else max(1, min(limit, (soft - SPARE_DESCRIPTORS) // 2))


def _backlog(entry: _Entry) -> Iterator[socket.socket]:
    """Accept those who wait, one by one."""
    entry.sock.setblocking(False)
    while True:
        try:
            yield entry.sock.accept()[0]
        except ConnectionAbortedError:
            continue
        except OSError:
            return  # nobody waits, or there is no descriptor left


class Acceptor:
    """The listening sockets of one worker; they stay its own until `close`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: Logger) -> None:
        self._loop = loop
        self._log = log
        self._entries: list[_Entry] = []
        self._servers: list[asyncio.Server] = []
        self._resuming: asyncio.Task[None] | None = None
        self._is_closed = False
        self.pauses_total = 0

    async def add(
        self, sock: socket.socket, make_connection: Callable[[], asyncio.BaseProtocol], backlog: int
    ) -> None:
        """Accept on *sock* from now on."""
        entry = _Entry(sock, make_connection, backlog)
        self._entries.append(entry)
        self._servers.append(await self._serve(entry))

    def pause(self) -> None:
        """Accept no more for now; clients wait in the backlog."""
        self.pauses_total += 1
        self._stop()

    def resume(self) -> None:
        """Accept again."""
        if not self._is_closed and self._resuming is None:
            self._resuming = self._loop.create_task(self._resume())

    async def close(self, room: int) -> None:
        """Accept what has connected so far, and no more, for good.

        A listening socket that is closed resets whoever waits in its backlog, though the kernel has told them
        that they are connected; unless another process holds it, too, and serves them.

        Args:
            room: for so many more connections.
        """
        self._is_closed = True
        self._stop()
        waiting = ((sock, entry) for entry in self._entries for sock in _backlog(entry))
        # What is accepted would be lost if it were one too many.
        taken = list(itertools.islice(waiting, max(0, room)))
        for entry in self._entries:
            entry.sock.close()
        self._entries.clear()
        for sock, entry in taken:
            try:
                await self._loop.connect_accepted_socket(entry.make_connection, sock)
            except OSError:
                sock.close()  # one who has left meanwhile

    def _stop(self) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def _resume(self) -> None:
        while True:
            try:
                for entry in self._entries[len(self._servers) :]:
                    self._servers.append(await self._serve(entry))
            except OSError as error:
                self._log.error("cannot accept again yet: %s", error.strerror or error)
                await asyncio.sleep(RETRY_S)
            else:
                self._resuming = None
                return

    async def _serve(self, entry: _Entry) -> asyncio.Server:
        duplicate = entry.sock.dup()
        try:
            # The backlog again: the loop calls listen(2), and its default would shrink what was set.
            return await self._loop.create_server(
                entry.make_connection, sock=duplicate, backlog=entry.backlog
            )
        except BaseException:
            duplicate.close()
            raise
