"""200 clients at once, each with cases of its own kind and order: every body is checked, none is another's."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Sequence

from tests.dp.recorder import Client, Message, recording
from tests.waiting import wait_until

CLIENTS = 200
TURNS = 8


def payload(token: str, size: int) -> bytes:
    unit = f"<{token}>".encode()
    return (unit * (size // len(unit) + 1))[:size]


def answer(request: Message) -> Sequence[bytes | None]:
    """Answer by the path: /kind/token/size. A POST gets its body back."""
    _, kind, token, size = request.line.split(" ")[1].split("/")
    body = request.body if request.line.startswith("POST") else payload(token, int(size))
    length = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    half = len(body) // 2
    if kind == "chunked":
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunks, b"0\r\nX-Sum: 1\r\n\r\n"
    if kind == "close":
        return b"HTTP/1.1 200 OK\r\n\r\n" + body[:half], body[half:], None
    if kind == "broken":
        return length + body[:half], None
    if kind == "dead":
        return (None,)
    if kind == "hints":
        return b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + length, body
    if kind == "surplus":
        return (length + body + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",)
    if request.line.startswith("HEAD"):
        return (length,)
    return length + body[:half], body[half:]


def ask(client: Client, number: int, turn: int, dice: random.Random) -> bool:
    """One exchange of a random kind; False when the connection is of no use afterwards."""
    token, size = f"{number}-{turn}", dice.choice([1, 50, 3_000, 70_000])
    kind = dice.choice(["length", "chunked", "close", "hints", "surplus", "pipelined", "post", "chunks", "head",
                        "broken", "dead", "abort", "refused", "leave"])  # fmt: skip
    path = f"/{kind}/{token}/{size}".encode()
    body = payload(token, size)
    if kind == "post":
        client.send(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, size) + body)
    elif kind == "chunks":
        client.send(b"POST %s HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % path)
        client.send(b"%x\r\n%s\r\n0\r\n\r\n" % (size, body))
    elif kind == "abort":
        client.send(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path, size + 1) + body)
        client.reset()
        return False
    elif kind == "leave":
        client.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        client.close()
        return False
    elif kind == "refused":
        client.send(b"GET %s HTTP/1.1\r\nHost : a\r\n\r\n" % path)
        assert client.read_message().status == 400
        return False
    elif kind == "head":
        client.send(b"HEAD %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
        assert client.read_message("HEAD").values("Content-Length") == [str(size)]
        return True
    elif kind == "pipelined":
        one = b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n"
        client.send(one % path + one % f"/length/{token}x/{size}".encode())
        assert client.read_message().body == body
        body = payload(token + "x", size)
    else:
        client.send(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
    if kind == "broken":
        with contextlib.suppress(EOFError, ConnectionError):
            raise AssertionError(f"looks whole: {client.read_message()}")
        return False
    got = client.read_message()
    if kind == "dead":
        assert got.status == 502
        return True
    assert got.status == 200, (kind, got)
    assert got.body == body, (kind, token)
    return True


def test_200_clients_with_mixed_cases() -> None:
    with recording(service={"retries": 0}) as gateway:
        gateway.upstream.answer = answer
        faults: list[object] = []

        def run(number: int) -> None:
            dice = random.Random(number)
            client = gateway.client()
            for turn in range(TURNS):
                try:
                    is_usable = ask(client, number, turn, dice)
                except Exception as error:
                    faults.append((number, turn, error))
                    return
                if not is_usable:
                    client.close()
                    client = gateway.client()
            client.close()

        run_all(run)
        assert faults == []
        for request in gateway.upstream.requests:
            if request.line.startswith("POST"):
                _, _, token, size = request.line.split(" ")[1].split("/")
                assert request.body == payload(token, int(size))
        wait_until(lambda: gateway.proxy.totals()["connections_busy"] == 0, 5, "exchanges to end")
        wait_until(lambda: gateway.proxy.totals()["connections_active"] == 0, 5, "connections to end")


def run_all(run: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
