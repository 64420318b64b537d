"""The `url` of a service, split as Kong splits it."""

from __future__ import annotations

import pytest

from fastgw.model.entities import ENTITIES
from fastgw.model.shorthands import expand_url
from fastgw.model.validate import make_row


@pytest.mark.parametrize(
    ("url", "protocol", "host", "port", "path"),
    [
        ("http://example.com", "http", "example.com", 80, None),
        ("http://example.com/", "http", "example.com", 80, "/"),
        ("https://example.com/a/b", "https", "example.com", 443, "/a/b"),
        ("http://example.com:8080/a?q=1#f", "http", "example.com", 8080, "/a"),
        ("//example.com:443", "https", "example.com", 443, None),
        ("//example.com", "http", "example.com", 80, None),
        ("foo", "http", None, 80, "foo"),
        ("http://a.com?x=1", "http", "a.com?x=1", 80, None),
        ("http://user:secret@a.com/x", "http", "a.com", 80, "/x"),
        ("http://[::1]:9/x", "http", "::1", 9, "/x"),
        ("http://[::1]/x", "http", "::1", 80, "/x"),
        ("HTTP://a.com", "http", "a.com", 80, None),
        ("http://a.com:/x", "http", "a.com", 80, "/x"),
        ("http://a.com:80x/", "http", "a.com", "80x", "/"),
        ("http:///x", "http", None, 80, "/x"),
        ("a.com:80", "a.com", None, 80, "80"),
    ],
)
def test_expand_url(url: str, protocol: str, host: str | None, port: int | str, path: str | None) -> None:
    assert expand_url(url) == {"protocol": protocol, "host": host, "port": port, "path": path}


def test_an_upstream_with_a_null_algorithm_comes_back_as_it_was() -> None:
    made = make_row(ENTITIES["upstreams"], {"name": "a.example", "algorithm": None}, now_s=1)
    assert made["algorithm"] is None
    assert make_row(ENTITIES["upstreams"], made, now_s=1, is_transformed=True) == made
