"""Asking a gateway's own HTTP ports: one request, one JSON answer, a deadline."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fastgw.settings import Listen

MAX_ANSWER_BYTES: Final = 64 << 20


class Answer(NamedTuple):
    status: int
    body: Any
    """Decoded JSON, or the text when it is none."""


def reachable(listen: Listen) -> Listen:
    """Turn an address to listen on into one to connect to: a wildcard is reached by loopback."""
    if not listen.is_wildcard:
        return listen
    return Listen("::1" if ":" in listen.host else "127.0.0.1", listen.port)


def ask(
    listen: Listen,
    path: str,
    *,
    method: str = "GET",
    document: object = None,
    content: bytes | None = None,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
    timeout_s: float = 5.0,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request and read its answer; *document* goes out as JSON, *content* as it is.

    Raises:
        OSError: nothing answered in time, or what answered does not speak HTTP.
    """
    target = reachable(listen)
    connection = (
        http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)
        if tls is None
        else http.client.HTTPSConnection(target.host, target.port, timeout=timeout_s, context=tls)
    )
    body = content if document is None else json.dumps(document).encode()
    sent = {
        "Connection": "close",
        **({"Content-Type": content_type} if body else {}),
        **(headers or {}),
    }
    try:
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        content = response.read(MAX_ANSWER_BYTES)
    except http.client.HTTPException as error:
        raise OSError(f"{target} does not speak HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
    try:
        return Answer(response.status, json.loads(content))
    except ValueError:
        return Answer(response.status, content.decode("utf-8", "replace"))
