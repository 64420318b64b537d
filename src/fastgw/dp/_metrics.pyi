from typing_extensions import Buffer
from typing import Final, TypedDict

SEGMENT_BYTES: Final[int]
GATEWAY_BOUNDS: Final[tuple[int, ...]]
LATENCY_BOUNDS: Final[tuple[int, ...]]

class RouteValues(TypedDict):
    route_id: bytes
    service: str
    route: str
    bytes_in: int
    bytes_out: int
    codes: dict[tuple[int, int], int]
    gateway: tuple[list[int], int]
    upstream: tuple[list[int], int]
    request: tuple[list[int], int]

class SegmentValues(TypedDict):
    totals: dict[str, int]
    routes: list[RouteValues]

class MetricsSegment:
    generations_live: int
    log_lines_dropped: int
    def __init__(self, fd: int) -> None: ...
    def count(
        self,
        route_id: bytes,
        service: bytes,
        route: bytes,
        code: int,
        source: int,
        bytes_in: int,
        bytes_out: int,
        gateway_ms: int,
        upstream_ms: int,
        request_ms: int,
    ) -> None: ...
    def count_refused(self, code: int) -> None: ...

def read_segment(buffer: Buffer) -> SegmentValues: ...
def read_answered(buffer: Buffer) -> tuple[int, int]: ...
