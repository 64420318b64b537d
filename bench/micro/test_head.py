"""One request head: judged by the scanner alone, by httptools as well, and written for the upstream."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fastgw.dp._head import parse_request_heads
from fastgw.dp._rewrite import rewrite_request_head

HEADS = {
    "wrk": b"GET /small HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n\r\n",
    "browser": (
        b"GET /api/v1/customers/12345/orders?page=2&size=50 HTTP/1.1\r\nHost: shop.example.com\r\n"
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
        b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
        b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nConnection: keep-alive\r\n"
        b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark; consent=1\r\nDNT: 1\r\n"
        b"Upgrade-Insecure-Requests: 1\r\nSec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\n\r\n"
    ),
}
REPEATS = 1000


@pytest.mark.parametrize("with_httptools", [False, True], ids=["scanner", "httptools-too"])
@pytest.mark.parametrize("kind", HEADS)
def test_judge_1000(benchmark: BenchmarkFixture, kind: str, with_httptools: bool) -> None:
    benchmark(parse_request_heads, HEADS[kind], REPEATS, with_httptools)


@pytest.mark.parametrize("kind", HEADS)
def test_rewrite_1000(benchmark: BenchmarkFixture, kind: str) -> None:
    written = benchmark(
        rewrite_request_head,
        HEADS[kind],
        path=b"/upstream/path",
        host=b"10.0.0.1:8080",
        peer=b"192.0.2.7",
        fixed=b"X-Real-IP: 192.0.2.7\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Port: 8000\r\n",
        via=b"1.1 fastgw/0.1.0",
        request_id=b"0123456789abcdef0123456789abcdef",
        forwarded_host=b"shop.example.com",
        repeat=REPEATS,
    )
    assert written.endswith(b"\r\n\r\n")
