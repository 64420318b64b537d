"""Tokens, read-only ones among them, and the rate of writes."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.datastructures import Headers

from fastgw.cp.admin.callers import RateLimit, Tokens
from fastgw.errors import SettingsError
from tests.cp.admin.server import AdminServer

WRITER = "writer-token-0123456789"
READER = "reader-token-0123456789"


def test_callers_are_known_by_their_tokens(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# who\nalice:{WRITER}\n\nbob:{READER}:read\n")
    with AdminServer(tmp_path / "prefix", admin_token_file=str(tokens)) as server:
        base = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=base, timeout=20, trust_env=False) as client:
            answer = client.get("/services")
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert client.get("/", headers={"Kong-Admin-Token": "wrong"}).status_code == 401
            reader = {"Kong-Admin-Token": READER}
            assert client.get("/services", headers=reader).status_code == 200
            refused = client.post("/services", json={"host": "h"}, headers=reader)
            assert (refused.status_code, refused.json()["message"]) == (
                403,
                "The token of 'bob' may read only",
            )
            # What is asked by POST and changes nothing is reading.
            asked = client.post("/schemas/services/validate", json={"host": "h"}, headers=reader)
            assert asked.status_code == 200
            assert client.post("/fastgw/plan", json={}, headers=reader).status_code == 400
            assert client.post("/fastgw/%70lan", json={}, headers=reader).status_code == 403
            assert client.post("/config", json={}, headers=reader).status_code == 403
            writer = {"Authorization": f"Bearer {WRITER}"}
            assert client.post("/services", json={"host": "h"}, headers=writer).status_code == 201
            (change,) = client.get("/fastgw/history", headers=reader).json()["data"]
            assert change["actor"] == "alice"


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "holds no token"), ("alice:short\n", "line 1: expected name:token"), ("alice\n", "line 1")],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(SettingsError, match=reason):
        Tokens(path)
    with pytest.raises(SettingsError, match="no such file"):
        Tokens(tmp_path / "none")


def test_other_schemes_are_no_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"alice:{WRITER}\n")
    assert Tokens(path).caller(Headers({"authorization": f"Basic {WRITER}"})) is None


def test_the_rate_of_writes_is_each_callers_own() -> None:
    limit = RateLimit(2)
    assert [limit.take("a", 0.0) for _ in range(2)] == [0.0, 0.0]
    assert limit.take("a", 0.0) == pytest.approx(0.5)
    assert limit.take("b", 0.0) == 0.0
    assert limit.take("a", 0.5) == 0.0
    assert RateLimit(0).take("a", 0.0) == 0.0


def test_too_many_writes_are_told_when_to_come_back(tmp_path: Path) -> None:
    with AdminServer(tmp_path, admin_rate_limit="1") as server:
        base = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=base, timeout=20, trust_env=False) as client:
            answers = [client.delete("/services/none") for _ in range(5)]
            statuses = [answer.status_code for answer in answers]
            assert statuses[0] == 204
            assert 429 in statuses
            assert answers[statuses.index(429)].headers["retry-after"] == "1"
            assert client.get("/services").status_code == 200
