"""The Admin API's access log: one line per request, which no client can forge."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from fastgw.cp.admin.access_log import AdminAccessLog
from fastgw.errors import SettingsError
from tests.cp.admin.server import AdminServer
from tests.waiting import wait_until


def test_lines_are_nginx_combined(tmp_path: Path) -> None:
    with AdminServer(tmp_path) as server:
        base = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=base, timeout=20, trust_env=False) as client:
            body = client.get("/services?a=%22b", headers={"User-Agent": 'x"\\y', "Referer": "http://r"})
            client.get("/services", headers={"Host": "evil.example"})
            client.head("/services")
    lines = (tmp_path / "logs/admin_access.log").read_text().splitlines()
    pattern = (
        r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "(.*)" (\d+) (\d+) "(.*)" "(.*)"'
    )
    matches = [re.fullmatch(pattern, line) for line in lines]
    assert [match.groups() for match in matches[:1] if match] == [
        ("GET /services?a=%22b HTTP/1.1", "200", str(len(body.content)), "http://r", r"x\x22\x5Cy")
    ]
    assert [match[2] for match in matches if match] == ["200", "403", "200"]
    assert matches[2] is not None
    assert matches[2][3] == "0"


def test_off_writes_nothing(tmp_path: Path) -> None:
    with AdminServer(tmp_path, admin_access_log="off") as server:
        assert httpx.get(f"http://127.0.0.1:{server.port}/", timeout=20, trust_env=False).status_code == 200
    assert not (tmp_path / "logs/admin_access.log").exists()


def test_reopen_follows_the_name(tmp_path: Path) -> None:
    path = tmp_path / "logs/admin_access.log"
    with AdminServer(tmp_path) as server:
        url = f"http://127.0.0.1:{server.port}/status"
        path.rename(tmp_path / "moved.log")
        server.app.state.access_log.reopen()
        wait_until(path.exists, 10, "the new file")
        httpx.get(url, timeout=20, trust_env=False)
    assert '"GET /status HTTP/1.1" 200' in path.read_text()


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"admin_access_log: cannot open .*: is a directory"):
        AdminAccessLog(str(tmp_path))
