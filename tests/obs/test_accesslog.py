"""The access log: nginx's line, escaped; written off the loop; re-opened; bounded."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fastgw.obs.accesslog import AccessLog, escape

LINE = (b"1.2.3.4", b"GET /a HTTP/1.1", 200, 512)


def test_line(tmp_path: Path) -> None:
    log = AccessLog(str(tmp_path / "logs" / "access.log"))
    log.write(*LINE, None, b'curl "8"', b"f" * 32)
    log.close()
    line = (tmp_path / "logs" / "access.log").read_text()
    assert re.fullmatch(
        r'1\.2\.3\.4 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /a HTTP/1\.1" 200 512 "-" '
        r'"curl \\x228\\x22" kong_request_id: "f{32}"\n',
        line,
    )


def test_reopen_after_rotation(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path))
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    log.write(*LINE, None, None, b"f" * 32)
    log.close()
    assert (tmp_path / "access.log.1").read_bytes() == b""
    assert path.read_bytes().count(b"\n") == 1


@given(st.binary())
def test_escaped_values_are_one_printable_word(value: bytes) -> None:
    escaped = escape(value)
    assert b'"' not in escaped
    assert escaped.decode("ascii").isprintable()
