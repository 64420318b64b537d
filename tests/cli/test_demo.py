"""The echo upstream of the demo: what it echoes, and what ends a connection."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from fastgw.cli.quickstart.demo import MAX_BODY_BYTES, EchoUpstream

T = TypeVar("T")


def with_upstream(use: Callable[[EchoUpstream], Awaitable[T]]) -> T:
    async def run() -> T:
        upstream = EchoUpstream()
        await upstream.start()
        try:
            return await asyncio.wait_for(use(upstream), 10)
        finally:
            await upstream.close()

    return asyncio.run(run())


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def exchange(*requests: bytes) -> bytes:
    """Send requests on one connection; returns all bytes up to its end."""

    async def use(upstream: EchoUpstream) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(b"".join(requests))
        try:
            return await reader.read()
        except ConnectionResetError:  # closed with our bytes unread
            return b""
        finally:
            await hang_up(writer)

    return with_upstream(use)


def test_echo_of_method_path_headers_and_body() -> None:
    async def use(upstream: EchoUpstream) -> list[dict[str, object]]:
        def ask() -> list[dict[str, object]]:
            connection = http.client.HTTPConnection("127.0.0.1", upstream.port, timeout=5)
            echoes = []
            for path, body in (("/a?x=1", b"hello"), ("/b", [b"in ", b"chunks"])):
                connection.request("PUT", path, body, {"X-One": "1"}, encode_chunked=isinstance(body, list))
                echoes.append(json.load(connection.getresponse()))
            connection.close()
            return echoes

        return await asyncio.to_thread(ask)

    first, second = with_upstream(use)
    assert (first["method"], first["path"], first["body"]) == ("PUT", "/a?x=1", "hello")
    assert isinstance(first["headers"], dict)
    assert first["headers"]["X-One"] == "1"
    assert (second["path"], second["body"]) == ("/b", "in chunks")


def test_a_head_request_has_no_body_and_close_closes() -> None:
    answer = exchange(b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in head
    assert body == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1),
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_ends_the_connection(request_bytes: bytes) -> None:
    assert exchange(request_bytes) == b""


def test_it_ends_with_connections_open() -> None:
    async def use(upstream: EchoUpstream) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await reader.readuntil(b"}\n")
        await upstream.close()
        assert await reader.read() == b""
        await hang_up(writer)

    with_upstream(use)
