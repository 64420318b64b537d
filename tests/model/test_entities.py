"""The entity table itself: its order, its derived properties, and that it declares what Kong declares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastgw.model.entities import ENTITIES, Entity
from fastgw.model.fields import UNSET, Field
from fastgw.model.formats import FORMATS
from fastgw.model.served import UNSERVED


def _all_fields(fields: Iterator[Field]) -> Iterator[Field]:
    for field in fields:
        yield field
        parts = [part for part in (field.elements, field.keys, field.values) if part is not None]
        yield from _all_fields(iter([*parts, *field.fields.values()]))


@pytest.mark.parametrize("entity", ENTITIES.values(), ids=lambda entity: entity.name)
def test_declarations_hold_together(entity: Entity) -> None:
    assert list(entity.fields) == [field.name for field in entity.fields.values()]
    assert entity.endpoint_key is None or entity.endpoint_key in entity.unique_fields
    for check in entity.checks:
        names = check.fields if hasattr(check, "fields") else (check.if_field, check.then_field)
        assert set(names) <= set(entity.fields)
    for variant in entity.variants.values():
        assert set(variant.fields) <= set(entity.fields)
    for field in _all_fields(iter(entity.fields.values())):
        assert field.format is None or field.format in FORMATS
        assert (field.type == "foreign") == (field.reference is not None)
        assert field.type not in ("array", "set") or field.elements is not None
        assert field.type != "map" or (field.keys is not None and field.values is not None)
        if field.required and field.default is not UNSET:
            assert field.default is not None


def test_parents_stand_before_children() -> None:
    seen: set[str] = set()
    for name, entity in ENTITIES.items():
        references = {field.reference for field in entity.foreign_fields.values()}
        assert references & set(ENTITIES) <= seen
        seen.add(name)


def test_every_unserved_row_names_a_field() -> None:
    for name, rows in UNSERVED.items():
        assert {row.field for row in rows} <= set(ENTITIES[name].fields)


def test_services_have_the_fields_of_kong_in_its_order() -> None:
    assert " ".join(ENTITIES["services"].fields) == (
        "id created_at updated_at name retries protocol host port path connect_timeout write_timeout "
        "read_timeout tags client_certificate tls_verify tls_verify_depth ca_certificates enabled"
    )
    assert ENTITIES["services"].unique_fields == ("name",)
    assert list(ENTITIES["services"].foreign_fields) == ["client_certificate"]


def test_routes_have_the_fields_of_kong_in_its_order() -> None:
    assert " ".join(ENTITIES["routes"].fields) == (
        "id created_at updated_at name protocols https_redirect_status_code strip_path preserve_host "
        "request_buffering response_buffering tags service snis sources destinations methods hosts paths "
        "headers regex_priority path_handling"
    )
    assert ENTITIES["routes"].unique_fields == ("name",)
    assert {name: field.reference for name, field in ENTITIES["routes"].foreign_fields.items()} == {
        "service": "services"
    }
