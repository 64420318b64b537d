from fastgw.dp._metrics import MetricsSegment
from fastgw.dp.plugins.registry import Plugins
from fastgw.routing.certificates import CertificateSet
from fastgw.routing.image import Image
from fastgw.tls.pair import KeyPair

class Entries:
    def release(self, limit: int) -> bool:
        """Let go of at most *limit* entries; return whether none is left. Only once their base is gone."""

class BaseRuntime:
    @property
    def entries(self) -> Entries: ...
    @property
    def image(self) -> Image: ...
    @property
    def checksum(self) -> str: ...
    def __init__(self, image_fd: int, metrics: MetricsSegment, plugins: Plugins) -> None: ...

class ServiceEntry:
    host: bytes
    port: int
    is_tls: bool
    tls_verify: bool | None
    tls_verify_depth: int | None
    client_pairs: tuple[KeyPair, ...]
    authorities: tuple[str, ...]

class Runtime:
    version: int
    digest: str
    certificates: CertificateSet
    @property
    def base(self) -> BaseRuntime: ...
    def __init__(self, base: BaseRuntime, overlay_fd: int = -1) -> None: ...
