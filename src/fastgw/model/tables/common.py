"""Fields that many entities have."""

from __future__ import annotations

from typing import Final

from fastgw.model.fields import Field, each, pattern

PROTOCOLS: Final = ("grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp")

ID: Final = Field("id", "string", auto=True, uuid=True, nullable=False)
CREATED_AT: Final = Field("created_at", "integer", auto=True, timestamp=True, nullable=False)
UPDATED_AT: Final = Field("updated_at", "integer", auto=True, timestamp=True, nullable=False)
NAME: Final = Field("name", "string", unique=True, format="utf8_name")
TAGS: Final = Field("tags", "set", elements=each("string", required=True, format="tag"))
NO_EMPTY_SEGMENTS: Final = pattern("//", "must not have empty segments")
