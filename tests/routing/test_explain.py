"""Explanations as plain data: candidates in order, the winner, what goes upstream."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.model.entities import ENTITIES, ROUTES
from fastgw.model.entities import SERVICES as SERVICE_ENTITY
from fastgw.model.served import SERVED_PLUGINS
from fastgw.model.snapshot import Snapshot
from fastgw.model.validate import make_row
from fastgw.routing.compile import compile_snapshot
from fastgw.routing.explain import BEHIND_WINNER, Asked, BadQuestion, asked_of, explain_request
from fastgw.routing.layered import LayeredImage
from tests.routing.images import image_of, open_image

CONSUMERS, PLUGINS = ENTITIES["consumers"], ENTITIES["plugins"]
SERVICES = [{"name": "svc", "url": "http://up.internal:8080/base"}]


def explained(routes: list[dict[str, Any]], document: dict[str, Any], **more: Any) -> dict[str, Any]:
    return explain_request(image_of(routes, SERVICES, **more), asked_of(document))


def test_candidates_in_order_with_what_held() -> None:
    answer = explained(
        [
            {"name": "wide", "paths": ["/"]},
            {"name": "users", "hosts": ["a.com"], "paths": [r"~/u/(?<id>\d+)"], "service": "svc"},
            {"name": "other", "hosts": ["a.com"], "paths": ["/u/7"], "headers": {"X-T": ["b"]}},
            {"name": "far", "hosts": ["a.com"], "paths": ["/elsewhere"]},
        ],
        {"method": "PUT", "url": "http://A.com/u/%37/x?q=1", "headers": {"x-t": "c"}},
    )
    assert answer["request"] == {
        "method": "PUT",
        "scheme": "http",
        "host": "a.com",
        "path": "/u/7/x",
        "sni": None,
    }
    assert answer["version"] == 7
    assert [(one["route"]["name"], one["matches"], one["wins"]) for one in answer["candidates"]] == [
        ("other", False, False),
        ("users", True, True),
        ("wide", True, False),
    ]
    assert answer["left_out"] == 1
    assert answer["candidates"][0]["conditions"] == [
        {"kind": "hosts", "wanted": ["a.com"], "got": "a.com", "holds": True},
        {"kind": "paths", "wanted": ["/u/7"], "got": "/u/7/x", "holds": True},
        {"kind": "headers.X-T", "wanted": ["b"], "got": "c", "holds": False},
    ]
    match = answer["match"]
    assert match["route"]["name"] == "users"
    assert match["service"]["url"] == "http://up.internal:8080/base"
    assert match["upstream_path"] == "/base/x?q=1"
    assert match["captures"] == {"0": "/u/7", "1": "7", "id": "7"}
    assert match["matched_path"] == "/u/7"
    assert match["answer"] is None


def test_plugins_that_would_run_in_order_with_their_scope() -> None:
    ids = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(6)]
    route = make_row(ROUTES, {"id": ids[0], "paths": ["/"], "service": {"id": ids[1]}}, now_s=1)
    service = make_row(SERVICE_ENTITY, {"id": ids[1], "url": "http://up.internal"}, now_s=1)
    consumer = make_row(CONSUMERS, {"id": ids[2], "username": "c"}, now_s=1)
    plugins: list[dict[str, Any]] = [
        {"name": "cors"},
        {"name": "key-auth", "service": {"id": ids[1]}},
        {"name": "rate-limiting", "config": {"minute": 5}, "consumer": {"id": ids[2]}},
        {"name": "rate-limiting", "config": {"minute": 6}, "route": {"id": ids[0]}, "id": ids[4]},
        {"name": "acl", "config": {"allow": ["a"]}, "enabled": False},
    ]
    rows = {
        "routes": [route],
        "services": [service],
        "consumers": [consumer],
        "plugins": [make_row(PLUGINS, plugin, now_s=1) for plugin in plugins],
    }
    served = frozenset(plugin["name"] for plugin in plugins)
    image = open_image(compile_snapshot(Snapshot.from_rows(1, rows), served_plugins=served))
    match = explain_request(LayeredImage(image), asked_of({"url": "/x"}))["match"]
    told = [(one["name"], one["priority"], one["scope"]) for one in match["plugins"]]
    assert told == [
        ("cors", 2000, ["global"]),
        ("key-auth", 1250, ["service"]),
        ("rate-limiting", 910, ["route"]),
    ]
    assert match["plugins"][2]["id"] == ids[4]
    assert [one["is_available"] for one in match["plugins"]] == [name in SERVED_PLUGINS for name, *_ in told]


def test_a_missing_plugin_is_the_answer() -> None:
    route = make_row(ROUTES, {"paths": ["/"]}, now_s=1)
    rows = {"routes": [route], "plugins": [make_row(PLUGINS, {"name": "bot-detection"}, now_s=1)]}
    image = open_image(compile_snapshot(Snapshot.from_rows(1, rows), served_plugins=frozenset()))
    match = explain_request(LayeredImage(image), asked_of({"url": "/x"}))["match"]
    assert match["answer"] == "503: plugin 'bot-detection' is not available on a data plane of this version"
    assert match["plugins"] == []


def test_no_match() -> None:
    answer = explained([{"name": "r", "paths": ["/a"], "methods": ["GET"]}], {"url": "/a", "method": "PUT"})
    assert answer["match"] is None
    assert answer["candidates"][0]["conditions"][1] == {
        "kind": "methods",
        "wanted": ["GET"],
        "got": "PUT",
        "holds": False,
    }


def test_what_the_gateway_answers_itself() -> None:
    routes = [{"name": "r", "paths": ["/"], "protocols": ["https"], "https_redirect_status_code": 301}]
    assert explained(routes, {"url": "http://a/"})["match"]["answer"].startswith("301")
    assert explained(routes, {"url": "https://a/"})["match"]["answer"].startswith("503")


def test_an_expression_shows_each_comparison() -> None:
    answer = explained(
        [{"name": "e", "expression": 'http.path ^= "/a" && net.src.ip in 10.0.0.0/8'}],
        {"url": "/a", "client_ip": "11.0.0.1"},
    )
    (one,) = answer["candidates"]
    assert one["conditions"][0]["holds"] is False
    assert [(test["kind"], test["wanted"], test["got"], test["holds"]) for test in one["tests"]] == [
        ("http.path", ['^= "/a"'], "/a", True),
        ("net.src.ip", ["in 10.0.0.0/8"], "11.0.0.1", False),
    ]


def test_traditional_orders_by_the_request_and_obeys_v1() -> None:
    routes = [
        {"name": "wild", "hosts": ["*.a.com:80"], "paths": ["/r"], "path_handling": "v1", "service": "svc"},
        {"name": "plain", "hosts": ["x.a.com"], "paths": ["/r"], "service": "svc"},
    ]
    answer = explained(routes, {"url": "http://x.a.com/req"}, flavor="traditional")
    assert [one["route"]["name"] for one in answer["candidates"]] == ["plain", "wild"]
    answer = explained(routes, {"url": "http://x.a.com:80/req"}, flavor="traditional")
    assert [one["route"]["name"] for one in answer["candidates"]] == ["wild", "plain"]
    assert answer["match"]["upstream_path"] == "/baseeq"
    routes.pop()
    assert explained(routes, {"url": "http://x.a.com:80/req"})["match"]["upstream_path"] == "/base/eq"


def test_a_long_list_ends_a_little_behind_the_winner() -> None:
    routes: list[dict[str, Any]] = [{"name": f"r{n}", "paths": ["/"]} for n in range(50)]
    answer = explained(routes, {"url": "/"})
    assert len(answer["candidates"]) == 1 + BEHIND_WINNER
    assert answer["candidates"][0]["wins"]
    assert answer["left_out"] == 50 - 1 - BEHIND_WINNER


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "url: required"),
        ({"url": 1}, "url: expected a string"),
        ({"url": "ftp://a/"}, "neither http"),
        ({"url": "a/b"}, "neither http"),
        ({"url": "http://a:99999/"}, "is not a URL"),
        ({"url": "/", "headers": []}, "headers: expected a map"),
        ({"url": "/", "headers": {"a": [1]}}, "headers.a: expected a string"),
        ({"url": "/", "port": 0}, "port: expected a number"),
        ({"url": "/", "port": True}, "port: expected a number"),
        ({"url": "/", "method": "GE T"}, "'GE T' is no method: a method is letters, digits"),
        ({"url": "/", "method": ""}, "'' is no method"),
        ({"url": "/", "headers": {"a b": "c"}}, "'a b' is no name of a header field"),
        ({"url": "/", "headers": {"a": "b\r\nc: d"}}, "the value of the header field a holds a line break"),
        ({"url": "/a b"}, "'/a b' holds a space or a control character: write %20"),
        ({"url": "/a\nb"}, "holds a space or a control character"),
        ({"url": "/", "client_ip": "300.1.1.1"}, "client_ip: '300.1.1.1' is no IP address"),
        ({"url": "/", "host": "a"}, "unknown: host"),
    ],
)
def test_bad_questions(document: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadQuestion, match=reason):
        asked_of(document)


def test_a_host_header_overrides_the_url() -> None:
    asked = Asked.parse("GET", "https://a.com:8443/x", headers=[("HOST", "B.com")])
    assert asked.request.host == b"b.com"
    assert asked.request.sni == b"a.com"
    assert asked.request.host_port == 8443
    assert asked.request.is_https
