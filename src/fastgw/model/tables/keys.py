"""Vaults, and keys with their sets.

Source: kong/db/schema/entities/{vaults,keys,key_sets}.lua, release 3.9.1.
"""

from __future__ import annotations

from typing import Final

from fastgw.model import pem
from fastgw.model.entity import Entity
from fastgw.model.fields import AtLeastOneOf, Field, Judged, OnlyOneOf, Variant, by_name, pattern
from fastgw.model.tables.common import CREATED_AT, ID, TAGS, UPDATED_AT

VAULTS: Final = Entity(
    "vaults",
    by_name(
        ID,
        Field(
            "prefix",
            "string",
            required=True,
            unique=True,
            not_one_of=("env",),
            match=pattern(r"^[a-z][a-z0-9-]*[a-z0-9]\Z"),
        ),
        Field("name", "string", required=True),
        Field("description", "string"),
        Field("config", "record", required=True),
        CREATED_AT,
        UPDATED_AT,
        TAGS,
    ),
    endpoint_key="prefix",
    cache_key=("prefix",),
    admin_path="vaults",
    nested_name="vaults",
    variant_key="name",
    variants={
        "env": Variant(
            fields=by_name(
                Field("config", "record", required=True, fields=by_name(Field("prefix", "string"))),
            )
        )
    },
    unknown_variant="vault '{value}' is not installed",
)

KEY_SETS: Final = Entity(
    "key_sets",
    by_name(ID, Field("name", "string", unique=True), TAGS, CREATED_AT, UPDATED_AT),
    endpoint_key="name",
    admin_path="key-sets",
    nested_name="key-sets",
)

_PEM: Final = Field(
    "pem",
    "record",
    default=None,
    fields=by_name(
        Field("private_key", "string", referenceable=True, encrypted=True),
        Field("public_key", "string", referenceable=True),
    ),
    checks=(AtLeastOneOf(("private_key", "public_key")),),
)

KEYS: Final = Entity(
    "keys",
    by_name(
        ID,
        Field("set", "foreign", reference="key_sets", on_delete="cascade"),
        Field("name", "string", unique=True),
        Field("kid", "string", required=True),
        Field("jwk", "string", referenceable=True, encrypted=True),
        _PEM,
        TAGS,
        CREATED_AT,
        UPDATED_AT,
    ),
    endpoint_key="name",
    composite_key=("kid", "set"),
    cache_key=("kid", "set"),
    admin_path="keys",
    nested_name="keys",
    checks=(
        OnlyOneOf(("jwk", "pem")),
        AtLeastOneOf(("jwk", "pem")),
        Judged(("jwk", "kid"), pem.jwk_fault),
        Judged(("pem",), pem.key_pair_fault, on_field="pem"),
    ),
)
