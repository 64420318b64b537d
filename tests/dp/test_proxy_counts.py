"""What of an exchange is counted and logged, of one that was none, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastgw.obs.accesslog import AccessLog
from tests.dp.rig import DEADLINE_S, running
from tests.waiting import wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_counts_and_log_lines(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "access.log"))
    with running(access_log=log) as (proxy, upstream):
        client = proxy.client()
        client.send(b"GET /x?y HTTP/1.1\r\nHost: a\r\nUser-Agent: t/1\r\n\r\n")
        server = upstream.accept()
        server.read_head()
        server.send(OK)
        answer_size = len(client.read_head()) + len(client.read_exactly(2))
        (route,) = proxy.routes()
        assert route["bytes_out"] == answer_size
        assert (route["service"], route["route"]) == ("svc", "rt")
        assert route["codes"] == {(200, 0): 1}
        assert route["bytes_in"] == len(b"GET /x?y HTTP/1.1\r\nHost: a\r\nUser-Agent: t/1\r\n\r\n")
    log.close()
    line = (tmp_path / "access.log").read_text()
    assert '"GET /x?y HTTP/1.1" 200 2 ' in line
    assert '"t/1"' in line


@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [
        (b"GET /a HTTP/1.1\r\nHost: a\nb: c\r\n\r\n", 400, "GET /a HTTP/1.1"),
        (b"GET /" + b"x" * 9000, 414, "GET /" + "x" * 1019),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431, "GET / HTTP/1.1"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "POST / HTTP/1.1"),
        (b'GET /" HTTP/3.0\r\n\r\n', 505, "GET /\\x22 HTTP/3.0"),
        (b"GET /slow HTTP/1.1\r\nHo", 408, "GET /slow HTTP/1.1"),
    ],
)
def test_refused_heads_are_counted_and_logged(tmp_path: Path, sent: bytes, status: int, line: str) -> None:
    log = AccessLog(str(tmp_path / "access.log"))
    with running(access_log=log, head_timeout_ms=100) as (proxy, _):
        client = proxy.client()
        client.send(sent)
        answer = client.read_to_end()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        totals = proxy.totals()
        assert (totals["requests_total"], totals[f"refused_{status}"]) == (1, 1)
        identity = answer.partition(b"X-Kong-Request-Id: ")[2][:32].decode()
    log.close()
    (logged,) = (tmp_path / "access.log").read_text().splitlines()
    size = len(answer.partition(b"\r\n\r\n")[2])
    assert logged.startswith("127.0.0.1 - - [")
    assert logged.endswith(f'"{line}" {status} {size} "-" "-" kong_request_id: "{identity}"')


def test_lines_of_the_log_that_are_dropped_are_counted_beside_the_rest() -> None:
    log = AccessLog("/dev/full")
    with running(access_log=log) as (proxy, _):
        client = proxy.client()
        client.send(b"GET /\r\n\r\n")
        client.read_to_end()
        log.flush()
        wait_until(lambda: proxy.totals()["log_lines_dropped_total"] == 1, DEADLINE_S, "the count")
    log.close()
