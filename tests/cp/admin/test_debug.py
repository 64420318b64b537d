"""The log level at run time, and the cache that is not there."""

from __future__ import annotations

import httpx
import pytest

from fastgw.obs import logs
from tests.waiting import wait_until


def said(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["message"]


def test_the_log_level_changes_for_a_time(admin: httpx.Client) -> None:
    usual = logs.level()
    path = "/debug/node/log-level"
    try:
        assert said(admin.get(path)) == (200, f"log level: {usual}")
        assert said(admin.put(f"{path}/{usual}")) == (200, f"log level is already {usual}")
        assert said(admin.put(f"{path}/debug?timeout=1")) == (200, "log level changed")
        assert said(admin.get(path)) == (200, "log level: debug")
        assert said(admin.put(f"{path}/info?timeout=1")) == (200, "log level changed")
        wait_until(lambda: said(admin.get(path)) == (200, f"log level: {usual}"), 5, "the usual level")
        assert said(admin.put(f"{path}/crit?timeout=0")) == (200, "log level changed")
    finally:
        logs.set_level(usual)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        ("loud", "unknown log level: loud"),
        ("debug?timeout=-1", "timeout must be greater than or equal to 0"),
        ("debug?timeout=x", "timeout must be greater than or equal to 0"),
    ],
)
def test_wrong_levels_and_times(admin: httpx.Client, end: str, text: str) -> None:
    assert said(admin.put(f"/debug/node/log-level/{end}")) == (400, text)


def test_nothing_is_cached(admin: httpx.Client) -> None:
    assert said(admin.get("/cache/services:x:::::")) == (404, "Not found")
    assert admin.delete("/cache/x").status_code == admin.delete("/cache").status_code == 204
