"""From a control plane's address to a connection with TLS on it: resolved afresh, every address tried.

Contract. Bounded by `CONNECT_TIMEOUT_S` in all. Every failure is one RemoteLinkError whose text says which
step failed and, for a handshake, which check.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
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


async def connect(address: str, tls: LinkTls, make_protocol: Callable[[], _P]) -> _P:
    """Connect to the first address of that name that takes us, and finish the TLS handshake.

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
            return await _connect_to_any(host, port, tls, make_protocol)
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


async def _connect_to_any(host: str, port: int, tls: LinkTls, make_protocol: Callable[[], _P]) -> _P:
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for left, (family, kind, protocol, _, address) in zip(
        reversed(range(len(addresses))), addresses, strict=True
    ):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # One address that swallows packets must leave time for the others.
            async with asyncio.timeout(CONNECT_TIMEOUT_S / len(addresses)):
                await loop.sock_connect(connection, address)
        except OSError:
            connection.close()
            if left == 0:
                raise
            continue
        except BaseException:
            connection.close()
            raise
        return await _shake_hands(connection, tls, tls.name_at(host), make_protocol)
    raise RemoteLinkError(f"the name {host} has no address")


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
