"""Kong's messages, made from trees of faults."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.model.faults import lua_literal, lua_table, summary


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "required field missing"}, "schema violation (host: required field missing)"),
        (
            {"port": "b", "host": "a", "@entity": ["x", "y"]},
            "4 schema violations (x; y; host: a; port: b)",
        ),
        ({"paths": [None, "bad"]}, "schema violation (paths.2: bad)"),
        ({"service": {"name": "n", "id": "i"}}, "2 schema violations (service.id: i; service.name: n)"),
        (
            {"sources": [{"@entity": ["one of"]}]},
            'schema violation (sources.1: {\n  ["@entity"] = {\n    "one of"\n  }\n})',
        ),
        (
            {"config": {"redis": {"port": "p", "a-b": ["x", None, "y"]}}},
            'schema violation (config.redis: {\n  ["a-b"] = {\n    "x",\n    [3] = "y"\n  },\n'
            '  port = "p"\n})',
        ),
    ],
)
def test_summary(fields: dict[str, Any], message: str) -> None:
    assert summary(fields) == message


def test_lua_tables_are_sorted_and_escaped() -> None:
    assert lua_table({"name": "a", "id": None}) == '{id=null,name="a"}'
    assert lua_table({"x-y": 'q"\\'}) == '{["x-y"]="q\\"\\\\"}'
    assert lua_table({"service": {"id": "1"}, "n": 1, "b": True}) == '{b=true,n=1,service={id="1"}}'
    assert lua_literal(["a", 2]) == '{"a",2}'
    assert lua_literal("a\nb") == '"a\\\nb"'
