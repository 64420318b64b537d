"""From a control plane's address to a connection with TLS on it: resolved afresh, every address tried.

Contract. Bounded by `CONNECT_TIMEOUT_S` in all. Every failure is one RemoteLinkError whose text says which
step failed and, for a handshake, which check.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable
from typing import TypeVar

from fastgw.errors import CertificateError, RemoteLinkError
from fastgw.tls.cluster import LinkTls
from fastgw.tls.handshake import alert_of, explain_handshake_failure
from fastgw.wire.pacing import CONNECT_TIMEOUT_S

_P = TypeVar("_P", bound=asyncio.Protocol)


def split_address(address: str) -> tuple[str, int]:
    """Host and port of `host:port`, an IPv6 address without its brackets."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def explain_name(host: str, fault: ValueError) -> str:
    """Say what resolvers and TLS raise for what can be no name: a ValueError, mostly a UnicodeError."""
    return f"the name {host} cannot be asked for: {fault}"


async def connect(
    address: str,
    tls: LinkTls,
    make_protocol: Callable[[], _P],
    draw: Callable[[], float] = random.random,
) -> _P:
    """Connect to the first address of that name that takes us, and finish the TLS handshake.

    Args:
        draw: a number from 0 up to 1, which says with which of the addresses to begin: what comes after TLS
            may fail as well, and then another one has its turn.

    Raises:
        RemoteLinkError: no connection; says why.
    """
    host, port = split_address(address)
    try:
        _ = tls.client_context  # made at its first use
    except CertificateError as exc:
        raise RemoteLinkError(str(exc)) from exc
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return await _connect_to_any(host, port, tls, make_protocol, draw)
    except ssl.SSLError as exc:
        raise RemoteLinkError(explain_handshake_failure(exc, is_shared=tls.is_shared)) from exc
    except TimeoutError:
        raise RemoteLinkError(f"no connection within {CONNECT_TIMEOUT_S:g} s") from None
    except socket.gaierror as exc:
        raise RemoteLinkError(f"the name {host} does not resolve: {exc.strerror}") from exc
    except ValueError as exc:
        raise RemoteLinkError(explain_name(host, exc)) from exc
    except OSError as exc:
        raise RemoteLinkError(f"cannot connect: {os.strerror(exc.errno) if exc.errno else exc}") from exc


async def _connect_to_any(
    host: str, port: int, tls: LinkTls, make_protocol: Callable[[], _P], draw: Callable[[], float]
) -> _P:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise RemoteLinkError(f"the name {host} has no address")
    first = int(draw() * len(found))
    for left, (family, kind, protocol, _, address) in zip(
        reversed(range(len(found))), found[first:] + found[:first], strict=True
    ):
        try:
            # One address that swallows packets, or never answers, must leave time for the others.
            async with asyncio.timeout(CONNECT_TIMEOUT_S / len(found)):
                connection = await _open(family, kind, protocol, address)
                return await _shake_hands(connection, tls, tls.name_at(host), make_protocol)
        except OSError:
            if left == 0:
                raise
    raise AssertionError("the last of them has raised")


async def _open(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    connection = socket.socket(family, kind, protocol)
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


async def _shake_hands(
    connection: socket.socket, tls: LinkTls, server_name: str, make_protocol: Callable[[], _P]
) -> _P:
    context = tls.client_context
    # The event loop closes what it was given without the alert that tells the peer why.
    with connection.dup() as second:
        try:
            _, made = await asyncio.get_running_loop().create_connection(
                make_protocol, sock=connection, ssl=context, server_hostname=server_name
            )
        except BaseException as exc:
            # The loop has closed the descriptor, or will. Where the first write failed, this object does
            # not know, and would close the number once more, when it is another connection's.
            connection.detach()
            if isinstance(exc, ssl.SSLError):
                with contextlib.suppress(OSError):
                    second.send(alert_of(exc))
            raise
    return made
