"""Certificates, the names they are shown for, and certificates of authorities.

Source: kong/db/schema/entities/{certificates,snis,ca_certificates}.lua, release 3.9.1.
"""

from __future__ import annotations

from typing import Any, Final

from fastgw.model import pem
from fastgw.model.entity import Entity
from fastgw.model.fields import AllOrNone, Field, Judged, by_name, each
from fastgw.model.tables.common import CREATED_AT, ID, TAGS, UPDATED_AT


def _certificate(name: str, *, required: bool = False) -> Field:
    return Field(name, "string", required=required, referenceable=True, format="pem_certificate")


def _key(name: str, *, required: bool = False) -> Field:
    return Field(name, "string", required=required, referenceable=True, encrypted=True, format="pem_key")


CERTIFICATES: Final = Entity(
    "certificates",
    by_name(
        ID,
        CREATED_AT,
        UPDATED_AT,
        _certificate("cert", required=True),
        _key("key", required=True),
        _certificate("cert_alt"),
        _key("key_alt"),
        TAGS,
        # Rows of `snis`; the Admin API shows and takes them with their certificate.
        Field(
            "snis", "array", transient=True, elements=each("string", required=True, format="wildcard_host")
        ),
    ),
    admin_path="certificates",
    nested_name="certificates",
    checks=(
        AllOrNone(("cert_alt", "key_alt")),
        Judged(("cert", "key"), lambda cert, key: pem.pair_fault(cert, key, "certificate")),
        Judged(
            ("cert_alt", "key_alt"), lambda cert, key: pem.pair_fault(cert, key, "alternative certificate")
        ),
        Judged(("cert", "cert_alt"), pem.same_type_fault),
    ),
)

SNIS: Final = Entity(
    "snis",
    by_name(
        ID,
        Field("name", "string", required=True, unique=True, format="wildcard_host"),
        CREATED_AT,
        UPDATED_AT,
        TAGS,
        Field("certificate", "foreign", required=True, reference="certificates", on_delete="cascade"),
    ),
    endpoint_key="name",
    admin_path="snis",
    nested_name="snis",
)


def _note_digest(row: dict[str, Any], sent: frozenset[str]) -> None:
    row["cert_digest"] = pem.certificate_digest(row["cert"])


CA_CERTIFICATES: Final = Entity(
    "ca_certificates",
    by_name(
        ID,
        CREATED_AT,
        UPDATED_AT,
        Field("cert", "string", required=True, format="pem_certificate"),
        Field("cert_digest", "string", unique=True),
        TAGS,
    ),
    admin_path="ca_certificates",
    nested_name="ca_certificates",
    checks=(Judged(("cert",), pem.authority_fault),),
    transform=_note_digest,
)
