"""What one connection to the Admin API or a status port may cost: heads, leftovers, answers nobody takes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from fastgw.bounded_http import FIELDS_LIMIT, HEAD_LIMIT_BYTES, BoundedProtocol
from tests.waiting import wait_until

DEADLINE_S = 20.0
LARGE = b"x" * (16 * 1024 * 1024)
SOME = b"x" * 50_000
"""Less than a transport holds before it has the application wait, more than sockets that were told to hold little."""
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


class Patient(BoundedProtocol):
    """With the real sizes; nothing ends for the time it takes."""

    head_deadline_s = leftover_deadline_s = taking_deadline_s = 10 * DEADLINE_S


class Hasty(BoundedProtocol):
    head_deadline_s = leftover_deadline_s = taking_deadline_s = 0.1
    connections_limit = 2


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers without reading the body, but at /read; at /large with more than any socket's buffers hold."""
    while scope["path"] == "/read" and (message := await receive()).get("more_body"):
        assert message["type"] == "http.request"
    body = {"/large": LARGE, "/some": SOME}.get(scope["path"], b"hello")
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serving(
    protocol: type[BoundedProtocol], *, sends_bytes: int | None = None
) -> Iterator[tuple[int, set[Any]]]:
    """A server on a port, and its connections.

    Args:
        sends_bytes: how much the system keeps of what is sent and not taken, roughly.
    """
    config = uvicorn.Config(
        application, http=protocol, ws="none", lifespan="off", log_config=None, timeout_keep_alive=1000
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if sends_bytes is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sends_bytes)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1], server.server_state.connections
        finally:
            server.should_exit = server.force_exit = True
            thread.join(DEADLINE_S)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def patient() -> Iterator[int]:
    with serving(Patient) as (port, _):
        yield port


@pytest.fixture(scope="module")
def hasty() -> Iterator[tuple[int, set[Any]]]:
    with serving(Hasty) as server:
        yield server


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S)


def read_to_end(client: socket.socket) -> bytes:
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(1 << 20):
            received += data
    return bytes(received)


def exchange(port: int, sent: bytes) -> bytes:
    """What comes until the server closes."""
    with connect(port) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        return read_to_end(client)


def test_requests_and_pipelined_ones_are_served(patient: int) -> None:
    answers = exchange(patient, (HEAD + b"\r\n") * 500 + HEAD + b"Connection: close\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200 OK") == 501


def test_a_head_in_pieces_is_one(patient: int) -> None:
    with connect(patient) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in HEAD + b"Connection: close\r\n\r\n":
            client.sendall(bytes((byte,)))
        assert read_to_end(client).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "sent",
    [
        HEAD + b"X: " + b"a" * HEAD_LIMIT_BYTES + b"\r\n\r\n",
        HEAD + b"X: " + b"a" * (4 * HEAD_LIMIT_BYTES),
        HEAD + b"".join(b"X%d: a\r\n" % number for number in range(FIELDS_LIMIT + 1)) + b"\r\n",
        b"GET /" + b"a" * HEAD_LIMIT_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /" + b"a" * (4 * HEAD_LIMIT_BYTES),
    ],
    ids=["a field", "a field without end", "fields", "a path", "a path without end"],
)
def test_a_head_that_is_too_large(patient: int, sent: bytes) -> None:
    answer = exchange(patient, sent)
    # Where more was under way than was read, closing may reset the connection before the answer is taken.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert answer == b"" or answer.endswith(b'{"message": "Request head is too large"}')


CHUNKED = b"POST /read HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "rest",
    [
        b"0\r\nX: " + b"a" * (8 * HEAD_LIMIT_BYTES),
        b"0\r\n" + b"".join(b"X%d: a\r\n" % number for number in range(FIELDS_LIMIT + 1)) + b"\r\n",
        b"5\r\nhello\r\n1;x=" + b"a" * (8 * HEAD_LIMIT_BYTES),
    ],
    ids=["a field without end", "fields", "a chunk extension without end"],
)
def test_trailers_that_are_too_large(patient: int, rest: bytes) -> None:
    answer = exchange(patient, CHUNKED + rest)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert answer == b"" or answer.endswith(b'{"message": "Request trailers are too large"}')


def test_a_body_in_the_smallest_chunks_is_one(patient: int) -> None:
    body = b"1\r\na\r\n" * HEAD_LIMIT_BYTES + b"0\r\nX: a\r\n\r\n"
    assert exchange(patient, CHUNKED + body).endswith(b"hello")


def test_what_is_no_chunk_is_told_in_json(patient: int) -> None:
    assert exchange(patient, CHUNKED + b"x\r\n").endswith(b'{"message": "Invalid HTTP request received."}')


def test_what_is_no_http_is_told_in_json(patient: int) -> None:
    assert exchange(patient, b"\x16\x03\x01\r\n\r\n").endswith(
        b'{"message": "Invalid HTTP request received."}'
    )


def test_a_head_that_does_not_end(hasty: tuple[int, set[Any]]) -> None:
    answer = exchange(hasty[0], HEAD)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer


def test_a_connection_that_says_nothing(hasty: tuple[int, set[Any]]) -> None:
    assert exchange(hasty[0], b"") == b""


def test_the_second_head_has_the_same_deadline(hasty: tuple[int, set[Any]]) -> None:
    with connect(hasty[0]) as client:
        client.sendall(HEAD + b"\r\n")
        assert client.recv(65536)
        client.sendall(HEAD)
        assert b"HTTP/1.1 408 " in read_to_end(client)


@pytest.mark.parametrize("rest", [b"", b"12345"], ids=["that stops", "that goes on"])
def test_the_rest_of_a_body_that_was_answered(hasty: tuple[int, set[Any]], rest: bytes) -> None:
    with connect(hasty[0]) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n" + rest)
        assert read_to_end(client).endswith(b"hello")


def test_a_pipelined_body_has_its_own_time() -> None:
    """The time for the rest of an answered body is not that of the one behind it, which is read still."""

    class Brief(Patient):
        leftover_deadline_s = 0.1

    with serving(Brief) as (port, _), connect(port) as client:
        client.sendall(HEAD + b"\r\nPOST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        answer = b""
        while b"hello" not in answer and (data := client.recv(65536)):
            answer += data
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(65536)
        client.settimeout(DEADLINE_S)
        client.sendall(b"a" * 1000)
        while answer.count(b"hello") < 2 and (data := client.recv(65536)):
            answer += data
        assert answer.count(b"hello") == 2


def test_a_body_that_ends_after_its_answer_leaves_no_connection_behind(hasty: tuple[int, set[Any]]) -> None:
    with connect(hasty[0]) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12")
        assert client.recv(65536)
        client.sendall(b"345")
        assert read_to_end(client).count(b"HTTP/") <= 1


def test_an_answer_that_nobody_takes(hasty: tuple[int, set[Any]]) -> None:
    port, connections = hasty
    with connect(port) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: connections, DEADLINE_S, "the connection is there")
        wait_until(lambda: not connections, DEADLINE_S, "the connection is given up")


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
def test_the_end_of_an_answer_that_nobody_takes(connection: bytes) -> None:
    with serving(Hasty, sends_bytes=4096) as (port, connections), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /some HTTP/1.1\r\nHost: a\r\nConnection: " + connection + b"\r\n\r\n")
        wait_until(lambda: connections, DEADLINE_S, "the connection is there")
        wait_until(lambda: not connections, DEADLINE_S, "the connection is given up")


def test_a_large_answer_that_is_taken_arrives(patient: int) -> None:
    answer = exchange(patient, b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.endswith(LARGE)


def test_one_connection_too_many() -> None:
    class Crowded(Patient):
        connections_limit = 2

    with serving(Crowded) as (port, connections), contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connect(port))
        wait_until(lambda: len(connections) == 2, DEADLINE_S, "two are connected")
        assert exchange(port, b"").startswith(b"HTTP/1.1 503 ")
        stack.close()
        wait_until(lambda: not connections, DEADLINE_S, "they are gone")
        assert exchange(port, HEAD + b"Connection: close\r\n\r\n").endswith(b"hello")
