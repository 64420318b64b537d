"""Form names and strings made into what JSON would have given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.model.entities import ROUTES, SERVICES, Entity
from fastgw.model.fields import Field, by_name, each
from fastgw.model.forms import FormValue, decode_form

CONFIGURED = Entity(
    "configured",
    by_name(
        Field(
            "config",
            "record",
            fields=by_name(
                Field("minute", "integer"),
                Field("ratio", "number"),
                Field("redis", "record", fields=by_name(Field("host", "string"))),
                Field("a", "record", fields=by_name(Field("b", "array", elements=each("string")))),
            ),
        ),
        Field("labels", "map", keys=each("string"), values=each("string")),
    ),
    admin_path="configured",
    nested_name="configured",
)

CASES: list[tuple[Entity, list[tuple[str, FormValue]], dict[str, Any]]] = [
    # lists
    (ROUTES, [("paths[]", "/a"), ("paths[]", "/b")], {"paths": ["/a", "/b"]}),
    (ROUTES, [("paths[2]", "/b"), ("paths[1]", "/a")], {"paths": ["/a", "/b"]}),
    (ROUTES, [("paths", "/a"), ("paths", "/b")], {"paths": ["/a", "/b"]}),
    (ROUTES, [("paths", "/a")], {"paths": ["/a"]}),
    (ROUTES, [("hosts", "a,b")], {"hosts": ["a,b"]}),
    (ROUTES, [("tags", "")], {"tags": None}),
    (ROUTES, [("tags[]", "")], {"tags": [None]}),
    (ROUTES, [("paths[2]", "/a")], {"paths": {"2": "/a"}}),
    (ROUTES, [("paths[0]", "/a")], {"paths": {"0": "/a"}}),
    (ROUTES, [("paths[1]", "/a"), ("paths[3]", "/b")], {"paths": {"1": "/a", "3": "/b"}}),
    (
        ROUTES,
        [("sources[1].ip", "1.2.3.4"), ("sources[1].port", "80"), ("sources[2].port", "81")],
        {"sources": [{"ip": "1.2.3.4", "port": 80}, {"port": 81}]},
    ),
    (ROUTES, [("sources[].ip", "1.2.3.4")], {"sources": [{"ip": "1.2.3.4"}]}),
    # entries
    (ROUTES, [("service.id", "x"), ("service.name", "5")], {"service": {"id": "x", "name": "5"}}),
    (ROUTES, [("service", "x")], {"service": "x"}),
    (ROUTES, [("service", "")], {"service": None}),
    (ROUTES, [("headers.x-team[]", "a")], {"headers": {"x-team": ["a"]}}),
    (ROUTES, [("headers[x-team][]", "a"), ("headers[x-team][]", "b")], {"headers": {"x-team": ["a", "b"]}}),
    (ROUTES, [("headers[a.b]", "c")], {"headers": {"a.b": ["c"]}}),
    (
        CONFIGURED,
        [("config.minute", "5"), ("config.a.b[]", "x")],
        {"config": {"minute": 5, "a": {"b": ["x"]}}},
    ),
    (CONFIGURED, [("config.redis", "")], {"config": {"redis": None}}),
    (CONFIGURED, [("config", "")], {"config": None}),
    (CONFIGURED, [("labels.a", "1"), ("labels[b.c]", "2")], {"labels": {"a": "1", "b.c": "2"}}),
    # scalars
    (SERVICES, [("port", "80"), ("retries", "-1")], {"port": 80, "retries": -1}),
    (SERVICES, [("port", "80.0")], {"port": 80.0}),
    (SERVICES, [("port", "1e999")], {"port": "1e999"}),
    (SERVICES, [("port", "9" * 5000)], {"port": "9" * 5000}),
    (SERVICES, [("port", " 80")], {"port": " 80"}),
    (CONFIGURED, [("config.ratio", "1.5e2")], {"config": {"ratio": 150.0}}),
    (SERVICES, [("enabled", "false")], {"enabled": False}),
    (SERVICES, [("enabled", "no")], {"enabled": "no"}),
    (SERVICES, [("name", "123")], {"name": "123"}),
    (SERVICES, [("name", "")], {"name": None}),
    (SERVICES, [("name", True)], {"name": True}),
    (SERVICES, [("name", "a"), ("name", "b")], {"name": ["a", "b"]}),
    (SERVICES, [("name.x", "a")], {"name": {"x": "a"}}),
    (SERVICES, [("url", "http://a.com")], {"url": "http://a.com"}),
    # names that follow no rule, or are unknown
    (SERVICES, [("foo", "1"), ("foo.bar", "2")], {"foo": "1"}),
    (SERVICES, [("foo.bar", "2")], {"foo": {}}),
    (
        SERVICES,
        [("[]", "1"), ("", "2"), ("a[", "3"), ("a..b", "4")],
        {"[]": "1", "": "2", "a[": "3", "a..b": "4"},
    ),
    (SERVICES, [("a." * 33 + "a", "1"), ("b" * 5000, "2")], {"a." * 33 + "a": "1", "b" * 5000: "2"}),
    (SERVICES, [], {}),
]


@pytest.mark.parametrize(("entity", "pairs", "expected"), CASES)
def test_decode_form(entity: Entity, pairs: list[tuple[str, FormValue]], expected: dict[str, Any]) -> None:
    decoded = decode_form(pairs, entity)
    assert decoded == expected
    for name, value in expected.items():
        assert type(decoded[name]) is type(value)


texts = st.text(min_size=1, max_size=8)


@given(st.lists(texts, min_size=1, max_size=6), st.sampled_from(["hosts", "hosts[]", "hosts[{}]"]))
def test_all_spellings_of_a_list_are_the_same(values: list[str], spelling: str) -> None:
    pairs = [(spelling.format(place), value) for place, value in enumerate(values, 1)]
    assert decode_form(pairs, ROUTES) == {"hosts": values}


@given(st.integers(-(2**40), 2**40), st.booleans(), texts)
def test_scalars_survive_being_written_as_strings(number: int, flag: bool, text: str) -> None:
    pairs = [("port", str(number)), ("enabled", str(flag).lower()), ("name", text)]
    assert decode_form(pairs, SERVICES) == {"port": number, "enabled": flag, "name": text}


@given(
    st.lists(st.tuples(st.text(st.sampled_from("ab.[]1paths"), max_size=10), st.text(max_size=3)), max_size=8)
)
def test_no_form_raises(pairs: list[tuple[str, FormValue]]) -> None:
    assert isinstance(decode_form(pairs, ROUTES), dict)
