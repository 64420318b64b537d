"""What the transformers' configurations may hold. Source: their schemas in Kong 3.9.1."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.errors import ValidationError
from fastgw.model.entities import ENTITIES
from fastgw.model.validate import check_row


def fault_of(plugin: str, config: Any) -> Any:
    try:
        check_row(ENTITIES["plugins"], {"name": plugin, "config": config})
    except ValidationError as error:
        return error.fields["config"]
    return None


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"add": {"headers": ["x-a:1", "x-b: of:many:colons", "x-c:"]}}, None),
        ({"add": {"body": ["a:1"], "querystring": ["a:$(headers.x)"]}, "replace": {"uri": "/x"}}, None),
        ({"remove": {"headers": ["x-a"], "body": ["a"]}, "rename": {"headers": ["x-a:x-b"]}}, None),
        ({"http_method": "PUT"}, None),
        ({"http_method": "put"}, {"http_method": "invalid value: put"}),
        ({"add": {"headers": ["xy"]}}, {"add": {"headers": ["invalid value: xy"]}}),
        ({"add": {"headers": ["a b:1"]}}, {"add": {"headers": ["'a b' is not a valid header"]}}),
        ({"append": {"body": ["a:1", "a"]}}, {"append": {"body": [None, "key 'a' has no value"]}}),
        ({"replace": {"querystring": ["a:"]}}, {"replace": {"querystring": ["key 'a' has no value"]}}),
        ({"remove": {"headers": ["a b"]}}, {"remove": {"headers": ["'a b' is not a valid header"]}}),
        ({"rename": {"headers": ["a:b c"]}}, {"rename": {"headers": ["'b c' is not a valid header"]}}),
        ({"rename": {"headers": None}}, {"rename": {"headers": "required field missing"}}),
    ],
)
def test_of_requests(config: Any, fault: Any) -> None:
    assert fault_of("request-transformer", config) == fault


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"add": {"json": ["a:1"], "json_types": ["number"], "headers": ["x:"]}}, None),
        ({"remove": {"json": ["a"], "headers": ["x"]}, "rename": {"headers": ["x:y"]}}, None),
        ({"add": {"json": ["a"]}}, {"add": {"json": ["invalid value: a"]}}),
        ({"replace": {"headers": [":x"]}}, {"replace": {"headers": ["invalid value: :x"]}}),
        ({"rename": {"headers": ["x:"]}}, {"rename": {"headers": ["'' is not a valid header"]}}),
        (
            {"append": {"json_types": ["object"]}},
            {"append": {"json_types": ["expected one of: boolean, number, string"]}},
        ),
    ],
)
def test_of_responses(config: Any, fault: Any) -> None:
    assert fault_of("response-transformer", config) == fault
