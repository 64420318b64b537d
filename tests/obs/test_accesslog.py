"""The access log: nginx's line, escaped; written off the loop; re-opened; bounded."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fastgw.obs.accesslog import AccessLog, Entry, _json_line, escape

ENTRY = Entry(b"1.2.3.4", b"GET /a?b HTTP/1.1", 200, 100, 812, 300, b"f" * 32)


def test_line(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "logs" / "access.log"))
    log.write(ENTRY._replace(user_agent=b'curl "8"'))
    log.close()
    line = (tmp_path / "logs" / "access.log").read_text()
    assert re.fullmatch(
        r'1\.2\.3\.4 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a\?b HTTP/1\.1" 200 512 "-" '
        r'"curl \\x228\\x22" kong_request_id: "f{32}"\n',
        line,
    )


def test_reopen_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    log.write(ENTRY)
    log.close()
    assert (tmp_path / "access.log.1").read_bytes() == b""
    assert path.read_bytes().count(b"\n") == 1


@given(st.binary())
def test_escaped_values_are_one_printable_word(value: bytes) -> None:
    escaped = escape(value)
    assert b'"' not in escaped
    assert escaped.decode("ascii").isprintable()


def json_line(tmp_path: Path, entry: Entry) -> Any:
    log = AccessLog(str(tmp_path / "json.log"), is_json=True)
    log.write(entry)
    log.close()
    (line,) = (tmp_path / "json.log").read_bytes().splitlines()
    return json.loads(line)


def test_json_has_the_names_of_kongs_entries(tmp_path: Path) -> None:
    made = json_line(
        tmp_path,
        ENTRY._replace(
            host=b"example.com",
            user_agent=b'"\xe9',
            request_ms=30,
            gateway_ms=2,
            upstream_ms=8,
            route=("r-id", "r"),
            service=("s-id", None),
            is_from_upstream=True,
        ),
    )
    assert abs(made.pop("started_at") - time.time() * 1000) < 10_000
    assert made == {
        "client_ip": "1.2.3.4",
        "request": {
            "id": "f" * 32,
            "method": "GET",
            "uri": "/a?b",
            "url": "http://example.com/a?b",
            "size": 100,
            "headers": {"host": "example.com", "user-agent": '"é'},
        },
        "response": {"status": 200, "size": 812},
        "latencies": {"request": 30, "kong": 2, "proxy": 8, "receive": 20},
        "source": "upstream",
        "upstream_status": "200",
        "route": {"id": "r-id", "name": "r"},
        "service": {"id": "s-id", "name": None},
    }


def test_json_of_what_was_no_request(tmp_path: Path) -> None:
    made = json_line(tmp_path, ENTRY._replace(request_line=b"-", status=408))
    assert (made["request"]["method"], made["request"]["uri"], made["source"]) == ("-", "", "kong")
    assert made["latencies"]["proxy"] == -1
    assert "route" not in made


def test_lines_that_nobody_takes_are_counted(tmp_path: Path) -> None:
    log = AccessLog("/dev/full")
    log.write(ENTRY)
    log.write(ENTRY)
    log.close()
    assert log.dropped_total == 2


@given(st.binary(), st.binary())
def test_json_takes_any_bytes(line: bytes, host: bytes) -> None:
    made = _json_line(ENTRY._replace(request_line=line, host=host), 1.0)
    assert made.count(b"\n") == 1
    assert json.loads(made)["request"]["headers"]["host"] == host.decode("latin-1")
