"""A mutation fuzzer: heads, bodies and whole streams against their twins, the parser, and the real proxy.

    make fuzz                                     a minute
    python -m tests.fuzz.driver --seconds 600 --seed 7

Every input comes from a file of `corpus/` by a few mutations. Three judges look at it:

- heads: `_head` and its twin give one verdict and the same facts, and nothing is taken that httptools refuses;
- bodies: `_body`, cut anywhere, and its twin give one verdict and the same bytes;
- streams: sent to the real proxy in pieces, each whole request reaches the upstream once, in order, with its
  body; what is refused reaches nobody; the client gets an answer for each, and an error for a refused one.

The same seed gives the same inputs. A disagreement is written to a file and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser, HttpResponseParser

from fastgw.dp._body import BodyReader
from fastgw.dp._head import read_request_head, read_response_head
from tests.dp.recorder import Recording, recording
from tests.reference import head as head_twin
from tests.reference.body import read_chunked
from tests.reference.stream import read_stream

CORPUS: Final = Path(__file__).parent / "corpus"
MAX_INPUT: Final = 6000
#: One stream through real sockets costs as much as this many heads and bodies.
STREAM_EVERY: Final = 100
ROUTES: Final = [{"paths": ["/"], "service": "svc"}, {"methods": ["OPTIONS"], "service": "svc"}]
TOKENS: Final = [
    b"\r\n", b"\r", b"\n", b"\r\n\r\n", b":", b" ", b"\t", b"\x00", b"\x7f", b"\x80", b",", b";", b"chunked",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: a\r\n", b"Connection: close\r\n", b"HTTP/1.0", b"HTTP/1.1",
    b"0\r\n\r\n", b"5\r\nhello\r\n", b"ffffffffffffffff", b"GET / HTTP/1.1\r\n", b"http://", b"*", b"#", b"%00", b"..", b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"TE: trailers\r\n", b"X: y\r\n", b"-1", b"+1", b"0", b"18446744073709551616",
]  # fmt: skip


class Disagreement(AssertionError):
    """Two that have to agree do not."""


class Fuzzer:
    def __init__(self, seed: int, gateway: Recording | None) -> None:
        self.dice = random.Random(seed)
        self.gateway = gateway
        self.seeds = [path.read_bytes() for path in sorted(CORPUS.glob("*.bin"))]
        self.inputs = 0
        self.streams = 0

    def step(self) -> None:
        """Make one input and judge it. Raises Disagreement, with the input as its last argument."""
        data = self.make_input()
        self.inputs += 1
        judges: list[Callable[[bytes], None]] = [judge_request, judge_response, self.judge_body]
        if self.gateway is not None and self.inputs % STREAM_EVERY == 0:
            judges.append(self.judge_stream)
            self.streams += 1
        for judge in judges:
            try:
                judge(data)
            except Exception as error:
                raise Disagreement(f"{judge.__name__}: {type(error).__name__}: {error}", data) from error

    def make_input(self) -> bytes:
        data = bytearray(self.dice.choice(self.seeds))
        for _ in range(self.dice.choice([0, 1, 1, 1, 2, 3, 6])):
            self.mutate(data)
        return bytes(data[:MAX_INPUT])

    def mutate(self, data: bytearray) -> None:
        dice = self.dice
        at = dice.randint(0, len(data))
        to = min(len(data), at + dice.choice([1, 1, 2, 4, 16, 64]))
        kind = dice.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = dice.randrange(256)
        elif kind == 2:
            del data[at:to]
        elif kind == 3:
            data[at:at] = data[at:to]
        elif kind == 4:
            data[at:at] = dice.choice(TOKENS)
        elif kind == 5:
            data[at:to] = dice.choice(TOKENS)
        elif kind == 6:
            other = dice.choice(self.seeds)
            place = dice.randint(0, len(other))
            data[at:] = other[place:]
        else:
            lines = data.split(b"\r\n")
            first, second = dice.randrange(len(lines)), dice.randrange(len(lines))
            lines[first], lines[second] = lines[second], lines[first]
            data[:] = b"\r\n".join(lines)

    def cut(self, data: bytes, most: int) -> list[bytes]:
        places = sorted(self.dice.randint(0, len(data)) for _ in range(self.dice.randint(0, most)))
        bounds = [0, *places, len(data)]
        return [data[start:end] for start, end in zip(bounds, bounds[1:], strict=False) if start != end]

    def judge_body(self, data: bytes) -> None:
        # The body of a message if there is one, else all of it: most seeds are messages.
        body = data[data.find(b"\r\n\r\n") + 4 :] if b"\r\n\r\n" in data else data
        reader, got, rest = BodyReader("chunked"), b"", b""
        verdict: object = None
        pieces = self.cut(body, 4)
        for place, piece in enumerate(pieces):
            try:
                part, rest = reader.feed(piece)
            except ValueError:
                verdict = "malformed"
                break
            got += part
            if reader.is_complete:
                verdict = got, rest + b"".join(pieces[place + 1 :])
                break
        expect(verdict, read_chunked(body))

    def judge_stream(self, data: bytes) -> None:
        assert self.gateway is not None
        expected = read_stream(data)
        upstream = self.gateway.upstream
        upstream.requests.clear()
        client = self.gateway.client()
        self.gateway.send_pieces(client, self.cut(data, 3))
        try:
            client.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the proxy has closed already
        statuses: list[int | str] = []
        try:
            for method, _ in expected.requests:
                statuses.append(client.read_message(method.decode()).status)
            if expected.is_refused:
                statuses.append(client.read_message().status)
        except (EOFError, ConnectionError) as error:
            statuses.append(repr(error))
        wanted = [200] * len(expected.requests)
        expect(statuses[: len(wanted)], wanted)
        if expected.is_refused:
            expect(len(statuses), len(wanted) + 1)
            expect(400 <= int(statuses[-1]) < 600, True)
        expect(
            [(request.line.split(" ")[0].encode(), request.body) for request in upstream.requests],
            expected.requests,
        )
        client.close()


def expect(got: object, wanted: object) -> None:
    if got != wanted:
        raise AssertionError(f"{got!r} instead of {wanted!r}")


def judge_request(data: bytes) -> None:
    got, wanted = read_request_head(data), head_twin.read_request_head(data)
    # Which of two faults is named first is not part of the rules; that there is one is.
    expect(
        got if not isinstance(got, int) else "refused", wanted if not isinstance(wanted, int) else "refused"
    )
    if not isinstance(got, int):
        head = data[: data.index(b"\r\n\r\n") + 4]
        # The parser knows a list of methods, the gateway a grammar of them.
        expect(is_taken(HttpRequestParser(object()), b"GET" + head[len(got["method"]) :]), True)


def judge_response(data: bytes) -> None:
    got = read_response_head(data)
    expect(got, head_twin.read_response_head(data))
    if got is not None:
        expect(is_taken(HttpResponseParser(object()), data[: data.index(b"\r\n\r\n") + 4]), True)


def is_taken(parser: HttpRequestParser | HttpResponseParser, head: bytes) -> bool:
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        return True
    except HttpParserError:
        return False
    return True


def run(seed: int, seconds: float, steps: int | None = None) -> Fuzzer:
    """Fuzz until the time is over or *steps* are done. Raises Disagreement."""
    with recording(routes=ROUTES) as gateway:
        fuzzer = Fuzzer(seed, gateway)
        end = time.monotonic() + seconds
        while time.monotonic() < end and (steps is None or fuzzer.inputs < steps):
            fuzzer.step()
    return fuzzer


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.driver", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None, help="default: another one each time")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.seconds:g} s", flush=True)  # noqa: T201 - a command's output
    try:
        fuzzer = run(seed, options.seconds)
    except Disagreement as error:
        message, data = error.args
        path = Path(f"fuzz-{hashlib.sha256(data).hexdigest()[:12]}.bin")
        path.write_bytes(data)
        print(f"{message}\ninput: {data!r}\nkept in {path}", file=sys.stderr)  # noqa: T201
        return 1
    print(f"{fuzzer.inputs} inputs, {fuzzer.streams} of them through the proxy: no disagreement")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
