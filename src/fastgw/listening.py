"""Opening a listening socket, with one clear line when that fails."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import Final

from fastgw.errors import ListenError
from fastgw.settings import Listen

_REASONS: Final = {
    errno.EADDRINUSE: "the port is taken by another process; stop that one or choose another port",
    errno.EADDRNOTAVAIL: "this machine does not have that address",
    errno.EACCES: "this user may not listen on that port (below 1024 it takes CAP_NET_BIND_SERVICE)",
}


def open_listener(listen: Listen, *, name: str) -> socket.socket:
    """Bind and listen; the socket does not block and is not inherited by children.

    Args:
        name: the property that the address comes from, for messages.

    Raises:
        ListenError: the address cannot be listened on: which, and why.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise ListenError(f"{name} {listen}: the name does not resolve: {exc.strerror}") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listen.reuseport:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, listen.ipv6only)
        listener.setblocking(False)
        listener.bind(address)
        adopt_listener(listener, listen)
    except OSError as exc:
        listener.close()
        number = exc.errno or 0
        reason = _REASONS.get(number, os.strerror(number).lower())
        raise ListenError(f"{name} {listen}: {reason}") from None
    return listener


def adopt_listener(listener: socket.socket, listen: Listen) -> None:
    """Listen on a bound socket, or go on listening, as *listen* says; nothing that waits there is lost.

    Raises:
        OSError: the kernel refuses an option.
    """
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, listen.deferred)
    if listen.so_keepalive is not None:
        _probe(listener, *listen.so_keepalive)
    listener.listen(listen.backlog)


def _probe(listener: socket.socket, idle_s: int, interval_s: int, count: int) -> None:
    """Have the kernel probe idle connections; accepted sockets inherit it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, idle_s),
        (socket.TCP_KEEPINTVL, interval_s),
        (socket.TCP_KEEPCNT, count),
    ):
        if value:
            listener.setsockopt(socket.IPPROTO_TCP, option, value)


def address_of(listener: socket.socket) -> str:
    """What a listening socket is bound to, as `127.0.0.1:8001`; the port is the real one."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_listeners(listens: Iterable[Listen], *, name: str) -> list[socket.socket]:
    """Open one socket for each, or none at all.

    Raises:
        ListenError: as `open_listener`.
    """
    listeners: list[socket.socket] = []
    try:
        for listen in listens:
            listeners.append(open_listener(listen, name=name))  # noqa: PERF401 (those before are to be closed)
    except ListenError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
