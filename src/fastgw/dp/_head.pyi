from typing import TypedDict

class RequestFacts(TypedDict):
    method: bytes
    minor: int
    path: bytes
    query: bytes
    host: bytes
    host_name: bytes
    content_length: int
    chunked: bool
    close: bool
    keep_alive: bool
    expects_continue: bool
    accepts_trailers: bool
    wants_websocket: bool
    fields: list[tuple[bytes, bytes]]

class ResponseFacts(TypedDict):
    status: int
    minor: int
    content_length: int
    chunked: bool
    close: bool
    fields: list[tuple[bytes, bytes]]

def read_request_head(
    head: bytes, max_fields: int = 100, max_field_bytes: int = 8192, drops_underscores: bool = False
) -> RequestFacts | int: ...
def read_response_head(head: bytes) -> ResponseFacts | None: ...
def parse_request_heads(head: bytes, repeat: int, with_httptools: bool) -> None: ...
