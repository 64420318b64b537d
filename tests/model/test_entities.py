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
    assert {entity.endpoint_key, entity.nested_key} - {None} <= {*entity.unique_fields, *entity.composite_key}
    assert {*entity.composite_key, *entity.cache_key} <= set(entity.fields)
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


def test_every_entity_and_field_of_the_table_is_kongs() -> None:
    """Names, in Kong 3.9's order, of what other tests do not list."""
    listed = {name: " ".join(entity.fields) for name, entity in ENTITIES.items()}
    del listed["services"], listed["routes"]
    assert listed == {
        "certificates": "id created_at updated_at cert key cert_alt key_alt tags snis",
        "ca_certificates": "id created_at updated_at cert cert_digest tags",
        "snis": "id name created_at updated_at tags certificate",
        "consumers": "id created_at updated_at username custom_id tags",
        "upstreams": (
            "id created_at updated_at name algorithm hash_on hash_fallback hash_on_header "
            "hash_fallback_header hash_on_cookie hash_on_cookie_path hash_on_query_arg "
            "hash_fallback_query_arg hash_on_uri_capture hash_fallback_uri_capture slots healthchecks tags "
            "host_header client_certificate use_srv_name"
        ),
        "targets": "id created_at updated_at upstream target weight tags",
        "plugins": (
            "id name instance_name created_at updated_at route service consumer config protocols enabled tags"
        ),
        "vaults": "id prefix name description config created_at updated_at tags",
        "key_sets": "id name tags created_at updated_at",
        "keys": "id set name kid jwk pem tags created_at updated_at",
        "keyauth_credentials": "id created_at consumer key tags",
        "basicauth_credentials": "id created_at consumer username password tags",
        "jwt_secrets": "id created_at consumer key secret rsa_public_key algorithm tags",
        "hmacauth_credentials": "id created_at consumer username secret tags",
        "acls": "id created_at consumer group tags",
    }


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
