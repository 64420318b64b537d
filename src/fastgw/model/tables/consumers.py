"""Consumers and their credentials.

Source: kong/db/schema/entities/consumers.lua and kong/plugins/*/daos.lua, release 3.9.1.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

from fastgw.model.entity import Entity
from fastgw.model.fields import AllOrNone, AtLeastOneOf, Conditional, Field, Judged, by_name, rule
from fastgw.model.pem import public_key_fault
from fastgw.model.tables.common import CREATED_AT, ID, TAGS, UPDATED_AT

CONSUMERS: Final = Entity(
    "consumers",
    by_name(
        ID,
        CREATED_AT,
        UPDATED_AT,
        Field("username", "string", unique=True),
        Field("custom_id", "string", unique=True),
        TAGS,
    ),
    endpoint_key="username",
    admin_path="consumers",
    nested_name="consumers",
    checks=(AtLeastOneOf(("custom_id", "username")),),
)

_CONSUMER: Final = Field(
    "consumer", "foreign", required=True, nullable=False, reference="consumers", on_delete="cascade"
)

KEY_AUTHS: Final = Entity(
    "keyauth_credentials",
    by_name(ID, CREATED_AT, _CONSUMER, Field("key", "string", unique=True, auto=True, encrypted=True), TAGS),
    endpoint_key="key",
    cache_key=("key",),
    ttl=True,
    admin_path="key-auths",
    nested_name="key-auth",
)


def _hash_password(row: dict[str, Any], sent: frozenset[str]) -> None:
    """Store Kong's hash of the password: SHA-1 of it and the consumer's id, in hex.

    The form is Kong's, because exported configurations hold it; it is no good password hash.
    """
    if "password" in sent:
        salted = f"{row['password']}{row['consumer']['id']}".encode()
        row["password"] = hashlib.sha1(salted, usedforsecurity=False).hexdigest()


BASIC_AUTHS: Final = Entity(
    "basicauth_credentials",
    by_name(
        ID,
        CREATED_AT,
        _CONSUMER,
        Field("username", "string", required=True, unique=True),
        Field("password", "string", required=True, encrypted=True),
        TAGS,
    ),
    endpoint_key="username",
    cache_key=("username",),
    admin_path="basic-auths",
    nested_name="basic-auth",
    patch_checks=(AllOrNone(("password", "consumer.id"), in_patch=True),),
    transform=_hash_password,
)

_ASYMMETRIC: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA")


def _public_key(algorithm: str, key: str) -> str | None:
    return "invalid key" if algorithm in _ASYMMETRIC and public_key_fault(key) else None


JWTS: Final = Entity(
    "jwt_secrets",
    by_name(
        ID,
        CREATED_AT,
        _CONSUMER,
        Field("key", "string", unique=True, auto=True),
        Field("secret", "string", auto=True, encrypted=True),
        Field("rsa_public_key", "string"),
        Field(
            "algorithm",
            "string",
            default="HS256",
            one_of=(
                *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "ES256", "ES384", "ES512"),
                *("PS256", "PS384", "PS512", "EdDSA"),
            ),
        ),
        TAGS,
    ),
    endpoint_key="key",
    cache_key=("key",),
    admin_path="jwts",
    nested_name="jwt",
    checks=(
        Conditional("algorithm", rule(one_of=_ASYMMETRIC), "rsa_public_key", rule(required=True)),
        Judged(("algorithm", "rsa_public_key"), _public_key, on_field="rsa_public_key"),
    ),
)

HMAC_AUTHS: Final = Entity(
    "hmacauth_credentials",
    by_name(
        ID,
        CREATED_AT,
        _CONSUMER,
        Field("username", "string", required=True, unique=True),
        Field("secret", "string", auto=True, encrypted=True),
        TAGS,
    ),
    endpoint_key="username",
    cache_key=("username",),
    admin_path="hmac-auths",
    nested_name="hmac-auth",
)

ACLS: Final = Entity(
    "acls",
    by_name(ID, CREATED_AT, _CONSUMER, Field("group", "string", required=True), TAGS),
    nested_key="group",
    composite_key=("consumer", "group"),
    cache_key=("consumer", "group"),
    admin_path="acls",
    nested_name="acls",
)
