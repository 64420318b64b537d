from fastgw.dp._metrics import MetricsSegment

class Runtime:
    version: int
    digest: str
    def __init__(self, image_fd: int, metrics: MetricsSegment) -> None: ...
