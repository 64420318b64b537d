"""Routes that cannot match, by whom, and those that ask for the same."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.routing.lint import lint
from tests.routing.images import image_of


def findings(*routes: dict[str, Any], flavor: str = "traditional_compatible") -> dict[str, Any]:
    return lint(image_of(list(routes), flavor=flavor))


def shadowed(*routes: dict[str, Any]) -> dict[str, tuple[list[str], bool]]:
    return {
        found["route"]["name"]: ([one["name"] for one in found["by"]], found["certain"])
        for found in findings(*routes)["shadowed"]
    }


def test_nothing_to_tell() -> None:
    answer = findings(
        {"name": "a", "hosts": ["*.a.com"], "paths": ["/x", "/y"], "methods": ["GET", "PUT"]},
        {"name": "b", "hosts": ["b.a.com"], "paths": ["/x"], "headers": {"X": ["1"]}},
        {"name": "c", "paths": ["/"], "snis": ["s.com"]},
        {"name": "d", "paths": [r"~/\d+"]},
        {"name": "e", "expression": 'http.path ^= "/q"'},
        {"name": "f", "hosts": ["a.com:80", "a.com:81"]},
    )
    assert answer["shadowed"] == answer["duplicates"] == []
    assert answer["routes"] == 6


@pytest.mark.parametrize("flavor", ["traditional", "traditional_compatible"])
def test_duplicates_are_told_and_the_younger_is_shadowed(flavor: str) -> None:
    routes = [
        {"name": "old", "hosts": ["a.com", "b.com"], "paths": ["/x"]},
        {"name": "new", "hosts": ["b.com", "a.com"], "paths": ["/x"]},
    ]
    answer = findings(*routes, flavor=flavor)
    assert [[one["name"] for one in group] for group in answer["duplicates"]] == [["old", "new"]]
    (found,) = answer["shadowed"]
    assert (found["route"]["name"], found["by"][0]["name"], found["certain"]) == ("new", "old", True)


def test_a_regex_shadows_the_prefixes_below_it() -> None:
    found = shadowed(
        {"name": "prefix", "paths": ["/x/long"]},
        {"name": "regex", "paths": ["~/x"]},
        {"name": "beside", "paths": ["/y"]},
    )
    assert found == {"prefix": (["regex"], True)}


def test_several_may_shadow_one_together() -> None:
    found = shadowed(
        {"name": "both", "hosts": ["a.com", "b.com"], "paths": ["/x"], "methods": ["GET"]},
        {"name": "of-a", "hosts": ["a.com"], "paths": ["~/x"], "methods": ["GET"]},
        {"name": "of-b", "hosts": ["*.com"], "paths": ["~/.*"], "methods": ["GET"], "headers": {"x": ["1"]}},
        {"name": "of-b-2", "hosts": ["b.com"], "paths": ["~/"], "methods": ["GET"]},
    )
    assert found == {"both": (["of-a", "of-b-2"], False)}


def test_a_regex_is_shadowed_by_its_twin_and_by_one_that_is_a_mere_prefix() -> None:
    found = shadowed(
        {"name": "a", "paths": [r"~/x/\d+"]},
        {"name": "b", "paths": [r"~/x/\d+"]},
        {"name": "wide", "paths": ["~/y/.*"]},
        {"name": "narrow", "paths": [r"~/y/\d+$"]},
        {"name": "first", "paths": [r"~/y/\w+"], "regex_priority": 1},
        {"name": "not-wide", "paths": ["~/z/?"]},
        {"name": "alive", "paths": [r"~/z\d"]},
        {"name": "of-a-host", "hosts": ["a.com"], "paths": [r"~/y/\d"]},
    )
    assert found == {"b": (["a"], True), "narrow": (["wide"], True)}


def test_an_expression_is_shadowed_by_one_that_asks_for_less() -> None:
    answer = findings(
        {"name": "narrow", "expression": 'http.host == "a" && http.path ^= "/x" && http.method == "GET"'},
        {"name": "wide", "expression": '(http.path ^= "/x" && http.host == "a")', "priority": 1},
        {"name": "http", "expression": 'http.host == "b"', "priority": 1, "protocols": ["http"]},
        {"name": "both", "expression": 'http.host == "b"'},
        {"name": "either", "expression": 'http.host == "a" || http.path ^= "/x"'},
        {
            "name": "never",
            "expression": 'http.path == "/q" && http.path ^= "/p" && any(http.headers.x) == "1"',
        },
    )
    told = [(one["route"]["name"], [by["name"] for by in one["by"]]) for one in answer["shadowed"]]
    assert told == [("narrow", ["wide"])]
    (contradiction,) = answer["contradictions"]
    assert contradiction["route"]["name"] == "never"
    assert contradiction["reason"] == "http.path cannot suit both '/q' and '/p'"
