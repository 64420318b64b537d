"""Snapshots for the tests of this room: whole rows from the few fields that a test is about."""

from __future__ import annotations

import uuid
from typing import Any

from fastgw.model.snapshot import Snapshot
from fastgw.tls.pair import KeyPair

Row = dict[str, Any]


def make_id(number: int) -> str:
    return str(uuid.UUID(int=number))


def service(number: int, **fields: Any) -> Row:
    row: Row = {
        "id": make_id(number),
        "created_at": 1700000000,
        "updated_at": 1700000000,
        "name": f"service-{number}",
        "retries": 5,
        "protocol": "http",
        "host": "upstream.example",
        "port": 80,
        "path": None,
        "connect_timeout": 60000,
        "write_timeout": 60001,
        "read_timeout": 60002,
        "tags": None,
        "client_certificate": None,
        "tls_verify": None,
        "tls_verify_depth": None,
        "ca_certificates": None,
        "enabled": True,
    }
    return row | fields


def route(number: int, to: int | None = None, **fields: Any) -> Row:
    row: Row = {
        "id": make_id(number),
        "created_at": 1700000000,
        "updated_at": 1700000000,
        "name": f"route-{number}",
        "protocols": ["http", "https"],
        "methods": None,
        "hosts": None,
        "paths": None,
        "headers": None,
        "snis": None,
        "sources": None,
        "destinations": None,
        "https_redirect_status_code": 426,
        "regex_priority": 0,
        "strip_path": True,
        "path_handling": "v0",
        "preserve_host": False,
        "request_buffering": True,
        "response_buffering": True,
        "tags": None,
        "service": None if to is None else {"id": make_id(to)},
    }
    return row | fields


def certificate(number: int, *pairs: KeyPair) -> Row:
    """A certificate with one pair, or two of different types."""
    texts = [(pair.certificate_pem.decode(), pair.key_pem.decode()) for pair in pairs]
    (cert, key), (cert_alt, key_alt) = texts[0], texts[1] if len(texts) > 1 else (None, None)
    return {
        "id": make_id(number),
        "created_at": 1700000000,
        "updated_at": 1700000000,
        "cert": cert,
        "key": key,
        "cert_alt": cert_alt,
        "key_alt": key_alt,
        "tags": None,
    }


def sni(number: int, name: str, to: int) -> Row:
    return {
        "id": make_id(number),
        "created_at": 1700000000,
        "updated_at": 1700000000,
        "name": name,
        "certificate": {"id": make_id(to)},
        "tags": None,
    }


def authority(number: int, pem: str) -> Row:
    return {
        "id": make_id(number),
        "created_at": 1700000000,
        "updated_at": 1700000000,
        "cert": pem,
        "cert_digest": f"{number:064x}",
        "tags": None,
    }


def kind_of(row: Row) -> str:
    marks = {
        "paths": "routes",
        "cert_digest": "ca_certificates",
        "cert": "certificates",
        "certificate": "snis",
    }
    return next((kind for mark, kind in marks.items() if mark in row), "services")


def snapshot(*rows: Row, version: int = 7) -> Snapshot:
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(kind_of(row), []).append(row)
    return Snapshot.from_rows(version, kinds)
