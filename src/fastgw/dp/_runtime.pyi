from fastgw.dp._metrics import MetricsSegment

class ServiceEntry:
    host: bytes
    port: int
    is_tls: bool
    tls_verify: bool | None
    tls_verify_depth: int | None

class Runtime:
    version: int
    digest: str
    def __init__(self, image_fd: int, metrics: MetricsSegment) -> None: ...
