"""Errors in Kong's words, those that no entity of today can provoke included."""

from __future__ import annotations

import msgspec
import pytest

from fastgw.cp.admin import answers
from fastgw.cp.admin.answers import Answer
from fastgw.cp.admin.rows import RowKey, row_key
from fastgw.errors import UniqueViolation
from fastgw.model.entities import SERVICES, Entity
from fastgw.model.fields import by_name

ID = "7fca84d6-7d37-4a74-a7b0-93e576089a41"
NAMELESS = Entity("nameless", by_name(SERVICES.fields["id"]), admin_path="nameless", nested_name="nameless")


def test_row_keys() -> None:
    assert row_key(SERVICES, ID.upper()) == RowKey("id", ID)
    assert row_key(SERVICES, "a") == RowKey("name", "a")
    assert row_key(NAMELESS, ID) == RowKey("id", ID)


def test_an_entity_without_names_takes_ids_only() -> None:
    with pytest.raises(Answer) as caught:
        row_key(NAMELESS, "foo")
    assert caught.value.status == 400
    assert caught.value.body == {
        "code": 1,
        "name": "invalid primary key",
        "message": "invalid primary key: '{id=\"expected a valid UUID\"}'",
        "fields": {"id": "expected a valid UUID"},
    }


def test_a_violated_key_of_several_fields() -> None:
    fields = {"name": "key-auth", "route": None, "service": {"id": ID}, "consumer": None}
    answer = answers.unique_violation(UniqueViolation("plugins", fields))
    assert answer.status == 409
    assert answer.body["message"] == (
        f'UNIQUE violation detected on \'{{consumer=null,name="key-auth",route=null,service={{id="{ID}"}}}}\''
    )


def test_quoted_bytes_that_were_no_utf8_show_as_question_marks() -> None:
    response = answers.error_response(
        Answer(400, {"message": "a\udcff", "fields": {"\udcfe": ["\udcff", 1]}})
    )
    assert msgspec.json.decode(bytes(response.body)) == {"message": "a?", "fields": {"?": ["?", 1]}}
