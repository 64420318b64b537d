def rewrite_request_head(
    head: bytes,
    *,
    path: bytes,
    host: bytes,
    peer: bytes,
    fixed: bytes,
    via: bytes,
    request_id: bytes,
    prefix: bytes = b"",
    forwarded_host: bytes = b"",
    repeat: int = 1,
) -> bytes: ...
