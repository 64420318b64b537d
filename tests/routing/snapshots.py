"""Snapshots for the tests of this room: whole rows from the few fields that a test is about."""

from __future__ import annotations

import uuid
from typing import Any

from fastgw.model.snapshot import Snapshot

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


def snapshot(*rows: Row, version: int = 7) -> Snapshot:
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault("routes" if "paths" in row else "services", []).append(row)
    return Snapshot.from_rows(version, kinds)
