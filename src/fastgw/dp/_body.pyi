from typing import Literal

class BodyReader:
    is_complete: bool
    trailers: bytes
    def __init__(self, kind: Literal["none", "length", "chunked", "until-close"], length: int = 0) -> None: ...
    def feed(self, data: bytes) -> tuple[bytes, bytes]: ...
