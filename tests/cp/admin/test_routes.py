"""Questions to the compiled routes, over HTTP."""

from __future__ import annotations

import httpx


def test_nothing_is_published_yet(admin: httpx.Client) -> None:
    answer = admin.get("/fastgw/routes/lint")
    assert answer.status_code == 503
    assert answer.json() == {"message": "No configuration has been published yet"}


def test_explain_and_lint(admin: httpx.Client) -> None:
    admin.post("/services", json={"name": "svc", "url": "http://up/base"}).raise_for_status()
    for name in ("one", "two"):
        body = {"name": name, "paths": ["/x"], "hosts": ["a.com"]}
        admin.post("/services/svc/routes", json=body).raise_for_status()
    answer = admin.post("/fastgw/routes/explain", json={"url": "http://a.com/x/y", "method": "PUT"})
    assert answer.status_code == 200
    assert answer.json()["match"]["upstream_path"] == "/base/y"
    assert len(answer.json()["candidates"]) == 2
    (found,) = admin.get("/fastgw/routes/lint").json()["shadowed"]
    assert found["certain"] is True


def test_a_bad_question(admin: httpx.Client) -> None:
    answer = admin.post("/fastgw/routes/explain", json={"url": "nowhere"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("'nowhere' is neither http://")
    assert admin.get("/fastgw/routes/explain").status_code == 405
